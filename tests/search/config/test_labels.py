"""Tests of the selectors of nodes by their labels."""

import pytest

from minilm_core.errors import UserError
from search.config.labels import check_labels, selects
from search.config.loading import load_config, resolved_yaml
from search.config.settings import Resources


@pytest.mark.parametrize(
    ("selector", "admitted"),
    [
        ("train", {"train"}),
        ("!train", {"serve", "spare", None}),
        ("in(train, serve)", {"train", "serve"}),
        ("in(train,serve)", {"train", "serve"}),
        ("!in(train, serve)", {"spare", None}),
    ],
)
def test_a_selector_admits_nodes_by_the_value_of_their_label_if_they_have_one(selector, admitted):
    nodes = {value: {"other": "x"} if value is None else {"pool": value} for value in ("train", "serve", "spare", None)}
    assert {value for value, labels in nodes.items() if selects({"pool": selector}, labels)} == admitted


def test_a_node_must_have_all_labels_and_every_node_has_none():
    both = {"pool": "train", "ray.io/accelerator-type": "!L4"}
    assert selects(both, {"pool": "train", "ray.io/accelerator-type": "H100"})
    assert not selects(both, {"pool": "train", "ray.io/accelerator-type": "L4"})
    assert selects({}, {})


@pytest.mark.parametrize("labels", [{"-pool": "x"}, {"a/b/c": "x"}, {"": "x"}])
def test_a_key_that_is_no_name_of_a_label_is_refused(labels):
    with pytest.raises(UserError, match=r"labels must have keys such as pool or ray\.io/accelerator-type, got"):
        check_labels(labels)


@pytest.mark.parametrize("selector", ["", "!", "in()", "in(a", "in(a b)", "a b", "!!a", "-a", "x" * 64])
def test_a_value_that_ray_does_not_read_as_a_selector_is_refused(selector):
    with pytest.raises(UserError, match=r"labels must be VALUE, !VALUE, in\(A, B\) or !in\(A, B\), got"):
        Resources(labels={"pool": selector})


def test_what_is_accepted_is_what_ray_accepts():
    from ray._private.label_utils import validate_label_selector

    for selector in ("a", "!a", "in(a, b)", "in(a,b)", "!in(a)", "A-1_b.c", "x" * 63):
        check_labels({"ray.io/some-key": selector})
        assert validate_label_selector({"ray.io/some-key": selector}) is None


def test_labels_are_read_from_the_file_and_the_command_line_and_written_out(write):
    config = load_config(write(), ["resources.labels.pool=train"]).config
    assert config.resources.labels == {"pool": "train"}
    assert load_config(write(resolved_yaml(config))).config == config


def test_a_wrong_label_is_refused_with_its_key(write):
    with pytest.raises(UserError, match=r"resources\.labels must be VALUE, .* got 'in\(a' for pool"):
        load_config(write(), ["resources.labels={pool: 'in(a'}"])

"""Tests of entities and their counts against seqeval's own score."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.tasks.metrics import METRICS, score
from minilm_core.tasks.tagging.entities import check_tags, entity_counts

seqeval_metrics = pytest.importorskip("seqeval.metrics", reason="the extra tagging is not installed")

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
sentences = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=8), min_size=1
)


def test_an_entity_counts_if_type_and_both_ends_are_right() -> None:
    tags = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]
    predicted = ["B-PER", "I-PER", "O", "B-LOC", "I-LOC"]
    assert entity_counts(predicted, tags) == (1, 2, 3)
    assert entity_counts(["B-LOC", "I-LOC", "O", "B-LOC", "B-LOC"], tags) == (2, 3, 3)
    assert entity_counts(["O"] * 5, tags) == (0, 0, 3)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(drawn=sentences)
def test_the_f1_of_the_counts_is_that_of_seqeval(drawn: list[list[tuple[str, str]]]) -> None:
    tags = [[tag for tag, _ in sentence] for sentence in drawn]
    predicted = [[tag for _, tag in sentence] for sentence in drawn]
    counts = np.array([entity_counts(*pair) for pair in zip(predicted, tags, strict=True)], dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = seqeval_metrics.f1_score(tags, predicted)
    assert score(METRICS["entity_f1"], counts) == pytest.approx(expected)


def test_tags_that_mark_no_entities_are_refused() -> None:
    check_tags(TAGS, "names")
    with pytest.raises(
        UserError, match=r"tags of task names must be O or a prefix and a type such as B-PER, .* got NOUN"
    ):
        check_tags(["O", "NOUN"], "names")

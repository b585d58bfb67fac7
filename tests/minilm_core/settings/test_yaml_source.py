"""Tests of reading YAML with the location of each value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.settings.yaml_source import dump_yaml, read_yaml, shown, with_overrides


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "a.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_yaml(path)

    return read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        (".inf", float("inf")),
        ("12", 12),
        ("010", "010"),
        ("1:30", "1:30"),
        ("no", "no"),
        ("true", True),
        ("2026-01-01", "2026-01-01"),
        ("", None),
        ("~", None),
        ("'3e-4'", "3e-4"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(read, text, value):
    assert read(f"key: {text}").content == {"key": value}


def test_every_key_knows_its_line(read):
    source = read("a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n")
    assert source.location(("b",)).label.endswith("a.yaml:2")
    assert source.location(("b", 0)).label.endswith("a.yaml:3")
    assert source.location(("b", 1, "d")).label.endswith("a.yaml:5")


def test_a_missing_key_has_the_location_of_the_section_around_it(read):
    assert read("a: 1\nb:\n  c: 2\n").location(("b", "x", "y")).label.endswith("a.yaml:2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: must be a mapping of settings, got nothing"),
        ("- a\n- b\n", ":1: must be a mapping of settings, got a list"),
        ("just text", ":1: must be a mapping of settings, got 'just text'"),
        ("a: 1\nb: 2\na: 3\n", ":3: each key must be given once, got a twice"),
        ("a:\n  b: 1\n  b: 2\n", ":3: each key must be given once, got a.b twice"),
        ("a: 1\n\tb: 2\n", ":2: must be valid YAML, got: found character '\\t' that cannot start any token"),
        ("a: [1, 2\n", ":2: must be valid YAML, got: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2\n", ":2: must be valid YAML, got: but found another document"),
        ("a: &x [1]\n\nb: *x\n", ":1: must be valid YAML, got: an alias; write the value out"),
        (
            "a: !!python/name:os.system\n",
            ":1: must be valid YAML, got: the tag tag:yaml.org,2002:python/name:os.system",
        ),
        ("a: 1\nb: !!binary aGk=\n", ":2: must be valid YAML, got: the tag tag:yaml.org,2002:binary; leave it out"),
        ("a: !!int x\n", ":1: must be valid YAML, got: 'x' as a value of tag:yaml.org,2002:int"),
        (f"a: {'9' * 5000}\n", ":1: must be valid YAML, got: '999"),
        ('a: "\\0"\n', ":1: must be valid YAML, got: the character U+0000 in text"),
        ('a: 1\n"\\ud800": 2\n', ":2: must be valid YAML, got: the character U+D800 in text"),
        ("[a, b]: 1\n", ":1: a key must be text, got a mapping or a list"),
        (b"a: 1\nb: \xff\n", ":2: must be UTF-8 text, got byte 0xff"),
        pytest.param("a: " + "[" * 3000, ":1: must be valid YAML, got: lists or mappings nested too deeply", id="deep"),
        ("a: \x07\n", ":1: must be valid YAML, got: unacceptable character"),
    ],
)
def test_what_is_no_mapping_of_settings_is_refused_with_one_line(read, text, message):
    with pytest.raises(UserError) as refusal:
        read(text)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="must be a file that can be read, got: Is a directory"):
        read_yaml(tmp_path)


def test_a_byte_order_mark_is_passed_over(read):
    assert read(b"\xef\xbb\xbfa: 1").content == {"a": 1}


def test_overrides_are_read_as_yaml_and_leave_the_file_alone(read):
    source = read("a: 1\nb:\n  c: [1, {d: 2}]\n")
    changed = with_overrides(source, ["a=3e-4", "b.c.1.d=[x, 2]", "e.f=true"])
    assert changed.content == {"a": 3e-4, "b": {"c": [1, {"d": ["x", 2]}]}, "e": {"f": True}}
    assert source.content == {"a": 1, "b": {"c": [1, {"d": 2}]}}


def test_an_override_is_the_location_of_its_value(read):
    changed = with_overrides(read("a:\n  b: 1\n"), ["a={b: 2}"])
    assert changed.location(("a", "b")).label == "--set a={b: 2}"


@pytest.mark.parametrize("override", ["a=\udcff", "a\udcff=1", "a=1\nb", "\0"])
def test_an_override_that_is_not_one_line_of_text_is_refused(read, override):
    with pytest.raises(UserError) as refusal:
        with_overrides(read("a: 1\n"), [override])
    assert str(refusal.value) == f"--set must be one line of plain text, got {override!r}"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "--set must look like key=value or section.key=value, got 'a'"),
        ("a..b=1", "--set must look like key=value or section.key=value, got 'a..b=1'"),
        ("a.b=1", "--set a.b=1: a must be a mapping to have the key b, got 1"),
        ("c.2=1", "--set c.2=1: c must be followed by a number below 1, got 2"),
        ("c.x.y=1", "--set c.x.y=1: c must be followed by a number below 1, got x"),
        ("a=[", "--set a=[: must be valid YAML, got: expected the node content, but found '<stream end>'"),
        ("a={b: 1, b: 2}", "--set a={b: 1, b: 2}: each key must be given once, got b twice"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(read, override, message):
    with pytest.raises(UserError) as refusal:
        with_overrides(read("a: 1\nc: [1]\n"), [override])
    assert str(refusal.value) == message


USABLE = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(USABLE, max_size=8)


@given(st.dictionaries(st.text("abc-3e1", min_size=1), SCALARS | st.lists(SCALARS, max_size=3), min_size=1))
def test_what_is_dumped_reads_back_equal(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("dumped") / "a.yaml"
    path.write_text(dump_yaml(content), encoding="utf-8", newline="")
    assert read_yaml(path).content == content


def test_a_long_value_is_shown_short():
    assert len(shown("x" * 1000)) == 80

"""Tests of building dataclasses from YAML and of the error lines for mistakes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import pytest

from minilm_core.errors import UserError
from minilm_core.settings.schema import build, plain
from minilm_core.settings.yaml_source import read_yaml
from spaces.space import LogRange


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    size: int = 1
    weight: float | None = None

    def __post_init__(self):
        if self.size < 1:
            raise UserError(f"size must be at least 1, got {self.size}")
        if self.size == 13:
            raise UserError("a part must be lucky, got 13")


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    title: str
    colour: Colour = Colour.RED
    flag: bool = True
    shades: Mapping[Colour, str] | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    parts: tuple[Part, ...] = ()
    part: Part = field(default_factory=Part)
    rate: LogRange | tuple[float, ...] = (0.1,)

    def __post_init__(self):
        if self.title == "wrong":
            raise UserError("part.size must be other with title wrong, got 1")
        if self.title == "worse":
            raise UserError("every whole must be good, got worse")


@pytest.fixture
def build_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def build_from(text):
        path = tmp_path / "a.yaml"
        path.write_text(text)
        return build(read_yaml(path.relative_to(tmp_path)), Whole)

    return build_from


def test_settings_are_filled_with_their_types(build_text):
    whole = build_text("title: x\ncolour: blue\npair: [1, 2]\nparts: [{size: 3, weight: 2}]\nrate: {low: 1, high: 2}\n")
    assert whole == Whole(
        title="x", colour=Colour.BLUE, pair=(1.0, 2.0), parts=(Part(size=3, weight=2.0),), rate=LogRange(low=1, high=2)
    )


def test_plain_is_the_inverse_of_build(build_text):
    whole = Whole(title="x", parts=(Part(size=2),), rate=LogRange(low=1.0, high=2.0))
    assert plain(whole)["parts"] == [{"size": 2, "weight": None}]
    assert plain(whole)["colour"] == "red"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("flag: true", "a.yaml:1: title must be given"),
        ("title: 3", "a.yaml:1: title must be text, got 3"),
        ("title:", "a.yaml:1: title must be text, got nothing"),
        ("title: x\nflag: yes", "a.yaml:2: flag must be true or false, got 'yes'"),
        ("title: x\ncolour: green", "a.yaml:2: colour must be 'red' or 'blue', got 'green'"),
        ("title: x\ncolor: red", "a.yaml:2: unknown key 'color'; did you mean 'colour'?"),
        (
            "title: x\npart:\n  zzz: 1",
            "a.yaml:3: unknown key 'part.zzz'; must be one of size, weight",
        ),
        ("title: x\npart: [1]", "a.yaml:2: part must be a mapping of settings, got a list"),
        ("title: x\nparts: 3", "a.yaml:2: parts must be a list, got 3"),
        ("title: x\nparts:\n  - size: 1\n  - size: ten", "a.yaml:4: parts.1.size must be an integer, got 'ten'"),
        ("title: x\npart: {size: 1.5}", "a.yaml:2: part.size must be an integer, got 1.5"),
        ("title: x\npart: {size: true}", "a.yaml:2: part.size must be an integer, got True"),
        ("title: x\npart: {weight: heavy}", "a.yaml:2: part.weight must be a number, got 'heavy'"),
        ("title: x\npart: {weight: .nan}", "a.yaml:2: part.weight must be a finite number, got nan"),
        ("title: x\npart:\n  size: 0", "a.yaml:3: part.size must be at least 1, got 0"),
        ("title: x\npart:\n  size: 13", "a.yaml:2: part: a part must be lucky, got 13"),
        ("title: wrong\npart:\n  size: 1", "a.yaml:3: part.size must be other with title wrong, got 1"),
        ("title: worse", "a.yaml:1: every whole must be good, got worse"),
        ("title: x\npair: [1]", "a.yaml:2: pair.1 must be given"),
        ("title: x\npair: [1, 2, 3]", "a.yaml:2: pair must have 2 values, got 3"),
        ("title: x\nshades: {rde: dark}", "a.yaml:2: unknown key 'shades.rde'; must be 'red' or 'blue'"),
        ("title: x\nshades: {red: 3}", "a.yaml:2: shades.red must be text, got 3"),
        (
            "title: x\nrate: 3e-4",
            "a.yaml:2: rate must be a list of values or a range such as {low: 0.0001, high: 0.001}, got 0.0003",
        ),
        ("title: x\nrate: [a]", "a.yaml:2: rate.0 must be a number, got 'a'"),
        ("title: x\nrate: {low: 1}", "a.yaml:2: rate.high must be given"),
        (
            "title: x\nrate: {low: 2, high: 1}",
            "a.yaml:2: rate.low must be positive and at most high, got 2.0 and 1.0",
        ),
        ("title: x\nrate: {low: 1, hihg: 1, high: 2}", "a.yaml:2: unknown key 'rate.hihg'; did you mean 'high'?"),
    ],
)
def test_a_mistake_is_answered_with_file_line_key_rule_and_value(build_text, text, line):
    with pytest.raises(UserError) as refusal:
        build_text(text)
    assert str(refusal.value) == line


def test_a_misspelt_key_is_one_mistake_though_the_right_one_is_missing(build_text):
    with pytest.raises(UserError) as refusal:
        build_text("titel: x\n")
    assert str(refusal.value) == "a.yaml:1: unknown key 'titel'; did you mean 'title'?"


def test_several_mistakes_are_answered_in_the_order_of_their_lines(build_text):
    with pytest.raises(UserError) as refusal:
        build_text("title: x\nzzz: 1\npart:\n  size: a\nflag: 0\n")
    assert [line.split(": ")[0] for line in str(refusal.value).splitlines()] == ["a.yaml:2", "a.yaml:4", "a.yaml:5"]

"""Reads YAML files with the location of every value, so that errors can name FILE:LINE."""

import copy
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from minilm_core.errors import UserError

KeyPath = tuple[str | int, ...]

# The scalars of YAML 1.2's core schema, with the characters they begin with ("" for an empty one).
# PyYAML implements YAML 1.1, where 3e-4 is text, no is false, 010 is 8 and 1:30 is 90.
_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)", [*"-+0123456789"]),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
)


_SCALAR_TAGS = frozenset({"tag:yaml.org,2002:str", *(tag for tag, _, _ in _SCALARS)})
_UNUSABLE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, surrogates, and characters that some programs read as line ends."""


class _Loader(yaml.SafeLoader):
    pass


class _Dumper(yaml.SafeDumper):
    pass


_Loader.yaml_implicit_resolvers = {}
# The dumper also keeps the scalars of YAML 1.1, so that it quotes text which either version reads as another type.
for _tag, _pattern, _first_characters in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first_characters)
    _Dumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first_characters)


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where a value was written."""

    label: str
    """The location in errors: `search.yaml:12`, or `--set seed=1`."""
    order: float
    """The key that errors are sorted by: the line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class YamlSource:
    """The settings of one file, as plain types, with the location of each."""

    content: dict[str, Any]
    locations: Mapping[KeyPath, Location]

    def location(self, key_path: KeyPath) -> Location:
        """Returns where a key was written; for a missing key, the location of the nearest section around it."""
        while key_path not in self.locations:
            key_path = key_path[:-1]
        return self.locations[key_path]

    def error(self, key_path: KeyPath, message: str) -> UserError:
        """Returns a one-line error that names the location."""
        return UserError(f"{self.location(key_path).label}: {message}")


def read_yaml(path: Path) -> YamlSource:
    """Reads a file of settings.

    Raises:
        UserError: if the file is missing, not UTF-8, not YAML or no mapping, or has a key twice.
    """
    reader = _Reader(lambda line: f"{path}:{line}")
    content = reader.document(_read_text(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}:1: must be a mapping of settings, got {shown(content)}")
    return YamlSource(content=content, locations=reader.locations)


def with_overrides(source: YamlSource, overrides: Sequence[str]) -> YamlSource:
    """Returns the settings with each override `a.b=c` applied; c is parsed as YAML.

    Raises:
        UserError: if an override does not have this form, or its path leads through a value without keys.
    """
    content = copy.deepcopy(source.content)
    locations = dict(source.locations)
    for override in overrides:
        location = Location(label=f"--set {override}", order=float("inf"))
        key, separator, text = override.partition("=")
        if _unusable_character(override):
            raise UserError(f"--set must be one line of plain text, got {override!r}")
        if not separator or not all(key.split(".")):
            raise UserError(f"--set must look like key=value or section.key=value, got {override!r}")
        value = _read_override(location, text)
        key_path = _set(content, key, value, location)
        # The new value replaces everything below the key, so the old locations are invalid.
        locations = {old: where for old, where in locations.items() if old[: len(key_path)] != key_path}
        locations[key_path] = location
    return replace(source, content=content, locations=locations)


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Returns settings as YAML that `read_yaml` reads back unchanged."""
    # ASCII only, because PyYAML writes some Unicode line breaks unescaped and reads them back as spaces.
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=120)


def shown(value: Any) -> str:
    """Returns a value as it is shown in errors: short and on one line."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unusable_character(text: str) -> str | None:
    """Returns the first character that cannot be in a file name or be shown on a line; None if there is none."""
    return next((character for character in text if unicodedata.category(character) in _UNUSABLE_CATEGORIES), None)


def _read_override(location: Location, text: str) -> Any:
    return _Reader(lambda line: location.label).document(text)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: must be a file that can be read, got: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: must be UTF-8 text, got byte 0x{content[error.start]:02x}") from error


class _Reader:
    """Converts one document into plain types and records the location of each key."""

    def __init__(self, label_of: Callable[[int], str]) -> None:
        self.locations: dict[KeyPath, Location] = {(): Location(label=label_of(1), order=1)}
        self._label_of = label_of
        self._seen: set[int] = set()

    def document(self, text: str) -> Any:
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            return None if node is None else self._value(loader, node, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self._refusal(error.problem or str(error), mark.line + 1 if mark else 1) from error
        except yaml.YAMLError as error:
            raise self._refusal(" ".join(str(error).split()), 1) from error
        except RecursionError:
            raise self._refusal("lists or mappings nested too deeply", 1) from None

    def _refusal(self, problem: str, line: int) -> UserError:
        return UserError(f"{self._label_of(line)}: must be valid YAML, got: {problem}")

    def _note(self, key_path: KeyPath, node: yaml.Node) -> None:
        line = node.start_mark.line + 1
        self.locations[key_path] = Location(label=self._label_of(line), order=line)

    def _value(self, loader: _Loader, node: yaml.Node, key_path: KeyPath) -> Any:
        if id(node) in self._seen:
            raise self._refusal("an alias; write the value out", node.start_mark.line + 1)
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, key_path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(loader, node, key_path)
        assert isinstance(node, yaml.ScalarNode), "YAML has no other nodes"
        return self._scalar(loader, node)

    def _scalar(self, loader: _Loader, node: yaml.ScalarNode) -> Any:
        line = node.start_mark.line + 1
        if node.tag not in _SCALAR_TAGS:
            raise self._refusal(f"the tag {node.tag}; leave it out", line)
        self._check_characters(node)
        try:
            return loader.construct_object(node)
        # The text does not match its tag, or has more digits than Python reads.
        except (ValueError, KeyError) as error:
            raise self._refusal(f"{shown(node.value)} as a value of {node.tag}", line) from error

    def _check_characters(self, node: yaml.ScalarNode) -> None:
        if character := _unusable_character(node.value):
            raise self._refusal(f"the character U+{ord(character):04X} in text", node.start_mark.line + 1)

    def _sequence(self, loader: _Loader, node: yaml.SequenceNode, key_path: KeyPath) -> list[Any]:
        for index, item in enumerate(node.value):
            self._note((*key_path, index), item)
        return [self._value(loader, item, (*key_path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, loader: _Loader, node: yaml.MappingNode, key_path: KeyPath) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            label = self._label_of(key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{label}: a key must be text, got a mapping or a list")
            self._check_characters(key_node)
            key = str(key_node.value)
            if key in content:
                dotted = ".".join(map(str, (*key_path, key)))
                raise UserError(f"{label}: each key must be given once, got {dotted} twice")
            self._note((*key_path, key), key_node)
            content[key] = self._value(loader, value_node, (*key_path, key))
        return content


def _set(content: dict[str, Any], key: str, value: Any, location: Location) -> KeyPath:
    """Sets a dotted key in place, creating missing sections on its path, and returns the path."""
    parent: Any = content
    key_path: list[str | int] = []
    *sections, last = key.split(".")
    for part in sections:
        index = _index(parent, part, key_path, location)
        if isinstance(parent, dict) and parent.get(part) is None:
            parent[part] = {}
        parent = parent[index]
        key_path.append(index)
    index = _index(parent, last, key_path, location)
    parent[index] = value
    return (*key_path, index)


def _index(parent: Any, part: str, key_path: Sequence[str | int], location: Location) -> str | int:
    above = ".".join(map(str, key_path))
    if isinstance(parent, dict):
        return part
    if not isinstance(parent, list):
        raise UserError(f"{location.label}: {above} must be a mapping to have the key {part}, got {shown(parent)}")
    if not part.isdecimal() or int(part) >= len(parent):
        raise UserError(f"{location.label}: {above} must be followed by a number below {len(parent)}, got {part}")
    return int(part)

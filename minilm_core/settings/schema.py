"""Builds a settings dataclass from a YAML source; each mistake becomes one line with its location."""

import dataclasses
import difflib
import json
import re
import types
from enum import StrEnum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from minilm_core.errors import UserError
from minilm_core.settings.yaml_source import KeyPath, YamlSource, shown

Settings = TypeVar("Settings")

_RULES = {
    "int_type": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dataclass_type": "must be a mapping of settings",
}
_KEY = "[key]"
"""Pydantic's mark for an error in a key of a mapping instead of its value."""
_UNION_RULE = "must be a list of values or a range such as {low: 0.0001, high: 0.001}"
_MAPPINGS_RULE = "must be a mapping of settings or a list of such mappings"


def build(source: YamlSource, settings: type[Settings]) -> Settings:
    """Returns the settings that a source describes, checked field by field and then against each other.

    Raises:
        UserError: with one line per mistake, in the order of the file: FILE:LINE: KEY RULE, got VALUE.
    """
    # The configuration of the outer tuple applies to the dataclasses in it, which thus do not depend on pydantic.
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    adapter: TypeAdapter[Any] = TypeAdapter(tuple[settings], config=config)  # type: ignore[valid-type]
    try:
        # Strict JSON mode reads no text as a number, but turns lists into tuples and names into Enum members.
        (built,) = adapter.validate_json(json.dumps([source.content]), strict=True)
    except ValidationError as error:
        raise UserError("\n".join(_lines(source, settings, error))) from None
    return built  # type: ignore[no-any-return]


def plain(settings: Any) -> Any:
    """Returns settings as plain YAML and JSON types: the inverse of `build`."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _lines(source: YamlSource, settings: type, error: ValidationError) -> list[str]:
    lines: dict[str, float] = {}
    every = error.errors(include_url=False)
    meant = {_closest(settings, _located(source.content, details)[0]) for details in every if _is_unknown_key(details)}
    for details in every:
        key_path, message = _problem(source.content, settings, details)
        # A misspelt key is one mistake: the missing correct spelling is not reported as a second one.
        if message and not (details["type"] == "missing" and key_path in meant):
            location = source.location(key_path)
            lines[f"{location.label}: {message}"] = location.order
    return sorted(lines, key=lambda line: lines[line])


def _is_unknown_key(details: ErrorDetails) -> bool:
    return details["type"] == "unexpected_keyword_argument"


def _problem(content: Any, settings: type, details: ErrorDetails) -> tuple[KeyPath, str]:
    """Returns the key of an error and its message; empty if the error is about a union's branch that is not meant."""
    key_path, branch = _located(content, details)
    value = _at(content, key_path)
    dotted = ".".join(map(str, key_path))
    kind = details["type"]
    plain_types = () if branch is None else _plain_types(settings, branch.key_path)
    if branch is not None and (plain_types or not isinstance(_at(content, branch.key_path), dict | list)):
        rule = _MAPPINGS_RULE if _holds_mappings(settings, branch.key_path) else _UNION_RULE
        if plain_types:
            rule = f"must be {', '.join(plain_types[:-1])} or {plain_types[-1]}"
        return branch.key_path, f"{'.'.join(map(str, branch.key_path))} {rule}, got {shown(value)}"
    if branch is not None and not branch.is_meant(content):
        return key_path, ""
    if kind == "missing":
        return key_path, f"{dotted} must be given"
    if _is_unknown_key(details):
        return key_path, _unknown_key(settings, key_path)
    if kind == "value_error":
        return _ruled(settings, key_path, str(details["ctx"]["error"]))
    if kind == "enum" and details["loc"][-1] == _KEY:
        return key_path, f"unknown key '{dotted}'; must be {details['ctx']['expected']}"
    if kind == "enum":
        return key_path, f"{dotted} must be {details['ctx']['expected']}, got {shown(value)}"
    if kind == "too_long":
        return (
            key_path,
            f"{dotted} must have {details['ctx']['max_length']} values, got {details['ctx']['actual_length']}",
        )
    rule = _RULES.get(kind, details["msg"].replace("Input should", "must"))
    return key_path, f"{dotted} {rule}, got {shown(value)}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Branch:
    """One type of a union, named as in the path of pydantic's error."""

    key_path: KeyPath
    """The key of the value that may have several types."""
    name: str

    def is_meant(self, content: Any) -> bool:
        """Returns whether the user's value belongs to this branch: a list to a tuple, a mapping to a dataclass."""
        return isinstance(_at(content, self.key_path), list) is self.name.startswith("tuple[")


def _located(content: Any, details: ErrorDetails) -> tuple[KeyPath, _Branch | None]:
    """Splits the path of pydantic's error into the keys of the file and the branch of a union, if any."""
    # The first part is the index in the tuple of `build`. A missing key is the last part, and is not in the file.
    _, *parts = details["loc"]
    missing = parts.pop() if details["type"] == "missing" else None
    key_path: KeyPath = ()
    branch = None
    for part in parts:
        if _has(_at(content, key_path), part):
            key_path = (*key_path, part)
        elif part != _KEY:
            branch = _Branch(key_path=key_path, name=str(part))
    return (key_path if missing is None else (*key_path, missing)), branch


def _ruled(settings: type, key_path: KeyPath, message: str) -> tuple[KeyPath, str]:
    """Completes the message of a dataclass: in `num_steps must ...` the first word may name one of its keys."""
    match = re.match(r"([a-z_][\w.]*) must ", message)
    if match and match[1].split(".")[0] in _keys(_settings_at(settings, key_path)):
        key_path = (*key_path, *match[1].split("."))
        return key_path, ".".join(map(str, key_path)) + message[match.end(1) :]
    dotted = ".".join(map(str, key_path))
    return key_path, f"{dotted}: {message}" if dotted else message


def _unknown_key(settings: type, key_path: KeyPath) -> str:
    closest = _closest(settings, key_path)
    keys = _keys(_settings_at(settings, key_path[:-1]))
    hint = f"did you mean '{closest[-1]}'?" if closest else f"must be one of {', '.join(keys)}"
    return f"unknown key '{'.'.join(map(str, key_path))}'; {hint}"


def _closest(settings: type, key_path: KeyPath) -> KeyPath | None:
    """Returns the known key with nearly the same spelling as an unknown one."""
    *section, key = key_path
    close = difflib.get_close_matches(str(key), _keys(_settings_at(settings, tuple(section))), n=1)
    return (*section, close[0]) if close else None


def _keys(settings: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(settings)] if dataclasses.is_dataclass(settings) else []


def _plain_types(settings: Any, key_path: KeyPath) -> tuple[str, ...]:
    """Returns what a value may be whose type is a number or one of several names; nothing for any other type."""
    *section, key = key_path
    kind = get_type_hints(_settings_at(settings, tuple(section))).get(str(key))
    names: list[str] = []
    for member in get_args(kind):
        if isinstance(member, type) and issubclass(member, StrEnum):
            names += member
        elif member is int:
            names.append("an integer")
        else:
            return ()
    return tuple(names)


def _holds_mappings(settings: Any, key_path: KeyPath) -> bool:
    """Returns whether a value may be a list of mappings."""
    return dataclasses.is_dataclass(_settings_at(settings, (*key_path, 0)))


def _settings_at(settings: Any, key_path: KeyPath) -> Any:
    """Returns the type at a key path; for a union, its list if an item follows, or else its dataclass if it has one."""
    for part in key_path:
        settings = _member(settings, is_list=isinstance(part, int))
        if dataclasses.is_dataclass(settings):
            settings = get_type_hints(settings).get(str(part))
        else:
            settings = next(iter(get_args(settings)), None)
    return _member(settings, is_list=False)


def _member(kind: Any, *, is_list: bool) -> Any:
    """Returns the member of a union that a value belongs to; any other type is returned as it is."""
    if get_origin(kind) not in (types.UnionType, Union):
        return kind
    members = get_args(kind)
    wanted = (m for m in members if (get_origin(m) is tuple if is_list else dataclasses.is_dataclass(m)))
    return next(wanted, members[0])


def _has(value: Any, part: str | int) -> bool:
    return part in value if isinstance(value, dict) else isinstance(value, list) and part in range(len(value))


def _at(content: Any, key_path: KeyPath) -> Any:
    """Returns the value at a key path; None if there is none."""
    for part in key_path:
        if not _has(content, part):
            return None
        content = content[part]
    return content

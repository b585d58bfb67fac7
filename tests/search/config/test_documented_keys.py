"""Tests that the READMEs document every settings key once, with its default and values, and every preset."""

import dataclasses
import json
import re
import types
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
import yaml

from minilm_core.settings.schema_version import SCHEMA_VERSION, SCHEMA_VERSION_KEY
from search.config.settings import SearchConfig
from spaces.presets import load_space, preset_names
from spaces.space import StudentSpace
from tests.documents import table_rows, text_of
from tests.paths import ROOT


class Key(NamedTuple):
    """A settings key: its type, and its default as plain YAML has it."""

    kind: Any
    default: Any


REQUIRED = object()


def keys_of(settings: type) -> Iterator[tuple[str, Key]]:
    """Yields every key below a settings dataclass, with `[]` after the name of a list of mappings.

    The keys of a space are left out: spaces/README.md documents them.
    """
    hints = get_type_hints(settings)
    for field in dataclasses.fields(settings):
        name, kind = field.name, hints[field.name]
        if kind is StudentSpace:
            yield name, Key(kind, default_of(field))
            continue
        parts = get_args(kind) if get_origin(kind) in (types.UnionType, Union) else (kind,)
        mappings = [part for part in parts if dataclasses.is_dataclass(part)]
        lists = [part for part in parts if get_origin(part) is tuple and dataclasses.is_dataclass(get_args(part)[0])]
        # A mapping, or a list of mappings, has only the keys inside it. A mapping or something else is a key, too.
        if len(mappings) + len(lists) < len(parts):
            yield name, Key(kind, default_of(field))
        inside = {key: found for section in mappings for key, found in keys_of(section)}
        yield from ((f"{name}.{key}", found) for key, found in inside.items())
        for part in lists:
            # The keys that one mapping has are not told again where there may be several.
            yield from ((f"{name}[].{key}", found) for key, found in keys_of(get_args(part)[0]) if key not in inside)


def members(kind: Any) -> tuple[Any, ...]:
    """Returns the types that a hint may be, the items of a list among them."""
    if get_origin(kind) in (types.UnionType, Union):
        return tuple(member for part in get_args(kind) for member in members(part))
    if get_origin(kind) is tuple:
        return tuple(member for part in get_args(kind) if part is not Ellipsis for member in members(part))
    return (kind,)


def default_of(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return json.loads(json.dumps(dataclasses.asdict(made) if dataclasses.is_dataclass(made) else made))
    return REQUIRED if field.default is dataclasses.MISSING else json.loads(json.dumps(field.default))


def documented_keys(name: str) -> list[tuple[str, str, str]]:
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| ((?:`[^`]+`|required)) \| (.*) \|$", text_of(name), flags=re.MULTILINE)
    return [(key, default.strip("`"), meaning) for key, default, meaning in rows]


SETTINGS = [
    ("search/README.md", {SCHEMA_VERSION_KEY: Key(int, SCHEMA_VERSION), **dict(keys_of(SearchConfig))}),
    ("spaces/README.md", dict(keys_of(StudentSpace))),
]


@pytest.mark.parametrize(("document", "keys"), SETTINGS, ids=["search.yaml", "a space"])
def test_every_settings_key_is_documented_once_and_no_other(document: str, keys: dict[str, Key]) -> None:
    documented = Counter(key for key, _, _ in documented_keys(document))
    assert documented == Counter(keys.keys())


@pytest.mark.parametrize(("document", "keys"), SETTINGS, ids=["search.yaml", "a space"])
def test_every_documented_default_is_that_of_the_settings(document: str, keys: dict[str, Key]) -> None:
    for key, default, _ in documented_keys(document):
        shown = REQUIRED if default == "required" else yaml.safe_load(default)
        assert shown == keys[key].default, key


def test_every_value_that_a_key_may_have_is_named_with_it() -> None:
    document, keys = SETTINGS[0]
    for key, _, meaning in documented_keys(document):
        for kind in members(keys[key].kind):
            if isinstance(kind, type) and issubclass(kind, StrEnum):
                assert all(f"`{member}`" in meaning for member in kind), key


def test_the_table_of_presets_is_that_of_their_files() -> None:
    def shown(values: tuple[Any, ...]) -> str:
        return ", ".join(f"{value:g}" if isinstance(value, int | float) else f"`{value}`" for value in values)

    rows = table_rows("spaces/README.md", "preset")
    assert sorted(row[0].strip("`") for row in rows) == list(preset_names())
    for name, *cells, _ in rows:
        space = load_space(name.strip("`"), ROOT)
        assert cells == [
            shown(space.num_layers),
            shown(space.hidden_sizes),
            shown(space.head_sizes),
            shown(space.intermediate_ratios),
            str(space.num_shapes),
            shown(space.initialisations),
        ]


def test_every_initialisation_is_in_the_table() -> None:
    initialisations = dict(keys_of(StudentSpace))["initialisations"].kind
    (kind,) = members(initialisations)
    assert [row[0].strip("`") for row in table_rows("spaces/README.md", "value")] == list(kind)

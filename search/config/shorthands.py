"""Expands the short forms of search.yaml: presets of spaces, names of tasks, quantities such as 30M."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.models.vocabulary.cut import Vocabulary
from minilm_core.results.objectives import LATENCY, latency_target
from minilm_core.settings.finetuning_presets import FINETUNING_PRESETS
from minilm_core.settings.quantities import parse_count, parse_milliseconds, parse_size_bytes
from minilm_core.settings.schema import plain
from minilm_core.settings.yaml_source import KeyPath, YamlSource, shown
from minilm_core.tasks.benchmarks import NAMED_EVALUATION_SETS, NAMED_TASKS, named_evaluation_set, named_task
from search.config.latency import complete_from_tables
from spaces.presets import load_space

_EACH = "*"
"""In a pattern of keys: each place of a list."""
_EACH_KEY = "{}"
"""In a pattern of keys: each key of a mapping."""
_QUANTITIES: Mapping[KeyPath, Callable[[str], float]] = {
    ("corpus", "max_tokens"): parse_count,
    ("limits", "max_parameters"): parse_count,
    ("limits", "max_size_bytes"): parse_size_bytes,
    ("limits", "max_int8_size_bytes"): parse_size_bytes,
    ("limits", "max_latency_ms"): parse_milliseconds,
    ("limits", "max_latencies_ms", _EACH_KEY): parse_milliseconds,
    ("storage", "max_cache_bytes"): parse_size_bytes,
}
PUBLISHED_STUDENTS = ((12, 384), (6, 768), (6, 384), (4, 384), (3, 384))
"""Layers and widths of the students in the papers on MiniLM and MiniLMv2."""


def expanded(source: YamlSource, base: Path) -> YamlSource:
    """Returns the settings in the long form of the configuration's classes, which find any other mistake.

    Raises:
        UserError: if a short form is unknown or cannot be read.
    """
    source = replace(source, content=copy.deepcopy(source.content))
    for pattern, parse in _QUANTITIES.items():
        _rewrite(source, pattern, parse)
    _rewrite(source, ("assistant",), _assistant)
    _rewrite(source, ("vocabulary",), _vocabulary)
    _rewrite(source, ("stopping",), _stopping)
    _rewrite(source, ("space",), lambda name: plain(load_space(name, base)))
    _rewrite(source, ("sampler", "begin_with"), partial(_begin_with, source.content.get("space")))
    _apply_finetuning_preset(source)
    complete_from_tables(source, base)
    _rewrite(source, ("objectives", _EACH), partial(_objective, source.content.get("latency")))
    _rewrite(source, ("tasks", _EACH), lambda name: plain(named_task(name)))
    _rewrite(source, ("tasks", _EACH, "evaluation_sets", _EACH), lambda name: plain(named_evaluation_set(name)))
    for _, tasks, index in list(_matches(source.content, ("tasks", _EACH), ())):
        if isinstance(tasks[index], dict):
            tasks[index] = _named(tasks[index], NAMED_TASKS, named_task)
    for _, sets, index in list(_matches(source.content, ("tasks", _EACH, "evaluation_sets", _EACH), ())):
        if isinstance(sets[index], dict):
            sets[index] = _named(sets[index], NAMED_EVALUATION_SETS, named_evaluation_set)
    return source


def _apply_finetuning_preset(source: YamlSource) -> None:
    """Writes out `finetuning.preset`; its learning rates become those of a space that names none."""
    finetuning, space = source.content.get("finetuning"), source.content.get("space")
    if not isinstance(finetuning, dict) or "preset" not in finetuning:
        return
    name = finetuning.pop("preset")
    if not isinstance(name, str) or name not in FINETUNING_PRESETS:
        rule = f"finetuning.preset must be one of {', '.join(FINETUNING_PRESETS)}"
        raise source.error(("finetuning", "preset"), f"{rule}, got {shown(name)}")
    preset = FINETUNING_PRESETS[name]
    source.content["finetuning"] = {**preset.settings, **finetuning}
    if isinstance(space, dict):
        space.setdefault("finetuning_learning_rate", list(preset.learning_rates))


def _assistant(name: str) -> dict[str, Any]:
    if name != "auto":
        raise UserError(f"must be auto, the paper's rule, or a mapping of settings, got {name}")
    return {}


def _vocabulary(size: str) -> str | int:
    if size in list(Vocabulary):
        return size
    try:
        return parse_count(size)
    except UserError as error:
        raise UserError(f"must be {', '.join(Vocabulary)} or a count such as 16k, got {size!r}") from error


def _stopping(name: str) -> None:
    if name != "off":
        raise UserError(f"must be off or a mapping of settings, got {name}")


def _begin_with(space: Any, name: str) -> list[str]:
    """Returns those of the papers' students that are in the space."""
    if name != "published":
        raise UserError(f"must be published or a list of students such as 6x384, got {name}")
    sizes = space if isinstance(space, dict) else {}
    # What is no list is left to the schema.
    found = (sizes.get(key) for key in ("num_layers", "hidden_sizes"))
    layers, widths = (each if isinstance(each, list) else [] for each in found)
    inside = [f"{n}x{width}" for n, width in PUBLISHED_STUDENTS if n in layers and width in widths]
    if not inside:
        named = ", ".join(f"{n}x{width}" for n, width in PUBLISHED_STUDENTS)
        raise UserError(f"must have a published student ({named}) in the space, got none with {name}")
    return inside


def _objective(latency: Any, name: str) -> str:
    """Returns the objective that a user means, who may also call the latency on the first target by its name."""
    first = latency[0] if isinstance(latency, list) and latency else None
    target = latency_target(name)
    return LATENCY if isinstance(first, dict) and target is not None and target == first.get("name") else name


def _rewrite(source: YamlSource, pattern: KeyPath, write_out: Callable[[str], Any]) -> None:
    """Replaces every text at a pattern of keys. Values that are not text are left to the schema."""
    for key_path, holder, key in list(_matches(source.content, pattern, ())):
        if isinstance(holder[key], str):
            try:
                holder[key] = write_out(holder[key])
            except UserError as error:
                dotted = ".".join(map(str, key_path))
                raise source.error(key_path, f"{dotted}: {error}") from error


def _matches(content: Any, pattern: KeyPath, above: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    first, *rest = pattern
    if first == _EACH:
        keys: list[Any] = list(range(len(content))) if isinstance(content, list) else []
    elif first == _EACH_KEY:
        keys = list(content) if isinstance(content, dict) else []
    else:
        keys = [first] if isinstance(content, dict) and first in content else []
    for key in keys:
        if rest:
            yield from _matches(content[key], tuple(rest), (*above, key))
        else:
            yield (*above, key), content, key


def _named(entry: Mapping[str, Any], known: Mapping[str, Any], find: Callable[..., Any]) -> dict[str, Any]:
    """Completes a task or evaluation set that has a known name; the entry's own settings take precedence."""
    name = entry.get("name")
    if not isinstance(name, str) or name not in known:
        return dict(entry)
    # A path replaces the known data set, so it is passed before the other settings.
    path = entry.get("path")
    return {**plain(find(name, path=path) if isinstance(path, str) else find(name)), **entry}

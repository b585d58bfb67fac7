"""Readers of the JSON files of a study, which check the shape of what they read. The records have their own reader."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from minilm_core.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Labels:
    """The labels of a task, by split."""

    validation: list[FiniteFloat] | None = None
    test: list[FiniteFloat] | None = None
    label_names: list[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Environment:
    """The fields that reports compute with. All others are shown without a check."""

    seconds: dict[str, FiniteFloat] | None = None
    trials: dict[str, FiniteFloat] | None = None


_LABELS = TypeAdapter(dict[str, _Labels])
_ENVIRONMENT = TypeAdapter(_Environment)
_IMPORTANCES = TypeAdapter(dict[str, dict[str, FiniteFloat]])


def read_labels(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Returns the labels of each task by split, in the order of the records' predictions.

    They are None where only their hash was kept, as studies with outcomes do; empty without the file.

    Raises:
        UserError: if the file has another shape.
    """
    content = {
        task: {key: None if isinstance(value, dict) else value for key, value in labels.items()}
        if isinstance(labels, dict)
        else labels
        for task, labels in read_json(path).items()
    }
    _check(_LABELS, content, path)
    return content


def read_environment(path: Path) -> Mapping[str, Any]:
    """Returns versions, machine and seeds, and the seconds of each stage of the preparation; empty without the file.

    Raises:
        UserError: if the file has another shape.
    """
    return _checked(_ENVIRONMENT, path)


def read_importances(path: Path) -> Mapping[str, Mapping[str, float]]:
    """Returns the importance of each choice for each objective, in [0, 1]; empty without the file.

    Raises:
        UserError: if the file has another shape.
    """
    return _checked(_IMPORTANCES, path)


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; empty without the file.

    Raises:
        UserError: if the file holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise UserError(f"{path} must be JSON, got {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must be a JSON object, got a {type(content).__name__}")
    return content


def _checked(shape: TypeAdapter[Any], path: Path) -> dict[str, Any]:
    content = read_json(path)
    _check(shape, content, path)
    return content


def _check(shape: TypeAdapter[Any], content: Mapping[str, Any], path: Path) -> None:
    try:
        shape.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} must be as the search wrote it, {key}: {first['msg']}") from error

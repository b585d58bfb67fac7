"""Makes a deployment folder: a student with its tokenizer, card, figures, provenance and reference outputs."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.deployment.card import model_card
from minilm_core.deployment.facts import evaluation, provenance
from minilm_core.deployment.layout import (
    CARD_FILE,
    DECISION_FILE,
    EVALUATION_FILE,
    OPTIONAL_FILES,
    PROVENANCE_FILE,
    REFERENCE_FILE,
    REQUIRED_FILES,
    SUMS_FILE,
    checksums,
)
from minilm_core.deployment.source import PackageSource
from minilm_core.errors import UserError
from minilm_core.models.families import max_sequence_length
from minilm_core.runtimes.torch_model import load_packaged

REFERENCE_TOLERANCE = 1e-3
"""The largest difference from the recorded outputs that the fp32 arithmetic of another machine may make."""
REFERENCE_SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Returns the sum of two numbers, or raises an error if either is missing.",
    "It was, all things considered, not as bad as we had feared.",
    "ok",
)

Addition = Callable[[Path], object]
"""Writes more files, such as an export, into the folder of an unfinished package; it may raise a UserError."""


def package(source: PackageSource, out: Path, *, additions: Sequence[Addition] = (), overwrite: bool = False) -> Path:
    """Makes the deployment folder, whole or not at all, and returns it.

    Args:
        source: The student and the facts about it.
        out: The folder to make.
        additions: Run in order on the unfinished folder, before its checksums are taken.
        overwrite: Whether to replace a package that is there.

    Raises:
        UserError: if the student's folder lacks a file, the task has no result, or `out` is not empty.
    """
    out = out.resolve()
    _check(source, out, overwrite)
    with atomic_folder(out) as folder:
        _copy_model(source, folder)
        for addition in additions:
            addition(folder)
        _write_json(folder / REFERENCE_FILE, _reference(source.model_folder))
        _write_json(folder / EVALUATION_FILE, evaluation(source))
        _write_json(folder / PROVENANCE_FILE, provenance(source))
        model_card(source, folder).save(folder / CARD_FILE)
        write_text_atomically(folder / SUMS_FILE, checksums(folder))
        if overwrite and out.is_dir():
            shutil.rmtree(out)
    return out


def _check(source: PackageSource, out: Path, overwrite: bool) -> None:
    for name in REQUIRED_FILES:
        if not (source.model_folder / name).is_file():
            raise UserError(f"a student's folder must hold {name}, {source.model_folder} does not")
    if source.task not in source.record.tasks:
        tasks = ", ".join(source.record.tasks) or "none"
        raise UserError(f"task must be one of the trial's tasks ({tasks}), got {source.task}")
    if source.decision is not None and not source.decision.is_file():
        raise UserError(f"decision must be a file written by pick, got {source.decision}")
    is_replaceable = overwrite and (out / SUMS_FILE).is_file() and not source.model_folder.resolve().is_relative_to(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not is_replaceable):
        allowed = "new, empty or a package" if overwrite else "new or empty"
        raise UserError(f"the folder to package into must be {allowed}, got {out}")


def _copy_model(source: PackageSource, folder: Path) -> None:
    for name in REQUIRED_FILES + OPTIONAL_FILES:
        if (source.model_folder / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.model_folder / name, folder / name)
    _limit_length(folder)
    if source.decision is not None:
        shutil.copyfile(source.decision, folder / DECISION_FILE)


def _limit_length(folder: Path) -> None:
    """Makes the tokenizer cut texts to the student's positions, unless it already has a limit that is no larger."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    num_positions = max_sequence_length(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    if settings.get("model_max_length", math.inf) > num_positions:
        _write_json(file, settings | {"model_max_length": num_positions})


def _reference(model_folder: Path) -> dict[str, Any]:
    # Computed from the trained folder, not from the copy, so that a verification also compares the two.
    outputs = load_packaged(model_folder).outputs(REFERENCE_SENTENCES)
    return {"tolerance": REFERENCE_TOLERANCE, "texts": REFERENCE_SENTENCES, "outputs": outputs.tolist()}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

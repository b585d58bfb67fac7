"""The environment that a study was made in, for readers who want to reproduce it. No torch, no Ray."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.provenance import source_state, versions_of
from minilm_core.results.layout import StudyPaths
from search.config.settings import SearchConfig
from search.study.progress import now

PACKAGES = ("minilm-search", "ray", "torch", "transformers", "optuna", "datasets", "numpy", "tokenizers", "safetensors")


def write_environment(config: SearchConfig, config_sha256: str, paths: StudyPaths) -> None:
    """Writes versions, machine, source and seed, and adds the time of this run to those of earlier runs."""
    content, source = read_environment(paths), source_state()
    content.update(
        versions=versions_of(PACKAGES),
        machine={
            "system": platform.platform(),
            "processor": platform.machine(),
            "num_cpus": os.cpu_count(),
        },
        git=None if source is None else asdict(source),
        command=sys.argv,
        config_sha256=config_sha256,
        seed=config.seed,
        runs=[*content.get("runs", []), now()],
    )
    _write(paths, content)


def set_seconds(paths: StudyPaths, seconds: Mapping[str, float]) -> None:
    """Writes the seconds that the stages of the preparation took."""
    _write(paths, {**read_environment(paths), "seconds": dict(seconds)})


def add_trial_times(paths: StudyPaths, held_seconds: float, busy_seconds: float) -> None:
    """Adds the seconds that the trials of a run held their devices, and those in which they trained or measured."""
    content = read_environment(paths)
    before = content.get("trials") or {}
    times = {"held_seconds": held_seconds, "busy_seconds": busy_seconds}
    content["trials"] = {name: round(before.get(name, 0.0) + seconds, 3) for name, seconds in times.items()}
    _write(paths, content)


def overhead(paths: StudyPaths) -> float | None:
    """Returns the share of the time of trials in which no student was trained or measured; None before any trial."""
    times = read_environment(paths).get("trials") or {}
    held = times.get("held_seconds", 0.0)
    return max(0.0, 1.0 - times["busy_seconds"] / held) if held else None


def read_environment(paths: StudyPaths) -> dict[str, Any]:
    """Returns the content of environment.json, which is empty before the first run.

    Raises:
        UserError: if the file is damaged.
    """
    if not paths.environment.exists():
        return {}
    try:
        content = json.loads(paths.environment.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("runs", []), list):
        raise UserError(
            f"environment.json must be a JSON object as a search writes it; remove the damaged file {paths.environment}"
        )
    return content


def _write(paths: StudyPaths, content: dict[str, Any]) -> None:
    write_text_atomically(paths.environment, json.dumps(content, indent=2) + "\n")

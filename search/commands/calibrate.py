"""Calibrates this machine: for the encoders of a search.yaml, or for those of a space, which needs no teacher."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.table import MAX_HELD_OUT_ERROR, Device, LatencyTable, LatencyTarget, Runtime
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.families import check_model_type, check_student
from minilm_core.models.teacher import resolve
from minilm_core.results.layout import StudyPaths
from search.config.compatibility import find_teacher_config
from search.config.loading import load_config
from search.driver.calibration import TimedEncoders, encoders_to_time
from search.errors import SearchError
from search.study.resolved import resolve_study
from spaces.presets import load_space

SEED = 0
_SIZES = re.compile(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)")


def calibrate_study(search_yaml: Path, overrides: Sequence[str], *, force: bool) -> Mapping[str, LatencyTable]:
    """Returns the tables of a search's students and, where its family is another, of its teacher, by whose they are.

    Args:
        search_yaml: The settings of the search.
        overrides: Keys and values that replace them.
        force: Whether to measure again where there is a table.

    Raises:
        UserError: if the teacher is not on this machine, or the settings name a table.
    """
    loaded = load_config(search_yaml, overrides)
    config = loaded.config
    if config.latency.table is not None:
        raise UserError(f"latency.table must be left out for calibrate, which measures, got {config.latency.table}")
    teacher = find_teacher_config(loaded)
    if teacher is None:
        raise UserError(f"calibrate needs the teacher's config.json on this machine, got {config.teacher.model}")
    families = encoders_to_time(resolve_study(config, StudyPaths(root=config.study_folder), teacher))
    found = [None if force else family.find(config) for family in families]
    if None in found:
        # Missing weights are reported before the measurement, which takes a minute.
        resolve(config.teacher, loaded.base)
    return {family.name: table or family.measure(config) for table, family in zip(found, families, strict=True)}


def calibrate_space(space: str, model_type: str, target: LatencyTarget, also: Sequence[str]) -> LatencyTable:
    """Returns the table of all students of a space, which needs neither a teacher nor its files.

    Args:
        space: A preset or the path of a file.
        model_type: The students' family in transformers, whose default settings they have.
        target: What is measured.
        also: Further encoders as LAYERSxWIDTHxHEADS, such as the teacher.

    Raises:
        UserError: if there is no such space, family or encoder.
    """
    base = _default_config(model_type)
    architectures = (*load_space(space, Path()).architectures(), *map(parse_sizes, also))
    for architecture in architectures:
        check_student(architecture, base)
    return TimedEncoders(name="students", base=base, architectures=architectures).timed(target, SEED)


def _default_config(model_type: str) -> Mapping[str, Any]:
    from transformers import AutoConfig

    check_model_type({"model_type": model_type})
    content: dict[str, Any] = AutoConfig.for_model(model_type).to_dict()
    return content


def parse_target(device: str, threads: int, batch_size: int, sequence_length: int, runtime: str) -> LatencyTarget:
    """Returns the target that options of the command line name.

    Raises:
        UserError: if one of them is unknown or out of range.
    """
    for option, value, known in (("--device", device, Device), ("--runtime", runtime, Runtime)):
        if value not in list(known):
            raise UserError(f"{option} must be one of {', '.join(known)}, got {value}")
    return LatencyTarget(
        device=Device(device),
        num_threads=threads,
        batch_size=batch_size,
        sequence_length=sequence_length,
        runtime=Runtime(runtime),
    )


def parse_sizes(text: str) -> StudentArchitecture:
    """Reads LAYERSxWIDTHxHEADS.

    Raises:
        UserError: if it is none.
    """
    match = _SIZES.fullmatch(text)
    if match is None:
        raise UserError(f"--also must be LAYERSxWIDTHxHEADS such as 12x768x12, got {text}")
    num_layers, hidden_size, num_heads = map(int, match.groups())
    return StudentArchitecture(num_layers=num_layers, hidden_size=hidden_size, num_heads=num_heads)


def check_error(tables: Mapping[str, LatencyTable]) -> None:
    """Refuses tables that predict held-out encoders badly.

    Raises:
        SearchError: with the error, if it is above `MAX_HELD_OUT_ERROR`.
    """
    for name, table in tables.items():
        # Written so that NaN fails too.
        if not table.held_out_error <= MAX_HELD_OUT_ERROR:
            raise SearchError(
                f"latencies of held-out {name} must be predicted within {MAX_HELD_OUT_ERROR:.0%} with --strict, "
                f"got {table.held_out_error:.0%}; calibrate on an idle machine"
            )

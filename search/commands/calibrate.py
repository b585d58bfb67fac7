"""Calibrates this machine: for the encoders of a search.yaml, or for those of a space, which needs no teacher."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError
from minilm_core.latency.table import MAX_HELD_OUT_ERROR, LatencyTable
from minilm_core.latency.target import CannotTimeHereError, Device, LatencyTarget, Runtime, fingerprint
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.families import check_model_type, check_student
from minilm_core.models.teacher import read_config, resolve
from minilm_core.results.layout import StudyPaths
from search.config.compatibility import find_teacher_config
from search.config.latency import NamedLatency
from search.config.loading import load_config
from search.driver.calibration import TimedEncoders, encoders_to_time
from search.errors import SearchError
from search.study.resolved import resolve_study
from spaces.presets import load_space

SEED = 0
_SIZES = re.compile(r"([1-9]\d*)x([1-9]\d*)x([1-9]\d*)")


def calibrate_study(
    search_yaml: Path,
    overrides: Sequence[str],
    *,
    is_forced: bool,
    is_strict: bool,
    has_one_target: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Mapping[str, LatencyTable]:
    """Returns a search's tables: of each target those of its students and, if its family is another, of its teacher.

    They are named "students" and "teacher", and those of a target that has a name "students@NAME" and "teacher@NAME".
    A target whose table the settings name is left out. Of several targets, those are left out whose device or runtime
    this machine lacks.

    Args:
        search_yaml: The settings of the search.
        overrides: Keys and values that replace them.
        is_forced: Whether to measure again where there is a table.
        is_strict: Whether to refuse a table that predicts held-out encoders badly, before the cache has it.
        has_one_target: Whether there is room for the table of one target alone.
        tell: Is called with a line on the targets that are left out.

    Raises:
        UserError: if the teacher is not on this machine, the settings name the table of every target, or more targets
            are left than there is room for.
        SearchError: if a table is refused.
    """
    loaded = load_config(search_yaml, overrides)
    config = loaded.config
    here = {
        latency.name if isinstance(latency, NamedLatency) else "": latency.target
        for latency in config.latencies.values()
        if latency.table is None
    }
    if not here:
        given = ", ".join(str(latency.table) for latency in config.latencies.values())
        raise UserError(f"latency.table must be left out for calibrate, which measures, got {given}")
    targets = {name: target for name, target in here.items() if len(here) == 1 or _can_time(target)}
    if not targets:
        raise UserError(f"calibrate needs a target that this machine can time, got {', '.join(here)}")
    left_out = [name for name in here if name not in targets]
    if left_out:
        tell(f"this machine cannot time {', '.join(left_out)}; calibrate on one that can, and name its table")
    if has_one_target and len(targets) > 1:
        raise UserError(f"--out is for the table of one target, got {len(targets)}: {', '.join(targets)}")
    teacher = find_teacher_config(loaded)
    if teacher is None:
        raise UserError(f"calibrate needs the teacher's config.json on this machine, got {config.teacher.model}")
    families = encoders_to_time(resolve_study(config, StudyPaths(root=config.study_folder), teacher))
    pairs = [(name, target, family) for name, target in targets.items() for family in families]
    found = [None if is_forced else family.find(config, target) for _, target, family in pairs]
    if None in found:
        # Missing weights are reported before the measurement, which takes a minute.
        resolve(config.teacher, loaded.base)
    tables = {}
    for (name, target, family), known in zip(pairs, found, strict=True):
        table = known or family.timed(target, config.seed)
        if is_strict:
            check_error(family.name, table)
        if known is None:
            table.save(family.file(config, target))
        tables[f"{family.name}{'@' * bool(name)}{name}"] = table
    return tables


def _can_time(target: LatencyTarget) -> bool:
    try:
        fingerprint(target.device, target.runtime)
    except CannotTimeHereError:
        return False
    return True


def calibrate_space(
    space: str, model: str, target: LatencyTarget, also: Sequence[str] = (), *, is_strict: bool = False
) -> LatencyTable:
    """Returns the table of all students of a space, which needs neither a teacher nor its files.

    Args:
        space: A preset or the path of a file.
        model: The students' family in transformers, whose default settings they have, or the path of a config.json.
        target: What is measured.
        also: Further encoders as LAYERSxWIDTHxHEADS, such as the teacher.
        is_strict: Whether to refuse a table that predicts held-out encoders badly.

    Raises:
        UserError: if there is no such space, family or encoder.
        SearchError: if the table is refused.
    """
    base = _base_config(model)
    architectures = (*load_space(space, Path()).architectures(), *map(parse_sizes, also))
    for architecture in architectures:
        check_student(architecture, base)
    table = TimedEncoders(name="students", base=base, architectures=architectures).timed(target, SEED)
    if is_strict:
        check_error("students", table)
    return table


def _base_config(model: str) -> Mapping[str, Any]:
    """Returns what students have besides their sizes: what a file says, or the defaults of a family."""
    if model.endswith(".json"):
        if not Path(model).is_file():
            raise UserError(f"--model must be a family or the path of a config.json, got {model}")
        content: Mapping[str, Any] = read_config(Path(model))
    else:
        from transformers import AutoConfig

        check_model_type({"model_type": model})
        content = AutoConfig.for_model(model).to_dict()
    check_model_type(content)
    return content


def parse_target(options: Mapping[str, Any]) -> LatencyTarget:
    """Returns the target that options of the command line name; those that are not given have the defaults.

    Raises:
        UserError: if one of them is unknown or out of range.
    """
    for option, known in (("device", Device), ("runtime", Runtime)):
        if option in options and options[option] not in list(known):
            raise UserError(f"--{option} must be one of {', '.join(known)}, got {options[option]}")
    default = LatencyTarget()
    return LatencyTarget(
        device=Device(options.get("device", default.device)),
        num_threads=options.get("threads", default.num_threads),
        batch_size=options.get("batch_size", default.batch_size),
        sequence_length=options.get("sequence_length", default.sequence_length),
        runtime=Runtime(options.get("runtime", default.runtime)),
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


def check_error(name: str, table: LatencyTable) -> None:
    """Refuses a table that predicts held-out encoders badly.

    Raises:
        SearchError: with the error, if it is above `MAX_HELD_OUT_ERROR`.
    """
    # Written so that NaN fails too.
    if not table.held_out_error <= MAX_HELD_OUT_ERROR:
        raise SearchError(
            f"latencies of held-out {name} must be predicted within {MAX_HELD_OUT_ERROR:.0%} with --strict, "
            f"got {table.held_out_error:.1%}; calibrate again on an idle machine, with --force"
        )

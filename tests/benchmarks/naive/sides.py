"""Runs each side of the comparison in a process of its own, and reads what it made and how long each stage took."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import TrialRecord
from minilm_core.settings.yaml_source import dump_yaml
from minilm_core.tasks.finetuning import load_task_data
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.worker.preparation import read_preparation
from tests.benchmarks.naive.process_tree import NOTHING, Cost, run_timed
from tests.benchmarks.naive.settings import Settings
from tests.paths import ROOT

PROGRAM = Path(__file__).parent / "program.py"
PACKAGES = ROOT / "build" / "naive"
"""The folder of what requirements.txt names."""


class Stage(StrEnum):
    """What the time of a side is spent on."""

    COMPILATION = "compilation"
    """Of loops for this processor, once for each machine; only our side has some."""
    PREPARATION = "preparation"
    """Tokenising and packing; for a side that caches the teacher's states, that too."""
    DISTILLATION = "distillation"
    FINETUNING = "fine-tuning"
    EVALUATION = "evaluation"
    REST = "rest"
    """Starting Python, Ray and the trials' processes, loading libraries, and all else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A student of one side."""

    num_parameters: int
    """Of its encoder."""
    held_out_nats: float
    """The relation loss on held-out text; each side holds out rows of its own."""
    accuracies: Mapping[str, float]
    """By task, on the validation split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """What one side did, in how much time."""

    cost: Cost
    seconds: Mapping[Stage, float]
    """The wall time by stage; trials that run side by side share it evenly."""
    tokens: Mapping[Stage, int]
    """The tokens that students were distilled, fine-tuned and evaluated on, without padding, over all students."""
    students: Mapping[str, Trained]
    """By layers and width."""


def run_program(settings: Settings, work: Path) -> Side:
    """Runs program.py.

    Raises:
        UserError: if it fails.
    """
    work.mkdir(parents=True)
    files = work / "settings.json", work / "result.json"
    files[0].write_text(json.dumps(settings.for_program(work)), encoding="utf-8")
    cost = _timed([sys.executable, str(PROGRAM), *map(str, files)], settings, work, path=PACKAGES)
    return of_program(json.loads(files[1].read_text(encoding="utf-8")), settings, cost)


def run_study(settings: Settings, work: Path, *, is_warm: bool = False) -> Side:
    """Runs `minilm-search launch`, after the loops are compiled, which it would do itself.

    Args:
        settings: The settings of both sides.
        work: The folder of the study and its caches.
        is_warm: Whether the loops that this machine has compiled before are found, and nothing is compiled ahead.

    Raises:
        UserError: if it fails.
    """
    search_yaml = work / "search.yaml"
    write_text_atomically(search_yaml, dump_yaml(settings.search_yaml(work)))
    cold = {} if is_warm else {"NUMBA_CACHE_DIR": str(work / "numba")}
    compilation = NOTHING
    if not is_warm:
        words = ["-m", "tests.benchmarks.naive.compile_loops", settings.precision.value]
        compilation = _timed([sys.executable, *words], settings, work, path=ROOT, **cold)
    launch = [sys.executable, "-m", "search.cli", "launch", str(search_yaml)]
    study = _timed(launch, settings, work, path=ROOT, **cold)
    return of_study(load_config(search_yaml).config, settings, compilation=compilation, study=study)


def _timed(command: Sequence[str], settings: Settings, work: Path, *, path: Path, **variables: str) -> Cost:
    """Runs a command that finds nothing in the caches of transformers and datasets."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(path),
        "OMP_NUM_THREADS": str(settings.num_threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(work / "datasets"),
        # Ray's processes yield to all others by default: each other process would then slow trials and little else.
        "RAY_worker_niceness": "0",
        **variables,
    }
    return run_timed(command, folder=ROOT, environment=environment)


def of_program(result: Mapping[str, Any], settings: Settings, cost: Cost) -> Side:
    """Returns what program.py wrote as a side."""
    students = result["students"]
    tasks = [figures for student in students for figures in student["tasks"].values()]
    in_trials = {
        Stage.DISTILLATION: sum(student["distillation_seconds"] for student in students),
        Stage.FINETUNING: sum(figures["finetuning_seconds"] for figures in tasks),
        Stage.EVALUATION: sum(figures["evaluation_seconds"] for figures in tasks),
    }
    return Side(
        cost=cost,
        seconds=_shares(cost, {Stage.PREPARATION: result["preparation_seconds"]}, in_trials, settings),
        tokens={
            Stage.DISTILLATION: sum(student["distillation_tokens"] for student in students),
            Stage.FINETUNING: sum(figures["finetuning_tokens"] for figures in tasks),
            Stage.EVALUATION: sum(figures["evaluation_tokens"] for figures in tasks),
        },
        students={
            student["student"]: Trained(
                num_parameters=student["num_parameters"],
                held_out_nats=student["held_out_loss"],
                accuracies={name: figures["accuracy"] for name, figures in student["tasks"].items()},
            )
            for student in students
        },
    )


def of_study(config: SearchConfig, settings: Settings, *, compilation: Cost, study: Cost) -> Side:
    """Returns a finished study as a side.

    Raises:
        UserError: if a student has not been trained to the end.
    """
    paths = StudyPaths(root=config.study_folder)
    records = read_records(paths.records)
    incomplete = [record.label for record in records if not record.is_complete_student]
    if incomplete:
        raise UserError(f"all students must be trained to the end, got {', '.join(incomplete)} in {paths.root}")
    in_trials: dict[Stage, float] = defaultdict(float)
    for record in records:
        for name, seconds in record.seconds.items():
            in_trials[_stage(name)] += seconds
    before = {
        Stage.COMPILATION: compilation.wall_seconds,
        Stage.PREPARATION: sum(read_preparation(paths).seconds.values()),
    }
    cost = compilation + study
    tokens = _task_tokens(config, settings)
    return Side(
        cost=cost,
        seconds=_shares(cost, before, in_trials, settings),
        tokens={
            Stage.DISTILLATION: sum(record.num_tokens for record in records),
            Stage.FINETUNING: len(records) * tokens[Stage.FINETUNING],
            Stage.EVALUATION: len(records) * tokens[Stage.EVALUATION],
        },
        students={_label(record): _trained(record) for record in records},
    )


def _stage(name: str) -> Stage:
    """Returns the stage that a record's name of a stage belongs to."""
    (found,) = (
        stage
        for prefix, stage in {
            "distilling": Stage.DISTILLATION,
            "fine-tuning": Stage.FINETUNING,
            "evaluating": Stage.EVALUATION,
        }.items()
        if name.startswith(prefix)
    )
    return found


def _shares(
    cost: Cost, before: Mapping[Stage, float], in_trials: Mapping[Stage, float], settings: Settings
) -> dict[Stage, float]:
    shares = {**before, **{stage: seconds / settings.num_concurrent for stage, seconds in in_trials.items()}}
    return {**dict.fromkeys(Stage, 0.0), **shares, Stage.REST: cost.wall_seconds - sum(shares.values())}


def _task_tokens(config: SearchConfig, settings: Settings) -> dict[Stage, int]:
    """Returns the tokens that one student of a study is fine-tuned and evaluated on."""
    schedule = config.finetuning
    data = [load_task_data(task, Path(), Path(settings.teacher), schedule.max_length) for task in config.tasks]
    return {
        Stage.FINETUNING: schedule.num_epochs * sum(_num_tokens(each.train.lengths) for each in data),
        Stage.EVALUATION: sum(_num_tokens(each.validation.lengths) for each in data),
    }


def _num_tokens(lengths: Iterable[int]) -> int:
    return int(sum(map(int, lengths)))


def _label(record: TrialRecord) -> str:
    return f"{record.architecture.num_layers}x{record.architecture.hidden_size}"


def _trained(record: TrialRecord) -> Trained:
    assert record.num_parameters is not None, "a complete student has its figures"
    assert record.held_out_loss is not None, "a complete student has its figures"
    return Trained(
        num_parameters=record.num_parameters,
        held_out_nats=record.held_out_loss,
        accuracies={name: task.validation.value for name, task in record.tasks.items()},
    )

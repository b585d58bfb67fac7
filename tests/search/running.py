"""Functions for the tests of a worker: they run and interrupt jobs, and compare records and weights."""

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from minilm_core.results.records import TrialRecord
from search.driver.display import Display
from search.study.jobs import Job
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
from search.worker import soft_labels
from search.worker.run import run_group
from spaces.space import StudentChoice

OpenStudy = Callable[..., ResolvedStudy]
Event = Progress | TrialRecord

CHECKPOINT_EVERY_STEP = "distillation.checkpoint_every_seconds=0"


def run_job(job: Job) -> Iterator[Event]:
    return run_group([job])


def record_of(job: Job) -> TrialRecord:
    *_, record = run_job(job)
    assert isinstance(record, TrialRecord)
    return record


def interrupt(jobs: Sequence[Job], after: int) -> None:
    """Runs jobs until they have yielded `after` events, and closes the run."""
    events = run_group(jobs)
    for _ in range(after):
        next(events)
    assert isinstance(events, Generator)
    events.close()


def figures_of(record: TrialRecord) -> TrialRecord:
    """Returns the record without its times, which differ between runs."""
    return replace(record, seconds={}, device_hours=0.0, started_at="", finished_at="")


def weights_in(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return weights


def assert_same_bits(one: Path, other: Path) -> None:
    weights, expected = weights_in(one), weights_in(other)
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, expected[name]), (one, name)


def copied(job: Job, choice: StudentChoice, open_study: OpenStudy) -> Job:
    """Copies a trial's files into another study, and returns its job there."""
    copy = Job.of_student(open_study(), 7, choice)
    shutil.copytree(job.folder, copy.folder)
    return copy


class RecordingDisplay(Display):
    """A display that keeps its messages instead of printing them."""

    def __init__(self) -> None:
        super().__init__("recorded", [], 1, 1)
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def count_teacher_outputs(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Returns what tells how often the teacher's outputs have been computed since this call."""
    calls: list[int] = []
    compute = soft_labels.teacher_outputs

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return compute(*arguments)

    monkeypatch.setattr(soft_labels, "teacher_outputs", counted)
    return lambda: len(calls)

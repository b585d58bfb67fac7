"""What the tests of a worker share: how its students are run and interrupted, and what is left of them."""

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from minilm_core.results.records import TrialRecord
from search.driver.display import Display
from search.study.jobs import Job
from search.study.progress import Progress
from search.study.resolved import ResolvedStudy
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
    """Runs students up to some event and no further."""
    events = run_group(jobs)
    for _ in range(after):
        next(events)
    assert isinstance(events, Generator)
    events.close()


def figures_of(record: TrialRecord) -> TrialRecord:
    """The record without its times, which differ from run to run."""
    return replace(record, seconds={}, device_hours=0.0, started_at="", finished_at="")


def weights_in(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return weights


def assert_same_bits(one: Path, other: Path) -> None:
    theirs = weights_in(other)
    for name, weight in weights_in(one).items():
        assert torch.equal(weight, theirs[name]), (one, name)


def copied(job: Job, choice: StudentChoice, open_study: OpenStudy) -> Job:
    """The trial's files in another study."""
    copy = Job.of_student(open_study(), 7, choice)
    shutil.copytree(job.folder, copy.folder)
    return copy


class Said(Display):
    """A display that remembers."""

    def __init__(self) -> None:
        super().__init__("said", [], 1, 1)
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)

"""A process that works on a trial, beside others or alone, and what it keeps of each of the trial's students."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from minilm_core.models.encoders import save_encoder
from minilm_core.models.weight_transfer import build_student
from minilm_core.results.records import Role
from minilm_core.training.devices import keep_freed_memory
from search.config.teacher_assignment import distilled_layer
from search.study.jobs import Job, Progress, ProgressLog
from search.worker.preparation import NodeContext

Decision = TypeVar("Decision")


class StudentsFailedError(Exception):
    """What happened to some of a trial's students; the others can go on without them."""

    def __init__(self, numbers: tuple[int, ...], error: Exception) -> None:
        # Both as arguments, so that they survive the way to another process.
        super().__init__(numbers, error)
        self.numbers = numbers
        """Of the students' records."""
        self.error = error


@dataclass(kw_only=True, slots=True)
class Member:
    """One of the students that share a trial; alone among them: a baseline."""

    job: Job
    log: ProgressLog
    has_failed: bool = False

    @classmethod
    def of(cls, job: Job) -> "Member":
        """Begins a run of a job."""
        return cls(job=job, log=ProgressLog(job.paths.progress))


class Stopwatch:
    """Measures what lies between two questions."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Returns the seconds since the last call."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One of the processes that share a trial."""

    node: NodeContext
    rank: int
    num_workers: int
    watch: Stopwatch = field(default_factory=Stopwatch)

    @classmethod
    def join(cls, job: Job) -> "Worker":
        """Returns this process as a worker of a job's trial."""
        keep_freed_memory()
        node = NodeContext.open(job.config, job.study)
        if node.device.type == "cpu":
            torch.set_num_threads(max(1, int(job.config.resources.cpus_per_worker)))
        is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        return cls(
            node=node,
            rank=torch.distributed.get_rank() if is_shared else 0,
            num_workers=torch.distributed.get_world_size() if is_shared else 1,
        )

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the trial's files."""
        return self.rank == 0

    def agree(self, decide: Callable[[], Decision]) -> Decision:
        """Returns what the first worker decides, which alone is asked.

        Files on a network disk may look otherwise from another node, and no two clocks are the same.
        """
        decisions = [decide() if self.is_first else None]
        if self.num_workers > 1:
            torch.distributed.broadcast_object_list(decisions, src=0, device=self.node.device)
        return decisions[0]  # type: ignore[return-value]  # None only before the first worker's has come

    def wait_for_others(self) -> None:
        """Returns once every worker of the trial has come this far."""
        if self.num_workers > 1:
            torch.distributed.barrier()

    def in_parallel(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device and, among several workers, averages its gradients with theirs."""
        module = module.to(self.node.device)
        return DistributedDataParallel(module) if self.num_workers > 1 else module

    def share_time(self, members: Sequence[Member]) -> None:
        """Divides the time since the last call evenly among those who shared it."""
        each = self.watch.lap() / len(members)
        for member in members:
            member.log.spend(each)

    def check_time(self, members: Sequence[Member], progress: Progress) -> None:
        """Ends the work on members all of which have had their time.

        Raises:
            TimeoutError: if each took more of its own than the budget allows a trial.
        """
        limit_minutes = self.node.config.budget.trial_timeout_minutes
        if limit_minutes is None:
            return
        limit_seconds = 60 * limit_minutes
        if self.agree(lambda: all(member.log.spent_seconds > limit_seconds for member in members)):
            raise TimeoutError(
                f"a trial must end within trial_timeout_minutes {limit_minutes:g}, "
                f"got to step {progress.step} of {progress.num_steps} of {progress.stage}"
            )

    def initialised(self, job: Job) -> PreTrainedModel:
        """Returns a student before training; its seed is the study's, so that a twin begins with the same weights."""
        return build_student(
            job.choice.architecture,
            self.node.teacher_folder,
            job.choice.initialisation,
            family=self.node.config.student_family,
            distilled_layer=distilled_layer(self.node.config, self.node.teacher),
            seed=job.config.seed,
        )

    def save_encoder(self, encoder: PreTrainedModel, job: Job) -> None:
        """Saves a student as a folder that transformers loads."""
        save_encoder(encoder, self.node.teacher_folder, job.paths.student)

    def student_folder(self, job: Job) -> Path:
        """Returns what fine-tuning starts from."""
        return self.node.teacher_folder if job.role is Role.TEACHER else job.paths.student


@contextmanager
def attribute_failure(members: Sequence[Member]) -> Iterator[None]:
    """Makes what goes wrong in the block the failure of these students and of no others."""
    try:
        yield
    except StudentsFailedError:
        raise
    except Exception as error:
        numbers = tuple(member.job.number for member in members if not member.has_failed)
        raise StudentsFailedError(numbers, error) from error


def write_down(worker: Worker, standing: Sequence[tuple[Member, Progress]]) -> Progress:
    """Logs where each of several students stands in the work that they share, and returns it as one event."""
    students = tuple(member.job.number for member, _ in standing if member.job.role is Role.STUDENT)
    shared = [(member, replace(progress, students=students)) for member, progress in standing]
    if worker.is_first:
        for member, progress in shared:
            member.log.append(progress)
    of_all = [progress for _, progress in shared]
    return replace(
        of_all[0],
        loss=_mean([progress.loss for progress in of_all]),
        held_out_loss=_mean([progress.held_out_loss for progress in of_all]),
    )


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None

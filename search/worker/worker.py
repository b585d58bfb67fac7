"""One of the processes that train the students of a trial, and its state of each student's run."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from minilm_core.distillation.loop import DistillationProgress
from minilm_core.models.encoders import save_encoder
from minilm_core.models.weight_transfer import build_student, truncate_teacher
from minilm_core.results.records import Role
from minilm_core.training.checkpoints import latest_checkpoint
from minilm_core.training.devices import keep_freed_memory
from search.study.jobs import Job
from search.study.progress import Progress, ProgressLog, is_reported
from search.worker.node import NodeContext

Decision = TypeVar("Decision")


class JobsFailedError(Exception):
    """An exception that ended some of the jobs of a trial; the trial's other jobs can go on."""

    def __init__(self, numbers: tuple[int, ...], error: Exception) -> None:
        # Both are arguments of Exception, so that pickle restores them in another process.
        super().__init__(numbers, error)
        self.numbers = numbers
        """The numbers of the jobs."""
        self.error = error


@dataclass(kw_only=True, slots=True)
class JobRun:
    """One run of a job in this process."""

    job: Job
    log: ProgressLog
    has_ended: bool = False
    """Whether it has a record already: it failed, or was stopped."""

    @classmethod
    def begin(cls, job: Job) -> Self:
        """Begins a run that has taken no time yet."""
        return cls(job=job, log=ProgressLog(job.paths.progress))


class CheckpointClock:
    """Says when the next checkpoint is due."""

    def __init__(self, *, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._last_saved = time.monotonic()

    def is_due(self) -> bool:
        """Returns whether it is time to save; the time to the next checkpoint then begins."""
        now = time.monotonic()
        if now - self._last_saved < self._every_seconds:
            return False
        self._last_saved = now
        return True


class Stopwatch:
    """Measures the time between two calls."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Returns the seconds since the last call."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        return seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """One of the processes that train the students of a trial together."""

    node: NodeContext
    rank: int
    world_size: int
    watch: Stopwatch = field(default_factory=Stopwatch)

    @classmethod
    def join(cls, job: Job) -> Self:
        """Returns this process as a worker of the trial that a job belongs to."""
        keep_freed_memory()
        node = NodeContext.open(job.study)
        if node.device.type == "cpu":
            torch.set_num_threads(max(1, int(job.config.resources.cpus_per_worker)))
        is_shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        return cls(
            node=node,
            rank=torch.distributed.get_rank() if is_shared else 0,
            world_size=torch.distributed.get_world_size() if is_shared else 1,
        )

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the trial's files."""
        return self.rank == 0

    def agree(self, decide: Callable[[], Decision]) -> Decision:
        """Returns the first worker's decision to all workers; the others do not decide.

        Files on a network disk may look different from another node, and clocks differ.
        """
        decisions = [decide() if self.is_first else None]
        if self.world_size > 1:
            torch.distributed.broadcast_object_list(decisions, src=0, device=self.node.device)
        return decisions[0]  # type: ignore[return-value]  # the first worker's decision has replaced None

    def wait_for_others(self) -> None:
        """Returns when every worker of the trial has called it."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def in_parallel(self, module: nn.Module) -> nn.Module:
        """Moves a module to the device and, with several workers, averages its gradients over them."""
        module = module.to(self.node.device)
        return DistributedDataParallel(module) if self.world_size > 1 else module

    def share_time(self, runs: Sequence[JobRun]) -> None:
        """Adds the time since the last call to the runs that were trained together, in equal parts."""
        each = self.watch.lap() / len(runs)
        for run in runs:
            run.log.spend(each)

    def check_time(self, runs: Sequence[JobRun], progress: Progress) -> None:
        """Stops runs that are trained together once every one of them has used up the time of a trial.

        Raises:
            TimeoutError: if each run's own time exceeds the budget's trial_timeout_minutes.
        """
        limit_minutes = self.node.config.budget.trial_timeout_minutes
        # A run apart from the search may have other settings, and a student that goes on has more steps than a trial.
        if limit_minutes is None or runs[0].job.rerun is not None or runs[0].job.goes_on:
            return
        limit_seconds = 60 * limit_minutes
        if self.agree(lambda: all(run.log.spent_seconds > limit_seconds for run in runs)):
            raise TimeoutError(
                f"a trial must end within trial_timeout_minutes {limit_minutes:g}, "
                f"got to step {progress.step} of {progress.num_steps} of {progress.stage}"
            )

    def initialised(self, job: Job) -> PreTrainedModel:
        """Returns an encoder before training. A twin draws its weights from the seed of its student."""
        if job.role is Role.TRUNCATED_TEACHER:
            return truncate_teacher(self.node.teacher_folder, job.choice.architecture.num_layers, seed=job.seed)
        return build_student(
            job.choice.architecture,
            self.node.teacher_folder,
            job.choice.initialisation,
            family=self.node.config.student_family,
            embedding_size=self.node.config.embedding_size,
            distilled_layer=self.node.study.teachers.distilled_layer,
            seed=job.seed,
            vocabulary=self.node.vocabulary,
        )

    def tokenizer_folder(self, job: Job) -> Path:
        """Returns the folder of the tokenizer of a job's model; only models of the teacher's own have the teacher's."""
        return self.node.teacher_folder if job.has_teachers_family else self.node.student_tokenizer

    def save_encoder(self, encoder: PreTrainedModel, job: Job) -> None:
        """Saves a job's encoder as a folder that transformers can load."""
        save_encoder(encoder, self.tokenizer_folder(job), job.paths.student)

    def student_folder(self, job: Job) -> Path:
        """Returns the folder of the encoder that is fine-tuned."""
        return self.node.teacher_folder if job.role is Role.TEACHER else job.encoder_folder


def agreed_checkpoint(worker: Worker, root: Path) -> Path | None:
    """Returns the folder of the checkpoints that a training goes on from, or None where it starts anew.

    Raises:
        OSError: if this worker does not see the checkpoint that the first worker sees.
    """
    agreed = worker.agree(lambda: latest_checkpoint(root))
    if agreed is not None and latest_checkpoint(root) != agreed:
        raise OSError(
            f"every worker must see the checkpoint of the first, {agreed}, got {latest_checkpoint(root)} in {root}; "
            f"the study's folder must be on a disk that all nodes share"
        )
    return None if agreed is None else root


@contextmanager
def attribute_failure(runs: Sequence[JobRun]) -> Iterator[None]:
    """Attributes an exception raised in the block to these runs, so that the other runs of the trial can go on.

    Raises:
        JobsFailedError: with the numbers of those of the runs' jobs that had not ended before.
    """
    try:
        yield
    except JobsFailedError:
        raise
    except Exception as error:
        numbers = tuple(run.job.number for run in runs if not run.has_ended)
        raise JobsFailedError(numbers, error) from error


def log_progress(worker: Worker, progress_of_runs: Sequence[tuple[JobRun, Progress]]) -> Progress:
    """Logs the progress of runs that are trained together, and returns it as one event with their mean losses."""
    students = tuple(run.job.number for run, _ in progress_of_runs if run.job.role is Role.STUDENT)
    shared = [(run, replace(progress, students=students)) for run, progress in progress_of_runs]
    if worker.is_first:
        for run, progress in shared:
            run.log.append(progress)
    events = [progress for _, progress in shared]
    return replace(
        events[0],
        loss=_mean([progress.loss for progress in events]),
        held_out_loss=_mean([progress.held_out_loss for progress in events]),
    )


def is_due(progress: DistillationProgress) -> bool:
    """Returns whether a step of a distillation is reported: at regular steps, and at each held-out loss."""
    return progress.held_out_loss is not None or is_reported(progress.step, progress.num_steps)


def stage_progress(stage: str, progress: DistillationProgress) -> Progress:
    """Returns the progress of a distillation as that of a stage."""
    return Progress(
        stage=stage,
        step=progress.step,
        num_steps=progress.num_steps,
        loss=progress.loss,
        held_out_loss=progress.held_out_loss,
    )


def _mean(losses: Sequence[float | None]) -> float | None:
    known = [loss for loss in losses if loss is not None]
    return sum(known) / len(known) if known else None

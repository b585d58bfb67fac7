"""The distillation of a trial's students: those with the same targets are trained together on the same batches."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from transformers import PreTrainedModel

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import DistillationFailure, DistillationProgress, StudentRun, distil_together
from minilm_core.models.encoders import RelationEncoder
from minilm_core.results.records import Rung, Stop, TrialRecord
from minilm_core.settings.schedules import DistillationSchedule
from minilm_core.training.checkpoints import checkpoint_step
from search.config.teacher_assignment import DistillationKey
from search.study.jobs import Job
from search.study.progress import Progress
from search.study.stopping import reach_rung, stop_at_rung
from search.worker.ending import stopped_record
from search.worker.preparation import open_distillation_data
from search.worker.worker import (
    CheckpointClock,
    JobRun,
    Worker,
    agreed_checkpoint,
    attribute_failure,
    is_due,
    log_progress,
    stage_progress,
)

STAGE = "distilling"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Learner:
    """A student that is being distilled."""

    run: JobRun
    encoder: PreTrainedModel
    """The encoder that is saved after distillation."""
    student_run: StudentRun
    """The encoder as the distillation loop trains it."""

    @classmethod
    def begin(cls, worker: Worker, run: JobRun, key: DistillationKey, data: DistillationData) -> Self:
        """Builds the student of a run, which goes on from its latest checkpoint."""
        job = run.job
        encoder = worker.initialised(job)
        pairs = job.study.teachers.layer_pairs(job.choice.architecture, key.teacher_role)
        relations = tuple(job.config.distillation.weights)
        student = RelationEncoder(encoder, pairs.student, relations, teacher_width=data.targets.hidden_size)
        student_run = StudentRun(
            student=worker.in_parallel(student),
            learning_rate=job.choice.distillation_learning_rate,
            resume_from=agreed_checkpoint(worker, job.paths.checkpoint) or _state_before_decay(job),
        )
        return cls(run=run, encoder=encoder, student_run=student_run)


def _state_before_decay(job: Job) -> Path | None:
    """Returns the folder of the latest state that a student which goes on shares with the longer run; None without."""
    if not job.goes_on:
        return None
    first_decay_step = job.distillation.learning_rate_curve.first_decay_step
    states = {checkpoint_step(root): root for root in job.study.paths.stable_states(job.number)}
    shared = [step for step in states if step is not None and step <= first_decay_step]
    return states[max(shared)] if shared else None


def distil_students(worker: Worker, runs: Sequence[JobRun]) -> Iterator[Progress | TrialRecord]:
    """Distils the students that are not distilled yet, from their latest checkpoints on, and saves their encoders.

    Students with the same targets learn together, one group after another. A student that fails or is stopped does not
    stop the others; the first worker yields its record.
    """
    is_missing = worker.agree(lambda: [not run.job.paths.student.is_dir() for run in runs])
    groups: dict[DistillationKey, list[JobRun]] = {}
    for run in (run for run, missing in zip(runs, is_missing, strict=True) if missing):
        key = worker.node.study.teachers.key(run.job.choice.architecture)
        groups.setdefault(key, []).append(run)
    for key, group in groups.items():
        with attribute_failure(group):
            yield from _distil_group(worker, key, group)


def _distil_group(worker: Worker, key: DistillationKey, runs: Sequence[JobRun]) -> Iterator[Progress | TrialRecord]:
    # All runs of a group are trials, or there is one run.
    schedule = runs[0].job.distillation
    data = _open_data(worker, key)
    learners: list[_Learner] = []
    for run in runs:
        with attribute_failure([run]):
            learners.append(_Learner.begin(worker, run, key, data))
    checkpoints = CheckpointClock(every_seconds=schedule.checkpoint_every_seconds)
    student_runs = [learner.student_run for learner in learners]
    stopping = runs[0].job.config.stopping
    rungs = stopping.rungs if stopping is not None and runs[0].job.may_be_stopped else ()
    leaving: set[int] = set()
    steps = distil_together(student_runs, data, schedule, seed=runs[0].job.seed, rungs=rungs, leaving=leaving)
    for outcomes in steps:
        worker.share_time([runs[index] for index in outcomes])
        yield from _failed_records(worker, runs, outcomes)
        progress = [(runs[i], outcome) for i, outcome in outcomes.items() if isinstance(outcome, DistillationProgress)]
        if worker.is_first:
            _keep_stable_states(progress, schedule)
        if worker.is_first and not all(of_run.is_finished for _, of_run in progress) and checkpoints.is_due():
            # None is saved after the last step: the students are saved next, and a crash before that repeats that step.
            for run, of_run in progress:
                of_run.save_checkpoint(run.job.paths.checkpoint)
        if any(is_due(of_run) for _, of_run in progress):
            event = log_progress(worker, [(run, stage_progress(STAGE, of_run)) for run, of_run in progress])
            yield event
            at_rung = {
                index: rung for index, outcome in outcomes.items() if (rung := _rung(outcome, rungs)) is not None
            }
            stops = worker.agree(partial(_stops, runs, at_rung)) if at_rung else {}
            leaving.update(stops)
            yield from _stopped_records(worker, runs, stops, at_rung)
            if left := [run for run in runs if not run.has_ended]:
                worker.check_time(left, event)
    yield from _save_students(worker, learners)


def _keep_stable_states(
    progress: Sequence[tuple[JobRun, DistillationProgress]], schedule: DistillationSchedule
) -> None:
    """Saves the states of the students whose decay begins with the next step, if they are kept."""
    for run, of_run in progress:
        if run.job.keeps_stable_state and of_run.step == schedule.learning_rate_curve.first_decay_step:
            of_run.save_checkpoint(run.job.paths.stable_state)


def _open_data(worker: Worker, key: DistillationKey) -> DistillationData:
    """Opens the data of a group. The first worker opens it before the others, and makes what is missing on the node."""
    if worker.is_first:
        data = open_distillation_data(worker.node, key, rank=0, world_size=worker.world_size)
    worker.wait_for_others()
    if not worker.is_first:
        data = open_distillation_data(worker.node, key, rank=worker.rank, world_size=worker.world_size)
    return replace(data, vocabulary=worker.node.vocabulary)


def _rung(outcome: DistillationProgress | DistillationFailure, rungs: Sequence[int]) -> Rung | None:
    """Returns the rung that a student has come to with its step; None if it has come to none."""
    if isinstance(outcome, DistillationFailure) or outcome.step not in rungs:
        return None
    assert outcome.held_out_loss is not None, "the held-out loss is measured at every rung"
    if not math.isfinite(outcome.held_out_loss):
        return None  # its next step fails
    return Rung(step=outcome.step, held_out_loss=outcome.held_out_loss)


def _stops(runs: Sequence[JobRun], at_rung: Mapping[int, Rung]) -> dict[int, Stop]:
    """Notes the losses of students that have come to a rung together, and returns those that go no further."""
    for index, rung in at_rung.items():
        reach_rung(runs[index].job, rung)
    found = {index: stop_at_rung(runs[index].job, rung.step) for index, rung in at_rung.items()}
    return {index: stop for index, stop in found.items() if stop is not None}


def _stopped_records(
    worker: Worker, runs: Sequence[JobRun], stops: Mapping[int, Stop], at_rung: Mapping[int, Rung]
) -> Iterator[TrialRecord]:
    for index, stop in stops.items():
        runs[index].has_ended = True
        if worker.is_first:
            yield stopped_record(worker, runs[index], stop, num_steps=at_rung[index].step)


def _failed_records(
    worker: Worker, runs: Sequence[JobRun], outcomes: Mapping[int, DistillationProgress | DistillationFailure]
) -> Iterator[TrialRecord]:
    for index, outcome in outcomes.items():
        if isinstance(outcome, DistillationFailure):
            runs[index].has_ended = True
            if worker.is_first:
                yield runs[index].job.failed_record(outcome.error)


def _save_students(worker: Worker, learners: Sequence[_Learner]) -> Iterator[TrialRecord]:
    """Saves the distilled encoders. One that cannot be saved does not stop the others: its record is yielded."""

    def save_all() -> dict[int, TrialRecord]:
        failures: dict[int, TrialRecord] = {}
        for index, learner in enumerate(learners):
            if learner.run.has_ended:
                continue
            try:
                worker.save_encoder(learner.encoder, learner.run.job)
            except Exception as error:
                failures[index] = learner.run.job.failed_record(error)
            else:
                shutil.rmtree(learner.run.job.paths.checkpoint, ignore_errors=True)
        return failures

    for index, record in worker.agree(save_all).items():
        learners[index].run.has_ended = True
        if worker.is_first:
            yield record
    if left := [learner.run for learner in learners if not learner.run.has_ended]:
        worker.share_time(left)

"""Students of one trial that are taught in step: each batch is put to their tutor once."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from minilm_core.distillation.data import Lessons
from minilm_core.distillation.loop import DistillationFailure, DistillationProgress, Pupil, distil_together
from minilm_core.models.encoders import RelationEncoder
from minilm_core.results.records import TrialRecord
from minilm_core.training.checkpoints import latest_checkpoint
from search.config.teaching import LessonsKey, layer_pairs, lessons_key
from search.study.context import failed_record
from search.study.jobs import Job, Progress, distillation_event, is_due
from search.worker.preparation import open_lessons
from search.worker.process import Member, Worker, blamed_on, write_down

STAGE = "distilling"


def distilled(worker: Worker, members: Sequence[Member]) -> Iterator[Progress | TrialRecord]:
    """Distils those that are not yet, from their latest checkpoints on, and saves each as transformers saves it.

    Those who are told the same learn together, one such group after another. A student that fails alone leaves the
    others; the first worker yields its record.
    """
    is_missing = worker.agree(lambda: [not member.job.paths.student.is_dir() for member in members])
    groups: dict[LessonsKey, list[Member]] = {}
    for member in (member for member, missing in zip(members, is_missing, strict=True) if missing):
        key = lessons_key(worker.room.config, worker.room.teacher, member.job.choice.architecture)
        groups.setdefault(key, []).append(member)
    for key, group in groups.items():
        with blamed_on(group):
            yield from _distilled_together(worker, key, group)


def _distilled_together(worker: Worker, key: LessonsKey, members: Sequence[Member]) -> Iterator[Progress | TrialRecord]:
    schedule, seed = worker.room.config.distillation, worker.room.config.seed
    lessons = _opened(worker, key)
    encoders: list[PreTrainedModel] = []
    pupils: list[Pupil] = []
    for member in members:
        with blamed_on([member]):
            encoders.append(worker.initialised(member.job))
            pupils.append(_pupil(worker, key, lessons, member.job, encoders[-1]))
    last_saved = time.monotonic()
    for outcomes in distil_together(pupils, lessons, schedule, seed=seed):
        worker.share_time([members[place] for place in outcomes])
        yield from _failures(worker, members, outcomes)
        standing = [
            (members[p], outcome) for p, outcome in outcomes.items() if isinstance(outcome, DistillationProgress)
        ]
        # None after the last step: the students themselves are saved next, and a crash before that repeats the last
        # steps and with them the last held-out losses.
        is_time = time.monotonic() - last_saved >= schedule.checkpoint_every_seconds
        if worker.is_first and is_time and not all(progress.is_finished for _, progress in standing):
            for member, progress in standing:
                progress.save_checkpoint(member.job.paths.checkpoint)
            last_saved = time.monotonic()
        if any(is_due(progress) for _, progress in standing):
            event = write_down(worker, [(member, distillation_event(STAGE, progress)) for member, progress in standing])
            yield event
            worker.check_time([member for member in members if not member.has_failed], event)
    yield from _saved(worker, members, encoders)


def _opened(worker: Worker, key: LessonsKey) -> Lessons:
    """Opens what the students learn from; the first worker before the others, for it makes what is missing."""
    config, study = worker.room.config, worker.room.study
    if worker.is_first:
        lessons = open_lessons(config, study, key, rank=0, num_workers=worker.num_workers)
    worker.wait_for_others()
    if not worker.is_first:
        lessons = open_lessons(config, study, key, rank=worker.rank, num_workers=worker.num_workers)
    return lessons


def _pupil(worker: Worker, key: LessonsKey, lessons: Lessons, job: Job, encoder: PreTrainedModel) -> Pupil:
    config, teacher = worker.room.config, worker.room.teacher
    pairs = layer_pairs(config, teacher, job.choice.architecture, key.tutor)
    student = RelationEncoder(
        encoder, pairs.student, tuple(config.distillation.weights), teacher_width=lessons.targets.hidden_size
    )
    return Pupil(
        student=worker.in_parallel(student),
        learning_rate=job.choice.distillation_learning_rate,
        resume_from=_checkpoints(worker, job),
    )


def _checkpoints(worker: Worker, job: Job) -> Path | None:
    """Returns where a distillation goes on from; None: from its beginning.

    Raises:
        OSError: if this worker does not see the checkpoint that the first one does.
    """
    root = job.paths.checkpoint
    agreed = worker.agree(lambda: latest_checkpoint(root))
    if agreed is not None and latest_checkpoint(root) != agreed:
        raise OSError(
            f"every worker must see the first one's checkpoint {agreed}, got {latest_checkpoint(root)} in {root}"
        )
    return None if agreed is None else root


def _failures(
    worker: Worker, members: Sequence[Member], outcomes: dict[int, DistillationProgress | DistillationFailure]
) -> Iterator[TrialRecord]:
    for place, outcome in outcomes.items():
        if isinstance(outcome, DistillationFailure):
            members[place].has_failed = True
            if worker.is_first:
                yield failed_record(members[place].job, outcome.error)


def _saved(worker: Worker, members: Sequence[Member], encoders: Sequence[PreTrainedModel]) -> Iterator[TrialRecord]:
    """Saves what the students have become; one that cannot be saved costs none of the others."""

    def save_all() -> dict[int, TrialRecord]:
        failures: dict[int, TrialRecord] = {}
        for place, (member, encoder) in enumerate(zip(members, encoders, strict=True)):
            if member.has_failed:
                continue
            try:
                worker.save_encoder(encoder, member.job)
            except Exception as error:
                failures[place] = failed_record(member.job, error)
            else:
                shutil.rmtree(member.job.paths.checkpoint, ignore_errors=True)
        return failures

    failures = worker.agree(save_all)
    for place, record in failures.items():
        members[place].has_failed = True
        if worker.is_first:
            yield record
    if left := [member for member in members if not member.has_failed]:
        worker.share_time(left)

"""Students of one trial that are taught in step: each batch is put to their teacher once."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedModel

from minilm_core.distillation.data import DistillationData
from minilm_core.distillation.loop import DistillationFailure, DistillationProgress, StudentRun, distil_together
from minilm_core.models.encoders import RelationEncoder
from minilm_core.results.records import TrialRecord
from minilm_core.training.checkpoints import latest_checkpoint
from search.config.teacher_assignment import DistillationKey, distillation_key, layer_pairs
from search.study.context import failed_record
from search.study.jobs import Job, Progress, distillation_event, is_due
from search.worker.preparation import open_distillation_data
from search.worker.process import Member, Worker, attribute_failure, write_down

STAGE = "distilling"


def distilled(worker: Worker, members: Sequence[Member]) -> Iterator[Progress | TrialRecord]:
    """Distils those that are not yet, from their latest checkpoints on, and saves each as transformers saves it.

    Those who are told the same learn together, one such group after another. A student that fails alone leaves the
    others; the first worker yields its record.
    """
    is_missing = worker.agree(lambda: [not member.job.paths.student.is_dir() for member in members])
    groups: dict[DistillationKey, list[Member]] = {}
    for member in (member for member, missing in zip(members, is_missing, strict=True) if missing):
        key = distillation_key(worker.node.config, worker.node.teacher, member.job.choice.architecture)
        groups.setdefault(key, []).append(member)
    for key, group in groups.items():
        with attribute_failure(group):
            yield from _distilled_together(worker, key, group)


def _distilled_together(
    worker: Worker, key: DistillationKey, members: Sequence[Member]
) -> Iterator[Progress | TrialRecord]:
    schedule, seed = worker.node.config.distillation, worker.node.config.seed
    data = _opened(worker, key)
    encoders: list[PreTrainedModel] = []
    runs: list[StudentRun] = []
    for member in members:
        with attribute_failure([member]):
            encoders.append(worker.initialised(member.job))
            runs.append(_student_run(worker, key, data, member.job, encoders[-1]))
    last_saved = time.monotonic()
    for outcomes in distil_together(runs, data, schedule, seed=seed):
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


def _opened(worker: Worker, key: DistillationKey) -> DistillationData:
    """Opens what the students learn from; the first worker before the others, for it makes what is missing."""
    config, study = worker.node.config, worker.node.study
    if worker.is_first:
        data = open_distillation_data(config, study, key, rank=0, num_workers=worker.num_workers)
    worker.wait_for_others()
    if not worker.is_first:
        data = open_distillation_data(config, study, key, rank=worker.rank, num_workers=worker.num_workers)
    return data


def _student_run(
    worker: Worker, key: DistillationKey, data: DistillationData, job: Job, encoder: PreTrainedModel
) -> StudentRun:
    config, teacher = worker.node.config, worker.node.teacher
    pairs = layer_pairs(config, teacher, job.choice.architecture, key.teacher_role)
    student = RelationEncoder(
        encoder, pairs.student, tuple(config.distillation.weights), teacher_width=data.targets.hidden_size
    )
    return StudentRun(
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

"""What the driver has done on the cluster before any trial: the shared text, and the targets by many hands at once."""

import traceback

import ray

from minilm_core.errors import UserError, classify_failure, failure_reason, first_line
from search.config.settings import Resources
from search.config.teacher_assignment import TeacherRole
from search.driver.cluster import RemoteGenerator, cores_on_one_node
from search.driver.display import Display
from search.driver.losses import NUM_ATTEMPTS, loss_kind, loss_told_by
from search.errors import GroundworkError
from search.study.context import StudyContext
from search.study.environment import set_seconds
from search.study.memory import NodeOutOfMemoryError
from search.worker.preparation import CacheShard, caching_stage, make_ready_beside, prepare, read_preparation

WORK = "preparation"


def prepare_study(context: StudyContext, display: Display) -> None:
    """Makes what all trials share, and shows how far it is.

    Raises:
        UserError: if a setting does not allow it.
        GroundworkError: if it fails for another reason, such as too little memory.
    """
    study = context.study
    try:
        _lay_in_spite_of_losses(context, display)
    except (UserError, OSError):
        raise
    except Exception as error:
        kind = classify_failure(error) if loss_told_by(error) is None else loss_kind(error)
        _write_log(context, error)
        raise GroundworkError(
            f"what all trials share could not be made: {failure_reason(kind, first_line(error))}; "
            f"{study.preparation_log} says where; the same command goes on from what is made"
        ) from error
    study.preparation_log.unlink(missing_ok=True)
    display.ended(WORK)
    set_seconds(study, read_preparation(study).seconds)


def _lay_in_spite_of_losses(context: StudyContext, display: Display) -> None:
    """Goes on from what is made where the process that made it was lost."""
    for _ in range(NUM_ATTEMPTS - 1):
        try:
            return _lay(context, display)
        except (NodeOutOfMemoryError, ray.exceptions.RayError) as loss:
            _write_log(context, loss)
            display.lost(WORK, first_line(loss))
    return _lay(context, display)


def _write_log(context: StudyContext, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    context.study.preparation_log.write_text(text, encoding="utf-8")


def _lay(context: StudyContext, display: Display) -> None:
    config, study, resources = context.config, context.study, context.config.resources
    # No trial runs yet, so the cores of all that will run at once are free.
    num_cpus = cores_on_one_node(resources)
    first, *others = builders(resources, num_cpus)
    beside: dict[TeacherRole, list[RemoteGenerator]] = {}
    for progress in RemoteGenerator(
        prepare, config, study, num_cpus, first, num_cpus=num_cpus, num_gpus=resources.gpus_per_worker
    ).rest():
        display.progress(WORK, progress)
        for teacher_role in TeacherRole:
            if progress.stage == caching_stage(teacher_role) and teacher_role not in beside:
                held = {"num_cpus": 0 if resources.gpus_per_worker else num_cpus, "num_gpus": resources.gpus_per_worker}
                beside[teacher_role] = [
                    RemoteGenerator(make_ready_beside, config, study, teacher_role, num_cpus, builder, **held)
                    for builder in others
                ]
    for stream in (stream for streams in beside.values() for stream in streams):
        try:
            for _ in stream.rest():
                pass
        # Whatever it was: what this process had not done, the others have.
        except Exception as error:
            display.message(f"a process that cached targets was lost: {type(error).__name__}: {first_line(error)}")


def builders(resources: Resources, num_cpus: float) -> list[CacheShard]:
    """Returns the processes that cache targets: one a worker that has a GPU, else one for the cores of each node."""
    number = resources.max_concurrent_trials * resources.workers_per_trial
    if not resources.gpus_per_worker:
        number = max(1, int(resources.num_cpus // num_cpus))
    return [CacheShard(place, number) for place in range(number)]

"""What the driver has done on the cluster before any trial: the shared text, and the targets by many hands at once."""

import traceback

import ray

from minilm_core.errors import FailureKind, UserError, classify_failure
from minilm_core.sources import first_line
from search.cluster import Stream, cores_on_one_node
from search.config import Resources
from search.context import StudyContext
from search.curriculum import Tutor
from search.display import Display
from search.environment import set_seconds
from search.errors import GroundworkError
from search.preparation import Builder, caching_stage, make_ready_beside, prepare, read_preparation

WORK = "preparation"


def lay_groundwork(context: StudyContext, display: Display) -> None:
    """Makes what all trials share, and shows how far it is.

    Raises:
        UserError: if a setting does not allow it.
        GroundworkError: if it fails for another reason, such as too little memory.
    """
    study = context.study
    try:
        _lay(context, display)
    except (UserError, OSError):
        raise
    except Exception as error:
        kind = FailureKind.NODE_LOST if isinstance(error, ray.exceptions.RayError) else classify_failure(error)
        study.preparation_log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        raise GroundworkError(
            f"what all trials share could not be made: {kind}: {first_line(error)}; "
            f"{study.preparation_log} says where; the same command goes on from what is made"
        ) from error
    study.preparation_log.unlink(missing_ok=True)
    display.ended(WORK)
    set_seconds(study, read_preparation(study).seconds)


def _lay(context: StudyContext, display: Display) -> None:
    config, study, resources = context.config, context.study, context.config.resources
    # No trial runs yet, so the cores of all that will run at once are free.
    num_cpus = cores_on_one_node(resources)
    first, *others = builders(resources, num_cpus)
    beside: dict[Tutor, list[Stream]] = {}
    for progress in Stream(
        prepare, config, study, num_cpus, first, num_cpus=num_cpus, num_gpus=resources.gpus_per_worker
    ).rest():
        display.progress(WORK, progress)
        for tutor in Tutor:
            if progress.stage == caching_stage(tutor) and tutor not in beside:
                held = {"num_cpus": 0 if resources.gpus_per_worker else num_cpus, "num_gpus": resources.gpus_per_worker}
                beside[tutor] = [
                    Stream(make_ready_beside, config, study, tutor, num_cpus, builder, **held) for builder in others
                ]
    for stream in (stream for streams in beside.values() for stream in streams):
        try:
            for _ in stream.rest():
                pass
        # Whatever it was: what this process had not done, the others have.
        except Exception as error:
            display.message(f"a process that cached targets was lost: {type(error).__name__}: {first_line(error)}")


def builders(resources: Resources, num_cpus: float) -> list[Builder]:
    """Returns the processes that cache targets: one a worker that has a GPU, else one for the cores of each node."""
    number = resources.max_concurrent_trials * resources.workers_per_trial
    if not resources.gpus_per_worker:
        number = max(1, int(resources.num_cpus // num_cpus))
    return [Builder(place, number) for place in range(number)]

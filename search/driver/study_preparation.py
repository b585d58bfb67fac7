"""The preparation of a study on the cluster, before any trial: the corpus, and targets cached by several processes."""

import traceback
from dataclasses import replace

import ray

from minilm_core.errors import UserError, classify_failure, failure_reason, first_line
from search.config.settings import Resources
from search.config.teacher_assignment import TeacherRole
from search.driver.cluster import RemoteGenerator
from search.driver.display import Display
from search.driver.losses import NUM_ATTEMPTS, loss_kind, loss_reported_by
from search.driver.room import Reservation, Waiting, cores_on_one_node
from search.errors import PreparationError
from search.study.environment import set_seconds
from search.study.memory import NodeOutOfMemoryError
from search.study.messages import CachingBegun
from search.study.resolved import ResolvedStudy
from search.worker.preparation import CacheShard, cache_shard, prepare, read_preparation

LABEL = "preparation"


def prepare_study(study: ResolvedStudy, display: Display) -> None:
    """Makes what all trials share, and shows the progress.

    Raises:
        UserError: if a setting does not allow it.
        PreparationError: if it fails for another reason, such as too little memory.
    """
    paths = study.paths
    try:
        _prepare_despite_losses(study, display)
    except (UserError, OSError):
        raise
    except Exception as error:
        kind = classify_failure(error) if loss_reported_by(error) is None else loss_kind(error)
        _write_log(study, error)
        raise PreparationError(
            f"the preparation of the study failed: {failure_reason(kind, first_line(error))}; "
            f"{paths.preparation_log} has the traceback; the same command resumes the preparation"
        ) from error
    paths.preparation_log.unlink(missing_ok=True)
    display.ended(LABEL)
    set_seconds(paths, read_preparation(paths).seconds)


def _prepare_despite_losses(study: ResolvedStudy, display: Display) -> None:
    """Starts the preparation again if its process is lost; what was made before is kept."""
    for _ in range(NUM_ATTEMPTS - 1):
        try:
            return _Preparation(study, display).run()
        except (NodeOutOfMemoryError, ray.exceptions.RayError) as loss:
            _write_log(study, loss)
            display.lost(LABEL, first_line(loss))
    return _Preparation(study, display).run()


def _write_log(study: ResolvedStudy, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    study.paths.preparation_log.write_text(text, encoding="utf-8")


class _Preparation:
    """One attempt at a preparation: one process makes all that is shared, others cache shards of the targets."""

    def __init__(self, study: ResolvedStudy, display: Display) -> None:
        self._study = study
        self._display = display
        # No trial runs yet, so the cores of all trials that will run at once are free.
        self._num_cpus = cores_on_one_node(study.config.resources)
        self._first, *self._others = cache_shards(study.config.resources, self._num_cpus)
        self._helpers: list[RemoteGenerator] = []
        self._reservation = replace(Reservation.of_worker(study.config.resources), num_cpus=self._num_cpus)
        self._waiting = Waiting(self._reservation, display.message)

    def run(self) -> None:
        """Runs the preparation to its end."""
        events = RemoteGenerator(prepare, self._study, self._num_cpus, self._first, reservation=self._reservation)
        for event in events.rest(self._waiting):
            if isinstance(event, CachingBegun):
                self._helpers += self._start_helpers(event.teacher_role)
            else:
                self._display.progress(LABEL, event)
        self._wait_for_helpers()

    def _start_helpers(self, teacher_role: TeacherRole) -> list[RemoteGenerator]:
        reservation = replace(self._reservation, num_cpus=0) if self._reservation.num_gpus else self._reservation
        return [
            RemoteGenerator(cache_shard, self._study, teacher_role, self._num_cpus, shard, reservation=reservation)
            for shard in self._others
        ]

    def _wait_for_helpers(self) -> None:
        for helper in self._helpers:
            try:
                for _ in helper.rest(self._waiting):
                    pass
            # The first process has cached what a lost one had not, so nothing is missing.
            except Exception as error:
                self._display.message(
                    f"a process that cached targets was lost: {type(error).__name__}: {first_line(error)}"
                )


def cache_shards(resources: Resources, num_cpus: float) -> list[CacheShard]:
    """Returns the shards of the processes that cache targets: one for each GPU, else one for the cores of each node."""
    world_size = resources.max_concurrent_trials * resources.workers_per_trial
    if not resources.gpus_per_worker:
        world_size = max(1, int(resources.num_cpus // num_cpus))
    return [CacheShard(rank, world_size) for rank in range(world_size)]

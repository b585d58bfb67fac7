"""Lost processes of the cluster: how exceptions report them, and how Tune, the logs and the records treat them."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from minilm_core.errors import FailureKind, first_line
from search.study.jobs import Job
from search.study.memory import NodeOutOfMemoryError

NUM_ATTEMPTS = 2
"""How often work is started in all if its processes are lost; the second time it goes on from its checkpoints."""


_BROKEN_CONNECTION = re.compile(r"(gloo|NCCL)[^\n]*(reset|closed) by peer|ncclRemoteError", re.IGNORECASE)
"""What the collective operations of PyTorch say where another process of the group is gone."""


class PeerLostError(Exception):
    """The connection of a worker to another one of its trial broke, because that one's process is gone."""


def loss_reported_by(error: BaseException) -> BaseException | None:
    """Returns the loss of a process that an exception reports, or None. A kill for memory has a message of one line.

    A worker may see that another one is gone before Ray does.
    """
    if isinstance(error, OutOfMemoryError):
        return NodeOutOfMemoryError.from_ray(str(error))
    if isinstance(error, RuntimeError) and _BROKEN_CONNECTION.search(str(error)):
        return PeerLostError(f"a worker lost another one of its trial: {first_line(error)}")
    is_loss = isinstance(error, NodeOutOfMemoryError | RayError) and not isinstance(error, RayTaskError)
    return error if is_loss else None


def loss_kind(loss: BaseException) -> FailureKind:
    """Returns the kind of failure that a loss is recorded as."""
    return FailureKind.OUT_OF_MEMORY if isinstance(loss, NodeOutOfMemoryError) else FailureKind.NODE_LOST


def log_loss(jobs: Sequence[Job], loss: BaseException) -> None:
    """Logs for each job the loss of its process, with Ray's whole message, and that the job is started once more."""
    message = "\n".join([f"{type(loss).__name__}: {loss}", *getattr(loss, "__notes__", ())])
    for job in jobs:
        job.log_line(f"the process was lost and is started once more: {message}")


class Losses:
    """Observes why Tune loses the processes of trials."""

    def __init__(self) -> None:
        self.latest: BaseException | None = None
        """The loss that Tune handles at the moment; None at any other time."""

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Makes Tune treat every loss of a trial's process as the death of an actor, whose trial it starts again.

        Otherwise the actor manager of Tune (Ray 2.60) raises any exception that is neither RayActorError nor
        RayTaskError, so that a kill for memory ends the search with all its other trials.
        """
        manager = _actor_manager()
        names = [name for name in ("_actor_task_failed", "_actor_start_failed") if hasattr(manager, name)]
        handlers = {name: getattr(manager, name) for name in names}
        for name, handler in handlers.items():
            setattr(manager, name, self._observing(handler))
        try:
            yield
        finally:
            for name, handler in handlers.items():
                setattr(manager, name, handler)

    def _observing(self, handler: Callable[..., None]) -> Callable[..., None]:
        """Wraps a method with which the actor manager handles an exception; Tune's whole reaction happens within it."""

        def observing(manager: Any, *arguments: Any, exception: Exception, **named: Any) -> None:
            self.latest = loss_reported_by(exception)
            if self.latest is not None and not isinstance(exception, RayActorError):
                exception = RayActorError(error_msg=str(exception))
            try:
                handler(manager, *arguments, exception=exception, **named)
            finally:
                self.latest = None

        return observing


def _actor_manager() -> Any:
    """Returns the class of Tune's actor manager, or None if this version of Ray does not have it."""
    with suppress(ImportError):
        from ray.air.execution._internal import RayActorManager

        return RayActorManager
    return None

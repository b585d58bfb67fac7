"""Processes that the cluster lost: which errors say so, and what Tune, the logs and the records are told of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from minilm_core.errors import FailureKind
from search.study.jobs import Job, now
from search.study.memory import NodeOutOfMemoryError

NUM_ATTEMPTS = 2
"""How often work is started whose processes are lost: the second time it goes on from its checkpoints."""


def loss_told_by(error: BaseException) -> BaseException | None:
    """Returns why a process was lost if an exception says that one was, in one line where Ray killed it for memory."""
    if isinstance(error, OutOfMemoryError):
        return NodeOutOfMemoryError.told_by(str(error))
    is_loss = isinstance(error, NodeOutOfMemoryError | RayError) and not isinstance(error, RayTaskError)
    return error if is_loss else None


def loss_kind(loss: BaseException) -> FailureKind:
    """Names the kind of failure that a loss is."""
    return FailureKind.OUT_OF_MEMORY if isinstance(loss, NodeOutOfMemoryError) else FailureKind.NODE_LOST


def log_loss(jobs: Sequence[Job], loss: BaseException) -> None:
    """Writes into the logs of jobs why their process was lost, in Ray's own words too, and that another follows."""
    words = "\n".join([f"{type(loss).__name__}: {loss}", *getattr(loss, "__notes__", ())])
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        with job.paths.log.open("a", encoding="utf-8") as log:
            log.write(f"{now()} the process was lost and is started once more: {words}\n")


class Losses:
    """Why the processes of trials were lost, as Tune hears of it."""

    def __init__(self) -> None:
        self.latest: BaseException | None = None
        """The loss that Tune deals with just now; None at any other time."""

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Has Tune take every loss of a trial's process as the death of an actor, whose trial it starts anew.

        Left alone, the actor manager of Tune raises what is neither RayActorError nor RayTaskError (Ray 2.60), and so a
        kill for memory ends the search with all its other trials.
        """
        manager = _actor_manager()
        names = [name for name in ("_actor_task_failed", "_actor_start_failed") if hasattr(manager, name)]
        answers = {name: getattr(manager, name) for name in names}
        for name, answer in answers.items():
            setattr(manager, name, self._told(answer))
        try:
            yield
        finally:
            for name, answer in answers.items():
                setattr(manager, name, answer)

    def _told(self, answer: Callable[..., None]) -> Callable[..., None]:
        """Wraps how the actor manager answers an exception. All that Tune does about it happens within the answer."""

        def told(manager: Any, *arguments: Any, exception: Exception, **named: Any) -> None:
            self.latest = loss_told_by(exception)
            if self.latest is not None and not isinstance(exception, RayActorError):
                exception = RayActorError(error_msg=str(exception))
            try:
                answer(manager, *arguments, exception=exception, **named)
            finally:
                self.latest = None

        return told


def _actor_manager() -> Any:
    """Returns the class of Tune's actor manager; None in a Ray that has another, whose answers stay as they are."""
    with suppress(ImportError):
        from ray.air.execution._internal import RayActorManager

        return RayActorManager
    return None

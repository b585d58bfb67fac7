"""The one thread of a process that runs all its trials."""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")

_END: Any = object()
_Steps = SimpleQueue[tuple[Iterator[Any], "Future[Any]"]]


def on_one_thread(items: Generator[Item]) -> Iterator[Item]:
    """Runs a generator on the one thread that all generators of this process share, and yields its items.

    Tune gives each trial a new thread. For each new thread glibc takes the next of its 8 memory arenas per core, all of
    which are used by Ray's own threads already. An arena keeps part of the memory that it once had, so that a process
    would keep more memory with each trial.
    """
    while (item := _next_of(items)) is not _END:
        yield item


def _next_of(items: Iterator[Item]) -> Item:
    step: Future[Item] = Future()
    _steps().put((items, step))
    return step.result()


@cache
def _steps() -> _Steps:
    """Starts the thread and returns the queue of its steps."""
    steps: _Steps = SimpleQueue()
    # The thread is a daemon, so that a process that is terminated does not wait for its trial.
    threading.Thread(target=_work, args=(steps,), name="trials", daemon=True).start()
    return steps


def _work(steps: _Steps) -> None:
    while True:
        items, step = steps.get()
        try:
            step.set_result(next(items, _END))
        except BaseException as error:
            step.set_exception(error)
        # Between two trials nothing must keep the objects of the first alive.
        del items, step

"""The one thread of a process on which all its trials work."""

import threading
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

Row = TypeVar("Row")

_END: Any = object()
_Steps = SimpleQueue[tuple[Iterator[Any], "Future[Any]"]]


def on_one_thread(rows: Generator[Row]) -> Iterator[Row]:
    """Yields what a generator yields, which runs on a thread that it shares with all others of this process.

    Tune gives each trial a new thread, for which glibc takes the next of 8 arenas a core where Ray's own threads hold
    them all. An arena keeps the end of what it once had, so that with each trial a process would keep more.
    """
    while (row := _next_of(rows)) is not _END:
        yield row


def _next_of(rows: Iterator[Row]) -> Row:
    step: Future[Row] = Future()
    _steps().put((rows, step))
    return step.result()


@cache
def _steps() -> _Steps:
    """Starts the thread and returns what it works off."""
    steps: _Steps = SimpleQueue()
    # A daemon: a process that is told to end does not wait for the trial that it works on.
    threading.Thread(target=_work, args=(steps,), name="trials", daemon=True).start()
    return steps


def _work(steps: _Steps) -> None:
    while True:
        rows, step = steps.get()
        try:
            step.set_result(next(rows, _END))
        except BaseException as error:
            step.set_exception(error)
        # Between two trials it holds on to nothing of the first.
        del rows, step

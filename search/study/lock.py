"""The lock of a study's driver, which the operating system frees however the driver ends. No torch, no Ray."""

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths


@contextmanager
def only_driver(paths: StudyPaths) -> Iterator[None]:
    """Holds the lock of a study while the block runs.

    Raises:
        UserError: if another process drives the study.
    """
    paths.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.lock, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"a study must have one driver at a time, but another process runs {paths.root}; "
            f"`minilm-search status {paths.root}` shows its progress"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_driven(paths: StudyPaths) -> bool:
    """Returns whether a process drives the study now."""
    if not paths.lock.exists():
        return False
    lock = FileLock(paths.lock, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False

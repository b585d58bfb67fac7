"""driver.log: what Tune complains of, and why a command stopped where no record says so. No torch, no Ray."""

import logging
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from minilm_core.errors import UserError, first_line
from search.errors import SearchError, SearchStoppedError
from search.study.layout import StudyPaths


def write_driver_log(folder: Path | None, error: BaseException) -> Path:
    """Adds an error with its traceback, the time and the command to driver.log, and returns that file.

    Args:
        folder: The study's; where there is none, or it cannot be written to, the file is made in a new temporary one.
        error: What was raised.

    Raises:
        OSError: if no temporary folder can be written to either.
    """
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    entry = f"{moment} {shlex.join(sys.argv)}\n{''.join(traceback.format_exception(error))}\n"
    if folder is not None:
        try:
            return _added(folder, entry)
        except OSError:
            pass
    return _added(Path(tempfile.mkdtemp(prefix="minilm-search-")), entry)


def _added(folder: Path, entry: str) -> Path:
    log = StudyPaths(root=folder).driver_log
    # A name on the disk need not be text, and one that is not must not hide what happened to it.
    with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(entry)
    return log


@contextmanager
def told_in_one_line(study: StudyPaths) -> Iterator[None]:
    """Turns an exception that no record tells into one line on what happened and how to go on; driver.log has the rest.

    Raises:
        SearchStoppedError: saying so.
    """
    try:
        yield
    except (UserError, OSError, SearchError):
        raise
    except Exception as error:
        log = write_driver_log(study.root, error)
        raise SearchStoppedError(
            f"the search stopped: {_what_happened(error)}; nothing recorded is lost, {log} says where; "
            f"go on with minilm-search resume {shlex.quote(str(study.root))}"
        ) from error


def _what_happened(error: Exception) -> str:
    """Returns an exception as one line; Tune's own errors carry the traceback of another as their text."""
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("Traceback"):
        return lines[-1]
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def complaints_logged(log: Path) -> Iterator[None]:
    """Sends what Tune complains of to driver.log: the terminal shows what became of the trials."""
    logger = logging.getLogger("ray.tune")
    handler = logging.FileHandler(log, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.setLevel(logging.ERROR)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
        handler.close()

"""driver.log: the errors that Tune logs, and the exceptions that stopped a command. No torch, no Ray."""

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
from minilm_core.results.layout import StudyPaths
from search.errors import SearchError, SearchStoppedError


def write_driver_log(folder: Path | None, error: BaseException) -> Path:
    """Appends an exception with its traceback, the time and the command to driver.log, and returns that file.

    Args:
        folder: The study's folder. If there is none, or it cannot be written to, a temporary one is made.
        error: The exception.

    Raises:
        OSError: if no temporary folder can be written to either.
    """
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    entry = f"{moment} {shlex.join(sys.argv)}\n{''.join(traceback.format_exception(error))}\n"
    if folder is not None:
        try:
            return _append(folder, entry)
        except OSError:
            pass
    return _append(Path(tempfile.mkdtemp(prefix="minilm-search-")), entry)


def _append(folder: Path, entry: str) -> Path:
    log = StudyPaths(root=folder).driver_log
    # A file name need not be valid text, and one that is not must not keep the exception from being logged.
    with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(entry)
    return log


@contextmanager
def reported_in_one_line(paths: StudyPaths) -> Iterator[None]:
    """Reports an exception of the block in one line that names the command to go on; driver.log has the traceback.

    Raises:
        SearchStoppedError: with that line.
    """
    try:
        yield
    except (UserError, OSError, SearchError):
        raise
    except Exception as error:
        log = write_driver_log(paths.root, error)
        raise SearchStoppedError(
            f"the search stopped: {_what_happened(error)}; nothing recorded is lost; {log} has the traceback; "
            f"go on with minilm-search resume {shlex.quote(str(paths.root))}"
        ) from error


def _what_happened(error: Exception) -> str:
    """Returns an exception as one line; the text of Tune's own errors is the traceback of another exception."""
    lines = str(error).strip().splitlines()
    if lines and lines[0].startswith("Traceback"):
        return lines[-1]
    return f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def tune_errors_logged(log: Path) -> Iterator[None]:
    """Sends the errors that Tune logs to driver.log, because the terminal shows the outcome of every trial."""
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

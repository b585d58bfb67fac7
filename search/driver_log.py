"""driver.log: where an error came from that nobody foresaw. No torch, no Ray."""

import shlex
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

DRIVER_LOG = "driver.log"


def write_driver_log(folder: Path | None, error: BaseException) -> Path:
    """Adds an error with its traceback, the time and the command to driver.log, and returns that file.

    Args:
        folder: Of the study; where there is none, or it cannot be written to, the file is made in a new temporary one.
        error: What was raised.

    Raises:
        OSError: if no temporary folder can be written to either.
    """
    # Standard library alone: what could not be imported may be the error.
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    entry = f"{moment} {shlex.join(sys.argv)}\n{''.join(traceback.format_exception(error))}\n"
    if folder is not None:
        try:
            return _added(folder / DRIVER_LOG, entry)
        except OSError:
            pass
    return _added(Path(tempfile.mkdtemp(prefix="minilm-search-")) / DRIVER_LOG, entry)


def _added(log: Path, entry: str) -> Path:
    # A name on the disk need not be text, and one that is not must not hide what happened to it.
    with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(entry)
    return log

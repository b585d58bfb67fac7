"""The repair of Optuna's journal after a power failure or a full disk has cut it short. No Ray."""

import json
import shutil
from collections.abc import Callable

from minilm_core.atomic import write_text_atomically
from minilm_core.results.layout import StudyPaths


def repair_journal(paths: StudyPaths, on_trouble: Callable[[str], None]) -> None:
    """Removes the first broken line of a study's journal and all lines after it; the records contain the outcomes.

    The damaged journal is kept under another name. The caller holds the study's lock, so that no other process reads or
    writes the journal.

    Args:
        paths: The layout of the study's folder.
        on_trouble: Shows one line that says what was removed.
    """
    # Optuna waits half a minute for a lock that a killed driver left behind.
    paths.journal.with_name(f"{paths.journal.name}.lock").unlink(missing_ok=True)
    if not paths.journal.exists():
        return
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    num_whole = next((number for number, line in enumerate(lines) if not _is_whole(line)), len(lines))
    if num_whole == len(lines):
        return
    shutil.copyfile(paths.journal, paths.damaged_journal)
    write_text_atomically(paths.journal, b"".join(lines[:num_whole]).decode())
    on_trouble(
        f"{paths.journal.name} is broken from line {num_whole + 1} of {len(lines)} on: these lines are removed, and "
        f"their trials are restored from the records; the damaged journal is kept as {paths.damaged_journal.name}"
    )


def _is_whole(line: bytes) -> bool:
    """Returns whether a line is a complete entry of the journal."""
    try:
        return line.endswith(b"\n") and "op_code" in json.loads(line)
    # The line is no text, no JSON, or a JSON value without keys.
    except (ValueError, TypeError):
        return False

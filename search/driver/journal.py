"""The journal of Optuna's study on disk, mended where a power failure or a full disk broke it off. No Ray."""

import json
import shutil
from collections.abc import Callable

from minilm_core.atomic import write_text_atomically
from search.study.layout import StudyPaths


def mend_journal(study: StudyPaths, on_trouble: Callable[[str], None]) -> None:
    """Cuts a study's journal off before its first broken line; the records know what the lines from there on said.

    The damaged journal is kept beside it. The caller holds the study's lock: nobody else reads or writes the journal.

    Args:
        study: The study's folder.
        on_trouble: Takes one line that says what was cut off.
    """
    # Optuna waits half a minute for a lock that a killed driver left behind.
    study.journal.with_name(f"{study.journal.name}.lock").unlink(missing_ok=True)
    if not study.journal.exists():
        return
    lines = study.journal.read_bytes().splitlines(keepends=True)
    num_whole = next((number for number, line in enumerate(lines) if not _is_whole(line)), len(lines))
    if num_whole == len(lines):
        return
    shutil.copyfile(study.journal, study.damaged_journal)
    write_text_atomically(study.journal, b"".join(lines[:num_whole]).decode())
    on_trouble(
        f"{study.journal.name} is broken from line {num_whole + 1} of {len(lines)} on: these are dropped and what "
        f"they said is told anew from the records; the damaged journal is kept as {study.damaged_journal.name}"
    )


def _is_whole(line: bytes) -> bool:
    """Returns whether a line is an entry of the journal with its end."""
    try:
        return line.endswith(b"\n") and "op_code" in json.loads(line)
    # What is no text, no JSON, or a JSON value that has no keys.
    except (ValueError, TypeError):
        return False

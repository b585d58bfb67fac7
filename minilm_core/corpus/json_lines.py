"""Reads JSON lines, one object per line, with line numbers. Imports no torch."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError


def read_objects(lines: Iterable[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number, counted from 1, and the object of each line that is not blank.

    Raises:
        UserError: if a line is not a JSON object.
    """
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            record = json.loads(line.strip())
        except json.JSONDecodeError as error:
            # The error's own line number counts within this line.
            reason = f"{error.msg} at character {error.colno}"
            raise UserError(f"every line must be a JSON object, got line {number} of {path} ({reason})") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"every line must be a JSON object, got line {number} of {path} ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f"every line must be a JSON object, got line {number} of {path}: {line.strip():.40}")
        yield number, record

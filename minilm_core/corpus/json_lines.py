"""JSON lines: one object a line, each with the number of its line. No torch."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minilm_core.errors import UserError


def read_objects(lines: Iterable[str], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the object of each line that is not blank, after the line's number, counted from 1.

    Raises:
        UserError: if a line is no JSON object.
    """
    for number, line in enumerate(lines, start=1):
        if line.isspace():
            continue
        try:
            record = json.loads(line.strip())
        except json.JSONDecodeError as error:
            # The library counts the lines of what it is given, which is one.
            reason = f"{error.msg} at character {error.colno}"
            raise UserError(f"every line must be a JSON object, got line {number} of {path} ({reason})") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"every line must be a JSON object, got line {number} of {path} ({error})") from error
        if not isinstance(record, dict):
            raise UserError(f"every line must be a JSON object, got line {number} of {path}: {line.strip():.40}")
        yield number, record

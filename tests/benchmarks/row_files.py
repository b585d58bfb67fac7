"""Files of a benchmark's rows: JSON lines, of which the first has the settings that all rows share. No torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minilm_core.atomic import append_line
from minilm_core.corpus.json_lines import read_objects
from minilm_core.errors import UserError


def begin(rows: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings into a new file of rows, or checks that they are those of the file.

    Raises:
        UserError: if the file has other settings.
    """
    if not rows.exists():
        append_line(rows, json.dumps({"settings": settings}))
        return
    for name, value in read_settings(rows).items():
        if settings.get(name) != value:
            raise UserError(
                f"the rows of a file must have the same {name}, got {settings.get(name)} after {value} in {rows}"
            )


def read_settings(file: Path) -> Mapping[str, Any]:
    """Returns what all rows of a file have in common.

    Raises:
        UserError: if the file does not begin with them.
    """
    with file.open(encoding="utf-8") as lines:
        _, first = next(read_objects(lines, file), (0, {}))
    if "settings" not in first:
        raise UserError(f"a file of rows must begin with its settings, got {file}")
    return dict(first["settings"])


def read_fields(file: Path) -> Iterator[dict[str, Any]]:
    """Yields the fields of each row."""
    with file.open(encoding="utf-8") as lines:
        yield from (content for _, content in read_objects(lines, file) if "settings" not in content)

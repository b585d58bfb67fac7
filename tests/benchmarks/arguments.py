"""How benchmarks read what their command lines have in common."""

import argparse
import re
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.settings.quantities import parse_count
from minilm_core.tasks.benchmarks import NAMED_TASKS


def named_folder(text: str) -> tuple[str, Path]:
    """Reads NAME=FOLDER."""
    name, equals, folder = text.partition("=")
    if not equals or name not in NAMED_TASKS:
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER with the name of a known task, got {text}")
    return name, Path(folder)


def size(text: str) -> tuple[int, int]:
    """Reads LAYERSxWIDTH."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be LAYERSxWIDTH such as 3x384, got {text}")
    return int(match[1]), int(match[2])


def count(text: str) -> int:
    """Reads a count such as 3M."""
    try:
        return parse_count(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

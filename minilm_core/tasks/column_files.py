"""Columns on disk: a folder holds the arrays of some columns and their hash, whole or not at all."""

import hashlib
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors.numpy import save_file
from safetensors.torch import load_file

from minilm_core.atomic import atomic_folder
from minilm_core.tasks.ragged import Column, arrays_of, columns_of

ARRAYS_FILE = "arrays.safetensors"
SUM_FILE = "arrays.sha256"


def save_columns(folder: Path, columns: Mapping[str, Column]) -> None:
    """Writes columns by name; of several writers of a folder the first to finish wins."""
    with atomic_folder(folder) as scratch:
        save_file(arrays_of(columns), scratch / ARRAYS_FILE)
        (scratch / SUM_FILE).write_text(_file_sha256(scratch / ARRAYS_FILE), encoding="utf-8")
        # safetensors lets nobody but the owner read a file, whatever the cache is shared with.
        shutil.copymode(scratch / SUM_FILE, scratch / ARRAYS_FILE)


def load_columns(folder: Path) -> dict[str, Column] | None:
    """Returns the columns in a folder, mapped from the file; None if it is not there, or not what was written."""
    with suppress(OSError):
        if _file_sha256(folder / ARRAYS_FILE).encode() == (folder / SUM_FILE).read_bytes():
            # It maps the file, unlike safetensors' function for NumPy.
            return columns_of({name: tensor.numpy() for name, tensor in load_file(folder / ARRAYS_FILE).items()})
    return None


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

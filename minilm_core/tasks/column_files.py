"""Columns on disk: a folder holds the arrays of some columns and their hash, whole or not at all."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file

from minilm_core.atomic import atomic_folder
from minilm_core.tasks.ragged import Column, arrays_of, columns_of

ARRAYS_FILE = "arrays.safetensors"
SUM_FILE = "arrays.sha256"


def cached_columns(folder: Path, make: Callable[[], Mapping[str, Column]]) -> Mapping[str, Column]:
    """Returns the columns in a folder, mapped from its file, after making and writing them if they are not there.

    Several processes may do so at once: each has whole columns, and those of one are kept. Damaged ones are replaced.
    """
    was_there = folder.is_dir()
    found = load_columns(folder)
    if found is not None:
        return found
    if was_there:
        # Damaged columns would be kept, because the first of several writers wins. Those that another process has
        # written since are not removed, because that process may have mapped them.
        shutil.rmtree(folder, ignore_errors=True)
    columns = make()
    # The columns are in memory, so that a full disk or one that cannot be written to costs other processes time alone.
    with suppress(OSError, SafetensorError):
        save_columns(folder, columns)
    # What is read has its pages in common with other processes.
    return load_columns(folder) or columns


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

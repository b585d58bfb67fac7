"""Atomic files and folders: either complete or absent, after a crash and with concurrent writers. Imports no torch."""

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces a file's content so that a reader sees either the old or the new content, never a part."""
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """`write_text_atomically` for content that is no text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = _scratch_beside(path)
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Appends a line in one write and syncs it to disk, so that it survives a crash right afterwards.

    Raises:
        OSError: if the disk is full.
    """
    line = text.encode() + b"\n"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        # A crash during a write leaves a line without its end: end it, so that the new line is separate.
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        if os.write(descriptor, line) < len(line):
            raise OSError(f"a line must be written completely, the disk took only a part of it in {path}")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a scratch folder, which is renamed to `folder` if the block succeeds and removed if it fails.

    If several processes write one folder, the first to finish wins. The work of the others, which is the same, is
    removed.
    """
    _drop_abandoned(folder)
    scratch = _scratch_beside(folder)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for path in scratch.rglob("*"):
            if path.is_file():
                with path.open("rb") as written:
                    os.fsync(written.fileno())
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_scratch(path: Path) -> bool:
    """Returns whether a path is incomplete: it was left by a crash or is still being written."""
    return ".partial-" in path.name


def _scratch_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _drop_abandoned(path: Path) -> None:
    """Removes the scratch folders of writers of the same folder that were killed on this machine."""
    for scratch in path.parent.glob(f"{path.name}.partial-{socket.gethostname()}-*"):
        process = int(scratch.name.rsplit("-", 2)[1])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            shutil.rmtree(scratch, ignore_errors=True)
        except PermissionError:
            # The process is alive and belongs to another user.
            continue

"""Where cached targets lie on disk, how large they are, who uses them and which make room for others. No torch.

A folder of one key holds one file of states, the heads of the distilled layers and, once all is there, a manifest:
a folder without one is unfinished and never read.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from minilm_core.errors import UserError
from minilm_core.settings.schedules import Precision

FORMAT_VERSION = 3
STATES_FILE = "states.bf16"
MANIFEST_FILE = "manifest.json"
HEADS_FOLDER = "heads"
PARTS_FOLDER = "parts"
"""One file a part while the cache is being built: locked by who works on it, no longer empty once it is whole."""
LOCK_FILE = "lock"
"""Locked by who uses the cache; its time of change is that of the last opening."""

BYTES_PER_NUMBER = 2
PART_BYTES = 64 * 2**20
"""What a killed worker loses at most: a few seconds of a GPU, half a minute of a 12x768 teacher on two cores."""
PAGE_BYTES = 4096


def cache_bytes(num_tokens: int, hidden_size: int, num_layers: int) -> int:
    """Returns the bytes on disk of the states that enter `num_layers` layers of a teacher, in bf16."""
    return BYTES_PER_NUMBER * num_tokens * hidden_size * num_layers


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsKey:
    """All that the cached states depend on; another teacher, layer, text, packing or precision is another cache."""

    weights_sha256: str
    """Of the teacher's safetensors."""
    config_sha256: str
    """Of what its config.json says of its mathematics."""
    layers: tuple[int, ...]
    """The distilled layers, counted from 1."""
    corpus_fingerprint: str
    """Of the packed tokens, and so of text, tokenizer and packing together."""
    precision: Precision
    """What the teacher ran in; the states are kept in bf16 either way."""

    @property
    def folder_name(self) -> str:
        """A short name made of everything above and of the layout on disk."""
        content = {**asdict(self), "format_version": FORMAT_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsManifest:
    """What a cache holds. Its states are one array [num_rows, layers, sequence_length, hidden_size] of bf16."""

    weights_sha256: str
    config_sha256: str
    layers: tuple[int, ...]
    corpus_fingerprint: str
    precision: Precision
    num_rows: int
    sequence_length: int
    hidden_size: int
    """The teacher's."""
    num_heads: int
    """Attention heads of the teacher."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the manifest of a finished cache.

        Raises:
            UserError: if the folder holds none, one of another format, or states that were cut short.
        """
        try:
            content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"cached targets must be finished, that is have {MANIFEST_FILE}, got {folder}") from error
        except ValueError as error:
            raise UserError(
                f"{MANIFEST_FILE} must be JSON, got a damaged one in {folder}; remove it to have it made again"
            ) from error
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"cached targets must have format {FORMAT_VERSION}, got {version} in {folder}")
        manifest = cls(**{**content, "layers": tuple(content["layers"]), "precision": Precision(content["precision"])})
        states = folder / STATES_FILE
        num_bytes = states.stat().st_size if states.exists() else 0
        if num_bytes != manifest.num_bytes:
            raise UserError(
                f"{STATES_FILE} must have the {manifest.num_bytes} bytes of its manifest, got {num_bytes}; "
                f"remove {folder} to have it made again"
            )
        return manifest

    @property
    def layer_bytes(self) -> int:
        """Bytes of the states of one row that enter one layer."""
        return cache_bytes(self.sequence_length, self.hidden_size, 1)

    @property
    def row_bytes(self) -> int:
        """Bytes of the states of one row."""
        return len(self.layers) * self.layer_bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of all states."""
        return self.num_rows * self.row_bytes

    @property
    def parts(self) -> list[range]:
        """The rows in runs of about `PART_BYTES`, each built by one worker.

        They meet at the borders of pages, so that no two machines ever write to the same page of a shared file system.
        """
        step = PAGE_BYTES // math.gcd(self.row_bytes, PAGE_BYTES)
        num_rows = max(1, PART_BYTES // (self.row_bytes * step)) * step
        return [range(start, min(start + num_rows, self.num_rows)) for start in range(0, self.num_rows, num_rows)]


def is_cached(folder: Path) -> bool:
    """Returns whether a folder of cached targets is finished."""
    return (folder / MANIFEST_FILE).is_file()


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps a cache from being evicted until the block or its process ends, and marks it as used now.

    It is a shared flock: it dies with its process, and holds between machines on a file system that carries locks, as
    NFS does. Where there is none, a cache is never evicted at all.
    """
    path = folder / LOCK_FILE
    descriptor = None
    # A cache that others may only read is used all the same.
    with suppress(OSError):
        descriptor = try_lock(path, fcntl.LOCK_SH, if_unsupported=True)
        os.utime(path)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def try_lock(path: Path, operation: int, *, if_unsupported: bool) -> int | None:
    """Takes a lock that lasts until its descriptor is closed or its process ends.

    Args:
        path: A file; made by whoever wants to be alone.
        operation: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        if_unsupported: Whether to go on as if it were taken where the file system has no locks.

    Returns:
        The descriptor; None if somebody else has the lock.
    """
    flags = os.O_RDONLY if operation == fcntl.LOCK_SH else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError as error:
        is_unsupported = error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
        if is_unsupported and if_unsupported:
            return descriptor
        os.close(descriptor)
        if is_unsupported or isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def make_room(folder: Path, num_bytes: int, *, limit_bytes: int | None, keep: Collection[str] = ()) -> list[Path]:
    """Evicts other caches, the least recently opened first, until one of `num_bytes` fits beside those that stay.

    Unfinished caches count with the size that they will have. Never evicted are those that a process holds.

    Args:
        folder: The cache that is about to be made or used; what of it is there already counts once.
        num_bytes: Its size.
        limit_bytes: What all caches beside it and itself may take; None: as much as the disk has.
        keep: Names of folders that must stay although nobody holds them.

    Returns:
        The folders that are gone.

    Raises:
        UserError: if it cannot fit within the limit or on the disk.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    evicted = [] if limit_bytes is None else _evict_down_to(folder, num_bytes, limit_bytes, keep)
    states = folder / STATES_FILE
    # Blocks are counted in 512 bytes, whatever those of the disk are.
    num_bytes_missing = num_bytes - (512 * states.stat().st_blocks if states.exists() else 0)
    num_bytes_free = shutil.disk_usage(folder.parent).free
    if num_bytes_missing > num_bytes_free:
        raise UserError(
            f"the disk of {folder.parent} must have {_gigabytes(num_bytes_missing)} free for the teacher's targets, "
            f"got {_gigabytes(num_bytes_free)}; lower corpus.max_tokens or move storage.cache"
        )
    return evicted


def _evict_down_to(folder: Path, num_bytes: int, limit_bytes: int, keep: Collection[str]) -> list[Path]:
    if num_bytes > limit_bytes:
        raise UserError(
            f"storage.max_cache_bytes must hold the teacher's targets, {_gigabytes(num_bytes)}, "
            f"got {_gigabytes(limit_bytes)}; raise it, lower corpus.max_tokens or share the teacher online"
        )
    sizes = {other: _size_bytes(other) for other in folder.parent.iterdir() if other.is_dir() and other != folder}
    evicted: list[Path] = []
    for other in sorted(sizes, key=_last_used):
        if num_bytes + sum(sizes.values()) <= limit_bytes:
            break
        if other.name not in keep and _evict(other):
            evicted.append(other)
            del sizes[other]
    num_bytes_used = sum(sizes.values())
    if num_bytes + num_bytes_used > limit_bytes:
        raise UserError(
            f"storage.max_cache_bytes must hold the teacher's targets, {_gigabytes(num_bytes)}, beside those in use, "
            f"{_gigabytes(num_bytes_used)}, got {_gigabytes(limit_bytes)}; raise it or wait for other studies"
        )
    return evicted


def _evict(folder: Path) -> bool:
    """Removes a cache unless somebody holds it."""
    lock = None
    try:
        lock = try_lock(folder / LOCK_FILE, fcntl.LOCK_EX, if_unsupported=False)
        if lock is None:
            return False
        # In one step, so that nobody finds a part of it.
        doomed = folder.rename(folder.with_name(f"{folder.name}.evicted-{uuid.uuid4().hex[:8]}"))
    except FileNotFoundError:
        # Somebody else was faster.
        return True
    except PermissionError:
        return False
    finally:
        if lock is not None:
            os.close(lock)
    shutil.rmtree(doomed, ignore_errors=True)
    return True


def _last_used(folder: Path) -> float:
    for path in (folder / LOCK_FILE, folder):
        with suppress(FileNotFoundError):
            return path.stat().st_mtime
    return 0.0


def _size_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB"

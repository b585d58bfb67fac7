"""Cached targets on disk: their layout and size, the locks of their users, and eviction. No torch.

The folder of a key holds one file of states, the heads of the distilled layers and, when both are complete, a manifest.
A folder without a manifest is unfinished and never read.
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
"""While the cache is built: a file for each part, locked by the worker that builds it, not empty when it is done."""
LOCK_FILE = "lock"
"""Locked by the users of the cache; its modification time is the time of the last use."""

BYTES_PER_NUMBER = 2
PART_BYTES = 64 * 2**20
"""The size of a part, which is what a killed worker loses: a few seconds of a GPU, or half a minute of a 12x768 teacher
on two cores."""
PAGE_BYTES = 4096


def cache_bytes(num_tokens: int, hidden_size: int, num_layers: int) -> int:
    """Returns the bytes on disk of the states that enter `num_layers` layers of a teacher, in bf16."""
    return BYTES_PER_NUMBER * num_tokens * hidden_size * num_layers


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsKey:
    """Everything that cached states depend on: with another teacher, layer, text, packing or precision they differ."""

    weights_sha256: str
    """The hash of the teacher's safetensors."""
    config_sha256: str
    """The hash of the settings in config.json that affect the teacher's outputs."""
    layers: tuple[int, ...]
    """The distilled layers, counted from 1."""
    corpus_fingerprint: str
    """The hash of the packed tokens, which depend on text, tokenizer and packing."""
    precision: Precision
    """The precision that the teacher ran in; the states are stored in bf16 in any case."""

    @property
    def folder_name(self) -> str:
        """The name of the cache's folder: a hash of the key and of the format."""
        content = {**asdict(self), "format_version": FORMAT_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsManifest:
    """The content of a cache. Its states are one array [num_rows, layers, sequence_length, hidden_size] of bf16."""

    weights_sha256: str
    config_sha256: str
    layers: tuple[int, ...]
    corpus_fingerprint: str
    precision: Precision
    num_rows: int
    sequence_length: int
    hidden_size: int
    """The hidden size of the teacher."""
    num_heads: int
    """The number of attention heads of the teacher."""
    format_version: int = FORMAT_VERSION

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the manifest of a finished cache.

        Raises:
            UserError: if the manifest is missing, damaged or of another format, or the states are truncated.
        """
        try:
            content = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"cached targets must be finished and have {MANIFEST_FILE}, got {folder}") from error
        except ValueError as error:
            raise UserError(
                f"{MANIFEST_FILE} must be JSON, got a damaged one in {folder}; "
                f"remove the folder to cache the targets again"
            ) from error
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"cached targets must have format {FORMAT_VERSION}, got {version} in {folder}; "
                f"remove the folder to cache the targets again"
            )
        manifest = cls(**{**content, "layers": tuple(content["layers"]), "precision": Precision(content["precision"])})
        states = folder / STATES_FILE
        num_bytes = states.stat().st_size if states.exists() else 0
        if num_bytes != manifest.num_bytes:
            raise UserError(
                f"{STATES_FILE} must have the {manifest.num_bytes} bytes of its manifest, got {num_bytes}; "
                f"remove {folder} to cache the targets again"
            )
        return manifest

    @property
    def layer_bytes(self) -> int:
        """The size of the states of one row that enter one layer, in bytes."""
        return cache_bytes(self.sequence_length, self.hidden_size, 1)

    @property
    def row_bytes(self) -> int:
        """The size of the states of one row, in bytes."""
        return len(self.layers) * self.layer_bytes

    @property
    def num_bytes(self) -> int:
        """The size of all states, in bytes."""
        return self.num_rows * self.row_bytes

    @property
    def parts(self) -> list[range]:
        """The rows in parts of about `PART_BYTES`, each of which one worker builds.

        Parts begin at page boundaries, so that two machines never write to the same page of a shared file system.
        """
        step = PAGE_BYTES // math.gcd(self.row_bytes, PAGE_BYTES)
        num_rows = max(1, PART_BYTES // (self.row_bytes * step)) * step
        return [range(start, min(start + num_rows, self.num_rows)) for start in range(0, self.num_rows, num_rows)]


def is_cached(folder: Path) -> bool:
    """Returns whether a folder of cached targets is finished."""
    return (folder / MANIFEST_FILE).is_file()


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Protects a cache from eviction until the block or its process ends, and marks it as used now.

    The lock is a shared flock. It ends with its process, and it works between machines on a file system with locks,
    such as NFS. On a file system without locks no cache is evicted.
    """
    path = folder / LOCK_FILE
    descriptor = None
    # A read-only cache can be used, too.
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
        path: The file to lock; an exclusive lock creates it.
        operation: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        if_unsupported: Whether a file system without locks counts as a lock that was taken.

    Returns:
        The descriptor; None if another process has the lock.
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
    """Evicts other caches, the least recently used first, until a cache of `num_bytes` fits within the limit.

    Unfinished caches count with their final size. A cache that a process holds is not evicted.

    Args:
        folder: The cache to be made or used; the part of it that exists is not counted twice.
        num_bytes: The size of that cache.
        limit_bytes: The largest size of all caches in its parent folder; None: limited by the disk alone.
        keep: Names of folders that are not evicted although no process holds them.

    Returns:
        The folders that were evicted.

    Raises:
        UserError: if the cache does not fit within the limit or on the disk.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    evicted = [] if limit_bytes is None else _evict_down_to(folder, num_bytes, limit_bytes, keep)
    states = folder / STATES_FILE
    # st_blocks counts units of 512 bytes, whatever the block size of the disk.
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
            f"got {_gigabytes(limit_bytes)}; raise it, lower corpus.max_tokens or run the teacher online"
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
            f"storage.max_cache_bytes must hold the teacher's targets, {_gigabytes(num_bytes)}, and those in use, "
            f"{_gigabytes(num_bytes_used)}, got {_gigabytes(limit_bytes)}; raise it or wait for other studies to end"
        )
    return evicted


def _evict(folder: Path) -> bool:
    """Removes a cache unless a process holds it, and returns whether it is gone."""
    lock = None
    try:
        lock = try_lock(folder / LOCK_FILE, fcntl.LOCK_EX, if_unsupported=False)
        if lock is None:
            return False
        # Renamed first, so that no process finds a part of the cache.
        doomed = folder.rename(folder.with_name(f"{folder.name}.evicted-{uuid.uuid4().hex[:8]}"))
    except FileNotFoundError:
        # Another process has evicted it.
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

"""Builds the cache of a teacher's targets, by one or several workers; an interrupted build is continued."""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int

from minilm_core.atomic import atomic_folder, write_text_atomically
from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.target_storage import (
    HEADS_FOLDER,
    LOCK_FILE,
    MANIFEST_FILE,
    PARTS_FOLDER,
    STATES_FILE,
    TargetsKey,
    TargetsManifest,
    hold,
    is_cached,
    try_lock,
)
from minilm_core.models.encoders import RelationEncoder, save_heads
from minilm_core.settings.schedules import Precision
from minilm_core.training.devices import autocast

TOKENS_PER_PASS = {"cpu": 4096, "cuda": 32768}
"""The tokens of one forward pass by device: enough to keep the device busy."""
POLL_SECONDS = 0.5


def cache_targets(
    teacher: RelationEncoder,
    corpus: PackedCorpus,
    key: TargetsKey,
    cache: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[int]:
    """Runs the teacher over the whole corpus once, into `cache / key.folder_name`, and yields the number of rows done.

    Several processes may build one cache, on one machine or on several with a shared file system. Each locks a part
    that is neither done nor locked; the part of a process that died is free again. All of them end when the cache is
    finished, and an interrupted build continues from the parts that are done. A finished cache is left as it is.

    Args:
        teacher: A teacher on its device, with the layers of the key.
        corpus: The corpus with the fingerprint of the key.
        key: Everything that the states depend on.
        cache: The folder of the caches of all keys.
        rank: This worker's number, from 0; each worker begins with other parts.
        world_size: The expected number of workers. With fewer or more the cache is the same; without file locks they
            only share the work less evenly.
    """
    folder = cache / key.folder_name
    if is_cached(folder):
        return
    build = _Build(
        folder,
        TargetsManifest(
            **asdict(key),
            num_rows=corpus.num_rows,
            sequence_length=corpus.manifest.sequence_length,
            hidden_size=teacher.hidden_size,
            num_heads=teacher.num_heads,
        ),
    )
    build.begin()
    with hold(folder):
        parts = build.manifest.parts
        first = rank * len(parts) // world_size
        for num_rows in build.parts(teacher.eval(), corpus, [*parts[first:], *parts[:first]]):
            # The number of all rows is yielded only when the cache can be opened.
            if num_rows < corpus.num_rows:
                yield num_rows
        build.finish(teacher)
    yield corpus.num_rows


@dataclass(frozen=True, slots=True)
class _Build:
    """One worker's build of a cache, which other workers may share."""

    folder: Path
    manifest: TargetsManifest

    def begin(self) -> None:
        """Makes the folder and a sparse file for all states; every worker calls it."""
        (self.folder / PARTS_FOLDER).mkdir(parents=True, exist_ok=True)
        (self.folder / LOCK_FILE).touch()
        descriptor = os.open(self.folder / STATES_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.truncate(descriptor, self.manifest.num_bytes)
        finally:
            os.close(descriptor)

    def parts(self, teacher: RelationEncoder, corpus: PackedCorpus, parts: list[range]) -> Iterator[int]:
        """Builds parts until all are done, and yields the number of rows that all workers have done so far."""
        while parts := [part for part in parts if not self._is_done(part)]:
            is_idle = True
            for part in parts:
                with self._claimed(part) as is_mine:
                    if not is_mine or self._is_done(part):
                        continue
                    is_idle = False
                    num_rows = self._num_rows_done()
                    for num_rows_more in self._part(teacher, corpus, part):
                        yield num_rows + num_rows_more
            if is_idle:
                # Other workers have locked all parts that are left. If one dies, its part is free again.
                time.sleep(POLL_SECONDS)
                yield self._num_rows_done()

    def finish(self, teacher: RelationEncoder) -> None:
        """Adds the layers' heads and the manifest; a second worker changes nothing."""
        with atomic_folder(self.folder / HEADS_FOLDER) as scratch:
            save_heads(teacher, scratch)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        write_text_atomically(self.folder / MANIFEST_FILE, json.dumps(asdict(self.manifest), indent=2))
        shutil.rmtree(self.folder / PARTS_FOLDER, ignore_errors=True)

    def _part(self, teacher: RelationEncoder, corpus: PackedCorpus, part: range) -> Iterator[int]:
        """Computes and writes the rows of a part, and yields how many of them are written."""
        device = next(teacher.parameters()).device
        num_rows = max(1, TOKENS_PER_PASS[device.type] // self.manifest.sequence_length)
        with (self.folder / STATES_FILE).open("r+b") as file:
            file.seek(part.start * self.manifest.row_bytes)
            for start in range(part.start, part.stop, num_rows):
                rows = np.arange(start, min(start + num_rows, part.stop))
                file.write(_states_of(teacher, corpus.rows(rows), self.manifest.precision, device).data)
                yield int(rows[-1]) + 1 - part.start
            file.flush()
            os.fsync(file.fileno())
        # Written after the fsync, so that a part that is marked as done survives any crash. The folder of markers is
        # gone if other workers did the same part and finished the cache.
        with suppress(FileNotFoundError):
            self._marker(part).write_bytes(b"whole\n")

    def _marker(self, part: range) -> Path:
        return self.folder / PARTS_FOLDER / f"{part.start}-{part.stop}"

    def _is_done(self, part: range) -> bool:
        try:
            return self._marker(part).stat().st_size > 0
        except FileNotFoundError:
            return is_cached(self.folder)

    def _num_rows_done(self) -> int:
        return sum(len(part) for part in self.manifest.parts if self._is_done(part))

    @contextmanager
    def _claimed(self, part: range) -> Iterator[bool]:
        """Locks a part until the block ends, and yields whether it could: another worker may have locked it.

        On a file system without locks several workers may build one part. That only costs time: they write the same.
        """
        try:
            descriptor = try_lock(self._marker(part), fcntl.LOCK_EX, if_unsupported=True)
        except FileNotFoundError:
            if not is_cached(self.folder):
                raise
            # Other workers have just finished the cache.
            descriptor = None
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)


@torch.no_grad()
def _states_of(
    teacher: RelationEncoder, tokens: Int[np.ndarray, "batch seq"], precision: Precision, device: torch.device
) -> Int[np.ndarray, "batch layers seq hidden"]:
    """Returns the states that enter the teacher's layers, as the bits of bf16."""
    with autocast(precision, device):
        states = torch.stack(teacher.states(torch.from_numpy(tokens).to(device), None), dim=1)
    bits: np.ndarray = states.to(torch.bfloat16).cpu().view(torch.int16).numpy()
    return bits

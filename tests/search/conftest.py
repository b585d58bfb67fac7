"""The smallest whole study: a tiny teacher, a page of English, labelled sentences and a search.yaml."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pyarrow
import pyarrow.parquet
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast
from transformers.utils import logging as transformers_logging

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.teacher import resolve
from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import TrialRecord
from search.config.loading import load_config
from search.study.jobs import Job
from search.study.resolved import ResolvedStudy, resolve_study
from search.worker.preparation import prepare
from spaces.space import StudentChoice
from tests.search.running import Event, OpenStudy, run_job

WHO = ("the teacher", "my sister", "a careful student", "the old captain", "our neighbour")
DOES = {
    1: ("loves this warm and clever film", "finds the story bright and funny", "praises every scene of the play"),
    0: ("hates this cold and stupid film", "finds the story dull and empty", "regrets every scene of the play"),
}
WHEN = (
    "today",
    "on monday morning",
    "after the long rain",
    "before the train leaves",
    "because friends are here",
    "at home with a cup of tea",
    "while it snows",
    "in a letter to the town",
    "again and again",
    "without a second thought",
)

SEARCH_YAML = """
name: tiny
seed: 3
teacher: {model: ./teacher}
corpus:
  sources: [{path: corpus.jsonl}]
  sequence_length: 16
  held_out_sequences: 4
tasks:
  - {name: mood, path: mood, text_columns: [text], metric: accuracy}
space:
  num_layers: [1, 2]
  hidden_sizes: [16, 24]
  head_sizes: [4, 8]
  distillation_learning_rate: {low: 1.0e-4, high: 1.0e-2}
  finetuning_learning_rate: {low: 1.0e-4, high: 1.0e-2}
distillation:
  relation_heads: 4
  num_steps: 6
  batch_size: 4
  num_evaluations: 3
  precision: fp32
finetuning: {num_epochs: 1, batch_size: 16, max_length: 24, precision: fp32}
objectives: [accuracy, size_bytes]
latency: {sequence_length: 16}
budget: {num_trials: 2}
storage: {path: studies, cache: cache}
"""


@pytest.fixture(scope="session")
def choice() -> StudentChoice:
    return StudentChoice(
        architecture=StudentArchitecture(num_layers=2, hidden_size=16, num_heads=4),
        distillation_learning_rate=3e-3,
        finetuning_learning_rate=5e-3,
    )


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with search.yaml and all files that it names."""
    transformers_logging.disable_progress_bar()
    folder = tmp_path_factory.mktemp("material")
    _write_teacher(folder / "teacher")
    labelled = [(f"{who} {does} {when} .", label) for who, label, does, when in _sentences()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in labelled))
    (folder / "mood").mkdir()
    for number, split in enumerate(("train", "validation", "test")):
        texts, labels = zip(*labelled[number * 2 :: 3][: 100 if split == "train" else 40], strict=True)
        table = pyarrow.table({"text": list(texts), "label": list(labels)})
        pyarrow.parquet.write_table(table, folder / "mood" / f"{split}.parquet")
    (folder / "search.yaml").write_text(SEARCH_YAML)
    return folder


@pytest.fixture(scope="session")
def open_study(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ResolvedStudy]:
    """Opens a study in a fresh folder, with `key=value` overrides; the packed text and the targets are shared."""

    def open_one(*overrides: str, is_prepared: bool = True) -> ResolvedStudy:
        folder = tmp_path_factory.mktemp("studies")
        config = load_config(material / "search.yaml", [f"storage.path={folder}", *overrides]).config
        config.study_folder.mkdir(parents=True)
        teacher = json.loads((resolve(config.teacher, material) / "config.json").read_text(encoding="utf-8"))
        study = resolve_study(config, StudyPaths(root=config.study_folder), teacher)
        if is_prepared:
            list(prepare(study, 1))
        return study

    return open_one


@pytest.fixture(scope="session")
def study(open_study: OpenStudy) -> ResolvedStudy:
    """A resolved and prepared study."""
    return open_study()


@pytest.fixture(scope="session")
def job(study: ResolvedStudy, choice: StudentChoice) -> Job:
    """The job of a student of the study."""
    return Job.of_student(study, 7, choice)


@pytest.fixture(scope="session")
def events(job: Job) -> list[Event]:
    """All events of the student's trial, without an interruption."""
    return list(run_job(job))


@pytest.fixture(scope="session")
def record(events: list[Event]) -> TrialRecord:
    """The record of the student's trial, which is its last event."""
    assert isinstance(events[-1], TrialRecord)
    return events[-1]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Bit-for-bit claims hold for a fixed number of threads, and tiny models are fastest on one.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _sentences() -> list[tuple[str, int, str, str]]:
    # Consecutive sentences differ in all their parts, so that every third sentence is a representative sample.
    every = [
        (who, label, does, when) for who, label, when in itertools.product(WHO, DOES, WHEN) for does in DOES[label]
    ]
    return [every[37 * number % len(every)] for number in range(len(every))]


def _write_teacher(folder: Path) -> None:
    folder.mkdir()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=80,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    words = {word for who, _, does, when in _sentences() for word in f"{who} {does} {when}".split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words), "."]
    assert len(vocabulary) <= config.vocab_size
    BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(folder)

"""Real things, as small as they come: a tokenizer of real English words, BERT-shaped encoders, packed text."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    PretrainedConfig,
)

from minilm_core.corpus.packed import PackedCorpus
from minilm_core.distillation.data import DistillationData
from minilm_core.runtimes.onnx_export import export_onnx
from minilm_core.tasks.evaluation import TaskData
from minilm_core.tasks.finetuning import load_task_data
from tests.minilm_core.distilling import (
    Run,
    distillation_data_of,
    make_corpus,
    make_targets,
    new_student,
    run,
    teacher_of,
)
from tests.minilm_core.finetuning_tasks import CLASSES, SCHEDULE, VALUES, write_tasks

SENTENCE = "the a student learns what its teacher knows about text and a search finds which one to ship today"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An export takes seconds, whichever test asks for it first."""
    for item in items:
        if isinstance(item, pytest.Function) and "exported_folder" in item.fixturenames:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Bit-for-bit claims hold for a fixed number of threads, and tiny models are fastest on one.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def teacher_config() -> PretrainedConfig:
    return BertConfig(
        vocab_size=40,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, teacher_config: PretrainedConfig) -> Path:
    """A tiny BERT with random weights and a WordPiece tokenizer, in the Hub's layout."""
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    BertModel(teacher_config).save_pretrained(folder)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(SENTENCE.split())), "##s", "."]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported_folder(
    tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, teacher_config: PretrainedConfig
) -> Path:
    """A tiny classifier with random weights and its ONNX in fp32: not to be written to."""
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(1)
    # Larger initial weights than usual, so that the logits of two texts differ by more than int8 rounds away.
    config = BertConfig(**{**teacher_config.to_dict(), "num_labels": 3, "initializer_range": 0.2})
    BertForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(folder)
    export_onnx(folder, folder)
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> PackedCorpus:
    """Rows of 16 tokens of the teacher's own words."""
    return make_corpus(tmp_path_factory.mktemp("text"), teacher_folder)


@pytest.fixture(scope="session")
def targets(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, corpus: PackedCorpus) -> Path:
    """The cached targets of the teacher's last layer."""
    return make_targets(tmp_path_factory.mktemp("targets"), teacher_of(teacher_folder), corpus)


@pytest.fixture(scope="session")
def distillation_data(corpus: PackedCorpus, targets: Path) -> DistillationData:
    """What the tiny teacher says of its words."""
    return distillation_data_of(corpus, targets)


@pytest.fixture(scope="session")
def sober_folder(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Path:
    """The teacher, without dropout."""
    folder = tmp_path_factory.mktemp("sober")
    config = AutoConfig.from_pretrained(teacher_folder)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    AutoModel.from_pretrained(teacher_folder, config=config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the tasks to fine-tune on."""
    folder = tmp_path_factory.mktemp("tasks")
    write_tasks(folder)
    return folder


@pytest.fixture(scope="session")
def who(tasks_folder: Path, teacher_folder: Path) -> TaskData:
    """The task to tell who is named."""
    return load_task_data(CLASSES, tasks_folder, teacher_folder, SCHEDULE.max_length)


@pytest.fixture(scope="session")
def often(tasks_folder: Path, teacher_folder: Path) -> TaskData:
    """The task to tell how often a word comes."""
    return load_task_data(VALUES, tasks_folder, teacher_folder, SCHEDULE.max_length)


@pytest.fixture(scope="session")
def whole(teacher_config: PretrainedConfig, distillation_data: DistillationData) -> Run:
    """A distillation that nothing interrupted."""
    return run(new_student(teacher_config), distillation_data)

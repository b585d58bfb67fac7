"""Tests that doctor finds what a search would fail on, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from minilm_core.models.tokenizers import TOKENIZER_FILES
from search.commands.doctor import Finding, examine


@pytest.fixture
def folder(material: Path, tmp_path: Path) -> Path:
    """A copy of a search and all files that it names, for a test to damage."""
    return Path(shutil.copytree(material, tmp_path / "material"))


def findings(folder: Path) -> dict[str, Finding]:
    """Returns the findings before Ray is started, by subject."""
    found: dict[str, Finding] = {}
    for finding in examine(folder / "search.yaml", None):
        if finding.subject == "devices":
            break
        found[finding.subject] = finding
    return found


def cut_weights(folder: Path) -> None:
    weights = folder / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])


def ask_for_more_layers(folder: Path) -> None:
    file = folder / "teacher" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 5}))


def remove_vocabulary(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / "teacher" / name).unlink(missing_ok=True)


def enlarge_vocabulary(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    tokenizer.add_tokens([f"word{number}" for number in range(80)])
    tokenizer.save_pretrained(folder / "teacher")


def change_tokenizer_version(folder: Path) -> None:
    file = folder / "teacher" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": "7.0"}))


def cut_vocabulary(folder: Path) -> None:
    with (folder / "search.yaml").open("a") as file:
        file.write("vocabulary: 40\n")


def cut_vocabulary_of_words(folder: Path) -> None:
    cut_vocabulary(folder)
    file = folder / "teacher" / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "[UNK]"}
    file.write_text(json.dumps(content))
    settings = folder / "teacher" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "tokenizer_class": "PreTrainedTokenizerFast"}))


def empty_corpus(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("")


def number_corpus(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": number}) + "\n" for number in range(9)))


def spoil_split(split: str, *labels: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "mood" / f"{split}.parquet").unlink()
        rows = "".join(json.dumps({"text": "the film", "label": label}) + "\n" for label in labels)
        (folder / "mood" / f"{split}.jsonl").write_text(rows)

    return spoil


def set_aside(folder: Path) -> None:
    file = folder / "search.yaml"
    file.write_text(file.read_text().replace("metric: accuracy", "metric: accuracy, set_aside_fraction: 0.25"))


def set_aside_from_a_small_split(folder: Path) -> None:
    (folder / "mood" / "test.parquet").unlink()
    set_aside(folder)


def ask_for_f1_of_three_classes(folder: Path) -> None:
    spoil_split("train", 0, 1, 2)(folder)
    file = folder / "search.yaml"
    file.write_text(file.read_text().replace("metric: accuracy", "metric: f1"))


def name_unlabelled(name: str, content: str | None) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        file = folder / "search.yaml"
        text = file.read_text().replace("metric: accuracy", f"metric: accuracy, unlabelled: [{name}]")
        file.write_text(text.replace("max_length: 24,", "max_length: 24, soft_labels: {weight: 0.9, temperature: 2},"))
        if content is not None:
            (folder / name).write_text(content)

    return write


def test_a_complete_search_passes_every_check(folder: Path) -> None:
    found = findings(folder)
    assert {"teacher", "corpus", "task mood"} <= found.keys()
    assert all(finding.is_ok is not False for finding in found.values()), found


def test_the_texts_of_a_task_are_checked_as_a_source_of_the_corpus(folder: Path) -> None:
    file = folder / "search.yaml"
    file.write_text(file.read_text().replace("[{path: corpus.jsonl}]", "[{task: mood}]"))
    corpus = findings(folder)["corpus"]
    assert corpus.is_ok
    assert corpus.detail.startswith("1 files, ")
    assert "mood" in corpus.detail


def test_the_vocabulary_of_students_is_named_if_it_is_cut(folder: Path) -> None:
    assert "tokens" not in findings(folder)["teacher"].detail
    cut_vocabulary(folder)
    assert "whose vocabulary has at most 40 of 80 tokens, " in findings(folder)["teacher"].detail


@pytest.mark.parametrize(
    ("spoil", "subject", "rule"),
    [
        (cut_weights, "teacher", "weights must be complete and have the sizes of config.json"),
        (ask_for_more_layers, "teacher", "weights must have every parameter of config.json's layers"),
        (remove_vocabulary, "teacher", "a teacher folder must hold a tokenizer"),
        (enlarge_vocabulary, "teacher", "every token of the tokenizer must have an embedding"),
        (change_tokenizer_version, "teacher", "a teacher's tokenizer must be one that the installed version can read"),
        (cut_vocabulary_of_words, "teacher", "a tokenizer must be of WordPiece, Unigram, BPE for its vocabulary to be"),
        (empty_corpus, "corpus", "a corpus must have text among its first 1,000 documents, got no document"),
        (number_corpus, "corpus", "a corpus must have text among its first 1,000 documents, got int"),
        (spoil_split("train", 0, 1, None), "task mood", "every example of task mood must have a label"),
        (spoil_split("validation", 0, 1, 2), "task mood", "a label of task mood must be one of 0 to 1"),
        (spoil_split("test", 0, None), "task mood", "every example of task mood must have a label"),
        (spoil_split("train", 0, 900_000_000), "task mood", "class numbers of task mood must run from 0 without gaps"),
        (set_aside, "task mood", "set_aside_fraction must be left out where the test split has labels, got 0.25"),
        (set_aside_from_a_small_split, "task mood", "set_aside_fraction must be left out unless the validation split"),
        (ask_for_f1_of_three_classes, "task mood", "metric f1 must have 2 classes"),
        (name_unlabelled("more.jsonl", None), "task mood", "the unlabelled texts of task mood must exist, got /"),
        (
            name_unlabelled("more.jsonl", '{"sentence": "the film"}'),
            "task mood",
            "a task's column must be one of sentence, got text for /",
        ),
    ],
)
def test_what_a_search_would_fail_on_is_found(
    folder: Path, spoil: Callable[[Path], None], subject: str, rule: str
) -> None:
    spoil(folder)
    finding = findings(folder)[subject]
    assert finding.is_ok is False
    assert finding.is_input
    assert finding.detail.startswith(rule)


def test_the_number_of_unlabelled_texts_is_told(folder: Path) -> None:
    name_unlabelled("more.csv", "text\nthe film\nthe play\n")(folder)
    detail = findings(folder)["task mood"].detail
    assert detail.startswith("100 train, 40 validation, 40 test, 2 unlabelled examples; ")


def test_the_sizes_of_a_task_are_those_after_setting_aside(folder: Path) -> None:
    spoil_split("validation", *[0, 1] * 1001)(folder)
    (folder / "mood" / "test.parquet").unlink()
    set_aside(folder)
    detail = findings(folder)["task mood"].detail
    assert detail.startswith("100 train, 1502 validation, 500 test (set aside from the validation split) examples; ")


def test_a_corpus_may_begin_with_records_that_have_no_text(folder: Path) -> None:
    corpus = folder / "corpus.jsonl"
    corpus.write_text('{"text": null}\n' + corpus.read_text())
    assert findings(folder)["corpus"].is_ok


def test_a_folder_that_cannot_be_written_is_not_an_error_of_the_settings(folder: Path) -> None:
    (folder / "studies").write_text("a file")
    finding = findings(folder)["storage"]
    assert finding.is_ok is False
    assert not finding.is_input

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minilm_core.errors import UserError
from minilm_core.quickstart_data import LANGUAGE_REFERENCE, InstalledText, masked_passages, write_installed_text
from minilm_core.tasks.splits import load_splits
from minilm_core.tasks.task import Task

THREE_SUBJECTS = {
    "graphs": ("networkx/algorithms/flow", "networkx/algorithms/traversal", "networkx/classes"),
    "python": (LANGUAGE_REFERENCE,),
    "signals": ("scipy/ndimage", "scipy/signal"),
}
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> InstalledText:
    return write_installed_text(tmp_path_factory.mktemp("installed"), THREE_SUBJECTS)


@pytest.fixture(scope="module")
def tables(written: InstalledText) -> dict[str, pa.Table]:
    return {name: pq.read_table(written.task_folder / f"{name}.parquet") for name in SPLITS}


@pytest.mark.parametrize(
    ("docstring", "passages"),
    [
        (
            "Compute the singular values of a `matrix` with :func:`numpy.linalg.svd`, much as SciPy does.",
            ["Compute the singular values of a name with name, much as library does."],
        ),
        (
            "Return the eigenvalues of torch.Tensor or ndarray_like input, sorted from the largest on.",
            ["Return the eigenvalues of name or name input, sorted from the largest on."],
        ),
        (
            "Solve a system of linear equations where :math:`A x = b` and the matrix is square.",
            ["Solve a system of linear equations where formula and the matrix is square."],
        ),
        (
            "Fit a straight line through points so that squared errors are least.\n\n>>> import numpy as np\nmore",
            ["Fit a straight line through points so that squared errors are least."],
        ),
        (
            "Fit a straight line through points so that squared errors are least.\n\nArgs:\n    points: where\n",
            ["Fit a straight line through points so that squared errors are least."],
        ),
        (
            "Short.\n\nParameters\n----------\nx : array\n    Where to look for it.\n\nNotes\n-----\n"
            "The method is that of Powell and takes no gradient of the function at all.\n\nReferences\n----------\n"
            "Powell, a paper about that method.",
            ["The method is that of Powell and takes no gradient of the function at all."],
        ),
        ("Too short to tell.", []),
    ],
)
def test_passages_are_prose_with_names_masked(docstring: str, passages: list[str]) -> None:
    assert masked_passages(docstring) == passages


def test_long_prose_is_cut_into_pieces_between_words() -> None:
    pieces = masked_passages("graph " * 198)
    assert [len(piece) <= 400 for piece in pieces] == [True] * 3
    assert " ".join(pieces).split() == ["graph"] * 198


def test_every_subject_is_equally_frequent_in_every_split(tables: dict[str, pa.Table]) -> None:
    for table in tables.values():
        counts = table["label_name"].value_counts().to_pylist()
        assert {count["values"] for count in counts} == set(THREE_SUBJECTS)
        assert len({count["counts"] for count in counts}) == 1


def test_no_source_file_is_in_two_splits(tables: dict[str, pa.Table]) -> None:
    sources = [set(tables[name]["source"].to_pylist()) for name in SPLITS]
    assert sum(map(len, sources)) == len(set.union(*sources))


def test_no_two_passages_are_alike(tables: dict[str, pa.Table]) -> None:
    texts = [text for table in tables.values() for text in table["text"].to_pylist()]
    assert len({re.sub(r"[^a-z]+", " ", text.lower()) for text in texts}) == len(texts)


def test_the_corpus_has_no_passage_of_validation_or_test(written: InstalledText, tables: dict[str, pa.Table]) -> None:
    documents = [json.loads(line)["text"] for line in written.corpus.read_text(encoding="utf-8").splitlines()]
    in_corpus = {passage for document in documents for passage in masked_passages(document)}
    for name in ("validation", "test"):
        assert in_corpus.isdisjoint(tables[name]["text"].to_pylist())
    assert len(documents) == written.num_corpus_documents > 0


def test_no_passage_names_a_library(tables: dict[str, pa.Table]) -> None:
    texts = "\n".join(text for table in tables.values() for text in table["text"].to_pylist())
    assert re.findall(r"\b(?:numpy|scipy|networkx|python)\b", texts, re.IGNORECASE) == []


def test_the_same_installation_gives_the_same_bytes(written: InstalledText, tmp_path: Path) -> None:
    again = write_installed_text(tmp_path, THREE_SUBJECTS)
    names = ["corpus.jsonl", "README.md", *(f"docstrings/{name}.parquet" for name in SPLITS)]
    assert [(tmp_path / name).read_bytes() for name in names] == [
        (written.card.parent / name).read_bytes() for name in names
    ]
    assert again.num_examples == written.num_examples


def test_what_was_written_is_a_task(written: InstalledText) -> None:
    task = Task(name="docstrings", path=str(written.task_folder), text_columns=("text",), metric="accuracy")
    splits = load_splits(task, Path())
    train, test = splits.train, splits.test
    assert test is not None
    assert train.num_labels == len(written.subjects)
    assert {"train": train.num_examples, "test": test.num_examples}.items() <= written.num_examples.items()


def test_the_card_names_packages_versions_and_licences(written: InstalledText) -> None:
    card = written.card.read_text(encoding="utf-8")
    assert re.search(r"\| networkx \| [\d.]+ \| BSD-3-Clause \|", card)
    assert re.search(r"\| python \| [\d.]+ \| PSF-2.0 \|", card)
    assert "pydoc_data" not in card


def test_a_missing_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the text comes from installed packages, which must include no_such_package"):
        write_installed_text(tmp_path, {"one": ("networkx/classes",), "two": ("no_such_package",)})


@pytest.mark.slow
def test_the_quickstarts_own_subjects_give_enough_text(tmp_path: Path) -> None:
    written = write_installed_text(tmp_path)
    assert len(written.subjects) == 10
    assert written.num_corpus_words >= 600_000
    assert written.num_examples["train"] >= 3000
    assert written.num_examples["validation"] >= 700
    assert written.num_examples["test"] >= 1000

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from minilm_core.errors import UserError
from minilm_core.tasks.benchmarks import named_task
from minilm_core.tasks.kinds.kind import Split
from minilm_core.tasks.kinds.registry import kind_of
from minilm_core.tasks.splits import load_split, load_splits
from minilm_core.tasks.task import SplitRole, Task
from tests.paths import SHARED_DATA, needs_shared_data

Columns = dict[str, list[Any]]
FOUR: Columns = {"text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]}


def write_parquet(path: Path, columns: Columns) -> None:
    pq.write_table(pa.table(columns), path)


def task_of(**settings: Any) -> Task:
    defaults: dict[str, Any] = {"name": "mine", "path": ".", "text_columns": ("text",), "metric": "accuracy"}
    return Task(**{**defaults, **settings})


def write_jsonl(path: Path, columns: Columns) -> None:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, columns: Columns) -> None:
    rows = [columns, *zip(*columns.values(), strict=True)]
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


@pytest.mark.parametrize(("ending", "write"), [("parquet", write_parquet), ("jsonl", write_jsonl), ("csv", write_csv)])
def test_every_format_gives_the_same_split(tmp_path: Path, ending: str, write: Callable[[Path, Columns], None]) -> None:
    write(tmp_path / f"train.{ending}", FOUR)
    split = load_split(task_of(), tmp_path, SplitRole.TRAIN)
    assert split.texts == (FOUR["text"],)
    assert split.labels.tolist() == FOUR["label"]
    assert split.labels.dtype == np.int64
    assert split.num_labels == 2


def test_a_text_that_looks_like_a_number_stays_a_text(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", {"text": ["1", "2.0"], "label": [0, 1]})
    assert load_split(task_of(), tmp_path, SplitRole.TRAIN).texts == (["1", "2.0"],)


def test_the_shards_of_a_split_are_joined_in_order(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00001-of-00002.parquet", {"text": ["c"], "label": [0]})
    write_parquet(tmp_path / "train-00000-of-00002.parquet", {"text": ["a", "b"], "label": [1, 0]})
    assert load_split(task_of(), tmp_path, SplitRole.TRAIN).texts == (["a", "b", "c"],)


def test_files_of_other_names_are_found_by_role(tmp_path: Path) -> None:
    write_parquet(tmp_path / "de_train.parquet", FOUR)
    task = task_of(files={SplitRole.TRAIN: "de_train.parquet"})
    assert load_split(task, tmp_path, SplitRole.TRAIN).num_examples == 4


def test_named_classes_are_numbered_in_order_of_name_on_the_train_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"text": ["a", "b", "c"], "label": ["no", "yes", "maybe"]})
    write_parquet(tmp_path / "validation.parquet", {"text": ["a", "b"], "label": ["yes", "no"]})
    split = load_split(task_of(), tmp_path, SplitRole.VALIDATION)
    assert split.label_names == ("maybe", "no", "yes")
    assert split.labels.tolist() == [2, 1]


def test_the_number_of_classes_is_the_train_splits(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"text": ["a", "b", "c"], "label": [0, 2, 1]})
    write_parquet(tmp_path / "validation.parquet", FOUR)
    assert load_split(task_of(), tmp_path, SplitRole.VALIDATION).num_labels == 3


def test_with_a_correlation_metric_labels_are_values(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"text": ["a", "b"], "label": [3, 5]})
    split = load_split(task_of(metric="spearman"), tmp_path, SplitRole.TRAIN)
    assert split.labels.dtype == np.float64
    assert (split.num_labels, split.labels.tolist()) == (1, [3.0, 5.0])


def test_a_limit_keeps_the_same_examples_in_their_order_every_time(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"text": [f"{n:02}" for n in range(50)], "label": [0, 1] * 25})
    task = task_of(max_train_examples=7)
    first, second = (load_split(task, tmp_path, SplitRole.TRAIN) for _ in range(2))
    assert first.texts == second.texts == (sorted(first.texts[0]),)
    assert first.num_examples == 7
    assert [int(text) % 2 for text in first.texts[0]] == first.labels.tolist()


@pytest.fixture
def two_splits(tmp_path: Path) -> Path:
    """A folder without a test split."""
    for split in ("train", "validation"):
        write_parquet(tmp_path / f"{split}.parquet", FOUR)
    return tmp_path


@pytest.mark.parametrize(
    "columns", [{"label": [-1, -1]}, {"label": [-1.0, None]}, {"label": [None, None]}, {"label": ["", " "]}, {}]
)
def test_a_test_split_without_any_label_counts_as_none(two_splits: Path, columns: Columns) -> None:
    write_parquet(two_splits / "test.parquet", {"text": ["a", "b"], **columns})
    assert load_splits(task_of(), two_splits).test is None


def test_a_csv_test_split_without_any_label_counts_as_none(two_splits: Path) -> None:
    (two_splits / "test.csv").write_text("text,label\na,-1\nb,\n")
    assert load_splits(task_of(), two_splits).test is None


def test_an_absent_test_split_counts_as_none(two_splits: Path) -> None:
    assert load_splits(task_of(), two_splits).test is None
    write_parquet(two_splits / "test.parquet", FOUR)
    assert load_splits(task_of(test_split=None), two_splits).test is None


def test_a_test_split_that_lacks_some_labels_is_refused(two_splits: Path) -> None:
    write_parquet(two_splits / "test.parquet", {"text": ["a", "b", "c"], "label": [0, 1, None]})
    with pytest.raises(UserError, match=r"must have a label, got none in row 3 of .*test\.parquet$"):
        load_splits(task_of(), two_splits)


def test_a_labelled_test_split_is_read_completely(two_splits: Path) -> None:
    write_parquet(two_splits / "test.parquet", FOUR)
    splits = load_splits(task_of(max_validation_examples=1), two_splits)
    assert splits.test is not None
    assert (splits.train.num_examples, splits.validation.num_examples, splits.test.num_examples) == (4, 1, 4)


def test_a_missing_split_is_refused_with_what_is_there(tmp_path: Path) -> None:
    write_parquet(tmp_path / "dev.parquet", FOUR)
    with pytest.raises(UserError, match=r"must have a validation split named validation, got dev.parquet in"):
        load_split(task_of(), tmp_path, SplitRole.VALIDATION)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the folder of task mine must exist, got"):
        load_split(task_of(path="missing"), tmp_path, SplitRole.TRAIN)


def test_a_missing_named_file_is_refused(tmp_path: Path) -> None:
    task = task_of(files={SplitRole.TEST: "de_test.parquet"})
    with pytest.raises(UserError, match=r"the test file of task mine must exist, got .*de_test.parquet"):
        load_split(task, tmp_path, SplitRole.TEST)


@pytest.mark.parametrize("missing", ["text", "label"])
def test_a_missing_column_is_refused_with_those_that_exist(tmp_path: Path, missing: str) -> None:
    columns = {("other" if name == missing else name): values for name, values in FOUR.items()}
    write_parquet(tmp_path / "train.parquet", columns)
    with pytest.raises(UserError, match=f"must be one of {', '.join(columns)}, got {missing} for"):
        load_split(task_of(), tmp_path, SplitRole.TRAIN)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": ["a", None], "label": [0, 1]}, "text of task mine must be a string, got none for text in row 2 of"),
        ({"text": [1, 2], "label": [0, 1]}, "every text of task mine must be a string, got 1 for text in row 1 of"),
        ({"text": [], "label": []}, "a split of task mine must have at least 1 example, got 0"),
        ({"text": ["a", "b"], "label": [0, 2]}, "a label of task mine must be one of 0 to 1, .* got 2 in row 2 of"),
    ],
)
def test_impossible_examples_are_refused(tmp_path: Path, columns: Columns, message: str) -> None:
    write_parquet(tmp_path / "train.parquet", columns)
    with pytest.raises(UserError, match=message):
        load_split(task_of(num_labels=2), tmp_path, SplitRole.TRAIN)


def test_a_class_that_the_train_split_lacks_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"text": ["a", "b"], "label": ["no", "yes"]})
    write_parquet(tmp_path / "validation.parquet", {"text": ["a"], "label": ["perhaps"]})
    with pytest.raises(UserError, match="must be one of no, yes, as in its train split, got 'perhaps' in row 1 of"):
        load_split(task_of(), tmp_path, SplitRole.VALIDATION)


def test_a_train_split_of_one_class_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"text": ["a", "b"], "label": [0, 0]})
    with pytest.raises(UserError, match="a train split must have at least 2 classes, got 1"):
        load_split(task_of(), tmp_path, SplitRole.TRAIN)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"a task's file must be readable, got .*train\.parquet \("):
        load_split(task_of(), tmp_path, SplitRole.TRAIN)


def pair_split() -> Split:
    return Split(
        texts=(["the student learns", "text"], ["what its teacher knows about text", "text"]),
        labels=np.array([0, 1]),
        num_labels=2,
    )


def test_pairs_are_tokenised_as_pairs_without_padding(teacher_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    features = kind_of(task_of()).encode(task_of(), pair_split(), tokenizer, 64).features
    assert features.lengths.tolist() == [12, 5]
    assert features[1]["token_type_ids"].tolist() == [0, 0, 0, 1, 1]


def test_examples_are_cut_to_max_length(teacher_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    features = kind_of(task_of()).encode(task_of(), pair_split(), tokenizer, 8).features
    assert [len(values) for row in range(2) for values in features[row].values()] == [8, 8, 8, 5, 5, 5]


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "num_train", "num_validation", "num_test", "num_labels"),
    [
        ("sst2", 67349, 872, 1821, 2),
        ("mrpc", 3576, 500, 1725, 2),
        ("stsb", 5749, 1500, 1379, 1),
        ("cola", 8551, 1043, None, 2),
        ("rte", 2490, 277, None, 2),
    ],
)
def test_real_glue_folders_load_with_the_named_tasks(
    name: str, num_train: int, num_validation: int, num_test: int | None, num_labels: int
) -> None:
    task = named_task(name, path=name)
    splits = load_splits(task, SHARED_DATA)
    train, validation, test = splits.train, splits.validation, splits.test
    assert (train.num_examples, validation.num_examples) == (num_train, num_validation)
    assert (test and test.num_examples) == num_test
    assert train.num_labels == validation.num_labels == num_labels


@needs_shared_data
def test_a_real_language_loads_by_its_file_names() -> None:
    files = {role: f"de_{role}.parquet" for role in SplitRole}
    task = named_task("xnli-de", path="xnli", files=files)
    assert load_split(task, SHARED_DATA, SplitRole.TRAIN).num_examples == 2245
    assert load_split(task, SHARED_DATA, SplitRole.VALIDATION).num_labels == 3

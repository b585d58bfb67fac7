"""Tests of span tasks as files: what is read, and the one line that each mistake gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.tasks.spans.examples import Answers
from minilm_core.tasks.spans.settings import SpanSettings
from minilm_core.tasks.splits import load_split, load_splits
from minilm_core.tasks.task import SplitRole, Task

GOOD = {"question": "Who?", "context": "The student wins.", "answers": {"text": ["student"], "answer_start": [4]}}
NONE = {"question": "When?", "context": "The student wins.", "answers": {"text": [], "answer_start": []}}


def write(folder: Path, *rows: dict[str, Any], split: str = "train") -> None:
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def task_of(**settings: Any) -> Task:
    return Task(**{"name": "answers", "path": ".", "metric": "span_f1", **settings})


def test_questions_contexts_and_answers_are_read(tmp_path: Path) -> None:
    write(tmp_path, GOOD, {**GOOD, "answers": {"text": ["student", "The"], "answer_start": [4, 0]}})
    split = load_split(task_of(), tmp_path, SplitRole.TRAIN)
    assert split.texts == (["Who?", "Who?"], ["The student wins."] * 2)
    assert split.labels == [Answers(("student",), (4,)), Answers(("student", "The"), (4, 0))]


def test_a_start_counts_code_points(tmp_path: Path) -> None:
    context = "𝒳 ﬁnd 北京市"
    write(tmp_path, {**GOOD, "context": context, "answers": {"text": ["北京"], "answer_start": [context.index("北")]}})
    assert load_split(task_of(), tmp_path, SplitRole.TRAIN).num_examples == 1


def test_a_question_may_have_no_answer_where_the_task_says_so(tmp_path: Path) -> None:
    write(tmp_path, GOOD, NONE)
    split = load_split(task_of(span=SpanSettings(has_unanswerable=True)), tmp_path, SplitRole.TRAIN)
    assert split.labels[1] == Answers((), ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            NONE,
            r"every question of task answers must have an answer, got none in line 2 of .*; set span.has_unanswerable",
        ),
        (
            {**GOOD, "answers": None},
            r"must be \{text: \[...\], answer_start: \[...\]\} of equal length, got none in line 2",
        ),
        ({**GOOD, "answers": "student"}, "of equal length, got 'student' in line 2"),
        ({**GOOD, "answers": {"text": ["student"], "answer_start": []}}, "of equal length, got"),
        ({**GOOD, "answers": {"text": [3], "answer_start": [4]}}, "of equal length, got"),
        ({**GOOD, "answers": {"text": ["student"], "answer_start": ["4"]}}, "of equal length, got"),
        (
            {**GOOD, "answers": {"text": ["student"], "answer_start": [5]}},
            "must stand in its context .*'student' at 5 in",
        ),
        (
            {**GOOD, "answers": {"text": ["student"], "answer_start": [-13]}},
            "must stand in its context .* at -13 in line 2",
        ),
        ({**GOOD, "answers": {"text": [" "], "answer_start": [3]}}, "must stand in its context .*' ' at 3"),
        ({**GOOD, "question": " "}, "every question of task answers must have text, got ' ' in line 2"),
        ({**GOOD, "context": ""}, "every context of task answers must have text, got '' in line 2"),
        ({**GOOD, "context": None}, "every text of task answers must be a string, got none for context in line 2"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_row(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    write(tmp_path, GOOD, row)
    with pytest.raises(UserError, match=message) as refusal:
        load_split(task_of(), tmp_path, SplitRole.TRAIN)
    assert "\n" not in str(refusal.value)


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"question": "Who?", "answers": GOOD["answers"]})
    with pytest.raises(UserError, match="a task's column must be one of question, answers, got context"):
        load_split(task_of(), tmp_path, SplitRole.TRAIN)


def test_a_test_split_without_answers_is_left_out(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(tmp_path, GOOD, split=split)
    write(tmp_path, {**GOOD, "answers": None}, split="test")
    assert load_splits(task_of(), tmp_path).test is None

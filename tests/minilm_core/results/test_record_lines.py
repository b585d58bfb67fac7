"""Tests of records: one line of JSON each, appended by many and cut short by crashes."""

import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm_core.errors import FailureKind, UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.record_lines import (
    SCHEMA_VERSION,
    append_record,
    from_json,
    read_first_records,
    read_records,
    task_result_from_dict,
    to_json,
)
from minilm_core.results.records import Evaluation, Failure, Role, Rung, Status, Stop, TaskResult, TrialRecord
from tests.paths import EARLIER_STUDY, ROOT

ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=96, num_heads=6, intermediate_ratio=3)

finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**60)
evaluations = st.builds(
    Evaluation,
    value=finite,
    low=finite,
    high=finite,
    num_examples=counts,
    further=st.dictionaries(st.text(), finite, max_size=2),
    predictions=st.lists(st.integers(0, 9) | finite, max_size=4).map(tuple),
)
task_results = st.builds(
    TaskResult,
    metric=st.text(),
    validation=evaluations,
    test=st.none() | evaluations,
    evaluation_sets=st.dictionaries(st.text(), evaluations, max_size=2),
    null_threshold=st.none() | finite,
)
rungs = st.builds(Rung, step=counts, held_out_loss=finite)
failures = st.builds(Failure, kind=st.sampled_from(FailureKind), message=st.text(), traceback=st.text())
any_record = st.builds(
    TrialRecord,
    number=st.integers(0, 2**31),
    role=st.sampled_from(Role),
    status=st.sampled_from(Status),
    architecture=st.just(ARCHITECTURE),
    distillation_learning_rate=st.none() | finite,
    finetuning_learning_rate=st.none() | finite,
    objectives=st.dictionaries(st.text(), finite, max_size=3),
    num_parameters=st.none() | counts,
    latency_ms=st.none() | finite,
    held_out_loss=st.none() | finite,
    rungs=st.lists(rungs, max_size=2).map(tuple),
    tasks=st.dictionaries(st.text(), task_results, max_size=2),
    seconds=st.dictionaries(st.text(), finite, max_size=2),
    device_hours=finite,
    device=st.text(),
    started_at=st.text(),
    failure=st.none() | failures,
    stop=st.none() | st.builds(Stop, stage=st.text(), reason=st.text()),
)


def make_record(number: int = 0, **changes: Any) -> TrialRecord:
    defaults = {"number": number, "role": Role.STUDENT, "status": Status.COMPLETE, "architecture": ARCHITECTURE}
    return TrialRecord(**{**defaults, **changes})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.jsonl"


@settings(deadline=None, derandomize=True)
@given(record=any_record)
def test_a_record_comes_back_from_json_as_it_was(record: TrialRecord) -> None:
    assert from_json(to_json(record)) == record


@settings(deadline=None, derandomize=True)
@given(record=any_record)
def test_a_record_is_one_line_whatever_its_texts(record: TrialRecord) -> None:
    assert to_json(record).splitlines() == [to_json(record)]


@settings(deadline=None, derandomize=True)
@given(result=task_results)
def test_a_task_result_comes_back_from_plain_types(result: TaskResult) -> None:
    assert task_result_from_dict(json.loads(json.dumps(dataclasses.asdict(result)))) == result


def test_a_record_names_the_version_of_its_schema() -> None:
    assert json.loads(to_json(make_record()))["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("field", ["objectives", "held_out_loss"])
def test_a_figure_that_is_not_finite_is_refused(field: str, value: float) -> None:
    changes: dict[str, Any] = {field: {"accuracy": value} if field == "objectives" else value}
    record = make_record(**changes)
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(record)


def test_a_refused_record_leaves_the_file_alone(path: Path) -> None:
    append_record(path, make_record(0))
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_record(path, make_record(1, latency_ms=float("nan")))
    assert [record.number for record in read_records(path)] == [0]


@pytest.mark.parametrize(
    ("version", "remedy"), [(0, ""), (SCHEMA_VERSION + 1, "; upgrade minilm-search"), ("1", ""), (True, ""), (None, "")]
)
def test_a_record_of_an_unknown_schema_is_refused(path: Path, version: Any, remedy: str) -> None:
    content = {**json.loads(to_json(make_record())), "schema_version": version}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    rule = f"a record's schema_version must be between 1 and {SCHEMA_VERSION}, got {version}{remedy}"
    with pytest.raises(UserError, match=rf"^{rule} \(line 1 of .*\)$"):
        read_records(path)


def test_a_record_without_a_version_is_refused() -> None:
    content = json.loads(to_json(make_record()))
    del content["schema_version"]
    with pytest.raises(UserError, match=f"schema_version must be between 1 and {SCHEMA_VERSION}, got None"):
        from_json(json.dumps(content))


def test_the_examples_of_a_record_of_version_2_are_counted_by_their_predictions() -> None:
    validation = Evaluation(value=0.5, low=0.4, high=0.6, num_examples=3, predictions=(1.0, 0.0, 1.0))
    record = make_record(tasks={"sst2": TaskResult(metric="accuracy", validation=validation)})
    content = json.loads(to_json(record))
    content["schema_version"] = 2
    for removed in ("num_examples", "further"):
        del content["tasks"]["sst2"]["validation"][removed]
    for removed in ("null_threshold", "evaluation_sets"):
        del content["tasks"]["sst2"][removed]
    assert from_json(json.dumps(content)) == record


def test_records_are_read_in_the_order_written(path: Path) -> None:
    records = tuple(make_record(number, seed=number) for number in (3, 1, 2))
    for record in records:
        append_record(path, record)
    assert read_records(path) == records


def test_a_study_without_records_has_none(path: Path) -> None:
    assert read_records(path) == ()


def test_the_last_record_of_a_trial_counts(path: Path) -> None:
    append_record(path, make_record(0, status=Status.FAILED))
    append_record(path, make_record(1))
    append_record(path, make_record(0, status=Status.COMPLETE))
    assert {record.number: record.status for record in read_records(path)} == {0: Status.COMPLETE, 1: Status.COMPLETE}


def test_one_number_in_several_roles_is_several_records(path: Path) -> None:
    for role in Role:
        append_record(path, make_record(0, role=role))
    assert [record.role for record in read_records(path)] == list(Role)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_line_cut_short_is_passed_over(path: Path, share: float) -> None:
    append_record(path, make_record(0))
    line = to_json(make_record(1))
    with path.open("a", encoding="utf-8") as file:
        file.write(line[: max(1, int(len(line) * share))])
    assert [record.number for record in read_records(path)] == [0]


def test_a_record_after_a_line_cut_short_is_not_lost(path: Path) -> None:
    append_record(path, make_record(0))
    with path.open("a", encoding="utf-8") as file:
        file.write(to_json(make_record(1))[:40])
    append_record(path, make_record(2))
    append_record(path, make_record(3))
    assert [record.number for record in read_records(path)] == [0, 2, 3]


def test_a_whole_line_that_lacks_only_its_end_is_read(path: Path) -> None:
    path.write_text(to_json(make_record(0)), encoding="utf-8")
    append_record(path, make_record(1))
    assert [record.number for record in read_records(path)] == [0, 1]


def test_what_was_written_is_never_changed(path: Path) -> None:
    append_record(path, make_record(0))
    before = path.read_bytes()
    append_record(path, make_record(0, status=Status.FAILED))
    assert path.read_bytes().startswith(before)


def append_many(path: Path, start: int, number: int) -> None:
    for offset in range(number):
        # Longer than a page, so that a line written in parts would be torn by another's.
        further = {f"score {number}": 1.0 for number in range(3000)}
        evaluation = Evaluation(value=0.5, low=0.4, high=0.6, num_examples=9, further=further)
        append_record(
            path, make_record(start + offset, tasks={"sst2": TaskResult(metric="accuracy", validation=evaluation)})
        )


def test_processes_that_append_at_once_lose_nothing(path: Path) -> None:
    num_processes, num_each = 4, 25
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=append_many, args=(path, 100 * writer, num_each)) for writer in range(num_processes)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * num_processes
    expected = {100 * writer + offset for writer in range(num_processes) for offset in range(num_each)}
    assert {record.number for record in read_records(path)} == expected


APPEND_WITHOUT_ROOM = """
import resource, signal, sys
from pathlib import Path
from minilm_core.results.record_lines import append_record, from_json

path, line = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (len(line) // 2, len(line) // 2))
append_record(path, from_json(line))
"""


def test_a_record_that_the_disk_has_no_room_for_is_an_error(path: Path) -> None:
    command = [sys.executable, "-c", APPEND_WITHOUT_ROOM, str(path), to_json(make_record())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "OSError" in done.stderr


def test_reading_records_needs_no_torch() -> None:
    program = "import sys, minilm_core.results.records; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


@pytest.mark.parametrize(
    ("role", "number", "student", "present_number"),
    [
        (Role.STUDENT, 3, None, 3),
        (Role.TEACHER, -1, None, 0),
        (Role.TWIN, -103, 3, 3),
        (Role.TWIN, -100, 0, 0),
        (Role.TWIN, -104, None, 4),
    ],
)
def test_the_numbers_of_schema_1_become_those_of_today(
    role: Role, number: int, student: int | None, present_number: int
) -> None:
    expected = make_record(present_number, role=role)
    content = {**json.loads(to_json(expected)), "schema_version": 1, "number": number, "twin_of": student}
    assert from_json(json.dumps(content)) == expected


def test_the_records_of_an_earlier_study_are_read() -> None:
    records = read_records(EARLIER_STUDY / "finished_records.jsonl")
    assert [(record.role, record.number) for record in records] == [
        (Role.TEACHER, 0),
        *((Role.STUDENT, number) for number in range(4)),
        (Role.TWIN, 2),
    ]


WRONG_SHAPES = (
    ("[]", "a record must be a JSON object, got a list"),
    ("null", "a record must be a JSON object, got a NoneType"),
    ('{"schema_version": 2}', "a record's role must be as it was written, got: Field required"),
    ({"status": "odd"}, "a record's status must be as it was written, got: Input should be "),
    ({"objectives": {"accuracy": "high"}}, "a record's objectives.accuracy must be as it was written, got: "),
    (
        {"size_bytes": {"low": 3}},
        "a record's size_bytes must be as it was written, got: Input should be a valid integer",
    ),
    ({"architecture": []}, "a record's architecture must be as it was written, got: "),
    ({"latency_ms": float("inf")}, "a record's latency_ms must be as it was written, got: Input should be a finite"),
)


@pytest.mark.parametrize(("content", "message"), WRONG_SHAPES)
def test_a_line_that_is_json_and_no_record_is_refused_with_its_number(path: Path, content: Any, message: str) -> None:
    append_record(path, make_record())
    line = content if isinstance(content, str) else json.dumps({**json.loads(to_json(make_record())), **content})
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=rf"^{re.escape(message)}[^\n]*\(line 2 of .*\)$"):
        read_records(path)


@pytest.mark.parametrize("damage", [b"\0" * 40, b"\xff\xfe", b'{"number": ', b"[" * 200_000])
def test_a_line_that_is_no_json_is_passed_over(path: Path, damage: bytes) -> None:
    append_record(path, make_record(number=1))
    with path.open("ab") as file:
        file.write(damage + b"\n")
    append_record(path, make_record(number=2))
    assert [record.number for record in read_records(path)] == [1, 2]


def test_the_first_record_of_a_student_that_went_on_is_that_of_its_search(path: Path) -> None:
    failed = make_record(1, status=Status.FAILED)
    for record in (make_record(0, num_steps=6), failed, make_record(0, num_steps=12, num_steps_before=6)):
        append_record(path, record)
    append_record(path, make_record(1, num_steps=6))
    assert [(record.number, record.num_steps) for record in read_first_records(path)] == [(0, 6), (1, 6)]
    assert {record.number: record.num_steps for record in read_records(path)} == {0: 12, 1: 6}

import json
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.results.records import Role
from reports.results_page import append_results, read_results
from tests.reports.results_page.example_results import record, records


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    append_results(tmp_path / "records.jsonl", records())
    assert list(read_results(tmp_path / "records.jsonl")) == records()


def test_a_line_says_which_version_of_the_schema_it_has(tmp_path: Path) -> None:
    append_results(tmp_path / "records.jsonl", records())
    assert [line["schema_version"] for line in lines_of(tmp_path / "records.jsonl")] == [1] * 4


def test_of_a_cell_that_was_made_again_the_last_records_count(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append_results(path, records())
    append_results(path, [record(Role.STUDENT, mean=0.5, latency_ms=8.0)])
    student = next(each for each in read_results(path) if each.role is Role.STUDENT)
    assert (student.mean.value, len(read_results(path)), len(lines_of(path))) == (0.5, 4, 5)


def test_without_a_file_there_are_no_records(tmp_path: Path) -> None:
    assert read_results(tmp_path / "records.jsonl") == ()


def test_a_figure_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_results(tmp_path / "records.jsonl", [record(Role.STUDENT, mean=float("nan"), latency_ms=8.0)])
    assert not (tmp_path / "records.jsonl").exists()


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda line: line[:50], r"a result must be one line of JSON, got '.*' \(line 2 of .*records.jsonl\)"),
        (lambda line: "[]", r"a result must be a JSON object, got a list \(line 2"),
        (lambda line: line.replace('"schema_version": 1', '"schema_version": 9'), "schema_version must be 1, got 9"),
        (lambda line: line.replace('"median_ms": 40.0', '"median_ms": "fast"'), "latency.median_ms must be"),
        (lambda line: line.replace('"size_bytes": 4000000, ', ""), "size_bytes must be"),
        (lambda line: line.replace('"role": "teacher"', '"role": "boss"'), "role must be"),
        (lambda line: line.replace('"cell"', '"more": 1, "cell"'), "more must be"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, damage: object, rule: str) -> None:
    path = tmp_path / "records.jsonl"
    append_results(path, records())
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = damage(lines[1])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=rule):
        read_results(path)

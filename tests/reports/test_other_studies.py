"""Tests of reports of several studies: what they have in common, and what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from minilm_core.errors import UserError
from reports import Study, load_study, write_report
from reports.other_studies import beside
from tests.reports.example_studies import LATENCY_TABLE, TASK, kept_labels, student, teacher, write_study


def study_named(folder: Path, name: str, *accuracies: float, **settings: object) -> Study:
    students = [
        student(number, accuracy, 1 + number, latency_ms=2.0 + 3 * number) for number, accuracy in enumerate(accuracies)
    ]
    write_study(folder, [*students, teacher(0.92)], evaluation=kept_labels(TASK), latency=LATENCY_TABLE)
    search_yaml = folder / "search.yaml"
    search_yaml.write_text(yaml.safe_dump({**yaml.safe_load(search_yaml.read_text()), "name": name, **settings}))
    return load_study(folder)


def test_each_study_has_its_part_of_the_common_frontier_and_volume(tmp_path: Path) -> None:
    first, second = study_named(tmp_path / "a", "one", 0.7, 0.8), study_named(tmp_path / "b", "two", 0.75, 0.78)
    found = beside(first, [second])
    rows = {row["study"]: row for row in found.summary}
    # Of two equally fast students the more accurate one is on the common frontier.
    assert [rows[name]["num_on_common"] for name in ("one", "two")] == [1, 1]
    assert [rows[name]["num_students"] for name in ("one", "two")] == [2, 2]
    assert rows["one"]["best"] == "trial 1 (2x64 A2)"
    assert all(0 < rows[name]["share"] <= 1 for name in rows)
    assert [model["name"] for model in found.models] == ["two, trial 0", "two, trial 1"]
    assert found.names == "one and two"


def test_the_report_draws_the_students_of_the_others(tmp_path: Path) -> None:
    first, second = study_named(tmp_path / "a", "one", 0.7, 0.8), study_named(tmp_path / "b", "two", 0.75, 0.78)
    report = write_report(first, tmp_path / "both", others=[second], formats=["html", "json", "md"])
    content = json.loads((report.folder / "report.json").read_text())
    assert [row["study"] for row in content["studies"]] == ["one", "two"]
    assert len(content["trials"]) == 3
    page = report.html.read_text(encoding="utf-8")
    assert '"two, trial 1"' in page
    assert "one and two have the same tasks" in page
    assert "| two | 2 |" in report.markdown.read_text(encoding="utf-8")


def test_studies_of_other_objectives_are_refused_by_name(tmp_path: Path) -> None:
    first = study_named(tmp_path / "a", "one", 0.7)
    second = study_named(tmp_path / "b", "two", 0.75, objectives=["accuracy", "size_bytes"])
    rule = r"^the studies of one report must have the same objectives, got accuracy, latency_ms, size_bytes in"
    with pytest.raises(UserError, match=rule):
        beside(first, [second])


def test_studies_without_a_common_device_are_refused(tmp_path: Path) -> None:
    first, second = study_named(tmp_path / "a", "one", 0.7), study_named(tmp_path / "b", "two", 0.75)
    (second.path / "latency.json").unlink()
    with pytest.raises(UserError, match=r"must have the same devices, got latency_ms: cpu, .* on .* and none in"):
        beside(first, [load_study(second.path)])


def test_studies_of_one_name_are_refused(tmp_path: Path) -> None:
    first, second = study_named(tmp_path / "a", "one", 0.7), study_named(tmp_path / "b", "one", 0.75)
    with pytest.raises(UserError, match=r"^the studies of one report must have different names, got one, one$"):
        beside(first, [second])

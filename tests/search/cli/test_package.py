"""Tests of which decisions `package --picked` accepts; whole packages are made in the tests of a whole study."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minilm_core.results.record_lines import append_record
from tests.reports.example_studies import student, write_full_study
from tests.search.fuzzing import Ended, run


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up students, of which one is picked."""
    folder = write_full_study(tmp_path / "study").path
    assert run(tmp_path, "pick", "study").code == 0
    return folder


def package_picked(study: Path) -> Ended:
    return run(study.parent, "package", study.name, "--picked", "-o", "out")


def edit_decision(study: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = study / "decision.json"
    decision = json.loads(path.read_text(encoding="utf-8"))
    change(decision)
    path.write_text(json.dumps(decision), encoding="utf-8")


def test_a_decision_made_from_other_records_is_refused_in_one_line_that_names_the_remedy(study: Path) -> None:
    append_record(study / "records.jsonl", student(6, 0.95))
    ended = package_picked(study)
    assert ended.code == 2
    assert ended.stderr == (
        "minilm-search: study/decision.json must be made from the study's present records and by the present rules, "
        "got one made from others; run pick again\n"
    )
    assert not (study.parent / "out").exists()


def test_picking_again_makes_the_decision_acceptable(study: Path) -> None:
    append_record(study / "records.jsonl", student(6, 0.95))
    assert run(study.parent, "pick", "study").code == 0
    # The next thing that package needs is settings, of which the made-up study has few.
    assert "decision.json" not in package_picked(study).stderr
    assert "search.yaml" in package_picked(study).stderr


@pytest.mark.parametrize("trial", [4, 99, None, "1"], ids=["failed", "absent", "none", "text"])
def test_a_decision_for_no_complete_student_is_blamed_on_the_decision(study: Path, trial: object) -> None:
    edit_decision(study, lambda decision: decision["winner"].update(trial=trial))
    ended = package_picked(study)
    assert ended.code == 2
    assert ended.stderr == (
        f"minilm-search: study/decision.json must name the trial of a complete student, got {trial}; run pick again\n"
    )


def test_a_decision_for_no_student_is_refused_with_the_remedy(study: Path) -> None:
    assert run(study.parent, "pick", "study", "--max-size", "1kB").code == 4
    ended = package_picked(study)
    assert ended.code == 2
    assert ended.stderr.endswith("the latest pick found none; run pick with other limits\n")

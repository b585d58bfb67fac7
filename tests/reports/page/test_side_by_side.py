"""Tests of one student as a list of facts, and of two side by side."""

import json
import re

import pytest

from minilm_core.errors import UserError
from reports import Study, side_by_side
from reports.page.side_by_side import SideBySide
from tests.reports.example_studies import kept_labels, student, study_of, task_result, teacher


def lines_of(found: SideBySide) -> dict[str, tuple[tuple[str, ...], str]]:
    return {line.name: (line.values, line.difference) for line in found.lines}


def test_one_student_is_told_with_its_place_its_figures_and_no_difference(full_study: Study) -> None:
    found = side_by_side(full_study, [1])
    lines = lines_of(found)
    assert found.headings == ("", "trial 1")
    assert all(len(cells) == 2 for cells in found.cells())
    assert lines["Status"] == (("complete",), "")
    assert lines["Place"] == (("on the frontier",), "")
    assert lines["Layers x width, heads"][0] == (full_study.students[1].architecture.label,)
    assert re.fullmatch(r"0\.9000 \[0\.\d{4}, 0\.\d{4}\]", lines["Accuracy, validation"][0][0])
    assert lines["Share of the teacher's, validation"][0][0].startswith("97.8% [")
    assert lines["Predicted latency, ms"] == (("8.00",), "")
    assert lines["Folder"][0] == ("trials/0001/student",)


def test_two_students_have_paired_intervals_and_multiples_of_their_costs(full_study: Study) -> None:
    found = side_by_side(full_study, [0, 1])
    lines = lines_of(found)
    assert found.headings == ("", "trial 0", "trial 1", "second against first")
    values, difference = lines["Accuracy, validation"]
    assert [value[:6] for value in values] == ["0.8000", "0.9000"]
    assert difference.startswith("+10.0 points [")
    assert lines["Predicted latency, ms"] == (("2.00", "8.00"), "4.00×")
    # The other way round the signs and the multiples are the other way round.
    back = lines_of(side_by_side(full_study, [1, 0]))
    assert back["Accuracy, validation"][1].startswith("-10.0 points [")
    assert back["Predicted latency, ms"] == (("8.00", "2.00"), "0.25×")


def test_what_neither_student_has_is_left_out_and_equal_figures_have_no_multiple(full_study: Study) -> None:
    lines = lines_of(side_by_side(full_study, [0, 1]))
    assert "First weights" not in lines
    assert lines["Workers"] == (("1", "1"), "")


def test_tasks_are_compared_one_by_one() -> None:
    """One student is better at one task and worse at the other, so that their means are near each other."""
    records = [
        student(0, 0.8, tasks={"a": task_result(0.70, 0), "b": task_result(0.90, 1)}),
        student(1, 0.8, tasks={"a": task_result(0.90, 2), "b": task_result(0.70, 3)}),
    ]
    lines = lines_of(side_by_side(study_of(*records, evaluation=kept_labels("a", "b")), [0, 1]))
    assert lines["Accuracy, validation"][1].endswith(": cannot be told apart")
    signs = {name: difference[:5] for name, (_, difference) in lines.items() if name.endswith("(accuracy), validation")}
    assert signs == {"a (accuracy), validation": "+20.0", "b (accuracy), validation": "-20.0"}


def test_a_trial_that_failed_is_told_with_its_reason_and_dashes(full_study: Study) -> None:
    lines = lines_of(side_by_side(full_study, [4, 0]))
    assert lines["Status"][0] == ("failed: CUDA out of memory | tried 2 GiB <b>here</b>", "complete")
    assert lines["Place"][0] == ("–", "on the frontier")
    assert lines["Accuracy, validation"][1] == "paired interval not measured"
    assert lines["Folder"][0][0] == "–"


def test_without_outcomes_no_difference_is_claimed() -> None:
    study = study_of(student(0, 0.8, tasks={}), student(1, 0.9, tasks={}), teacher(1.0, tasks={}))
    lines = lines_of(side_by_side(study, [0, 1]))
    assert lines["Accuracy, validation"] == (("not measured", "not measured"), "paired interval not measured")


def test_the_figures_are_plain_json(full_study: Study) -> None:
    content = json.loads(json.dumps(side_by_side(full_study, [0, 1]).as_json()))
    assert [row["trial"] for row in content["students"]] == [0, 1]
    assert content["second_against_first"]["Predicted latency, ms"] == "4.00×"


@pytest.mark.parametrize(
    ("trials", "rule"),
    [
        ([], r"--trial must be given once, or twice with different numbers, got \[\]"),
        ([1, 1], r"--trial must be given once, or twice with different numbers, got \[1, 1\]"),
        ([0, 1, 2], r"--trial must be given once, or twice with different numbers, got \[0, 1, 2\]"),
        ([99], "--trial must be that of a student with a record, got 99"),
    ],
)
def test_what_names_no_student_or_too_many_is_refused(full_study: Study, trials: list[int], rule: str) -> None:
    with pytest.raises(UserError, match=f"^{rule}$"):
        side_by_side(full_study, trials)

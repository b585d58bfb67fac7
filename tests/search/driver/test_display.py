from dataclasses import replace

import pytest

from minilm_core.errors import FailureKind
from minilm_core.results.objectives import objectives_named
from search.driver.display import Display, StageClock, describe, step_shown, students_label
from search.study.progress import Progress
from tests.reports.example_studies import failed, student

OBJECTIVES = objectives_named(["accuracy", "size_bytes"])


@pytest.fixture
def display() -> Display:
    return Display("reviews", OBJECTIVES, num_trials=4, max_concurrent=2)


def test_a_complete_trial_is_one_line_of_its_figures() -> None:
    record = student(3, 0.7, num_layers=2, hidden_size=64)
    line = describe(record)
    assert line.startswith("trial 3: 2x64 A")
    assert f"accuracy {record.objectives['accuracy']:.3f}" in line
    assert f"{record.size_bytes / 1e6:.1f} MB" in line


def test_a_trials_seconds_are_given_by_stage() -> None:
    record = replace(student(3, 0.7), seconds={"distilling": 18.2, "fine-tuning on mood": 98.4})
    assert describe(record).endswith("  117 s (distilling 18, fine-tuning on mood 98)")
    assert describe(replace(record, seconds={})).endswith("  0 s")


def test_a_failed_trial_is_one_line_with_its_kind() -> None:
    line = describe(failed(2, FailureKind.OUT_OF_MEMORY, "not enough memory"))
    assert "failed: out of memory: not enough memory" in line


def test_a_message_that_names_its_kind_does_not_name_it_twice() -> None:
    line = describe(failed(2, FailureKind.OUT_OF_MEMORY, "out of memory on the node: 22.6 of 23.5 GB in use"))
    assert line.endswith("failed: out of memory on the node: 22.6 of 23.5 GB in use")


def test_without_a_terminal_every_trial_is_a_line_with_what_is_left(
    display: Display, capsys: pytest.CaptureFixture[str]
) -> None:
    with display:
        display.record(student(0, 0.6))
    (line,) = capsys.readouterr().err.splitlines()
    assert "trial 0: " in line
    assert "[1/4 trials, about " in line


def test_records_of_earlier_runs_count_and_are_not_announced(
    display: Display, capsys: pytest.CaptureFixture[str]
) -> None:
    display.seen_before([student(0, 0.6), student(1, 0.5)])
    display.record(student(2, 0.7))
    (line,) = capsys.readouterr().err.splitlines()
    assert "[3/4 trials" in line


def test_a_new_stage_of_the_preparation_is_announced_and_its_steps_are_not(
    display: Display, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in range(1, 5):
        display.progress("preparation", Progress(stage="packing", step=step, num_steps=4))
    assert len(capsys.readouterr().err.splitlines()) == 1


def stage_clock(first: int, latest: int, num_steps: int) -> StageClock:
    """Returns the clock of a stage whose two latest events came ten seconds apart."""
    first_progress = Progress(stage="fine-tuning", step=first, num_steps=num_steps)
    latest_progress = Progress(stage="fine-tuning", step=latest, num_steps=num_steps)
    return StageClock(first=first_progress, began=100.0, latest=latest_progress, updated=110.0)


def test_the_rest_of_a_stage_is_estimated_from_the_steps_that_were_seen() -> None:
    # Five steps took ten seconds. Five steps are left, and four of their ten seconds have passed.
    assert stage_clock(first=10, latest=15, num_steps=20).seconds_left(now=114.0) == 6.0


def test_the_estimate_of_an_overdue_stage_is_zero() -> None:
    assert stage_clock(first=10, latest=15, num_steps=20).seconds_left(now=200.0) == 0.0


@pytest.mark.parametrize(("first", "latest"), [(10, 10), (10, 20)])
def test_a_stage_is_not_estimated_from_one_step_or_after_its_end(first: int, latest: int) -> None:
    assert stage_clock(first=first, latest=latest, num_steps=20).seconds_left(now=114.0) is None


def test_the_label_of_a_group_has_the_numbers_of_its_students() -> None:
    assert students_label((3,)) == "trial 3"
    assert students_label((3, 4, 5)) == "trials 3, 4, 5"


def test_progress_of_students_is_printed_only_at_intervals(
    display: Display, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in ("distilling", "fine-tuning on mood"):
        display.progress("trials 0, 1", Progress(stage=stage, step=1, num_steps=4, students=(0, 1)))
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_nothing_is_printed_on_stdout(display: Display, capsys: pytest.CaptureFixture[str]) -> None:
    display.message("hello")
    display.record(student(0, 0.6))
    assert capsys.readouterr().out == ""


def test_without_a_terminal_a_long_step_is_a_line_at_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    with step_shown("calibrating cpu") as show:
        for fraction in (0.0, 0.25, 0.5):
            show("students, 3x288", fraction)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "calibrating cpu: students, 3x288, 0% done\n"

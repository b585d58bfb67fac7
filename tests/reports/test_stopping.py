"""Tests of what the report says of students that were stopped early."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from minilm_core.results.records import Rung, Status, Stop, TrialRecord
from reports import Study, write_report
from reports.page.tables import rows
from reports.statistics import Split, resample
from reports.stopping import stopping_lines
from tests.reports.example_studies import TASK, kept_labels, student, task_result

MakeStudy = Callable[..., Study]
NUM_STEPS = 1000


def complete(number: int, accuracy: float, early_loss: float | None = None) -> TrialRecord:
    loss = 1.0 - accuracy
    return student(
        number,
        accuracy,
        num_steps=NUM_STEPS,
        held_out_loss=loss,
        rungs=(Rung(step=200, held_out_loss=2 * loss if early_loss is None else early_loss),),
        seconds={"distilling": 100.0, "fine-tuning on topics": 200.0},
        device_hours=300 / 3600,
    )


def stopped(number: int, stage: str = "distilling", step: int = 200) -> TrialRecord:
    is_distilled = stage != "distilling"
    record = complete(number, 0.5)
    return replace(
        record,
        status=Status.STOPPED,
        objectives={},
        tasks=record.tasks if is_distilled else {},
        num_steps=step,
        seconds={"distilling": step / 10},
        device_hours=step / 10 / 3600,
        stop=Stop(stage=stage, reason="others were ahead"),
    )


def lines(make_study: MakeStudy, *records: TrialRecord) -> tuple[str, ...]:
    study = make_study(*records, evaluation=kept_labels(TASK))
    return stopping_lines(replace(study, config={**study.config, "stopping": {"rungs": [200], "reduction": 3.0}}))


def test_a_search_that_stops_no_student_has_nothing_to_say(make_study: MakeStudy) -> None:
    assert stopping_lines(make_study(complete(0, 0.8), evaluation=kept_labels(TASK))) == ()


def test_students_that_were_stopped_before_it_was_switched_off_are_told_of(make_study: MakeStudy) -> None:
    study = make_study(complete(0, 0.8), stopped(1), evaluation=kept_labels(TASK))
    assert "1 of 2 trials were stopped" in stopping_lines(study)[0]


def test_where_students_were_stopped_is_counted_in_the_order_of_a_trial(make_study: MakeStudy) -> None:
    records = [stopped(1), stopped(2, "fine-tuning on other", NUM_STEPS), stopped(3), stopped(4, step=400)]
    assert lines(make_study, complete(0, 0.8), *records)[0] == (
        "4 of 5 trials were stopped: 2 at step 200, 1 at step 400 and 1 before fine-tuning on other."
    )


def test_none_stopped_is_said(make_study: MakeStudy) -> None:
    assert lines(make_study, complete(0, 0.8)) == ("None of 1 trial was stopped.",)


def test_what_stopping_saved_is_estimated_from_complete_students(make_study: MakeStudy) -> None:
    # 20 of 300 s: 100 s of distillation at its own speed, and 200 s of fine-tuning as the complete student of its size.
    line = lines(make_study, complete(0, 0.8), stopped(1), stopped(2))[1]
    assert line.startswith(f"They took {40 / 3600:.4g} device-hours, and would have taken about {600 / 3600:.4g} if")


def test_without_a_complete_student_the_saving_is_unknown(make_study: MakeStudy) -> None:
    assert "is not known without a complete student" in lines(make_study, stopped(1))[1]


@pytest.mark.parametrize(("order", "tau"), [((0, 1, 2, 3, 4), "1.00"), ((4, 3, 2, 1, 0), "-1.00")])
def test_the_rung_is_ranked_against_the_end(make_study: MakeStudy, order: tuple[int, ...], tau: str) -> None:
    students = [complete(n, 0.9 - n / 50, early_loss=1.0 + place) for n, place in enumerate(order)]
    (_, line) = lines(make_study, *students)
    assert line.startswith("The held-out loss at step 200 ranks 5 complete students as that at the end does: Kendall's")
    assert f"tau {tau} [" in line


def test_too_few_students_are_not_ranked(make_study: MakeStudy) -> None:
    assert len(lines(make_study, *(complete(n, 0.9 - n / 50) for n in range(4)))) == 1


def test_the_scores_of_some_tasks_are_no_accuracy(make_study: MakeStudy) -> None:
    half = replace(stopped(1, "fine-tuning on other", NUM_STEPS), tasks={TASK: task_result(0.99, 1)})
    study = make_study(complete(0, 0.8), half, evaluation=kept_labels(TASK))
    (row,) = [row for row in rows(study, resample(study, Split.VALIDATION)) if row["status"] == "stopped"]
    assert row["accuracy"] is None
    assert row["accuracy_with_interval"] is None
    assert row["stopped_in"] == "fine-tuning on other"
    assert study.best is not None
    assert study.best.number == 0


def test_the_report_has_a_section_on_it(make_study: MakeStudy) -> None:
    study = make_study(complete(0, 0.8), stopped(1), evaluation=kept_labels(TASK))
    study = replace(study, config={**study.config, "stopping": {"rungs": [200], "reduction": 3.0}})
    written = write_report(study)
    for file in (written.html, written.markdown):
        text = file.read_text(encoding="utf-8")
        assert "What was stopped" in text
        assert "1 of 2 trials were stopped: 1 at step 200." in text

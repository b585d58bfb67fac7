import dataclasses
from collections.abc import Callable

import pandas
import pytest

from minilm_core.errors import UserError
from minilm_core.results.objectives import OBJECTIVES
from reports import Study
from reports.trial_rows import accuracy_of, to_pandas, trial_row
from tests.reports.example_studies import TASK, student, task_result

STAGES = {"distillation": 12.5, "finetuning": 3.0}


def test_a_frame_has_one_row_a_record_in_their_order(full_study: Study) -> None:
    frame = full_study.to_pandas()
    assert frame["name"].tolist() == [record.label for record in full_study.records]
    assert frame["role"].tolist() == ["student"] * 6 + [
        "teacher",
        "twin",
        "twin_from_random_weights",
        "truncated_teacher",
    ]
    assert frame["failure"].dropna().tolist() == ["out of memory", "infeasible"]
    assert frame["trial"].dropna().tolist() == [0, 1, 2, 3, 4, 5]


def test_every_objective_is_a_column_with_the_value_of_the_record(full_study: Study) -> None:
    frame = full_study.to_pandas()
    assert set(OBJECTIVES) <= set(frame.columns)
    for (_, row), record in zip(frame.iterrows(), full_study.records, strict=True):
        for name, value in record.objectives.items():
            assert row[name] == value


def test_the_students_on_the_frontier_are_marked(full_study: Study) -> None:
    frame = full_study.to_pandas()
    assert set(frame["trial"][frame["is_on_frontier"]]) == {student.number for student in full_study.frontier}


def test_every_task_has_both_splits_with_their_intervals(full_study: Study) -> None:
    frame, record = full_study.to_pandas(), full_study.records[1]
    row, result = frame.iloc[1], record.tasks[TASK]
    assert result.test is not None
    assert row[f"task_{TASK}/metric"] == "accuracy"
    for name, evaluation in ((f"task_{TASK}", result.validation), (f"task_{TASK}/test", result.test)):
        assert (row[name], row[f"{name}/low"], row[f"{name}/high"]) == (
            evaluation.value,
            evaluation.low,
            evaluation.high,
        )


def test_tasks_whose_names_end_alike_have_columns_of_their_own() -> None:
    record = student(0, 0.0, tasks={"a": task_result(0.8, 1), "a_test": task_result(0.6, 2)})
    row = trial_row(record)
    assert (row["task_a"], row["task_a/test"], row["task_a_test"]) == (0.8, 0.8, 0.6)


def test_seconds_have_one_column_a_stage() -> None:
    frame = to_pandas([trial_row(student(0, 0.8, seconds=STAGES)), trial_row(student(1, 0.8))])
    assert frame["seconds/distillation"].iloc[0] == 12.5
    assert frame["seconds/finetuning"].isna().tolist() == [False, True]


def test_the_types_do_not_depend_on_what_was_measured(full_study: Study) -> None:
    full, empty = full_study.to_pandas(), to_pandas([])
    common = empty.columns
    assert len(empty) == 0
    assert full[common].dtypes.equals(empty.dtypes)
    assert str(full["num_parameters"].dtype) == "Int64"
    assert full["started_at"].iloc[0] == pandas.Timestamp("2026-11-22T10:00:00", tz="UTC")
    assert pandas.isna(full["started_at"].iloc[4])


@pytest.mark.parametrize("damage", [{"num_tokens": 2**70}, {"started_at": "yesterday"}])
def test_a_figure_that_fits_no_column_is_refused_in_one_line(damage: dict) -> None:
    record = dataclasses.replace(student(0, 0.8), **damage)
    with pytest.raises(UserError, match=r"^the figures of every record must fit the columns of a table, got [^\n]*$"):
        to_pandas([trial_row(record)])


def test_accuracy_is_the_mean_of_the_tasks_where_it_is_no_objective(make_study: Callable[..., Study]) -> None:
    both = student(0, 0.0, tasks={"a": task_result(0.8, 1), "b": task_result(0.6, 2)})
    without = dataclasses.replace(both, objectives={})
    assert accuracy_of(without) == pytest.approx(0.7)
    assert accuracy_of(dataclasses.replace(without, tasks={})) is None

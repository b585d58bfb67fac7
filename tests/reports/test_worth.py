"""Tests of what the report says of each part of a student's recipe."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from minilm_core.results.records import Role, TrialRecord
from reports import Study
from reports.statistics import Split, resample
from reports.worth import Worth, worth_of_recipe
from tests.reports.example_studies import TASK, ablation_twin, kept_labels, student, task_result, twin

MakeStudy = Callable[..., Study]
ON_LABELS, FROM_RANDOM = Role.TWIN_WITHOUT_SOFT_LABELS, Role.TWIN_FROM_RANDOM_WEIGHTS


def worth(make_study: MakeStudy, *records: TrialRecord) -> Worth | None:
    study = make_study(*records, evaluation=kept_labels(TASK))
    return worth_of_recipe(study, resample(study, Split.VALIDATION), resample(study, Split.TEST))


def test_a_student_without_a_twin_has_no_worth(make_study: MakeStudy) -> None:
    assert worth(make_study, student(0, 0.8)) is None


def test_each_part_is_the_gain_over_the_model_that_lacks_it(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    ablated = ablation_twin(FROM_RANDOM, best, 0.5), ablation_twin(ON_LABELS, best, 0.7)
    found = worth(make_study, student(0, 0.8), best, twin(best, 0.75), *ablated)
    assert found is not None
    assert found.student.number == best.number
    assert [part.name for part in found.parts] == ["the teacher's weights", "soft labels", "distillation"]
    differences = [part.comparison.difference for part in found.parts]
    assert found.whole.difference is not None
    gains = [difference.value for difference in differences if difference is not None]
    assert len(gains) == 3
    assert abs(sum(gains) - found.whole.difference.value) < 1e-12
    assert found.sentence.startswith(
        "The recipe of trial 1 (2x64 A2) was worth, on the test split: the teacher's weights +20.0"
    )
    assert "soft labels +5.0 points [" in found.sentence
    assert found.sentence.endswith("] over random weights.")


@pytest.mark.parametrize(
    ("role", "accuracy", "part", "together"),
    [(FROM_RANDOM, 0.5, "the teacher's weights", "+40.0"), (ON_LABELS, 0.7, "soft labels", "+20.0")],
)
def test_a_part_that_a_student_lacks_is_not_named(
    make_study: MakeStudy, role: Role, accuracy: float, part: str, together: str
) -> None:
    best = student(1, 0.90)
    found = worth(make_study, best, twin(best, 0.75), ablation_twin(role, best, accuracy))
    assert found is not None
    assert [other.name for other in found.parts] == [part, "distillation"]
    assert f"together {together} points" in found.sentence


def test_parts_without_a_twin_of_their_own_are_named_together(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    study = make_study(best, twin(best, 0.75), ablation_twin(FROM_RANDOM, best, 0.5), evaluation=kept_labels(TASK))
    taught = replace(study, config={**study.config, "finetuning": {"soft_labels": {"weight": 0.9}}})
    found = worth_of_recipe(taught, resample(taught, Split.VALIDATION), resample(taught, Split.TEST))
    assert found is not None
    assert [part.name for part in found.parts] == ["the teacher's weights and soft labels", "distillation"]


def test_distillation_alone_has_no_sum(make_study: MakeStudy) -> None:
    best = student(1, 0.90)
    found = worth(make_study, best, twin(best, 0.9))
    assert found is not None
    assert [part.name for part in found.parts] == ["distillation"]
    assert found.sentence.endswith(" (not told apart from 0).")
    assert "together" not in found.sentence


def test_the_twins_are_those_of_one_student(make_study: MakeStudy) -> None:
    best, other = student(1, 0.90), student(0, 0.8)
    found = worth(make_study, other, best, twin(best, 0.75), twin(other, 0.6), ablation_twin(FROM_RANDOM, other, 0.5))
    assert found is not None
    assert [part.comparison.other.number for part in found.parts] == [1]


def test_without_outcomes_a_part_is_not_measured(make_study: MakeStudy) -> None:
    best = student(1, 0.90, tasks={TASK: task_result(0.9, 1)})
    study = make_study(best, twin(best, 0.75))
    found = worth_of_recipe(study, resample(study, Split.VALIDATION), resample(study, Split.TEST))
    assert found is not None
    assert found.sentence == "The recipe of trial 1 (2x64 A2) was worth: distillation not measured."

"""Tests of requests for more steps of finished students: what is noted, what is left, and what is refused."""

from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import append_record, read_records
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.study.more_steps import ask_for_more_steps, asked_for, check_can_go_on, steps_left
from tests.paths import QUICKSTART_YAML
from tests.reports.example_studies import student


def config_with(*overrides: str) -> SearchConfig:
    return load_config(QUICKSTART_YAML, ["distillation.num_steps=40", "budget.num_trials=2", *overrides]).config


@pytest.fixture
def config() -> SearchConfig:
    return config_with("distillation.schedule=wsd")


@pytest.fixture
def study(tmp_path: Path) -> StudyPaths:
    """A study whose two trials have ended, each with its state before the decay."""
    paths = StudyPaths(root=tmp_path)
    for number in (0, 1):
        append_record(paths.records, student(number, 0.7, num_steps=40))
        (paths.trial_folder(number) / "stable").mkdir(parents=True)
    return paths


def test_students_go_on_for_more_steps_than_they_have(study: StudyPaths, config: SearchConfig) -> None:
    assert asked_for(study) == {}
    assert ask_for_more_steps(study, config, [1], 20)
    assert asked_for(study) == steps_left(study, read_records(study.records)) == {1: 60}
    append_record(study.records, student(1, 0.7, num_steps=60, num_steps_before=40))
    assert steps_left(study, read_records(study.records)) == {}
    assert ask_for_more_steps(study, config, [0, 1], 20)
    assert asked_for(study) == {0: 60, 1: 80}


def test_a_repeated_request_adds_none_while_steps_or_trials_are_left(study: StudyPaths, config: SearchConfig) -> None:
    assert not ask_for_more_steps(study, config_with("distillation.schedule=wsd", "budget.num_trials=3"), [1], 20)
    assert asked_for(study) == {}
    assert ask_for_more_steps(study, config, [1], 20)
    assert not ask_for_more_steps(study, config, [0], 20)
    assert asked_for(study) == {1: 60}


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_other_schedules_are_refused_with_the_reason(schedule: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_can_go_on(config_with(f"distillation.schedule={schedule}"))
    assert str(refusal.value) == (
        f"--add-steps needs distillation.schedule wsd, got {schedule}, whose learning rate falls over all the steps of "
        "a run: a longer one would have had other rates from its warm-up on, so that no state belongs to both"
    )


def test_a_student_without_its_state_is_refused(study: StudyPaths, config: SearchConfig) -> None:
    (study.trial_folder(1) / "stable").rmdir()
    with pytest.raises(
        UserError,
        match=r"state before its decay, got no .*0001/stable; .*keep_stable_state keeps it, unless",
    ):
        ask_for_more_steps(study, config, [0, 1], 20)
    assert asked_for(study) == {}


def test_a_trial_without_a_complete_student_is_refused(study: StudyPaths, config: SearchConfig) -> None:
    with pytest.raises(UserError, match="--trial must be that of a complete student, got 2"):
        ask_for_more_steps(study, config, [2], 20)


@pytest.mark.parametrize("plan", ["confirmation.json", "finetuning_check/plan.json"])
def test_students_that_other_runs_are_about_must_stay_as_they_are(
    study: StudyPaths, config: SearchConfig, plan: str
) -> None:
    (study.root / plan).parent.mkdir(exist_ok=True)
    (study.root / plan).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=f"must stay as they are while it has .*{plan}"):
        ask_for_more_steps(study, config, [0], 20)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"1": null}'])
def test_a_damaged_request_is_refused(study: StudyPaths, content: str) -> None:
    study.more_steps.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"more_steps\.json must be as resume --add-steps wrote it"):
        asked_for(study)

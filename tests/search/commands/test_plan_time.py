"""Tests of the time in a plan: earlier timings are found again, and what the plan prints of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from search.cli.plan_rows import plan_rows
from search.commands.plan import Plan, make_plan
from search.commands.plan_time import Subject, kept_time, measured_time
from search.config.loading import load_config
from search.study.resolved import ResolvedStudy
from search.study.timings import save_timings
from tests.paths import QUICKSTART_YAML
from tests.search.commands.timings import SETTINGS, student_of, study_of, timings_of


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """The override that gives a study a cache with timings of its own."""
    override = f"storage={{path: {tmp_path}/studies, cache: {tmp_path}/cache}}"
    study = study_of(override)
    save_timings(timings_of(study), Subject.of(study, None).file)
    return override


def plan_of(study: ResolvedStudy, *overrides: str) -> Plan:
    loaded = load_config(QUICKSTART_YAML, [*SETTINGS, *overrides])
    return make_plan(loaded, study, None, kept_time(study, None))


def rows_of(plan: Plan) -> dict[str, str]:
    return dict(plan_rows(plan))


def test_without_a_measurement_the_time_is_unknown(tmp_path: Path) -> None:
    override = f"storage={{path: {tmp_path}/studies, cache: {tmp_path}/cache}}"
    plan = plan_of(study_of(override), override)
    assert plan.time is None
    assert rows_of(plan)["time"] == "unknown (plan --time measures it)"
    assert plan.to_dict()["time"] is None


def test_an_earlier_measurement_is_found_and_printed_with_its_date(cache: str) -> None:
    rows = rows_of(plan_of(study_of(cache), cache))
    assert rows["distilling a student"] == "22 s to 54 s, about 38 s"
    assert rows["fine-tuning it"] == "13 s to 39 s, about 26 s"
    assert rows["teacher's pass"] == "20 s"
    assert rows["baselines"] == "2.3 min to 2.7 min, about 2.5 min"
    assert rows["device-hours"] == "0.09 to 0.16, about 0.12 core-hours"
    assert rows["wall time"] == "2.9 min to 6.3 min, about 4.0 min"
    assert rows["measured"] == "2026-01-01T00:00:00+00:00, in 12 s, by 2 processes at once, an example"
    assert "time" not in rows
    assert "note" not in rows


def test_the_present_budget_enters_an_earlier_measurement(cache: str) -> None:
    shorter = kept_time(study_of(cache, "budget.num_trials=2"), None)
    assert shorter is not None
    assert shorter.num_trials.high == 2


@pytest.mark.parametrize("override", ["distillation.batch_size=32", "space.num_layers=[1, 2]", "teacher.layer=5"])
def test_an_earlier_measurement_with_other_settings_is_not_used(cache: str, override: str) -> None:
    assert kept_time(study_of(cache), None) is not None
    assert kept_time(study_of(cache, override), None) is None


def test_timings_of_cached_targets_are_not_used_where_they_do_not_fit(cache: str) -> None:
    assert kept_time(study_of(cache, "storage.max_cache_bytes=1"), None) is None


def test_limits_leave_out_shapes_and_what_they_would_take(cache: str) -> None:
    most = student_of(2).num_parameters(study_of().student_family)
    subject = Subject.of(study_of(cache, f"limits.max_parameters={most}"), None)
    assert subject.feasible == (student_of(1), student_of(2))
    assert Subject.of(study_of(cache, f"limits={{max_parameters: {most}, max_latency_ms: 1}}"), None) == replace(
        subject, study=study_of(cache, f"limits={{max_parameters: {most}, max_latency_ms: 1}}")
    )


def test_no_shape_within_the_limits_is_refused_before_anything_is_measured(cache: str) -> None:
    study = study_of(cache, "limits.max_parameters=1")
    assert kept_time(study, None) is None
    with pytest.raises(UserError, match="limits must admit at least one student of the space"):
        measured_time(study, None, lambda *_: None)


def test_a_search_for_a_gpu_that_is_not_here_has_no_time(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert kept_time(study_of(cache, "resources.gpus_per_worker=1"), None) is None


@pytest.mark.parametrize(
    ("override", "note"),
    [
        ("stopping={rungs: [50]}", "early stopping is left out: as if no student were stopped"),
        ("budget.trial_timeout_minutes=1", "2 shapes take longer than budget.trial_timeout_minutes"),
        ("budget.max_device_hours=0.075", "budget.max_device_hours, or the number of students in the space, ends the "),
        ("limits.max_latency_ms=5", "more shapes may be over a limit: limits on latency need a latency table"),
        ("corpus.max_tokens=null", "device-hours and wall time are without the teacher's pass over the text"),
    ],
)
def test_what_a_time_leaves_out_is_said_beside_it(cache: str, override: str, note: str) -> None:
    plan = plan_of(study_of(cache, override), cache, override)
    assert rows_of(plan)["note"].startswith(note)


def test_fewer_trials_are_said_to_run_where_the_device_hours_end_the_search(cache: str) -> None:
    override = "budget.max_device_hours=0.075"
    assert rows_of(plan_of(study_of(cache, override), cache, override))["trials until it ends"] == "3 to 4, about 3"


def test_the_time_is_in_the_json_with_the_timings_that_it_follows_from(cache: str) -> None:
    time = json.loads(json.dumps(plan_of(study_of(cache), cache).to_dict()))["time"]
    assert time["distillation_seconds"] == {"low": 22.0, "mean": pytest.approx(38.0), "high": 54.0}
    assert time["num_trials"] == {"low": 4.0, "mean": 4.0, "high": 4.0}
    assert time["wall_seconds"]["low"] == pytest.approx(171.5)
    assert time["timings"] == timings_of(study_of()).to_dict()


def test_several_students_may_share_a_teacher_that_runs_beside_them(cache: str) -> None:
    study = study_of(cache, "storage.max_cache_bytes=1", "budget.num_trials=80")
    subject = Subject.of(study, None)
    timings = replace(timings_of(study), caching_seconds={})
    time = subject.time(timings)
    # At best each of them takes its part of the teacher's time; with too little memory, all of it.
    assert time.distillation_seconds.high == pytest.approx(54)
    assert 22 - 5 < time.distillation_seconds.low < 22 - 5 / 2

"""Tests of timing the parts of a search: what is measured on real steps, and what comes back from fresh processes."""

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import UserError
from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy
from search.study.timings import students_to_time
from search.worker.timing_process import TimingRequest, answer, time_in_fresh_processes
from tests.search.running import OpenStudy

CACHED = (TeacherRole.TEACHER,)


def request_for(study: ResolvedStudy, cached: Sequence[TeacherRole], scratch: Path) -> TimingRequest:
    students = students_to_time(study, list(study.space.architectures()))
    return replace(TimingRequest.of(study, students, tuple(cached)), scratch=str(scratch))


def answers_to(request: TimingRequest) -> list[dict[str, Any]]:
    out = io.StringIO()
    answer(request.to_json(), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def measured(study: ResolvedStudy, cached: Sequence[TeacherRole], scratch: Path) -> dict[str, Any]:
    *progress, last = answers_to(request_for(study, cached, scratch))
    assert "timings" in last, last
    fractions = [message["fraction"] for message in progress]
    assert fractions == sorted(fractions)
    timings: dict[str, Any] = last["timings"]
    return timings


def test_a_request_is_read_as_it_was_written(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(is_prepared=False)
    request = request_for(study, CACHED, tmp_path)
    assert TimingRequest.from_json(request.to_json()) == request
    assert request.study() == study


def test_a_task_that_cannot_be_read_is_answered_with_one_line(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study("tasks.0.path=absent", is_prepared=False)
    *_, last = answers_to(request_for(study, CACHED, tmp_path))
    assert "absent" in last["error"]
    assert "\n" not in last["error"]


@pytest.mark.slow
def test_real_steps_of_three_students_and_the_teacher_are_timed(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study(is_prepared=False)
    found = measured(study, CACHED, tmp_path)
    assert [entry["architecture"] for entry in found["students"]] == [
        {"num_layers": layers, "hidden_size": width, "num_heads": heads, "intermediate_ratio": 4.0}
        for layers, width, heads in ((1, 16, 2), (1, 24, 3), (2, 24, 6))
    ]
    for entry in found["students"]:
        assert all(seconds > 0 for seconds in entry["distillation"].values())
    for entry in (*found["students"], found["teacher"]):
        times = entry["tasks"]["mood"]
        # 100 examples in batches of 16 are learnt in seven steps, each of which takes longer than its forward pass.
        assert times["epoch_seconds"] > times["pass_seconds"] > 0
        assert times["evaluation_seconds"] > 0
        assert times["unlabelled_epoch_seconds"] == 0
    assert found["caching_seconds"]["teacher"] > 0
    assert found["assistant"] is None
    # Nothing is left in the study.
    assert not study.paths.trials.exists()
    assert not study.paths.preparation.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("distillation.micro_batch_size=2", "resources.workers_per_trial=2", "vocabulary=40"),
        ("assistant={hidden_size: 12, num_heads: 4}", "space.hidden_sizes=[12, 24]", "space.head_sizes=[3]"),
        ("finetuning.soft_labels={weight: 0.5, temperature: 2}", "finetuning.selection_fraction=0.2"),
    ],
    ids=["parts of a batch", "an assistant", "soft labels"],
)
def test_steps_are_timed_with_the_settings_of_the_study(
    overrides: tuple[str, ...], open_study: OpenStudy, tmp_path: Path
) -> None:
    study = open_study(*overrides, is_prepared=False)
    found = measured(study, (), tmp_path)
    # The teacher runs beside its students, so that there is no cache to make.
    assert found["caching_seconds"] == {}
    assert all(entry["distillation"]["targets_seconds"] > 0 for entry in found["students"])
    assert (found["assistant"] is None) == (study.teachers.assistant is None)


@pytest.mark.slow
def test_two_fresh_processes_measure_at_once_and_leave_no_files(open_study: OpenStudy, tmp_path: Path) -> None:
    study, seen = open_study(is_prepared=False), list[str]()
    request = request_for(study, CACHED, tmp_path)
    timings = time_in_fresh_processes(request, tmp_path, 2, "this one", lambda stage, _: seen.append(stage))
    assert (timings.num_processes, timings.device, len(timings.students)) == (2, "this one", 3)
    assert 0 < timings.start_seconds < timings.seconds
    assert seen[0] == "starting"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mistake_of_the_user_comes_back_from_a_fresh_process(open_study: OpenStudy, tmp_path: Path) -> None:
    study = open_study("tasks.0.path=absent", is_prepared=False)
    with pytest.raises(UserError, match="absent"):
        time_in_fresh_processes(request_for(study, CACHED, tmp_path), tmp_path, 1, "", lambda *_: None)
    assert list(tmp_path.iterdir()) == []

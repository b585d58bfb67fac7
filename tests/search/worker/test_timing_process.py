"""Tests of timing the parts of a search: what is measured on real steps, and what comes back from fresh processes."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from search.config.teacher_assignment import TeacherRole
from search.study.resolved import ResolvedStudy
from search.study.timings import students_to_time
from search.worker.timing_process import TimingRequest, answer
from tests.search.running import OpenStudy

BOTH = (TeacherRole.TEACHER,)


def request_for(study: ResolvedStudy, cached: Sequence[TeacherRole], scratch: Path) -> TimingRequest:
    students = students_to_time(study, list(study.space.architectures()))
    request = TimingRequest.of(study, students, tuple(cached))
    return TimingRequest.from_json(request.to_json().replace('"scratch": ""', f'"scratch": "{scratch}"'))


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
    request = request_for(open_study(is_prepared=False), BOTH, tmp_path)
    assert TimingRequest.from_json(request.to_json()) == request
    assert request.study().config == open_study(is_prepared=False, *()).config or request.students


@pytest.mark.slow
def test_real_steps_of_three_students_and_the_teacher_are_timed(open_study: OpenStudy, tmp_path: Path) -> None:
    found = measured(open_study(is_prepared=False), BOTH, tmp_path)
    print(json.dumps(found, indent=1))

"""Tests of the command for a machine with a GPU: a dry run of it, and steps that fail or do not end."""

import json
import time
from pathlib import Path

import pytest

from tests.benchmarks import device
from tests.benchmarks.device import Outcome, Step
from tests.benchmarks.device_students import SIZES, Trained
from tests.paths import ROOT


def ran(code: str, out: Path, limit_seconds: float = 60) -> Outcome:
    """Runs a step that executes Python code, by means of a module of the standard library."""
    once = ("-n", "1", "-r", "1", "--", code)
    return device.run(Step(name="step", module="timeit", arguments=once, limit_seconds=limit_seconds), out)


def test_the_steps_leave_time_for_a_start_and_an_end_within_eight_minutes(tmp_path: Path) -> None:
    assert sum(step.limit_seconds for step in device.steps_of(tmp_path, is_dry=False)) <= 440


def test_the_tests_that_use_a_gpu_are_there() -> None:
    assert [name for name in device.GPU_TESTS if not (ROOT / name).is_file()] == []


@pytest.mark.slow
def test_a_dry_run_passes_and_reports_every_step(tmp_path: Path) -> None:
    assert device.main([str(tmp_path / "out"), "--dry-run"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert (report["is_dry_run"], report["has_passed"]) == (True, True)
    assert report["versions"]["torch"] is not None
    steps = {step["name"]: step for step in report["steps"]}
    assert [steps[name]["exit_code"] for name in ("students", "gpu-tests", "bench-gpu")] == [0, 0, 0]
    students = [Trained(**student) for student in steps["students"]["results"]["students"]]
    assert [student.size for student in students] == [f"{layers}x{width}" for layers, width in SIZES]
    assert all(student.has_learnt for student in students)
    assert any(row["what"].endswith("3 students") for row in steps["bench-gpu"]["results"])
    assert "passed" in steps["gpu-tests"]["last_lines"][-1]


def test_a_step_that_fails_is_reported_with_the_end_of_its_output(tmp_path: Path) -> None:
    outcome = ran("print('began', flush=True); raise OSError('no device')", tmp_path)
    assert not outcome.has_passed
    assert outcome.last_lines[-1] == "OSError: no device"
    assert (tmp_path / "step.log").read_text().startswith("began")


def test_a_step_is_stopped_with_its_processes_at_its_time_limit(tmp_path: Path) -> None:
    began = time.monotonic()
    forever = "import threading; threading.Event().wait(600)"
    sleeping = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {forever!r}])"
    outcome = ran(sleeping, tmp_path, limit_seconds=1)
    assert outcome.exit_code is None
    assert time.monotonic() - began < 60
    assert device.described(outcome).startswith("stopped after")


def test_one_step_that_fails_makes_the_command_fail_and_does_not_keep_the_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = tuple(
        Step(name=name, module=module, arguments=(), limit_seconds=60)
        for name, module in (("a", "none"), ("b", "this"))
    )
    monkeypatch.setattr(device, "steps_of", lambda *_, **__: steps)
    assert device.main([str(tmp_path)]) == 1
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [step["exit_code"] for step in report["steps"]] == [1, 0]
    assert report["has_passed"] is False


def test_a_student_whose_loss_is_no_number_has_not_learnt() -> None:
    trained = Trained(
        size="1x16",
        held_out_before=1.0,
        held_out_after=float("nan"),
        accuracy=0.5,
        distillation_seconds=1.0,
        finetuning_seconds=1.0,
    )
    assert not trained.has_learnt

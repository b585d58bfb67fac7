"""Tests of the calibration in a fresh process: its request, its answer, and its failures."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, PretrainedConfig

from minilm_core import fresh_process
from minilm_core.errors import UserError
from minilm_core.latency.calibration_process import CalibrationRequest, answer, calibrate_in_fresh_process
from minilm_core.latency.table import LatencyTable
from minilm_core.latency.target import LatencyTarget, Runtime
from minilm_core.models.architecture import StudentArchitecture
from tests.minilm_core.encoder_families import CONFIGS

ARCHITECTURES = tuple(StudentArchitecture(num_layers=n, hidden_size=24, num_heads=4) for n in (1, 2))
TOO_LONG = "sequence_length must be at most 64 for this model, got 65"


def request_for(config: PretrainedConfig, sequence_length: int = 16) -> CalibrationRequest:
    return CalibrationRequest(
        architectures=ARCHITECTURES,
        base_config=json.loads(config.to_json_string(use_diff=False)),
        target=LatencyTarget(sequence_length=sequence_length),
        seed=7,
    )


def answers_to(request: CalibrationRequest) -> list[dict[str, Any]]:
    out = io.StringIO()
    answer(request.to_json(), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("runtime", Runtime)
def test_a_request_is_read_as_it_was_written(teacher_config: PretrainedConfig, runtime: Runtime) -> None:
    plain = request_for(teacher_config)
    request = replace(plain, target=LatencyTarget(num_threads=2, runtime=runtime))
    assert CalibrationRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize("family", CONFIGS)
def test_a_configuration_is_the_same_from_json_as_from_a_folder(family: str, tmp_path: Path) -> None:
    CONFIGS[family].save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    of_folder = AutoConfig.from_pretrained(tmp_path, local_files_only=True)
    assert AutoConfig.for_model(**content).to_diff_dict() == of_folder.to_diff_dict()


def test_a_mistake_of_the_user_is_answered_with_its_message(teacher_config: PretrainedConfig) -> None:
    assert answers_to(request_for(teacher_config, sequence_length=65)) == [{"error": TOO_LONG}]


@pytest.mark.slow
def test_progress_comes_before_the_table(teacher_config: PretrainedConfig) -> None:
    *progress, last = answers_to(request_for(teacher_config))
    fractions = [message["fraction"] for message in progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    stages = list(dict.fromkeys(message["stage"] for message in progress))
    assert stages[0] == "encoder 1 of 3 is built"
    assert stages[-5:] == [f"round {number} of 5" for number in range(1, 6)]
    table = LatencyTable.from_dict(last["table"], source="the answer")
    assert table.covers(ARCHITECTURES)
    assert table.target == LatencyTarget(sequence_length=16)


@pytest.mark.slow
def test_a_fresh_process_measures_and_hands_its_table_back(teacher_config: PretrainedConfig) -> None:
    seen: list[float] = []
    table = calibrate_in_fresh_process(request_for(teacher_config), lambda _, fraction: seen.append(fraction))
    assert seen[-1] == pytest.approx(1.0)
    assert table.covers(ARCHITECTURES)
    assert all(table.predict_ms(architecture) > 0 for architecture in ARCHITECTURES)


@pytest.mark.slow
def test_a_mistake_of_the_user_comes_back_and_no_module_of_the_current_folder_is_run(
    teacher_config: PretrainedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for module in ("minilm_core", "json", "torch"):
        (tmp_path / f"{module}.py").write_text("print('a stranger')\nraise ImportError\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{TOO_LONG}$"):
        calibrate_in_fresh_process(request_for(teacher_config, sequence_length=65), lambda *_: None)
    assert "a stranger" not in "".join(capfd.readouterr())


def test_a_process_that_fails_is_reported_with_its_exit_code(
    teacher_config: PretrainedConfig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dying = [sys.executable, "-c", "import sys; sys.exit('the interpreter is broken')"]
    monkeypatch.setattr(fresh_process, "module_command", lambda _: dying)
    with pytest.raises(UserError, match="must end with exit code 0, got 1; what it printed on stderr names the cause"):
        calibrate_in_fresh_process(request_for(teacher_config), lambda *_: None)
    assert "the interpreter is broken" in capfd.readouterr().err


def test_a_configuration_that_transformers_cannot_build_is_answered_in_one_line(
    teacher_config: PretrainedConfig,
) -> None:
    request = request_for(teacher_config)
    unknown = CalibrationRequest(
        architectures=request.architectures,
        base_config={**request.base_config, "hidden_act": "://"},
        target=request.target,
    )
    (answered,) = answers_to(unknown)
    assert answered["error"].startswith("a calibration must be able to build and time the space's encoders, got ")
    assert "://" in answered["error"]
    assert "\n" not in answered["error"]

"""Tests of the benchmark of accuracy against tokens."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tests.benchmarks import tokens
from tests.benchmarks.tiny_material import write_material
from tests.benchmarks.token_curves import Row, points, read_rows

Call = Callable[..., list[Row]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs the benchmark on a tiny teacher, and returns the rows of its file."""
    material = write_material(tmp_path)

    def run(*options: str, name: str = "rows") -> list[Row]:
        rows = tmp_path / f"{name}.jsonl"
        few = ["--sizes", "1x24", "--warmup-steps", "2", "--finetuning-seeds", "1", "--learning-rate", "1e-3"]
        tokens.main([str(rows), *material, *few, *options])
        return read_rows(rows)

    return run


def weights(folder: Path, num_steps: int) -> dict[str, object]:
    (file,) = folder.glob(f"*/1x24-seed-0/{num_steps:08d}/student/model.safetensors")
    return {name: tensor.tolist() for name, tensor in load_file(file).items()}


@pytest.mark.slow
def test_a_budget_added_later_is_the_run_that_begins_anew_and_nothing_is_trained_twice(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = call("--budgets", "640")
    assert [(row.num_steps, row.num_tokens) for row in first] == [(0, 0), (10, 640)]
    extended = call("--budgets", "640", "1280", "--finetuning-seeds", "2")
    assert extended[:2] == first
    assert [(row.num_steps, row.finetuning_seed) for row in extended[2:]] == [(0, 1), (10, 1), (20, 0), (20, 1)]
    alone = call("--budgets", "1280", name="alone")
    assert weights(tmp_path / "rows.work", 20) == weights(tmp_path / "alone.work", 20)
    of_long_run = next(row for row in extended if row.num_steps == 20)
    assert (alone[-1].held_out_nats, alone[-1].score) == (of_long_run.held_out_nats, of_long_run.score)
    capsys.readouterr()
    assert call("--budgets", "640", "1280", "--finetuning-seeds", "2") == extended
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_student(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = call("--budgets", "1280", name="whole")

    save = tokens.Line._save

    def be_killed(line: tokens.Line, student: PreTrainedModel, num_steps: int, facts: dict[str, float]) -> None:
        if num_steps:
            raise KeyboardInterrupt
        save(line, student, num_steps, facts)

    with monkeypatch.context() as patch:
        patch.setattr(tokens.Line, "_save", be_killed)
        with pytest.raises(KeyboardInterrupt):
            call("--budgets", "1280", "--checkpoint-every-seconds", "0")
    (checkpoint,) = tmp_path.glob("rows.work/*/1x24-seed-0/00000020/checkpoint/step-*")
    assert checkpoint.name == "step-00000019"
    resumed = call("--budgets", "1280")
    assert [row.held_out_nats for row in resumed] == [row.held_out_nats for row in whole]
    assert weights(tmp_path / "rows.work", 20) == weights(tmp_path / "whole.work", 20)


def test_rows_of_other_settings_are_refused(call: Call, tmp_path: Path) -> None:
    call("--budgets", "640")
    with pytest.raises(
        SystemExit, match=r"^tokens: the rows of a file must have the same learning_rate, got 0.1 after"
    ):
        call("--budgets", "640", "--learning-rate", "0.1")


def row(score: float, **facts: Any) -> Row:
    common: dict[str, Any] = {"size": "3x192", "task": "sst2", "metric": "accuracy", "device": "CPU", "seconds": 1.0}
    return Row(**{**common, "held_out_nats": 1.0, "finetuning_seed": 0, "score": score, **facts})


def test_a_point_is_the_mean_over_distillations_compared_with_the_twins_of_its_own_seeds() -> None:
    rows = [
        row(score, seed=seed, num_steps=num_tokens // 10, num_tokens=num_tokens)
        for seed, scores in enumerate([(0.5, 0.6), (0.7, 0.9)])
        for num_tokens, score in zip((0, 100), scores, strict=True)
    ]
    twin, student = points(rows)
    assert (twin.num_tokens, twin.score.value, twin.points_over_twin) == (0, pytest.approx(0.6), None)
    assert (student.score.value, student.score.standard_error) == (pytest.approx(0.75), pytest.approx(0.15))
    gain = student.points_over_twin
    assert gain is not None
    assert (gain.value, gain.standard_error) == (pytest.approx(15.0), pytest.approx(5.0))


def test_the_standard_error_of_a_single_distillation_is_that_of_its_fine_tunings() -> None:
    rows = [row(score, seed=0, num_steps=0, num_tokens=0, finetuning_seed=n) for n, score in enumerate((0.5, 0.7))]
    (point,) = points(rows)
    assert (point.score.value, point.score.standard_error) == (pytest.approx(0.6), pytest.approx(0.1))
    assert point.held_out_nats.standard_error is None


def test_the_table_has_a_line_for_each_budget_and_the_figure_is_drawn_beside_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("vl_convert", reason="figures need the report extra")
    file = tmp_path / "rows.jsonl"
    settings = {"teacher": "a teacher", "initialisation": "random", "learning_rate": 1e-3}
    rows = [row(0.5, seed=0, num_steps=0, num_tokens=0), row(0.625, seed=0, num_steps=400, num_tokens=2000)]
    lines = [{"settings": {**settings, "batch_size": 2, "sequence_length": 32}}, *map(asdict, rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    tokens.main([str(file), "--table"])
    *_, titles, twin, student, svg, png = capsys.readouterr().out.splitlines()
    assert titles.split("  ")[-1].strip() == "points over the twin"
    assert twin.split() == ["3x192", "twin", "1.0000", "0.5000"]
    assert student.split() == ["3x192", "2,000", "1.0000", "0.6250", "+12.5"]
    assert Path(svg).read_text(encoding="utf-8").startswith("<svg")
    assert Path(png).is_file()

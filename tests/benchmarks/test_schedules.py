"""Tests of the benchmark of learning-rate schedules."""

import re
from pathlib import Path

import pytest

from tests.benchmarks import schedules
from tests.minilm_core.encoder_families import write_teacher
from tests.paths import ROOT


@pytest.mark.slow
def test_it_prints_a_line_for_each_schedule_and_counts_the_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_teacher("bert", tmp_path / "teacher")
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    options = ["--text", str(text), "--teacher", str(tmp_path / "teacher"), "--budgets", "5", "10", "--batch-size", "2"]
    sizes = ["--sequence-length", "32", "--relation-heads", "2", "--held-out-sequences", "2"]
    schedules.main([*options, *sizes, "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"schedule +5 steps +10 steps +steps taken in all", lines[-4].rstrip())
    # The decay of the shorter run is one step.
    for line, name, steps in zip(lines[-3:], ("linear", "cosine", "wsd"), (15, 15, 11), strict=True):
        assert re.fullmatch(rf"{name} +\d+\.\d{{4}} +\d+\.\d{{4}} +{steps}", line.rstrip())

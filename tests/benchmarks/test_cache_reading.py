"""Tests of the benchmark of reading cached targets."""

import re
from pathlib import Path

import numpy as np
import pytest

from minilm_core.distillation.targets import CachedTargets
from minilm_core.settings.schedules import Precision, Relation
from tests.benchmarks import cache_reading
from tests.benchmarks.steps import CPU


def test_it_prints_both_speeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache_reading.main(["--folder", str(tmp_path), "--gigabytes", "0.004", "--rounds", "1"])
    pattern = r"0\.0 GB: end to end [\d,]+ MB/s, in random batches [\d,]+ MB/s, \d+\.\d\d of it\n"
    assert re.fullmatch(pattern, capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


def test_batches_read_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = cache_reading.write_cache(tmp_path, 2_000_000)
    targets = CachedTargets(tmp_path, CPU, Precision.FP32, layers=[1], relations=[Relation.VALUE])
    seen: list[int] = []
    monkeypatch.setattr(targets, "states", seen.extend)
    cache_reading.read_batches(targets, [np.array([3, 0]), np.array([1])])
    assert (manifest.num_rows, seen) == (10, [3, 0, 1])

"""Tests of measured latencies: their percentiles, what makes them noisy, and their file."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.latency import BenchTiming, LatencyTarget, Runtime, append_bench, read_benches
from minilm_core.latency.bench_timings import percentiles

TIMING = BenchTiming(
    target=LatencyTarget(),
    device_name="a timed processor, torch 2.13.0, Python 3.11.7",
    p50_ms=4.0,
    percentiles_ms={90: 4.5},
    num_samples=100,
    spread=1.05,
    busy_cores=0.0,
    num_cores=2,
    load_seconds=0.5,
    measured_at="2026-12-01T12:00:00+00:00",
)


@pytest.mark.parametrize(
    ("num_samples", "given"), [(63, []), (64, [90]), (129, [90]), (130, [90, 95]), (661, [90, 95]), (662, [90, 95, 99])]
)
def test_a_percentile_needs_enough_samples(num_samples: int, given: list[int]) -> None:
    samples = [float(sample) for sample in range(num_samples)]
    found = percentiles(samples)
    assert list(found) == given
    assert all(value == pytest.approx(num_samples * percentile / 100, abs=1) for percentile, value in found.items())


def test_throughput_counts_the_sequences_of_a_call() -> None:
    assert TIMING.sequences_a_second == 250
    assert replace(TIMING, target=LatencyTarget(batch_size=8)).sequences_a_second == 2000


@pytest.mark.parametrize(
    ("change", "noise"),
    [
        ({}, None),
        ({"spread": 1.3}, "the student took 1.30 times as long in one round as in another"),
        ({"busy_cores": 1.0}, None),
        ({"busy_cores": 1.2}, "other processes used 1.2 of 2 cores"),
        ({"busy_cores": 0.2, "target": LatencyTarget(num_threads=2)}, "other processes used 0.2 of 2 cores"),
    ],
)
def test_a_timing_says_why_it_is_not_to_be_trusted(change: dict, noise: str | None) -> None:
    assert replace(TIMING, **change).noise == noise


def test_the_last_timing_of_a_student_on_a_target_counts(tmp_path: Path) -> None:
    file, int8 = tmp_path / "bench.jsonl", LatencyTarget(runtime=Runtime.ONNXRUNTIME_INT8)
    assert read_benches(file) == {}
    append_bench(file, 3, TIMING)
    append_bench(file, 3, replace(TIMING, target=int8, p50_ms=2.0))
    append_bench(file, 3, replace(TIMING, p50_ms=4.2))
    other = replace(TIMING, device_name="another processor, torch 2.13.0, Python 3.11", p50_ms=9.0)
    upgraded = replace(other, device_name="another processor, torch 2.14.0, Python 3.12", p50_ms=8.0)
    append_bench(file, 3, other)
    append_bench(file, 3, upgraded)
    assert read_benches(file) == {
        (3, LatencyTarget(), "a timed processor"): replace(TIMING, p50_ms=4.2),
        (3, LatencyTarget(), "another processor"): upgraded,
        (3, int8, "a timed processor"): replace(TIMING, target=int8, p50_ms=2.0),
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"p50_ms": 4.0', '"p50_ms": 0'),
        ('"p50_ms": 4.0', '"p50_ms": NaN'),
        ('"p50_ms": 4.0', '"p50_ms": "fast"'),
        ('"trial": 3', '"trial": []'),
        ('"device": "cpu"', '"device": "tpu"'),
        ('"timing"', '"time"'),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "bench.jsonl"
    append_bench(file, 3, TIMING)
    line = file.read_text()
    assert old in line
    file.write_text(line + line.replace(old, new))
    with pytest.raises(UserError, match=r"^line 2 of .*bench\.jsonl must be a timing that bench wrote, got for .+$"):
        read_benches(file)


def test_a_line_that_a_crash_has_cut_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    append_bench(file, 3, TIMING)
    file.write_bytes(file.read_bytes() + b'{"schema_version": 1, "tri\xff')
    append_bench(file, 4, TIMING)
    assert {key.trial for key in read_benches(file)} == {3, 4}


def test_a_line_of_a_later_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bench.jsonl"
    append_bench(file, 3, TIMING)
    file.write_text(file.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UserError, match="must have schema_version 1, got 2"):
        read_benches(file)

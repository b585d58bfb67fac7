"""Tests of measured latencies in the report and in a pick."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.latency import LatencyTarget, Runtime, append_bench
from reports import Certainty, Requirements, Study, load_study, pick, picked_trial, write_decision, write_report
from reports.benches import measured, prediction_error
from tests.minilm_core.latency.test_bench_timings import TIMING
from tests.reports.example_studies import LATENCY_TABLE

HERE = replace(TIMING, device_name=LATENCY_TABLE.fingerprint.label)
INT8 = replace(HERE, target=LatencyTarget(runtime=Runtime.ONNXRUNTIME_INT8))


def timed(study: Study, **timings: object) -> Study:
    """The study with timings of trials 0 and 1, which are predicted to take 2 and 8 ms."""
    for name, timing in timings.items():
        append_bench(study.paths.benches, int(name.removeprefix("trial_").split("_")[0]), timing)
    return load_study(study.path)


def test_a_measured_latency_stands_beside_the_prediction_of_the_same_machine(full_study: Study) -> None:
    study = timed(full_study, trial_0=replace(HERE, p50_ms=2.5), trial_1=HERE, trial_0_int8=INT8)
    found = list(measured(study))
    assert [(one.student.number, one.timing.target.label, one.predicted_ms) for one in found] == [
        (0, "cpu1,b1,s128", 2.0),
        (1, "cpu1,b1,s128", 8.0),
        (0, "cpu1,b1,s128,onnxruntime-int8", None),
    ]
    assert [one.error for one in found] == [pytest.approx(-0.2), pytest.approx(1.0), None]
    assert prediction_error(found) == (
        "Over 2 quiet measurements, predicted medians are off by 60.0% on average and 100.0% at most."
    )


def test_a_prediction_for_another_machine_is_not_compared(full_study: Study) -> None:
    (one,) = measured(timed(full_study, trial_0=TIMING))
    assert one.predicted_ms is None


def test_the_report_shows_measured_latencies_and_marks_noisy_ones(full_study: Study, tmp_path: Path) -> None:
    study = timed(full_study, trial_0=HERE, trial_1=replace(HERE, spread=1.5))
    report = write_report(study, tmp_path, formats=["html", "md"])
    for path in (report.html, report.markdown):
        text = path.read_text(encoding="utf-8")
        assert "Measured on trained students" in text
        assert "Over 1 quiet measurement, predicted medians are off by 50.0%" in text
        assert "NOISY: the student took 1.50 times as long in one round as in another" in text


@pytest.mark.parametrize(
    ("timing", "limit", "qualifies"),
    [
        (replace(HERE, p50_ms=6.0), "7ms", True),
        (replace(HERE, p50_ms=9.0), "8.5ms", False),
        (replace(HERE, p50_ms=6.0, spread=1.5), "7ms", False),
        (replace(HERE, p50_ms=6.0, device_name="another machine"), "7ms", False),
    ],
    ids=["measured is faster", "measured is slower", "noisy: predicted counts", "another machine"],
)
def test_a_limit_holds_a_student_to_its_quiet_timing(
    full_study: Study, timing: object, limit: str, qualifies: bool
) -> None:
    study = timed(full_study, trial_1=timing)
    decision = pick(study, Requirements.parse(max_latency=[limit]), strictly=True)
    assert decision.winner is not None
    assert (decision.winner.number == 1) is qualifies


def test_a_sure_pick_adds_the_spread_of_a_timing(full_study: Study) -> None:
    study = timed(full_study, trial_1=replace(HERE, p50_ms=6.0, spread=1.2))
    limits = Requirements.parse(max_latency=["7ms"])
    sure = pick(study, limits, certainty=Certainty.SURE, strictly=True)
    assert sure.winner is not None
    assert sure.winner.number == 0
    assert (
        "measured latency 6.00 ms times the spread of its rounds, 1.20, is 0.20 ms over 7 ms"
        in sure.near_misses[0].reason
    )


def test_a_limit_on_what_was_only_measured_admits_the_students_that_were(full_study: Study) -> None:
    study = timed(full_study, trial_1=replace(INT8, p50_ms=3.0))
    decision = pick(study, Requirements.parse(max_latency=["4ms@onnxruntime-int8"]))
    assert decision.winner is not None
    assert (decision.winner.number, decision.num_qualifying) == (1, 1)
    with pytest.raises(UserError, match=r"; minilm-search bench .* --front --threads 4 measures it$"):
        pick(study, Requirements.parse(max_latency=["4ms@cpu4"]))


@pytest.mark.parametrize(("limit", "winner"), [("5ms@onnxruntime-int8,p99", None), ("31ms@onnxruntime-int8,p99", 1)])
def test_a_limit_on_a_percentile_is_held_to_that_percentile(full_study: Study, limit: str, winner: int | None) -> None:
    study = timed(full_study, trial_1=replace(INT8, percentiles_ms={90: 4.5, 95: 6.0, 99: 30.0}))
    found = pick(study, Requirements.parse(max_latency=[limit])).winner
    assert (None if found is None else found.number) == winner


def test_a_percentile_of_too_few_samples_admits_nobody(full_study: Study) -> None:
    decision = pick(timed(full_study, trial_1=INT8), Requirements.parse(max_latency=["9ms@onnxruntime-int8,p99"]))
    assert decision.winner is None
    assert "its p99 latency at onnxruntime-int8, p99 has too few samples" in [m.reason for m in decision.near_misses]


def test_a_limit_that_could_mean_timings_of_several_calls_is_refused(full_study: Study) -> None:
    four = replace(INT8, num_cores=8, target=LatencyTarget(runtime=Runtime.ONNXRUNTIME_INT8, num_threads=4))
    study = timed(full_study, trial_1=INT8, trial_1_four=four)
    with pytest.raises(UserError, match=r"^--max-latency must mean one of what was measured \(cpu1,.*; cpu4,.*\), got"):
        pick(study, Requirements.parse(max_latency=["5ms@onnxruntime-int8"]))
    assert pick(study, Requirements.parse(max_latency=["5ms@cpu4,onnxruntime-int8"])).num_qualifying == 1


def test_a_decision_is_older_than_a_timing(full_study: Study) -> None:
    write_decision(full_study, pick(full_study))
    assert picked_trial(load_study(full_study.path)) == 1
    study = timed(full_study, trial_1=HERE)
    with pytest.raises(UserError, match="run pick again"):
        picked_trial(study)

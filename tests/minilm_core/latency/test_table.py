import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.latency.measurements import Measurement, Statistic, Width
from minilm_core.latency.table import Contention, LatencyTable
from minilm_core.latency.target import Device, DeviceFingerprint, LatencyTarget, Runtime, fingerprint, fingerprint_key
from minilm_core.models.architecture import StudentArchitecture
from tests.paths import ROOT

NARROW = Width(hidden_size=128, num_heads=4, intermediate_ratio=4)
WIDE = Width(hidden_size=256, num_heads=4, intermediate_ratio=4)
LINES = {NARROW: (0.5, 1.25), WIDE: (0.75, 2.5)}


def measured(width: Width, num_layers: int, *disturbances: float, factor: float = 1.0) -> Measurement:
    """Returns the timings of a student with one run a round, which takes the true time and a disturbance."""
    intercept, per_layer = LINES[width]
    true_ms = (intercept + num_layers * per_layer) * factor
    rounds = [[true_ms * (1 + disturbance)] for disturbance in disturbances or (0.0, 0.0, 0.02)]
    return Measurement.from_rounds(width.with_layers(num_layers), rounds)


def table(**changes: object) -> LatencyTable:
    quiet = LatencyTable(
        target=LatencyTarget(),
        fingerprint=DeviceFingerprint(processor="some processor", isa=("avx2",), torch="2.13.0", python="3.11.7"),
        measured_at="2026-11-22T12:00:00+00:00",
        contention=Contention(num_cores=2, busy_cores=0.05),
        fitted=tuple(measured(width, depth) for width in (NARROW, WIDE) for depth in (2, 12)),
        held_out=(measured(NARROW, 5), measured(WIDE, 9)),
    )
    return dataclasses.replace(quiet, **changes)


def test_a_student_between_the_measured_depths_is_predicted():
    student = StudentArchitecture(num_layers=4, hidden_size=256, num_heads=4)
    assert table().predict_ms(student) == pytest.approx(0.75 + 4 * 2.5)


def test_a_width_that_was_not_measured_is_named():
    with pytest.raises(UserError, match=r"cpu1,b1,s128 lacks hidden size 128 with 8 heads and feed-forward ratio 4"):
        table().predict_ms(StudentArchitecture(num_layers=4, hidden_size=128, num_heads=8))


def test_a_table_covers_any_depth_of_its_widths_and_no_other_width():
    assert table().covers([NARROW.with_layers(7), WIDE.with_layers(3)])
    assert not table().covers([NARROW.with_layers(7), StudentArchitecture(num_layers=2, hidden_size=64, num_heads=4)])


def test_the_held_out_error_is_the_mean_relative_error():
    off = table(held_out=(measured(NARROW, 5, factor=1 / 1.04), measured(WIDE, 9, factor=1 / 0.98)))
    assert off.held_out_error == pytest.approx(0.03)


def test_a_quiet_machine_is_not_noisy():
    assert table().held_out_error == pytest.approx(0.0)
    assert table().spread == pytest.approx(1.02)
    assert not table().is_noisy


def test_rounds_that_differ_are_noisy():
    rounds = tuple(measured(width, depth, 0.0, 0.4) for width in (NARROW, WIDE) for depth in (2, 12))
    noisy = table(fitted=rounds, held_out=(measured(NARROW, 5, 0.0, 0.4),))
    assert noisy.is_noisy
    assert noisy.noise == "the same student took 1.40 times as long in one round as in another"


def test_one_disturbed_student_among_many_is_not_noisy():
    first, *others = table().fitted
    disturbed = dataclasses.replace(first, round_medians_ms=(*first.round_medians_ms, 3 * first.latency_ms))
    assert not table(fitted=(disturbed, *others)).is_noisy


@pytest.mark.parametrize(("num_threads", "busy_cores", "is_noisy"), [(1, 0.9, False), (1, 1.3, True), (2, 0.3, True)])
def test_a_machine_without_a_core_for_each_thread_is_noisy(num_threads: int, busy_cores: float, is_noisy: bool):
    busy = table(
        target=LatencyTarget(num_threads=num_threads), contention=Contention(num_cores=2, busy_cores=busy_cores)
    )
    assert busy.is_noisy is is_noisy


def test_mispredicted_held_out_students_are_noisy():
    off = table(held_out=(measured(NARROW, 5, factor=1.5),))
    assert off.noise == "held-out students were mispredicted by 33%"


def test_a_saved_table_loads_equal(tmp_path: Path):
    table().save(tmp_path / "latency.json")
    assert LatencyTable.load(tmp_path / "latency.json") == table()


def test_a_saved_table_keeps_its_tail(tmp_path: Path):
    table(p90_over_p50=1.25).save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").p90_over_p50 == 1.25


def test_a_saved_table_includes_what_follows_from_its_timings(tmp_path: Path):
    table().save(tmp_path / "latency.json")
    content = json.loads((tmp_path / "latency.json").read_text(encoding="utf-8"))
    target = {"device": "cpu", "num_threads": 1, "batch_size": 1, "sequence_length": 128, "runtime": "torch"}
    assert content["target"] == target
    assert content["device"] == "some processor (avx2), torch 2.13.0, Python 3.11.7"
    assert content["is_noisy"] is False
    assert (content["schema_version"], content["statistic"]) == (3, "median")
    assert content["held_out_error"] == pytest.approx(0.0)
    assert content["rows"][0]["per_layer_ms"] == pytest.approx(1.25)


def test_a_saved_table_keeps_its_runtime_and_its_kind(tmp_path: Path):
    target = LatencyTarget(num_threads=4, runtime=Runtime.ONNXRUNTIME_INT8)
    device = dataclasses.replace(table().fingerprint, onnxruntime="1.23.2")
    made = table(target=target, fingerprint=device, kind={"model_type": "bert", "shape": {"has_pooler": True}})
    made.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == made
    assert made.target.label == "cpu4,b1,s128,onnxruntime-int8"


def test_a_table_of_another_kind_of_encoder_is_refused_by_what_differs():
    made = table(
        kind={"model_type": "bert", "activation": ["gelu"], "shape": {"num_token_types": 2, "is_gated": False}}
    )
    made.check_kind({"model_type": "bert", "activation": ["gelu"], "shape": {"is_gated": False}}, "table.json")
    # A lookup more is no other kind, and neither is a default that is not written.
    made.check_kind(
        {"model_type": "bert", "activation": [], "shape": {"num_token_types": 1, "is_gated": False}}, "here"
    )
    with pytest.raises(UserError, match=r"kind of encoder, whose is_gated is True, got False in table.json"):
        made.check_kind({"model_type": "bert", "shape": {"is_gated": True}}, "table.json")
    with pytest.raises(UserError, match=r"must name its kind of encoder, got one of an earlier version in table.json"):
        table().check_kind({"model_type": "bert"}, "table.json")
    with pytest.raises(
        UserError, match=r"kind of encoder, whose activation is \['relu'\], got \['gelu'\] in table.json"
    ):
        made.check_kind({"model_type": "bert", "activation": ["relu"]}, "table.json")


def version_1(path: Path, **changes: object) -> Path:
    """Writes a table of schema version 1, which predicted the fastest round."""
    one, other = ({"num_layers": n, "hidden_size": 128, "num_heads": 4, "intermediate_ratio": 4} for n in (2, 12))
    content = {
        "schema_version": 1,
        "target": {"device": "cpu", "num_threads": 1, "batch_size": 1, "sequence_length": 128},
        "fingerprint": {"processor": "some processor", "isa": ["avx2"], "torch": "2.13.0", "python": "3.11.7"},
        "measured_at": "2026-11-22T12:00:00+00:00",
        "contention": {"num_cores": 2, "busy_cores": 0.05},
        "fitted": [
            {"architecture": one, "round_medians_ms": [3.5, 3.0, 3.75]},
            {"architecture": other, "round_medians_ms": [15.5, 16.0, 17.0]},
        ],
        "held_out": [{"architecture": {**one, "num_layers": 4}, "round_medians_ms": [5.5, 7.0, 7.0]}],
        "p90_over_p50": 1.125,
    }
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_a_table_of_schema_version_1_still_predicts_the_fastest_round(tmp_path: Path):
    old = LatencyTable.load(version_1(tmp_path / "latency.json"))
    assert old.statistic is Statistic.FASTEST_ROUND
    assert old.predict_ms(NARROW.with_layers(7)) == pytest.approx(3.0 + 5 * 1.25)
    assert old.predict_p90_ms(NARROW.with_layers(2)) == pytest.approx(1.125 * 3.0)
    assert old.held_out_error == pytest.approx(0.0)
    assert old.held_out_p90_error is None
    assert old.target.runtime is Runtime.TORCH


def test_a_table_of_schema_version_1_keeps_its_version_when_it_is_saved_again(tmp_path: Path):
    old = LatencyTable.load(version_1(tmp_path / "old.json"))
    old.save(tmp_path / "copy.json")
    assert LatencyTable.load(tmp_path / "copy.json") == old
    content = json.loads((tmp_path / "copy.json").read_text(encoding="utf-8"))
    assert (content["schema_version"], content["statistic"]) == (1, "fastest round")


def test_a_predicted_p90_is_the_median_times_the_tail_and_is_checked_on_held_out_students():
    assert table().predict_p90_ms(NARROW.with_layers(5)) is None
    assert table().held_out_p90_error is None
    first, second = table().held_out
    held_out = (
        dataclasses.replace(first, p90_ms=1.25 * first.latency_ms / 0.9),
        dataclasses.replace(second, p90_ms=1.25 * second.latency_ms / 1.2),
    )
    with_tail = table(p90_over_p50=1.25, held_out=held_out)
    assert with_tail.predict_p90_ms(first.architecture) == pytest.approx(1.25 * first.latency_ms)
    assert with_tail.held_out_p90_error == pytest.approx(0.15)


def test_a_missing_table_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="must be a file written by calibrate, got"):
        LatencyTable.load(tmp_path / "latency.json")


def test_a_file_that_is_not_json_is_refused(tmp_path: Path):
    (tmp_path / "latency.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="must be JSON written by calibrate"):
        LatencyTable.load(tmp_path / "latency.json")


def test_a_table_of_another_schema_is_refused(tmp_path: Path):
    (tmp_path / "latency.json").write_text('{"schema_version": 99}', encoding="utf-8")
    with pytest.raises(UserError, match="schema_version must be 1 or 2 or 3, got 99"):
        LatencyTable.load(tmp_path / "latency.json")


@pytest.mark.parametrize(
    "damage",
    [
        {"target": {"device": "cpu", "num_threads": "one"}},
        {"target": {"device": "abacus"}},
        {"fitted": []},
        {"fitted": 5},
        {"held_out": []},
        {"held_out": [{"architecture": {}}]},
        {"p90_over_p50": "twice"},
        {"p90_over_p50": float("inf")},
        {"contention": {"num_cores": 2, "busy_cores": None}},
        {"fingerprint": None},
    ],
    ids=str,
)
def test_a_damaged_table_is_refused_in_one_line(tmp_path: Path, damage: dict[str, object]):
    path = tmp_path / "latency.json"
    table().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **damage}), encoding="utf-8")
    with pytest.raises(UserError, match=r"^a latency table must be as calibrate wrote it, got a damaged one: [^\n]*$"):
        LatencyTable.load(path)


@pytest.mark.parametrize("content", ["[]", "3", "1e999", '{"schema_version": [2]}'])
def test_a_file_without_a_schema_version_is_refused(tmp_path: Path, content: str):
    (tmp_path / "latency.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match="schema_version must be 1 or 2 or 3, got"):
        LatencyTable.load(tmp_path / "latency.json")


def test_labels_name_device_threads_batch_and_length():
    assert LatencyTarget(num_threads=4, batch_size=8, sequence_length=64).label == "cpu4,b8,s64"
    assert LatencyTarget(device=Device.CUDA).label == "cuda,b1,s128"


@pytest.mark.parametrize("name", ["num_threads", "batch_size", "sequence_length"])
def test_a_target_with_a_zero_is_refused(name: str):
    with pytest.raises(UserError, match=f"{name} must be at least 1, got 0"):
        LatencyTarget(**{name: 0})


def test_threads_of_a_gpu_are_refused():
    with pytest.raises(UserError, match="num_threads must be 1 for a cuda target, got 2"):
        LatencyTarget(device=Device.CUDA, num_threads=2)


def test_a_fingerprint_key_differs_between_targets_and_not_between_calls():
    keys = [fingerprint_key(LatencyTarget(sequence_length=length), {}) for length in (128, 128, 64)]
    assert keys[0] == keys[1] != keys[2]


def test_a_fingerprint_key_differs_between_kinds_of_encoders():
    bert, deberta = ({"model_type": name, "layer_types": []} for name in ("bert", "deberta-v2"))
    assert fingerprint_key(LatencyTarget(), bert) == fingerprint_key(LatencyTarget(), dict(reversed(bert.items())))
    assert fingerprint_key(LatencyTarget(), bert) != fingerprint_key(LatencyTarget(), deberta)


def test_the_fingerprint_of_a_cpu_names_it():
    assert fingerprint(Device.CPU).processor


def test_a_cuda_fingerprint_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="a cuda target needs an NVIDIA GPU on this machine"):
        fingerprint(Device.CUDA)


def test_importing_the_table_does_not_import_torch():
    code = "import sys, minilm_core.latency.table; sys.exit('torch' in sys.modules)"
    root = ROOT
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})

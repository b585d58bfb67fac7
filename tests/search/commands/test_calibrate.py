"""Tests of `calibrate`: a table of a space, which needs no teacher, and a search that uses it elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minilm_core.errors import UserError
from minilm_core.latency.target import LatencyTarget, Runtime
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import TrialRecord
from minilm_core.settings.schema import plain
from reports import load_study
from search.commands.calibrate import calibrate_space, calibrate_study, check_error, parse_sizes, parse_target
from search.config.loading import load_config
from search.errors import SearchError
from tests.search.latency_tables import table_of
from tests.search.studies import NO_BASELINES, launch, run, students

SHAPE = StudentArchitecture(num_layers=1, hidden_size=8, num_heads=4)
TARGET = LatencyTarget(num_threads=2, sequence_length=16, runtime=Runtime.ONNXRUNTIME_INT8)


def test_options_name_a_target():
    assert parse_target({"threads": 2, "sequence_length": 16, "runtime": "onnxruntime-int8"}) == TARGET
    assert parse_target({}) == LatencyTarget()
    for option, value in (("device", "tpu"), ("runtime", "tvm")):
        with pytest.raises(UserError, match=f"^--{option} must be one of .*, got {value}$"):
            parse_target({option: value})


def test_a_further_encoder_has_layers_width_and_heads():
    assert parse_sizes("12x768x12") == StudentArchitecture(num_layers=12, hidden_size=768, num_heads=12)
    for wrong in ("12x768", "0x768x12", "12x768x12x4", "large"):
        with pytest.raises(UserError, match=f"^--also must be LAYERSxWIDTHxHEADS such as 12x768x12, got {wrong}$"):
            parse_sizes(wrong)


def test_a_table_that_predicts_badly_is_refused_if_the_user_is_strict():
    good = table_of(SHAPE, ms_per_layer=1.0)
    check_error("students", good)
    held_out = replace(good.held_out[0], latency_ms=1.5)
    bad = replace(good, held_out=(held_out,))
    with pytest.raises(SearchError, match=r"held-out students must be predicted within 10% with --strict, got 33.3%; "):
        check_error("students", bad)


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ((), "calibrate needs a search.yaml or --space, and not both"),
        (("--space", "tiny"), "--space must have -o FILE, the file for the table, got none"),
        (("--space", "tiny", "-o", "x.json", "--runtime", "tvm"), "--runtime must be one of torch, onnxruntime, "),
        (("--space", "tiny", "-o", "x.json", "--model", "gpt2"), "model_type must be one of bert, "),
        (("--space", "tiny", "-o", "x.json", "--model", "no.json"), "--model must be a family or the path of a config"),
        (("--space", "tiny", "-o", "x.json", "--set", "seed=1"), "--set must be given with a search.yaml"),
        (("search.yaml", "--runtime", "onnxruntime"), "--runtime must be given with --space; a search.yaml has keys"),
        (("--space", "tiny", "-o", "."), "--out must be a new file, or be replaced with --force, got ."),
        (("--space", "tiny", "-o", "x.json", "--also", "6x384x5"), "hidden_size must be a multiple of num_heads"),
        (("--space", "tiny", "-o", "x.json", "--threads", "0"), "num_threads must be at least 1, got 0"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_measured(arguments: tuple[str, ...], rule: str, tmp_path: Path):
    done = run("calibrate", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert rule in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x.json").exists()


@pytest.mark.slow
def test_tables_made_without_a_teacher_are_taken_along_to_a_search(material: Path, tmp_path: Path):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    space = load_config(material / "search.yaml").config.space
    table = calibrate_space(_written(space, tmp_path), "bert", TARGET)
    table.save(tmp_path / "server.json")
    shapes = tuple(space.architectures())
    phone = replace(table_of(*shapes, ms_per_layer=4.0), kind=table.kind)
    phone.save(tmp_path / "phone.json")
    overrides = (
        "budget.num_trials=2",
        f"latency=[{{name: server, table: {tmp_path}/server.json}}, {{name: phone, table: {tmp_path}/phone.json}}]",
        "objectives=[accuracy, latency_ms@server, latency_ms@phone]",
        "limits.max_latencies_ms={phone: 4ms}",
        *NO_BASELINES,
    )
    done = launch(material, tmp_path, *overrides)
    assert done.returncode == 0, done.stderr
    assert "calibrating" not in done.stderr
    study = load_study(tmp_path / "tiny")
    assert [facts.name for facts in study.latencies.values()] == ["server", "phone"]
    assert study.latencies["latency_ms"].conditions.qualifier == "cpu2,b1,s16,onnxruntime-int8,p50"
    for record in counted(study.paths):
        assert record.latency_ms == pytest.approx(table.predict_ms(record.architecture))
        # The limit admits students of one layer alone.
        assert record.latencies_ms == pytest.approx({"phone": 4.0})
        assert record.objectives["latency_ms@phone"] == record.latencies_ms["phone"]
    on_both = ("--max-latency", "1000ms@cpu2,onnxruntime-int8", "--max-latency", "4ms@phone")
    picked = run("pick", tmp_path / "tiny", *on_both, "--json")
    assert picked.returncode == 0, picked.stderr
    assert "at server, 4.00 ms at phone" in json.loads(picked.stdout)["reason"]
    refused = run("pick", tmp_path / "tiny", "--max-latency", "1000ms@cpu2,torch")
    assert refused.returncode == 2
    # The study keeps the tables, so that it can go on where the files are not.
    (tmp_path / "server.json").unlink()
    (tmp_path / "phone.json").unlink()
    done = run("resume", tmp_path / "tiny", "--add-trials", "1")
    assert done.returncode == 0, done.stderr
    assert len(counted(study.paths)) == 3


def counted(study: StudyPaths) -> list[TrialRecord]:
    """Returns the records of students that no limit refused."""
    return [record for record in students(study) if record.counts_for_budget]


def _written(space: object, folder: Path) -> str:
    file = folder / "space.yaml"
    file.write_text(json.dumps(plain(space)), encoding="utf-8")
    return str(file)


@pytest.mark.slow
def test_a_target_that_this_machine_cannot_time_is_named_and_left_out(material: Path):
    if torch.cuda.is_available():
        pytest.skip("this machine can time a GPU")
    targets = "latency=[{name: here, sequence_length: 16}, {name: gpu, device: cuda, sequence_length: 16}]"
    told: list[str] = []
    tables = calibrate_study(material / "search.yaml", [targets], is_forced=False, is_strict=False, tell=told.append)
    assert set(tables) == {"students@here"}
    assert told == ["this machine cannot time gpu; calibrate on one that can, and name its table"]

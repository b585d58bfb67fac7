"""Tests of the settings of several latency targets: their names, their objectives and their limits."""

from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.latency.target import Device, LatencyTarget, Runtime
from minilm_core.models.architecture import StudentArchitecture
from search.config.loading import load_config, resolved_yaml
from tests.search.config.example import SEARCH
from tests.search.latency_tables import table_of

TARGET = LatencyTarget(num_threads=4, sequence_length=64, runtime=Runtime.ONNXRUNTIME_INT8)
TWO = "latency: [{name: cpu1}, {name: gpu, device: cuda, batch_size: 32}]\n"
OBJECTIVES = "objectives=[accuracy, latency_ms@cpu1, latency_ms@gpu]"


def test_the_first_target_is_that_of_the_plain_objective_and_limit(write):
    config = load_config(write(SEARCH + TWO), [OBJECTIVES, "limits.max_latencies_ms={gpu: 2ms}"]).config
    assert config.objectives == ("accuracy", "latency_ms", "latency_ms@gpu")
    assert [objective.unit for objective in config.declared_objectives] == ["", "ms", "ms"]
    assert {name: target.target for name, target in config.latencies.items()} == {
        "latency_ms": LatencyTarget(),
        "latency_ms@gpu": LatencyTarget(device=Device.CUDA, batch_size=32),
    }
    assert config.limits.latencies_ms == {"latency_ms": 20.0, "latency_ms@gpu": 2.0}
    assert load_config(write(resolved_yaml(config))).config == config


def test_targets_that_have_names_are_predicted_even_if_nothing_else_needs_them(write):
    config = load_config(write(SEARCH + TWO), ["objectives=[accuracy]", "limits={}"]).config
    assert config.needs_latency_tables


def test_each_target_may_have_a_table_of_its_own(write, tmp_path: Path):
    shape = StudentArchitecture(num_layers=1, hidden_size=96, num_heads=4)
    table_of(shape, ms_per_layer=1.0, target=TARGET).save(tmp_path / "server.json")
    config = load_config(write(SEARCH + "latency: [{name: here}, {name: server, table: server.json}]\n")).config
    first, second = config.latencies.values()
    assert (first.table, second.table) == (None, str(tmp_path / "server.json"))
    assert second.target == TARGET
    with pytest.raises(UserError, match=r"latency.1.num_threads must be 4, as latency.1.table was measured, got 2$"):
        load_config(write(SEARCH + "latency: [{name: here}, {name: server, num_threads: 2, table: server.json}]\n"))


@pytest.mark.parametrize(
    ("latency", "overrides", "rule"),
    [
        ("[]", (), r"latency must have at least 1 target, got none$"),
        ("[{device: cpu}]", (), r"search.yaml:25: latency.0.name must be given$"),
        ("[{name: GPU}]", (), r"search.yaml:25: latency.0.name must be lower-case letters, .* got 'GPU'$"),
        ("[{name: a/b}]", (), r"latency.0.name must be lower-case letters, .* got 'a/b'$"),
        ("[{name: a}, {name: a}]", (), r"latency must have targets of different names, got a, a$"),
        ("[{name: a, thread: 1}]", (), r"search.yaml:25: unknown key 'latency.0.thread'; "),
        ("[{name: a, num_threads: 0}]", (), r"latency.0.num_threads must be at least 1, got 0$"),
        ("{name: a}", (), r"search.yaml:25: unknown key 'latency.name'"),
        ("cpu", (), r"search.yaml:25: latency must be a mapping of settings or a list of such mappings, got 'cpu'$"),
        ("[cpu]", (), r"search.yaml:25: latency.0 must be a mapping of settings, got 'cpu'$"),
        (
            "[{name: a}, {name: b}]",
            ("objectives=[accuracy, latency_ms@c]",),
            r"objectives must name a target of latency after the first \(b\) after latency_ms@, got latency_ms@c$",
        ),
        (
            "{}",
            ("objectives=[accuracy, latency_ms@c]",),
            r"objectives must name a target of latency after the first \(there is none\) after latency_ms@, got",
        ),
        (
            "[{name: a}, {name: b}]",
            ("limits.max_latencies_ms={a: 5ms}",),
            r"limits.max_latencies_ms must name a target of latency after the first \(b\), got a; that on the first is "
            "max_latency_ms$",
        ),
        ("[{name: a}, {name: b}]", ("limits.max_latencies_ms={b: 0}",), r"max_latencies_ms.b must be positive, got 0"),
        ("[{name: a}, {name: b}]", ("limits.max_latencies_ms={b: soon}",), r"max_latencies_ms.b: a duration must be "),
        ("[{name: a}, {name: b}]", ("objectives=[accuracy, speed@b]",), r"an objective must be one of .* got speed@b"),
    ],
)
def test_a_wrong_target_is_refused_with_its_key(write, latency: str, overrides: tuple[str, ...], rule: str):
    with pytest.raises(UserError, match=rule):
        load_config(write(f"{SEARCH}latency: {latency}\n"), overrides)


def test_a_target_that_is_longer_than_the_encoder_is_named(write):
    from search.config.compatibility import check_against_teacher

    config = load_config(write(SEARCH + "latency: [{name: a}, {name: b, sequence_length: 4096}]\n")).config
    teacher = {
        "model_type": "bert",
        "num_hidden_layers": 12,
        "hidden_size": 384,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
        "max_position_embeddings": 512,
    }
    with pytest.raises(UserError, match=r"latency.1.sequence_length must be at most the teacher's 512 positions, got"):
        check_against_teacher(config, teacher)

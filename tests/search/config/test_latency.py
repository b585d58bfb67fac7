"""Tests of the settings of latency: what a table says of its target, and what contradicts it."""

import shutil
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.latency.target import LatencyTarget, Runtime
from minilm_core.models.architecture import StudentArchitecture
from search.config.loading import load_config, resolved_yaml
from tests.search.config.example import SEARCH
from tests.search.latency_tables import table_of

SHAPE = StudentArchitecture(num_layers=1, hidden_size=96, num_heads=4)
TARGET = LatencyTarget(num_threads=4, sequence_length=64, runtime=Runtime.ONNXRUNTIME_INT8)


@pytest.fixture
def table_file(tmp_path: Path) -> Path:
    table_of(SHAPE, ms_per_layer=1.0, target=TARGET).save(tmp_path / "tables" / "server.json")
    return tmp_path / "tables" / "server.json"


def test_a_table_says_what_it_was_measured_for(write, table_file: Path):
    config = load_config(write(SEARCH + "latency: {table: tables/server.json}\n")).config
    assert config.latency.target == TARGET
    assert config.latency.table == str(table_file)
    assert config.latency.read_table().target == TARGET


def test_a_table_that_is_named_is_used_even_if_no_objective_needs_it(write, table_file: Path):
    without = ["objectives=[accuracy]", "limits={}"]
    assert load_config(write(SEARCH + "latency: {table: tables/server.json}\n"), without).config.needs_latency_tables


def test_the_resolved_settings_of_a_study_do_not_need_the_file(write, table_file: Path, tmp_path: Path):
    config = load_config(write(SEARCH + "latency: {table: tables/server.json}\n")).config
    shutil.rmtree(table_file.parent)
    assert load_config(write(resolved_yaml(config))).config == config


def test_a_setting_that_contradicts_the_table_is_refused(write, table_file: Path):
    rule = r"^search.yaml:25: latency.num_threads must be 4, as latency.table was measured, got 2$"
    with pytest.raises(UserError, match=rule):
        load_config(write(SEARCH + "latency: {table: tables/server.json, num_threads: 2}\n"))
    load_config(write(SEARCH + "latency: {table: tables/server.json, num_threads: 4}\n"))


def test_a_table_that_has_changed_since_is_refused(write, table_file: Path):
    config = load_config(write(SEARCH + "latency: {table: tables/server.json}\n")).config
    table_of(SHAPE, ms_per_layer=1.0).save(table_file)
    with pytest.raises(
        UserError, match=r"^latency must be as its table was measured, cpu1,b1,s16, got cpu4,b1,s64,onnxruntime-int8$"
    ):
        config.latency.read_table()


@pytest.mark.parametrize("content", [None, "{}", "not JSON"])
def test_a_table_that_cannot_be_read_is_named_with_its_line(write, tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "server.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"search.yaml:25: latency.table: a latency table.* got .*"):
        load_config(write(SEARCH + "latency: {table: server.json}\n"))


def test_a_table_that_is_no_text_is_refused_with_its_key(write):
    with pytest.raises(UserError, match=r"search.yaml:25: latency.table must be text, got 3"):
        load_config(write(SEARCH + "latency: {table: 3}\n"))


def test_without_a_table_the_runtime_is_a_setting(write):
    config = load_config(write(SEARCH + "latency: {runtime: onnxruntime}\n")).config
    assert config.latency.target == LatencyTarget(runtime=Runtime.ONNXRUNTIME)
    with pytest.raises(UserError, match=r"search.yaml:25: latency.runtime must be 'torch', .*, got 'tvm'"):
        load_config(write(SEARCH + "latency: {runtime: tvm}\n"))

from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.latency.measurements import Statistic
from minilm_core.latency.target import Device, LatencyTarget
from minilm_core.results.layout import StudyPaths
from reports.latency import LatencyConditions, LatencyFacts, read_latencies
from tests.reports.example_studies import latency_table


def facts_of(path: Path, **figures: Any) -> LatencyFacts:
    latency_table(**figures).save(path / "latency.json")
    return read_latencies(StudyPaths(root=path), {})["latency_ms"]


def test_the_facts_are_those_of_the_table(tmp_path: Path) -> None:
    target = LatencyTarget(device=Device.CUDA, batch_size=4)
    facts = facts_of(tmp_path, target=target, p90_over_p50=1.5, held_out_p90_error=0.1)
    assert facts.conditions == LatencyConditions(
        device="cuda", num_threads=1, batch_size=4, sequence_length=128, runtime="torch", percentile=50
    )
    assert facts.device_name == "some processor, torch 2.13.0, Python 3.11.7"
    assert (facts.held_out_error, facts.held_out_p90_error) == (pytest.approx(0.02), pytest.approx(0.1))
    assert (facts.p90_over_p50, facts.statistic, facts.is_noisy) == (1.5, Statistic.MEDIAN, False)


def test_a_busy_machine_is_noisy(tmp_path: Path) -> None:
    assert facts_of(tmp_path, busy_cores=2.0).is_noisy


def test_a_study_without_a_table_has_no_facts(tmp_path: Path) -> None:
    assert read_latencies(StudyPaths(root=tmp_path), {"latency": {"device": "cpu"}}) == {}


def test_several_tables_have_the_names_of_their_targets_and_the_first_one_its_own_objective(tmp_path: Path) -> None:
    paths = StudyPaths(root=tmp_path)
    latency_table().save(paths.latency())
    latency_table(target=LatencyTarget(device=Device.CUDA)).save(paths.latency("gpu"))
    found = read_latencies(paths, {"latency": [{"name": "cpu1"}, {"name": "gpu"}, {"name": "not-measured"}]})
    assert list(found) == ["latency_ms", "latency_ms@gpu"]
    assert [facts.title for facts in found.values()] == ["Latency at cpu1", "Latency at gpu"]
    assert [facts.conditions.device for facts in found.values()] == ["cpu", "cuda"]


@pytest.mark.parametrize(("p90_over_p50", "is_covered"), [(1.5, True), (None, False)])
def test_a_90th_percentile_is_covered_where_the_tail_was_measured(
    tmp_path: Path, p90_over_p50: float | None, is_covered: bool
) -> None:
    assert facts_of(tmp_path, p90_over_p50=p90_over_p50).covers(LatencyConditions(percentile=90)) is is_covered


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latency.json").write_text('{"schema_version": 2}', encoding="utf-8")
    with pytest.raises(UserError, match=r"got a damaged one: .*latency\.json$"):
        read_latencies(StudyPaths(root=tmp_path), {})

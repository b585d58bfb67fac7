"""Tests of a study whose students were searched for several targets, each with a latency of its own."""

import csv
import json
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.latency.target import Device, LatencyTarget, Runtime
from minilm_core.results.layout import StudyPaths
from reports import LatencyLimit, Requirements, Study, load_study, pick, write_report
from reports.latency import LatencyConditions
from tests.reports.example_studies import TASK, kept_labels, latency_table, student, teacher, write_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Of two students, one is faster on the first target and the other on the second."""
    folder, on_gpu = tmp_path / "study", "latency_ms@gpu"

    def timed(number: int, accuracy: float, latency_ms: float, gpu_ms: float):
        record = student(number, accuracy, number + 2, latency_ms=latency_ms, latencies_ms={"gpu": gpu_ms})
        record.objectives[on_gpu] = gpu_ms
        return record

    records = [timed(0, 0.80, 2.0, 5.0), timed(1, 0.90, 8.0, 3.0)]
    write_study(
        folder,
        [*records, teacher(0.92, latencies_ms={"gpu": 9.0})],
        objectives=("accuracy", "latency_ms", on_gpu),
        evaluation=kept_labels(TASK),
        latency=latency_table(),
        settings={"latency": [{"name": "cpu1"}, {"name": "gpu"}]},
    )
    target = LatencyTarget(device=Device.CUDA, batch_size=32)
    latency_table(target=target, p90_over_p50=2.0, busy_cores=2.0).save(StudyPaths(root=folder).latency("gpu"))
    return load_study(folder)


def test_each_latency_has_its_column_its_chart_and_its_card_on_the_page(study: Study) -> None:
    written = write_report(study)
    page = (written.folder / "report.html").read_text(encoding="utf-8")
    markdown = (written.folder / "report.md").read_text(encoding="utf-8")
    for title in ("Latency at cpu1", "Latency at gpu"):
        assert f"Predicted {title.lower()}, ms" in page
        assert f"Predicted {title.lower()}, ms" in markdown
        assert f"{title} under" in page
        assert f"Predicted latency at {title.rpartition(' ')[2]} (ms)" in page
    assert "NOISY: the machine was busy while latency at gpu was calibrated" in page
    assert "while latency at cpu1 was" not in page
    assert ">predicted latency at gpu</option>" in page
    # A point's tooltip has both.
    assert '"latency_0": "8.00 ms"' in page
    assert '"latency_1": "3.00 ms"' in page
    assert "figures/accuracy_latency_ms@gpu.svg" in markdown
    assert (written.folder / "figures" / "accuracy_latency_ms@gpu.svg").is_file()
    # A limit for each.
    assert [f'data-name="x{number}"' in page for number in range(3)] == [True, True, True]
    assert '"suffix": "ms@gpu"' in page


def test_each_latency_is_in_the_files_of_the_report(study: Study) -> None:
    written = write_report(study)
    content = json.loads((written.folder / "report.json").read_text(encoding="utf-8"))
    assert [row["latency_ms@gpu"] for row in content["trials"]] == [5.0, 3.0, 9.0]
    with (written.folder / "trials.csv").open(encoding="utf-8") as file:
        assert [row["latency_ms@gpu"] for row in csv.DictReader(file)] == ["5.0", "3.0", "9.0"]


@pytest.mark.parametrize(
    ("written", "qualifying"),
    [
        (["4ms"], [0]),
        (["4ms@cpu1"], [0]),
        (["4ms@gpu"], [1]),
        (["4ms@cuda,b32"], [1]),
        (["8ms@gpu", "8ms"], [0, 1]),
        (["4ms@gpu", "4ms"], []),
        (["7ms@gpu,p90"], [1]),
        (["5ms@gpu,p90"], []),
    ],
)
def test_a_limit_is_on_the_target_that_it_names(study: Study, written: list[str], qualifying: list[int]) -> None:
    decision = pick(study, Requirements.parse(max_latency=written))
    assert decision.num_qualifying == len(qualifying)
    if qualifying:
        assert decision.winner is not None
        assert decision.winner.number == max(qualifying)
        assert "at gpu" in decision.reason


def test_the_name_of_a_target_goes_before_what_it_says_as_a_condition(study: Study) -> None:
    """Both targets have one thread of a CPU; the second one is called so."""
    target, p90 = LatencyTarget(runtime=Runtime.ONNXRUNTIME_INT8), 2.0
    paths = study.paths
    paths.latency("gpu").unlink()
    latency_table(target=target).save(paths.latency())
    latency_table(p90_over_p50=p90).save(paths.latency("cpu1"))
    settings = paths.search_yaml.read_text("utf-8")
    for name, other in (
        ("name: cpu1", "name: int8"),
        ("name: gpu", "name: cpu1"),
        ("latency_ms@gpu", "latency_ms@cpu1"),
    ):
        settings = settings.replace(name, other)
    paths.search_yaml.write_text(settings, "utf-8")
    lines = paths.records.read_text("utf-8").replace('"latency_ms@gpu"', '"latency_ms@cpu1"').replace('"gpu"', '"cpu1"')
    paths.records.write_text(lines, "utf-8")
    renamed_study = load_study(paths.root)
    assert [facts.name for facts in renamed_study.latencies.values()] == ["int8", "cpu1"]
    # 2 and 8 ms on the first target, 5 and 3 ms on the second.
    for written, winner in (("4ms@cpu1", 1), ("4ms@int8", 0), ("4ms@cpu1,torch", 1), ("4ms@onnxruntime-int8", 0)):
        decision = pick(renamed_study, Requirements.parse(max_latency=[written]), strictly=True)
        assert decision.num_qualifying == 1
        assert decision.winner is not None
        assert decision.winner.number == winner, written


def test_a_near_miss_is_admitted_by_the_limit_on_the_same_target(study: Study) -> None:
    (miss, *_) = pick(study, Requirements.parse(max_latency=["4.5ms@gpu"], min_accuracy="0.7")).near_misses
    assert miss.reason == "latency at gpu 5.00 ms is 0.50 ms over 4.5 ms (--max-latency 5ms@gpu would admit it)"


@pytest.mark.parametrize(
    ("limit", "asked"),
    [
        (LatencyLimit(max_ms=5.0, target="phone"), "phone"),
        (
            LatencyLimit(max_ms=5.0, conditions=LatencyConditions(num_threads=4)),
            "4 threads; minilm-search bench STUDY --front --threads 4 measures it",
        ),
        (LatencyLimit(max_ms=5.0, target="gpu", conditions=LatencyConditions(batch_size=1)), "gpu, batch 1"),
    ],
)
def test_a_limit_on_what_no_target_has_is_refused_with_all_of_them(
    study: Study, limit: LatencyLimit, asked: str
) -> None:
    with pytest.raises(UserError) as raised:
        pick(study, Requirements(latencies=(limit,)))
    assert str(raised.value).replace(str(study.path), "STUDY") == (
        "--max-latency must be for what was measured (cpu1: cpu, 1 thread, batch 1, sequence 128, torch, p50; "
        f"gpu: cuda, 1 thread, batch 32, sequence 128, torch, p50), got {asked}"
    )

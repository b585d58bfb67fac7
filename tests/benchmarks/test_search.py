"""Tests of the benchmark of searches: its table, its replay by look-up, and its figures."""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from minilm_core.atomic import append_line
from search.config.settings import Sampler, SamplerName
from search.config.stopping import Stopping
from tests.benchmarks import search, search_table
from tests.benchmarks.search import DEFAULT, FRACTIONS, at_fractions, compared
from tests.benchmarks.search_replay import Point, Strategy, Table, replay, total_tokens
from tests.benchmarks.search_table import TEACHER, Score, Student, read_table
from tests.benchmarks.tiny_material import write_material
from tests.paths import ROOT

RANDOM = Strategy(sampler=Sampler(name=SamplerName.RANDOM))
STOPPING = Stopping(rungs=(200, 400), reduction=2.0)


def student(size: str, rate: float, finetuning_rate: float, quality: float) -> Student:
    layers, width = map(int, size.split("x"))
    accuracy = 0.5 + 0.4 * quality
    score = Score(value=accuracy, high=accuracy + 0.02, num_tokens=1_000_000, seconds=10.0)
    cheap = replace(score, num_tokens=500_000)
    return Student(
        size=size,
        num_heads=12,
        distillation_learning_rate=rate,
        finetuning_learning_rate=finetuning_rate,
        rungs={"200": 3.0 - quality, "400": 2.5 - quality, "600": 2.2 - quality},
        num_tokens=1_200_000,
        seconds=100.0,
        scores={"large": score, "small": cheap},
        size_bytes=40_000 * width + layers * width**2 * 48,
        flops=layers * width**2 * 3000,
        num_layer_parameters=12 * layers * width**2,
        device="cpu",
    )


def students() -> list[Student]:
    found = []
    for layers, width, rate, other in itertools.product((1, 2, 3, 4), (96, 192, 288), (5e-4, 2e-3, 6e-3), (1e-4, 5e-4)):
        quality = 0.3 * math.log(layers * width**2 / 9216 + 1) / 3.6 + 0.4 * (rate == 2e-3) + 0.2 * (other == 5e-4)
        found.append(student(f"{layers}x{width}", rate, other, quality))
    return found


@pytest.fixture(scope="module")
def table() -> Table:
    return Table(replace(student("6x384", 0.0, 1e-4, 1.0), size=TEACHER), students())


@pytest.mark.parametrize("name", [SamplerName.RANDOM, SamplerName.QMC])
def test_a_search_of_all_students_ends_with_the_hypervolume_of_all(table: Table, name: SamplerName) -> None:
    points = replay(table, Strategy(sampler=Sampler(name=name)), seed=0, budget_tokens=table.num_tokens)
    assert points[-1].hypervolume == pytest.approx(table.hypervolume(students()))
    # Students that are drawn again cost nothing.
    assert points[-1].num_tokens == table.num_tokens == sum(map(total_tokens, students()))
    assert all(a.hypervolume <= b.hypervolume for a, b in itertools.pairwise(points))


def test_a_budget_ends_a_search_and_a_seed_decides_it(table: Table) -> None:
    first, again, other = (replay(table, RANDOM, seed=seed, budget_tokens=30_000_000) for seed in (0, 0, 1))
    assert first == again != other
    assert 30_000_000 <= first[-1].num_tokens < 30_000_000 + total_tokens(students()[0])


def test_stopped_students_cost_what_they_read_until_then(table: Table) -> None:
    whole = replay(table, RANDOM, seed=0, budget_tokens=50_000_000)
    stopped = replay(table, replace(RANDOM, stopping=STOPPING), seed=0, budget_tokens=50_000_000)
    costs = np.diff([0, *(point.num_tokens for point in stopped)])
    # At a third, at two thirds, before the second task, or at the end.
    assert set(costs.tolist()) <= {400_000, 800_000, 1_700_000, 2_700_000}
    assert {400_000, 2_700_000} < set(costs.tolist())
    assert len(stopped) > len(whole)


def test_a_sampler_that_knows_costs_finds_more_than_random_draws(table: Table) -> None:
    budget = table.num_tokens // 4
    known, random = (
        [replay(table, way, seed=seed, budget_tokens=budget)[-1].hypervolume for seed in range(3)]
        for way in (Strategy(sampler=Sampler(name=SamplerName.KNOWN_COST)), RANDOM)
    )
    assert np.mean(known) > np.mean(random)


@pytest.mark.parametrize("file", sorted((ROOT / "tests/benchmarks/tables").glob("*.jsonl")), ids=lambda file: file.stem)
def test_a_committed_table_is_whole(file: Path) -> None:
    teacher, students = read_table(file)
    committed = Table(teacher, students)
    assert len(students) >= 96
    assert len(committed.rungs) == 2  # and the loss at the end
    assert len(teacher.scores) == 2
    points = replay(committed, RANDOM, seed=0, budget_tokens=committed.num_tokens)
    assert points[-1].hypervolume == pytest.approx(committed.hypervolume(students))


def test_a_table_with_a_student_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="a table must have all 72 students, got 71"):
        Table(students()[0], students()[1:])


def test_the_hypervolume_at_a_fraction_is_that_after_the_last_trial_within_it() -> None:
    points = [Point(num_tokens=30, hypervolume=1.0), Point(num_tokens=60, hypervolume=2.0)]
    found = dict(zip(FRACTIONS.round(2).tolist(), at_fractions(points, 100), strict=True))
    assert [found[fraction] for fraction in (0.25, 0.3, 0.55, 0.6, 1.0)] == [0.0, 1.0, 1.0, 2.0, 2.0]


def test_how_soon_a_way_is_where_random_search_ends() -> None:
    linear = np.tile(FRACTIONS, (4, 1))
    rows = {row.strategy: row for row in compared({"random": linear, "known_cost": 2 * linear, "gp": linear / 2})}
    assert rows["random"].budget_fraction_to_random_final == 1.0
    ours = rows["known_cost"]
    assert (ours.budget_fraction_to_random_final, ours.low, ours.high) == pytest.approx((0.5, 0.5, 0.5))
    assert rows["gp"].budget_fraction_to_random_final is None
    assert replace(rows[DEFAULT], strategy="known_cost") == ours


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Path]:
    """Makes a table of a tiny teacher, and returns its file."""
    material = write_material(tmp_path)

    def run(*options: str) -> Path:
        rows = tmp_path / "rows.jsonl"
        sizes = ("--sizes", "1x16", "2x16", "--rates", "1e-3", "2e-3", "--finetuning-rates", "1e-4", "1e-3")
        search_table.main([str(rows), *material, *sizes, "--steps", "6", *options])
        return rows

    return run


@pytest.mark.slow
def test_a_table_is_made_once_and_searched(
    call: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = call()
    content = rows.read_bytes()
    assert call().read_bytes() == content
    teacher, made = read_table(rows)
    assert len(made) == 8
    assert all(list(each.rungs) == ["2", "4", "6"] for each in made)
    assert teacher.accuracy > 0
    capsys.readouterr()
    call("--table")
    assert "of 8 students are on the front" in capsys.readouterr().out
    out = tmp_path / "out.json"
    search.main([str(out), str(rows), "--seeds", "2", "--only", "known_cost"])
    assert [row["strategy"] for row in json.loads(out.read_text("utf-8"))["rows"]] == [
        "random",
        "known_cost",
        "default",
    ]


def test_a_table_without_its_teacher_is_refused_in_one_line(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    append_line(rows, json.dumps({"settings": {}}))
    append_line(rows, json.dumps(asdict(students()[0])))
    with pytest.raises(SystemExit, match="search: a table must have its teacher's scores, got none in"):
        search.main([str(tmp_path / "out.json"), str(rows)])

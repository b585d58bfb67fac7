"""Tests of the benchmark of recipes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks import recipe
from tests.benchmarks.recipe import FIRST, VARIANTS, Row, read_rows, table
from tests.benchmarks.tiny_material import write_material

Call = Callable[..., list[Row]]

ROW = Row(
    variant=FIRST,
    size="3x192",
    seed=0,
    task="sst2",
    metric="accuracy",
    score=0.75,
    held_out_nats=0.5,
    seconds=1.0,
    device="cpu",
)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Runs the benchmark on a tiny teacher, and returns the rows of its file."""
    material = write_material(tmp_path)

    def run(*options: str) -> list[Row]:
        rows = tmp_path / "rows.jsonl"
        recipe.main([str(rows), *material, "--sizes", "1x16", "--steps", "4", *options])
        return read_rows(rows)

    return run


@pytest.mark.slow
def test_every_variant_is_another_student_and_none_is_trained_twice(call: Call) -> None:
    first = call("--variants", FIRST, "not distilled")
    every = call()
    assert every[:2] == first
    assert [row.variant for row in every] == [FIRST, "not distilled", *list(VARIANTS)[2:]]
    # Held-out losses are those of the first recipe's relations, whatever a variant learns. A student of one layer has
    # the last one in either way.
    losses = {row.variant: row.held_out_nats for row in every}
    assert losses.pop("layer to layer") == losses.pop("last layers") == losses[FIRST]
    assert losses.pop("hidden states, layer to layer") == losses["hidden states"]
    assert len(set(losses.values())) == len(losses)


def test_rows_of_other_settings_are_refused(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    call("--variants", "not distilled")
    with pytest.raises(SystemExit, match="recipe: the rows of a file must have the same max_length, got 32 after 64"):
        call("--variants", "not distilled", "--max-length", "32")


def test_gains_are_over_pairs_of_one_size_seed_and_task() -> None:
    others = [replace(ROW, variant="wsd", seed=seed, score=score) for seed, score in ((0, 0.77), (1, 0.81), (2, 0.5))]
    rows = [ROW, replace(ROW, seed=1, score=0.77), *others]
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(table(rows))
    first, wsd = capture.get().splitlines()[2:]
    assert first.split() == ["first", "recipe", "2", "0.5000", "0.7600"]
    # The third seed has no partner. Of 2 and 4 points the mean is 3, and its standard error is 1.
    assert wsd.split() == ["wsd", "3", "0.5000", "0.6933", "+3.0", "±", "1.0"]

from pathlib import Path

import pytest

from minilm_core.errors import UserError
from reports.results_page import Catalogue, load_catalogue
from tests.reports.results_page.example_results import CELLS, TRAINING


def load(tmp_path: Path, text: str = CELLS) -> Catalogue:
    path = tmp_path / "cells.yaml"
    path.write_text(text, encoding="utf-8")
    return load_catalogue(path)


def test_a_group_adds_to_the_recipe_of_its_cells(tmp_path: Path) -> None:
    catalogue = load(tmp_path)
    assert catalogue.training_of(catalogue.cells[0]) == TRAINING


@pytest.mark.parametrize(
    ("was", "becomes", "rule"),
    [
        ("group: english, num_layers: 2", "group: german, num_layers: 2", "a cell's group must be one of english, got"),
        ("recipe: short", "recipe: long", "a group's recipe must be one of short, got long"),
        ("english-3x144", "english-3x192", "cells must have different names, got english-3x192, english-3x192"),
        ("share_of_latency: 0.5", "share_of_latency: 50", "share_of_latency must be above 0 and at most 1, got 50"),
        ("num_heads: 8", "num_heads: 7", "hidden_size must be a multiple of num_heads, got 192 and 7"),
        ("initialisation: random", "initialisation: best", "recipes.0.initialisation must be"),
        ("notes:", "note:", "did you mean 'notes'"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, was: str, becomes: str, rule: str) -> None:
    assert was in CELLS
    with pytest.raises(UserError, match=rule) as raised:
        load(tmp_path, CELLS.replace(was, becomes, 1))
    assert len(str(raised.value).splitlines()) == 1


def test_an_unknown_cell_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a cell must be one of english-3x192, english-3x144, english-2x96, got other"):
        load(tmp_path).cell("other")

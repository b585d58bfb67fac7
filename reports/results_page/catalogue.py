"""The declared cells of the published results: which students are made, by which recipe, on which tasks. No torch."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.initialisation import Initialisation
from minilm_core.settings.schema import build
from minilm_core.settings.yaml_source import read_yaml


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the students of some cells are trained: keys of search.yaml and of its space."""

    name: str
    initialisation: Initialisation
    distillation_learning_rate: float
    finetuning_learning_rate: float
    distillation: Mapping[str, Any]
    finetuning: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """What a group's students should reach: an accuracy at a latency, both as shares of their teacher's.

    Raises:
        UserError: if a share is not between 0 and 1.
    """

    share_of_accuracy: float
    share_of_latency: float

    def __post_init__(self) -> None:
        for name in ("share_of_accuracy", "share_of_latency"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Cells with the same teacher, text, tasks and recipe, whose results are shown in one table."""

    name: str
    title: str
    recipe: str
    search: Mapping[str, Any]
    """The keys of search.yaml that its cells have in common. What it says of distillation and fine-tuning takes
    precedence over the recipe."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know of the data."""
    aims: tuple[Aim, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One student, which is made beside its teacher, its twin and the cut teacher."""

    name: str
    group: str
    num_layers: int
    hidden_size: int
    num_heads: int

    @property
    def architecture(self) -> StudentArchitecture:
        """The sizes of the student."""
        return StudentArchitecture(num_layers=self.num_layers, hidden_size=self.hidden_size, num_heads=self.num_heads)


_Named = TypeVar("_Named", Recipe, Group, Cell)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """All cells, their groups and their recipes.

    Raises:
        UserError: if two have the same name, or a group or a recipe is not declared.
    """

    recipes: tuple[Recipe, ...]
    groups: tuple[Group, ...]
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        for kind in ("recipes", "groups", "cells"):
            names = [each.name for each in getattr(self, kind)]
            if len(set(names)) < len(names):
                raise UserError(f"{kind} must have different names, got {', '.join(names)}")
        for cell in self.cells:
            _ = cell.architecture
            self.group_of(cell)
        for group in self.groups:
            self.recipe_of(group)

    def cell(self, name: str) -> Cell:
        """Returns a cell by its name.

        Raises:
            UserError: if there is none.
        """
        return _named("a cell", self.cells, name)

    def group_of(self, cell: Cell) -> Group:
        """Returns the group of a cell."""
        return _named("a cell's group", self.groups, cell.group)

    def recipe_of(self, group: Group) -> Recipe:
        """Returns the recipe of a group."""
        return _named("a group's recipe", self.recipes, group.recipe)

    def training_of(self, cell: Cell) -> dict[str, Any]:
        """Returns how the student of a cell is trained: its recipe, with what its group changes."""
        group = self.group_of(cell)
        recipe = self.recipe_of(group)
        return {
            "initialisation": str(recipe.initialisation),
            "distillation_learning_rate": recipe.distillation_learning_rate,
            "finetuning_learning_rate": recipe.finetuning_learning_rate,
            "distillation": {**recipe.distillation, **group.search.get("distillation", {})},
            "finetuning": {**recipe.finetuning, **group.search.get("finetuning", {})},
        }

    def cells_of(self, group: Group) -> tuple[Cell, ...]:
        """Returns the cells of a group, in their order."""
        return tuple(cell for cell in self.cells if cell.group == group.name)


def load_catalogue(path: Path) -> Catalogue:
    """Reads the declared cells.

    Raises:
        UserError: with one line for each mistake: FILE:LINE: KEY RULE, got VALUE.
    """
    return build(read_yaml(path), Catalogue)


def _named(what: str, among: Iterable[_Named], name: str) -> _Named:
    found = {each.name: each for each in among}
    if name not in found:
        raise UserError(f"{what} must be one of {', '.join(found)}, got {name}")
    return found[name]

"""Tests of the folders in which compiled loops are cached."""

import importlib.util
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import caching

from minilm_core.kernels.compiled_loops import keep_compiled_loops_in
from minilm_core.kernels.cpu_threads import in_threads

LOOPS = """
import numba

@numba.njit
def add_one(numbers):
    for index in range(len(numbers)):
        numbers[index] += 1
"""


@pytest.fixture(autouse=True)
def _numbas_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this package and the home folder read-only."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [caching.UserProvidedCacheLocator])


@pytest.fixture
def loop(tmp_path: Path) -> Any:
    """Returns a loop in a separate file."""
    (tmp_path / "loops.py").write_text(LOOPS, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("loops", tmp_path / "loops.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.add_one


def call(loop: Any) -> None:
    numbers = np.zeros(3)
    in_threads(loop, numbers)
    assert numbers.tolist() == [1, 1, 1]


def kept_loops(folder: Path) -> list[Path]:
    return list(folder.rglob("*.nbi"))


@pytest.mark.usefixtures("nowhere")
def test_compiled_loops_are_kept_in_the_folder_given_where_no_other_can_be_written(loop: Any, tmp_path: Path) -> None:
    keep_compiled_loops_in(tmp_path / "cache")
    call(loop)
    assert len(kept_loops(tmp_path / "cache")) == 1


@pytest.mark.usefixtures("nowhere")
def test_without_any_folder_to_write_to_loops_are_compiled_and_not_kept(loop: Any, tmp_path: Path) -> None:
    call(loop)
    assert kept_loops(tmp_path) == []


def test_loops_are_kept_beside_their_file_where_that_can_be_written(loop: Any, tmp_path: Path) -> None:
    keep_compiled_loops_in(tmp_path / "cache")
    call(loop)
    assert not (tmp_path / "cache").exists()
    assert len(kept_loops(tmp_path / "__pycache__")) == 1


@pytest.mark.usefixtures("nowhere")
def test_a_folder_that_the_user_names_goes_before_the_one_given(
    loop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "named"))
    keep_compiled_loops_in(tmp_path / "cache")
    call(loop)
    assert len(kept_loops(tmp_path / "named")) == 1

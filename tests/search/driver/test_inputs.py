"""Tests of the check of a search's inputs, which comes before the calibration, the packing and any training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from search.config.loading import load_config
from search.config.settings import SearchConfig
from search.driver.inputs import check_inputs
from search.driver.run import run_study
from search.study.resolved import find_study


@pytest.fixture
def folder(material: Path, tmp_path: Path) -> Path:
    """A copy of the search and its inputs, which a test may damage."""
    # The cache, which other tests share, is no input.
    return Path(shutil.copytree(material, tmp_path / "material", ignore=shutil.ignore_patterns("cache")))


def config_of(folder: Path) -> SearchConfig:
    return load_config(folder / "search.yaml").config


def spoil_labels(folder: Path) -> None:
    (folder / "mood" / "train.parquet").unlink()
    (folder / "mood" / "train.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')


def spoil_tokenizer(folder: Path) -> None:
    file = folder / "teacher" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": "7.0"}))


def test_checking_valid_inputs_raises_nothing_and_changes_no_file(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    check_inputs(config_of(folder), folder / "teacher", folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_labels, r"every example of task mood must have a label, got none in line 2 of .*train\.jsonl$"),
        (spoil_tokenizer, "a teacher's tokenizer must be one that the installed version can read"),
    ],
)
def test_a_study_is_refused_before_anything_is_made_for_it(
    folder: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(folder)
    config = config_of(folder)
    with pytest.raises(UserError, match=message):
        run_study(find_study(config, StudyPaths(root=config.study_folder)), None)
    assert not (folder / "cache").exists()
    assert not config.study_folder.exists()

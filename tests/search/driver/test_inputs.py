"""Tests of what launch refuses before anything is trained, calibrated or packed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from search.config.settings import SearchConfig, load_config
from search.driver.inputs import check_inputs
from search.driver.run import run_study
from search.study.layout import StudyPaths
from search.study.resolved import find_study


@pytest.fixture
def folder(material: Path, tmp_path: Path) -> Path:
    """A search with all that it names, to be spoilt."""
    # The cache that other tests share is none of what the search names.
    return Path(shutil.copytree(material, tmp_path / "material", ignore=shutil.ignore_patterns("cache")))


def config_of(folder: Path) -> SearchConfig:
    return load_config(folder / "search.yaml").config


def spoil_labels(folder: Path) -> None:
    (folder / "mood" / "train.parquet").unlink()
    (folder / "mood" / "train.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')


def spoil_tokenizer(folder: Path) -> None:
    file = folder / "teacher" / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": "7.0"}))


def test_what_is_whole_is_let_through(folder: Path) -> None:
    check_inputs(config_of(folder), folder / "teacher", folder)


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

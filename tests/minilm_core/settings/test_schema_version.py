"""Tests of the schema version of search.yaml: what it is read as, and that a study of an earlier version goes on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.settings.learning_rates import LearningRateSchedule
from minilm_core.settings.schema_version import SCHEMA_VERSION, migrated
from minilm_core.settings.yaml_source import read_yaml
from search.config.loading import load_config, resolved_yaml
from search.study.relaunch import validate_relaunch
from tests.paths import QUICKSTART_YAML, ROOT

EARLIER_STUDY = ROOT / "tests" / "search" / "earlier_study"
EARLIER_SAMPLER = "sampler.name=tpe"
"""What a file of then, which names no sampler, meant: the default was another one."""


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A copy of the search whose study was made before settings had a version, with its paths filled in."""
    folder = Path(shutil.copytree(EARLIER_STUDY, tmp_path / "earlier"))
    kept = folder / "studies" / "tiny" / "search.yaml"
    kept.write_text(kept.read_text(encoding="utf-8").replace("ROOT", str(folder)), encoding="utf-8")
    return folder


def write(folder: Path, version: str) -> Path:
    """Writes a search.yaml whose second line is its version."""
    text = QUICKSTART_YAML.read_text(encoding="utf-8")
    path = folder / "search.yaml"
    path.write_text(f"---\nschema_version: {version}\n{text}", encoding="utf-8")
    return path


def test_the_settings_that_a_study_keeps_begin_with_their_version() -> None:
    text = resolved_yaml(load_config(QUICKSTART_YAML).config)
    assert text.startswith(f"schema_version: {SCHEMA_VERSION}\nname: quickstart\n")


def test_a_file_of_the_present_version_is_read_as_one_without_any(tmp_path: Path) -> None:
    path = write(tmp_path, str(SCHEMA_VERSION))
    versioned = load_config(path)
    path.write_text(QUICKSTART_YAML.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_config(path) == versioned


def test_a_newer_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path, "2")
    with pytest.raises(UserError) as refusal:
        load_config(path)
    assert str(refusal.value) == (
        f"{path}:2: this search.yaml was written by a newer version (schema 2); upgrade minilm-search"
    )


@pytest.mark.parametrize(
    ("version", "shown"), [("two", "'two'"), ("true", "True"), ("-1", "-1"), ("1.0", "1.0"), ("", "nothing")]
)
def test_what_is_no_version_is_refused(tmp_path: Path, version: str, shown: str) -> None:
    path = write(tmp_path, version)
    with pytest.raises(UserError) as refusal:
        load_config(path)
    assert str(refusal.value) == f"{path}:2: schema_version must be a number from 1 to {SCHEMA_VERSION}, got {shown}"


def test_the_version_cannot_be_overridden(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown key 'schema_version'"):
        load_config(write(tmp_path, "1"), ["schema_version=1"])


def test_an_older_file_passes_every_step_up_to_the_present(tmp_path: Path) -> None:
    steps = [lambda content: {**content, "name": "first"}, lambda content: {**content, "seed": len(content["name"])}]
    oldest = migrated(read_yaml(QUICKSTART_YAML), steps).content
    assert (oldest["name"], oldest["seed"]) == ("first", len("first"))
    newer = migrated(read_yaml(write(tmp_path, "1")), steps).content
    assert (newer["name"], newer["seed"]) == ("quickstart", len("quickstart"))


def test_a_study_from_before_there_were_versions_has_not_changed(earlier: Path) -> None:
    study = StudyPaths(root=earlier / "studies" / "tiny")
    kept = load_config(study.search_yaml).config
    assert kept == load_config(earlier / "search.yaml", [EARLIER_SAMPLER]).config
    assert not validate_relaunch(study, kept)


def test_the_sampler_of_an_earlier_study_is_not_replaced_by_the_default_of_today(earlier: Path) -> None:
    study = StudyPaths(root=earlier / "studies" / "tiny")
    with pytest.raises(UserError, match=r"got another sampler\.name for "):
        validate_relaunch(study, load_config(earlier / "search.yaml").config)


def test_an_earlier_study_has_the_only_schedule_that_there_was(earlier: Path) -> None:
    kept = load_config(earlier / "studies" / "tiny" / "search.yaml")
    assert kept.config.distillation.schedule is LearningRateSchedule.LINEAR


def test_an_earlier_study_is_not_relaunched_with_another_schedule(earlier: Path) -> None:
    study = StudyPaths(root=earlier / "studies" / "tiny")
    other = load_config(earlier / "search.yaml", [EARLIER_SAMPLER, "distillation.schedule=cosine"]).config
    with pytest.raises(UserError, match=r"got another distillation\.schedule for "):
        validate_relaunch(study, other)
    same = load_config(earlier / "search.yaml", [EARLIER_SAMPLER, "distillation.schedule=linear"]).config
    assert not validate_relaunch(study, same)


def kept_of(written: Any, before: Any) -> Any:
    """Returns what is written of the keys that were there before, in every mapping and list."""
    if isinstance(before, dict) and isinstance(written, dict):
        return {key: kept_of(written.get(key), value) for key, value in before.items()}
    if isinstance(before, list) and isinstance(written, list) and len(before) == len(written):
        return [kept_of(new, old) for new, old in zip(written, before, strict=True)]
    return written


def test_the_settings_of_an_earlier_study_keep_every_value_when_they_are_written_again(earlier: Path) -> None:
    kept = earlier / "studies" / "tiny" / "search.yaml"
    before = yaml.safe_load(kept.read_text(encoding="utf-8"))
    written = yaml.safe_load(resolved_yaml(load_config(kept).config))
    assert written["schema_version"] == SCHEMA_VERSION
    # Settings that are newer than the study are written with their defaults.
    assert kept_of(written, before) == before

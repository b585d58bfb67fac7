"""Tests of the map between a teacher's tokens and those that a student keeps."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm_core.errors import UserError
from minilm_core.models.vocabulary.cut import MAP_FILE, CutVocabulary, token_ids

VOCABULARY = CutVocabulary(kept=np.array([0, 2, 3, 7]), num_full=9, unknown=3, coverage=0.5)


def test_a_student_reads_kept_tokens_under_their_new_ids_and_others_as_unknown() -> None:
    rows = np.array([[0, 1, 2], [3, 7, 8]], dtype=np.uint16)
    np.testing.assert_array_equal(VOCABULARY.read_by_student(rows), [[0, 2, 1], [2, 3, 2]])


@given(st.sets(st.integers(0, 49), min_size=1))
def test_the_map_leads_back_to_the_teachers_ids(kept: set[int]) -> None:
    rising = np.array(sorted(kept))
    vocabulary = CutVocabulary(kept=rising, num_full=50, unknown=min(kept), coverage=1.0)
    np.testing.assert_array_equal(vocabulary.kept[vocabulary.read_by_student(rising)], rising)
    assert vocabulary.read_by_student(np.arange(50)).max() == vocabulary.size - 1


def test_every_id_of_a_configuration_is_mapped_and_nothing_else() -> None:
    config = {"vocab_size": 9, "pad_token_id": 7, "eos_token_id": [2, 3], "bos_token_id": None, "num_heads": 3}
    settings = VOCABULARY.settings(config)
    assert settings == {"vocab_size": 4, "pad_token_id": 3, "eos_token_id": [1, 2], "bos_token_id": None}


def test_an_id_without_a_row_is_no_id() -> None:
    config = {"cls_token_id": 50281, "sep_token_id": -1, "pad_token_id": 2}
    assert token_ids(config, 9) == {2}
    assert VOCABULARY.settings(config) == {
        "vocab_size": 4,
        "cls_token_id": None,
        "sep_token_id": None,
        "pad_token_id": 1,
    }


def test_a_saved_map_is_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path)
    loaded = CutVocabulary.load(tmp_path)
    np.testing.assert_array_equal(loaded.kept, VOCABULARY.kept)
    assert (loaded.num_full, loaded.unknown, loaded.limit, loaded.coverage) == (9, 3, None, 0.5)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kept": [1], "num_full": 2, "unknown": 1}', '{"kept": 3}'])
def test_a_damaged_map_is_refused_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / MAP_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"vocabulary\.json must be as it was written; remove .* to make it anew"):
        CutVocabulary.load(tmp_path)


@pytest.mark.parametrize("kept", [[], [2, 1, 3], [1, 1, 3], [-1, 3], [3, 9], [1, 2]])
def test_ids_that_are_no_cut_are_refused(kept: list[int]) -> None:
    with pytest.raises(UserError, match="must have rising ids below 9, among them the unknown token's 3, got"):
        CutVocabulary(kept=np.array(kept, dtype=np.int64), num_full=9, unknown=3, coverage=1.0)

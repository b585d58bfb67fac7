import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from minilm_core.errors import UserError
from minilm_core.tokenisation import BATCHES_AHEAD, CorpusTokenizer, batched

RECORDS = [None, "", " \n", 3, ["text"], "the student", "  a search ", "texts, text.", "[SEP] the", "zebra"] * 7


@pytest.fixture(scope="module")
def tokenizer(teacher_folder: Path) -> CorpusTokenizer:
    return CorpusTokenizer.load(teacher_folder)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_tokens_are_those_of_the_models_own_tokenizer_closed_by_the_last(
    tokenizer: CorpusTokenizer, teacher_folder: Path
) -> None:
    texts = ["the student", "texts, text.", "[SEP] the", "zebra"]
    expected = AutoTokenizer.from_pretrained(teacher_folder)(texts, add_special_tokens=False)["input_ids"]
    assert [tokens.tolist() for tokens in tokenizer.tokenise(texts)] == [[*ids, 3] for ids in expected]


def test_a_record_without_text_has_no_tokens(tokenizer: CorpusTokenizer) -> None:
    assert [len(tokens) for tokens in tokenizer.tokenise([None, "", " \t\n", 3, ["text"], "the"])] == [0] * 5 + [2]


def test_half_a_surrogate_pair_costs_a_character_and_not_the_corpus(tokenizer: CorpusTokenizer) -> None:
    record = json.loads('"the \\ud800 student"')
    assert tokenizer.tokenise([record])[0].tolist() == tokenizer.tokenise(["the ? student"])[0].tolist()


def test_a_tokenizer_that_says_to_cut_and_pad_does_neither(teacher_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    cutting = AutoTokenizer.from_pretrained(folder)
    cutting.backend_tokenizer.enable_truncation(4)
    cutting.backend_tokenizer.enable_padding(length=8)
    cutting.backend_tokenizer.save(str(folder / "tokenizer.json"))
    tokens = CorpusTokenizer.load(folder).tokenise(["the " * 50, "a"])
    assert [len(document) for document in tokens] == [51, 2]


@pytest.mark.parametrize("num_characters", [1, 40, 10_000])
def test_tokenising_ahead_changes_neither_tokens_nor_order(
    tokenizer: CorpusTokenizer, pool: ThreadPoolExecutor, num_characters: int
) -> None:
    ahead = list(tokenizer.tokenise_ahead(iter(RECORDS), pool, num_characters))
    assert [tokens.tolist() for tokens in ahead] == [tokens.tolist() for tokens in tokenizer.tokenise(RECORDS)]


def test_reading_stays_a_few_batches_ahead(tokenizer: CorpusTokenizer, pool: ThreadPoolExecutor) -> None:
    records = iter(["the student"] * 100)
    stream = tokenizer.tokenise_ahead(records, pool, num_characters=12)
    next(stream)
    assert len(list(records)) == 100 - BATCHES_AHEAD


@pytest.mark.parametrize(("vocabulary_size", "dtype"), [(2**16, "<u2"), (2**16 + 1, "<u4")])
def test_a_token_takes_two_bytes_if_the_vocabulary_allows(vocabulary_size: int, dtype: str) -> None:
    assert CorpusTokenizer(None, 1, 2, vocabulary_size).dtype.str == dtype


def test_the_identity_depends_on_the_tokenizer_and_not_its_place(teacher_folder: Path, tmp_path: Path) -> None:
    same, other = (shutil.copytree(teacher_folder, tmp_path / name) for name in ("same", "other"))
    AutoTokenizer.from_pretrained(other, additional_special_tokens=["zebra"]).save_pretrained(other)
    identities = [CorpusTokenizer.load(folder).identity for folder in (teacher_folder, same, other)]
    assert identities[0] == identities[1] != identities[2]


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a teacher folder must hold a tokenizer, one of "):
        CorpusTokenizer.load(tmp_path)


def test_a_tokenizer_without_a_token_for_each_end_is_refused(teacher_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    plain = {**settings, "cls_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(UserError, match=r"must be a fast one with \[CLS\] and \[SEP\] or <s> and </s>, got"):
        CorpusTokenizer.load(folder)


@given(sizes=st.lists(st.integers(0, 9)), least=st.integers(1, 20))
def test_batches_hold_every_item_in_order_and_are_as_small_as_asked(sizes: list[int], least: int) -> None:
    batches = list(batched(sizes, least, lambda size: size))
    assert [size for batch in batches for size in batch] == sizes
    assert all(sum(batch) >= least for batch in batches[:-1])
    assert all(sum(batch[:-1]) < least for batch in batches)
    assert np.all([len(batch) for batch in batches])

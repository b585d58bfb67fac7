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

from minilm_core.corpus.tokenisation import BATCHES_AHEAD, CorpusTokenizer, batched
from minilm_core.errors import UserError
from minilm_core.models.tokenizers import load_padding_tokenizer, save_tokenizer, tokenizer_sha256

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


def test_half_a_surrogate_pair_is_replaced_by_one_character(tokenizer: CorpusTokenizer) -> None:
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


@pytest.fixture
def folder(teacher_folder: Path, tmp_path: Path) -> Path:
    """Returns a copy of a teacher's folder that tests may damage."""
    return Path(shutil.copytree(teacher_folder, tmp_path / "spoilt"))


def rewrite(file: Path, **settings: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **settings}), encoding="utf-8")


def declare_no_padding(folder: Path, padding: str) -> None:
    """Removes the declared padding token and renames its entry of the vocabulary."""
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = {padding if token == "[PAD]" else token: number for token, number in content["model"]["vocab"].items()}
    added = [token for token in content["added_tokens"] if token["content"] != "[PAD]"]
    rewrite(folder / "tokenizer.json", added_tokens=added, model={**content["model"], "vocab": vocabulary})
    rewrite(folder / "tokenizer_config.json", pad_token=None)


@pytest.mark.parametrize("settings", [{"version": "7.0"}, {"model": {"type": "Novel"}}])
def test_a_tokenizer_of_another_version_is_refused_in_one_line(folder: Path, settings: dict[str, object]) -> None:
    rewrite(folder / "tokenizer.json", **settings)
    with pytest.raises(
        UserError, match=r"^a teacher's tokenizer must be one that the installed version can read, .*\)$"
    ):
        CorpusTokenizer.load(folder)


def test_a_token_without_an_embedding_is_refused(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    num_free = 40 - len(tokenizer)
    tokenizer.add_tokens([f"word{number}" for number in range(num_free)])
    tokenizer.save_pretrained(folder)
    assert CorpusTokenizer.load(folder).vocabulary_size == 40
    tokenizer.add_tokens(["zebra", "okapi"])
    tokenizer.save_pretrained(folder)
    message = "must have an embedding, got 42 tokens and 40 embeddings, none for token 40, 'zebra'$"
    with pytest.raises(UserError, match=message):
        CorpusTokenizer.load(folder)


@pytest.mark.parametrize(("in_vocabulary", "chosen"), [("[PAD]", "[PAD]"), ("<pad>", "<pad>"), ("zero", "[SEP]")])
def test_a_tokenizer_without_a_padding_token_pads_with_one_that_it_has(
    folder: Path, teacher_folder: Path, in_vocabulary: str, chosen: str
) -> None:
    declare_no_padding(folder, in_vocabulary)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    tokenizer, before = load_padding_tokenizer(folder), AutoTokenizer.from_pretrained(teacher_folder)
    texts = ["the student", "a teacher knows text .", ""]
    assert tokenizer.pad_token == chosen
    assert len(tokenizer) == len(before)
    assert tokenizer(texts)["input_ids"] == before(texts)["input_ids"]
    assert tokenizer(texts, padding=True)["attention_mask"] == before(texts, padding=True)["attention_mask"]


@pytest.mark.parametrize(("declared", "expected"), [(None, 64), (512, 64), (48, 48)])
def test_a_saved_tokenizer_cuts_texts_to_the_positions_of_its_model(
    folder: Path, tmp_path: Path, declared: int | None, expected: int
) -> None:
    declare_no_padding(folder, "zero")
    rewrite(folder / "tokenizer_config.json", **({} if declared is None else {"model_max_length": declared}))
    save_tokenizer(folder, json.loads((folder / "config.json").read_text(encoding="utf-8")), tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (saved.model_max_length, saved.pad_token) == (expected, "[SEP]")
    assert len(saved("the " * 800, truncation=True)["input_ids"]) == expected


@given(sizes=st.lists(st.integers(0, 9)), least=st.integers(1, 20))
def test_batches_hold_every_item_in_order_and_are_as_small_as_asked(sizes: list[int], least: int) -> None:
    batches = list(batched(sizes, least, lambda size: size))
    assert [size for batch in batches for size in batch] == sizes
    assert all(sum(batch) >= least for batch in batches[:-1])
    assert all(sum(batch[:-1]) < least for batch in batches)
    assert np.all([len(batch) for batch in batches])


def test_a_teacher_whose_configuration_names_no_family_is_refused(teacher_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(teacher_folder, tmp_path / "teacher"))
    (folder / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="a teacher's model_type must be one of"):
        CorpusTokenizer.load(folder)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "tokenizer_config.json"])
def test_another_file_of_a_tokenizer_gives_another_hash(name: str, teacher_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher_folder, tmp_path / "teacher")
    assert tokenizer_sha256(tmp_path / "teacher") == tokenizer_sha256(teacher_folder)
    with (tmp_path / "teacher" / name).open("a", encoding="utf-8") as file:
        file.write("\n")
    assert tokenizer_sha256(tmp_path / "teacher") != tokenizer_sha256(teacher_folder)


def test_the_hash_of_a_tokenizer_leaves_out_the_weights(teacher_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher_folder, tmp_path / "teacher")
    (tmp_path / "teacher" / "model.safetensors").write_bytes(b"others")
    assert tokenizer_sha256(tmp_path / "teacher") == tokenizer_sha256(teacher_folder)

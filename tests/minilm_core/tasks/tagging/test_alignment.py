"""Tests that the first token of each word is found, with every kind of tokenizer."""

import pytest
from transformers import PreTrainedTokenizerFast

from minilm_core.tasks.tagging.alignment import NO_TOKEN, encode_words
from tests.minilm_core.tasks.tokenizers import TOKENIZERS


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


SENTENCES = {
    "English": ["The", "search", "finds", "a", "student", "."],
    "Chinese": ["北", "京", "市", "在", "2008年"],
    "Hindi": ["अध्यापक", "दिल्ली", "में", "।"],
    "symbols": ["€5", "million", "(", "net", ")", "U.S."],
    "long words": ["supercalifragilistic", "Köln", "unaufhaltsam"],
}


@pytest.mark.parametrize("words", SENTENCES.values(), ids=SENTENCES)
def test_the_first_token_of_a_word_begins_it(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> None:
    ((inputs, first_tokens),) = encode_words([words], tokenizer, 64)
    text = " ".join(words)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert inputs == dict(tokenizer(text))
    start = 0
    for word, token in zip(words, first_tokens, strict=True):
        assert token != NO_TOKEN, word
        begin, end = offsets[token]
        assert text[begin:end].strip() == "" or begin + (text[begin] == " ") == start, word
        start += len(word) + 1
    assert first_tokens == sorted(set(first_tokens))


def test_no_word_has_a_special_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ((inputs, first_tokens),) = encode_words([["The", "student"]], tokenizer, 64)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert all(inputs["input_ids"][token] not in special for token in first_tokens if token != NO_TOKEN)


def test_words_beyond_the_length_have_no_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ((inputs, first_tokens),) = encode_words([["student"] * 50], tokenizer, 12)
    assert len(inputs["input_ids"]) == 12
    assert first_tokens[0] != NO_TOKEN
    assert first_tokens[-1] == NO_TOKEN


def test_a_word_without_tokens_takes_none_from_the_next_one(tokenizer: PreTrainedTokenizerFast) -> None:
    ((_, first_tokens),) = encode_words([["The", "\u200d", "student"]], tokenizer, 64)
    ((_, without),) = encode_words([["The", "student"]], tokenizer, 64)
    assert first_tokens[0] == without[0]
    assert first_tokens[2] != NO_TOKEN
    assert first_tokens[1] != first_tokens[2]


def test_a_word_that_is_empty_has_no_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ((_, first_tokens),) = encode_words([["The", "", "student"]], tokenizer, 64)
    assert first_tokens[1] == NO_TOKEN
    assert NO_TOKEN not in (first_tokens[0], first_tokens[2])

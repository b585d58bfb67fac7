"""Compares a cut tokenizer with the whole one: where all pieces of a word are kept, they are the same. No torch."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minilm_core.errors import UserError
from minilm_core.models.tokenizers import load_padding_tokenizer
from minilm_core.models.vocabulary.cut import CutVocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS_AT_ONCE = 500
"""Texts that are tokenised at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How many words of some texts the two tokenizers split alike."""

    num_words: int
    """Words, as both tokenizers part texts before they look for pieces."""
    num_kept: int
    """Words whose pieces are all kept; the cut tokenizer gives the same ones."""


def compare_tokenizers(
    full_folder: Path, cut_folder: Path, vocabulary: CutVocabulary, texts: Sequence[str]
) -> Agreement:
    """Compares two tokenizers id by id: their vocabularies, the special tokens of a text, and the pieces of its words.

    Raises:
        UserError: with the first token, or the first word, that differs.
    """
    full, cut = load_padding_tokenizer(full_folder), load_padding_tokenizer(cut_folder)
    _compare_vocabularies(full, cut, vocabulary)
    for pair in ((), ("",)):
        _check_equal(repr(("", *pair)), vocabulary, full("", *pair)["input_ids"], cut("", *pair)["input_ids"])
    num_words = num_kept = 0
    is_kept = set(vocabulary.kept.tolist())
    for text, of_full, of_cut in zip(texts, _words(full, texts), _words(cut, texts), strict=True):
        for word, ids in of_full.items():
            num_words += 1
            # A cut may spell a word that is unknown as a whole.
            if is_kept.issuperset(ids) and vocabulary.unknown not in ids:
                num_kept += 1
                _check_equal(f"word {word} of {text[:80]!r}", vocabulary, ids, of_cut.get(word, ()))
    return Agreement(num_words=num_words, num_kept=num_kept)


def _compare_vocabularies(
    full: "PreTrainedTokenizerBase", cut: "PreTrainedTokenizerBase", vocabulary: CutVocabulary
) -> None:
    is_kept = set(vocabulary.kept.tolist())
    new_ids = vocabulary.new_ids.tolist()
    expected = {piece: new_ids[number] for piece, number in full.get_vocab().items() if number in is_kept}
    found: dict[str, int] = cut.get_vocab()
    for piece in (*expected, *found):
        if expected.get(piece) != found.get(piece):
            raise UserError(
                f"a cut tokenizer must have the kept tokens under their new ids, got {found.get(piece)} for {piece!r} "
                f"in place of {expected.get(piece)}"
            )


def _words(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> Iterator[dict[int, list[int]]]:
    """Yields the pieces of each word of each text, by the number of the word."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        part = list(texts[start : start + TEXTS_AT_ONCE])
        encoded = tokenizer(part, add_special_tokens=False, truncation=False, padding=False, verbose=False)
        for encoding in encoded.encodings:
            words: defaultdict[int, list[int]] = defaultdict(list)
            for word, number in zip(encoding.word_ids, encoding.ids, strict=True):
                words[word].append(number)
            yield words


def _check_equal(what: str, vocabulary: CutVocabulary, full: Sequence[int], cut: Sequence[int]) -> None:
    expected = vocabulary.new_ids[np.array(full, dtype=np.int64)].tolist()
    if expected != list(cut):
        raise UserError(
            f"a cut tokenizer must give the same kept tokens as the whole one, got ids {list(cut)} in place of "
            f"{expected} for {what}"
        )

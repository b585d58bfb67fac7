"""The first token of each word. No torch.

Words are joined with blanks and tokenised as one text, which is what a packaged model is given to tag. So every
tokenizer's words are found by their characters, also of those that cannot be given a list of words.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from minilm_core.tasks.features import TOKENISED_AT_ONCE
from minilm_core.tasks.spans.windows import trimmed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_TOKEN = -1
"""What stands for the first token of a word that has none."""


def encode_words(
    sentences: Sequence[Sequence[str]], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[tuple[dict[str, list[int]], list[int]]]:
    """Yields the model's inputs of each sentence, and for each word the index of its first token.

    A word has NO_TOKEN if it has no token, or lies beyond the tokens that a sentence is cut to.
    """
    for start in range(0, len(sentences), TOKENISED_AT_ONCE):
        part = sentences[start : start + TOKENISED_AT_ONCE]
        texts = [" ".join(words) for words in part]
        encoded = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
        for index, (text, words) in enumerate(zip(texts, part, strict=True)):
            inputs = {name: values[index] for name, values in encoded.items() if name != "offset_mapping"}
            offsets = [
                # Special tokens have no text.
                trimmed(offset, text) if sequence == 0 else (0, 0)
                for offset, sequence in zip(encoded["offset_mapping"][index], encoded.sequence_ids(index), strict=True)
            ]
            yield inputs, _first_tokens(words, offsets)


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int]:
    first_tokens = []
    start = token = 0
    for word in words:
        end = start + len(word)
        # Tokens before the word, and those without text, belong to no word or to an earlier one.
        while token < len(offsets) and (offsets[token][0] == offsets[token][1] or offsets[token][0] < start):
            token += 1
        first_tokens.append(token if token < len(offsets) and offsets[token][0] < end else NO_TOKEN)
        start = end + 1
    return first_tokens

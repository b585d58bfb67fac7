"""The tokenizers of model folders: loaded, checked against the embeddings, and saved with a student. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minilm_core.errors import UserError, first_line
from minilm_core.models.families import max_sequence_length

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),
    *("sentencepiece.bpe.model", "spm.model", "spiece.model", "tokenizer.model"),
)
"""What a vocabulary is kept in, whatever the family."""

PADDING_TOKENS = ("[PAD]", "<pad>")
"""What vocabularies call the token that fills up a row."""


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Opens the tokenizer of a model folder as it is there.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    # Of nothing, transformers makes a tokenizer that knows no word.
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"a teacher folder must hold a tokenizer, one of {', '.join(TOKENIZER_FILES)}, got {folder}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # The tokenizers library tells of a file of another version by a bare Exception, transformers by many kinds.
    except Exception as error:
        raise UserError(
            f"a teacher's tokenizer must be one that the installed version can read, got {folder} ({first_line(error)})"
        ) from error


def load_padding_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Opens the tokenizer of a model folder, with a padding token also where the folder declares none.

    The padding token is then the vocabulary's own of that name, else the token that ends a row: padding is masked, so
    that any token serves that a text has no use for.

    Raises:
        UserError: if there is no tokenizer, it cannot be read, or it has no token that could be padded with.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer.pad_token_id is not None:
        return tokenizer
    named = [token for token in PADDING_TOKENS if token in tokenizer.get_vocab()]
    candidates = [*named, tokenizer.sep_token, tokenizer.eos_token, tokenizer.unk_token]
    padding = next((token for token in candidates if token is not None), None)
    if padding is None:
        raise UserError(
            f"a teacher's tokenizer must have a padding token or one that ends a row, got neither in {folder}"
        )
    tokenizer.pad_token = padding
    # To the left, what is no padding token to the model would move the positions of what follows.
    tokenizer.padding_side = "right"
    return tokenizer


def save_tokenizer(tokenizer_folder: Path, config_json: Mapping[str, Any], folder: Path) -> None:
    """Writes a tokenizer beside a model: one that can pad, and cuts texts to the positions that the model has.

    Args:
        tokenizer_folder: Where the tokenizer is.
        config_json: The configuration of the model that it is to serve.
        folder: Where it is written.

    Raises:
        UserError: as `load_padding_tokenizer`.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_sequence_length(config_json))
    tokenizer.save_pretrained(folder)


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Returns one more than the highest token, the tokens that were added to the vocabulary included."""
    return int(max(tokenizer.get_vocab().values())) + 1


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", num_embeddings: int) -> None:
    """Refuses a tokenizer with tokens that a model has no embedding for.

    Raises:
        UserError: with both numbers and the first such token.
    """
    size = vocabulary_size(tokenizer)
    if size > num_embeddings:
        first = min((number, token) for token, number in tokenizer.get_vocab().items() if number >= num_embeddings)
        raise UserError(
            f"every token of the tokenizer must have an embedding, got {size} tokens and {num_embeddings} embeddings, "
            f"none for token {first[0]}, {first[1]!r}"
        )

"""Loads the tokenizers of model folders, checks them against embeddings, saves them with students. No torch."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
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
"""The files in which any family stores its vocabulary."""

TOKENIZER_PATTERNS = ("*.json", "*.txt", "*.model")
"""The files of a model folder that a tokenizer may depend on: which of them it reads differs between families."""

PADDING_TOKENS = ("[PAD]", "<pad>")
"""The names of padding tokens in vocabularies."""


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer of a model folder unchanged.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    # Without these files transformers returns a tokenizer with an empty vocabulary.
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(f"a teacher folder must hold a tokenizer, one of {', '.join(TOKENIZER_FILES)}, got {folder}")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    # The tokenizers library raises a bare Exception for a file of another version; transformers raises many kinds.
    except Exception as error:
        raise UserError(
            f"a teacher's tokenizer must be one that the installed version can read, got {folder} ({first_line(error)})"
        ) from error


def load_padding_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer of a model folder and gives it a padding token if it declares none.

    This is the vocabulary's [PAD] or <pad>, else the token that ends a row. Padding is masked, so any token that does
    not occur inside texts can be used.

    Raises:
        UserError: if there is no tokenizer, it cannot be read, or it has no token that can be used for padding.
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
    # On the left, padding that the model does not know as such would shift the positions of the text.
    tokenizer.padding_side = "right"
    return tokenizer


def tokenizer_sha256(folder: Path) -> str:
    """Returns a hash of what the tokens of a folder's tokenizer depend on: its files, and the libraries' versions."""
    digest = hashlib.sha256(f"{version('tokenizers')} {version('transformers')}".encode())
    for path in sorted(path for pattern in TOKENIZER_PATTERNS for path in folder.glob(pattern)):
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def save_tokenizer(tokenizer_folder: Path, config_json: Mapping[str, Any], folder: Path) -> None:
    """Saves a tokenizer next to a model; it can pad, and it truncates texts to the model's number of positions.

    Args:
        tokenizer_folder: The folder that the tokenizer is loaded from.
        config_json: The configuration of the model.
        folder: The folder that the tokenizer is saved in.

    Raises:
        UserError: as `load_padding_tokenizer`.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)
    tokenizer.model_max_length = min(tokenizer.model_max_length, max_sequence_length(config_json))
    tokenizer.save_pretrained(folder)


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Returns the highest token id plus one, including tokens that were added to the vocabulary."""
    return int(max(tokenizer.get_vocab().values())) + 1


def check_vocabulary(tokenizer: "PreTrainedTokenizerBase", num_embeddings: int) -> None:
    """Refuses a tokenizer with token ids that a model has no embedding for.

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

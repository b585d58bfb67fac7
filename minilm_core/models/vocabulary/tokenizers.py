"""Cuts the tokenizer of a model folder to some of its tokens. No torch."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from minilm_core.errors import UserError
from minilm_core.models.families import num_fixed_ids
from minilm_core.models.tokenizers import load_padding_tokenizer
from minilm_core.models.vocabulary.cut import CutVocabulary, token_ids
from minilm_core.models.vocabulary.models import SubwordModel, subword_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILE = "tokenizer.json"

Counts = Int[np.ndarray, " full"]
"""How often each of the teacher's tokens occurs, by its id."""


def choose_tokens(
    tokenizer_folder: Path, configs: Sequence[Mapping[str, Any]], counts: Counts, limit: int | None = None
) -> CutVocabulary:
    """Chooses the tokens that a student keeps: all that occur, or the most frequent ones.

    Special and added tokens are always kept, and so are single characters that occur, with which the tokenizer spells
    the words that it lost.

    Args:
        tokenizer_folder: The teacher's folder.
        configs: The configurations, with the teacher's ids, that are to be mapped; their special tokens are kept.
        counts: How often each token occurs.
        limit: The most tokens that are kept; None: all that occur.

    Raises:
        UserError: if the tokenizer cannot be cut, or the limit is too low for what is always kept.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)
    content = tokenizer_json(tokenizer)
    model = subword_model(content)
    unknown = unknown_token(tokenizer, tokenizer_folder)
    special = _special_tokens(tokenizer, content, configs, len(counts))
    pieces = {number: piece for piece, number in model.vocabulary.items() if number not in special and counts[number]}
    always = special | model.spelling({character for piece in pieces.values() for character in piece})
    kept = _with_parts(model, always, set())
    if limit is not None and len(kept) > limit:
        raise UserError(
            f"vocabulary must be at least the {len(kept)} special tokens and characters that the texts need, "
            f"got {limit}"
        )
    for number in sorted(np.flatnonzero(counts), key=lambda number: (-counts[number], number)):
        missing = _with_parts(model, {int(number)}, kept)
        if limit is None or len(kept) + len(missing) <= limit:
            kept |= missing
    rising = np.array(sorted(kept), dtype=np.int64)
    coverage = float(counts[rising].sum() / max(1, counts.sum()))
    return CutVocabulary(kept=rising, num_full=len(counts), unknown=unknown, limit=limit, coverage=coverage)


def save_cut_tokenizer(tokenizer_folder: Path, vocabulary: CutVocabulary, folder: Path) -> None:
    """Writes a folder with the tokenizer of another one, cut, and the map to its ids.

    Raises:
        UserError: if the tokenizer cannot be cut.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)
    content = cut_tokenizer_json(tokenizer_json(tokenizer), vocabulary)
    # All other settings of the tokenizer name tokens by their text.
    tokenizer.save_pretrained(folder)
    (folder / TOKENIZER_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    vocabulary.save(folder)


def cut_tokenizer_json(content: Mapping[str, Any], vocabulary: CutVocabulary) -> dict[str, Any]:
    """Returns the content of a tokenizer.json with the kept tokens alone, under their new ids.

    Raises:
        UserError: if the tokenizer cannot be cut.
    """
    new_ids = {int(number): index for index, number in enumerate(vocabulary.kept)}
    padding = content.get("padding")
    return {
        **content,
        "model": subword_model(content).cut(new_ids),
        "added_tokens": [{**token, "id": new_ids[token["id"]]} for token in content["added_tokens"]],
        "post_processor": _cut_post_processor(content.get("post_processor"), new_ids),
        "padding": None if padding is None else {**padding, "pad_id": new_ids[padding["pad_id"]]},
    }


def check_can_be_cut(tokenizer_folder: Path) -> None:
    """Refuses a tokenizer whose vocabulary cannot be cut.

    Raises:
        UserError: naming what it is or lacks.
    """
    tokenizer = load_padding_tokenizer(tokenizer_folder)
    unknown_token(tokenizer, tokenizer_folder)
    subword_model(tokenizer_json(tokenizer))


def tokenizer_json(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Returns a tokenizer as the content of a tokenizer.json.

    Raises:
        UserError: if it is not a fast one.
    """
    if not tokenizer.is_fast:
        raise UserError(f"a tokenizer must be a fast one for its vocabulary to be cut, got {type(tokenizer).__name__}")
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return content


def unknown_token(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> int:
    """Returns the id of the token that a student reads in place of dropped ones.

    Raises:
        UserError: if the tokenizer has none.
    """
    if tokenizer.unk_token_id is None:
        raise UserError(f"a tokenizer must have an unknown token for its vocabulary to be cut, got none in {folder}")
    return int(tokenizer.unk_token_id)


def _special_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    content: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    num_full: int,
) -> set[int]:
    """Returns the ids of tokens that are no pieces of text, and of those that positions are counted from."""
    added = {token["id"] for token in content["added_tokens"]}
    named = {number for config in configs for number in token_ids(config, num_full)}
    fixed = {number for config in configs for number in range(num_fixed_ids(config))}
    return {*added, *tokenizer.all_special_ids, *named, *fixed}


def _with_parts(model: SubwordModel, pieces: Collection[int], kept: Collection[int]) -> set[int]:
    """Returns those of some pieces, and of all that the model needs for them, that are not kept yet."""
    found: set[int] = set()
    waiting = list(pieces)
    while waiting:
        piece = waiting.pop()
        if piece not in found and piece not in kept:
            found.add(piece)
            waiting.extend(model.parts(piece))
    return found


def _cut_post_processor(content: Mapping[str, Any] | None, new_ids: Mapping[int, int]) -> dict[str, Any] | None:
    match content:
        case None:
            return None
        case {"type": "Sequence", "processors": processors}:
            return {**content, "processors": [_cut_post_processor(each, new_ids) for each in processors]}
        case {"special_tokens": tokens}:
            mapped = {
                name: {**token, "ids": [new_ids[part] for part in token["ids"]]} for name, token in tokens.items()
            }
            return {**content, "special_tokens": mapped}
        case {"cls": cls, "sep": sep}:
            return {**content, "cls": [cls[0], new_ids[cls[1]]], "sep": [sep[0], new_ids[sep[1]]]}
        case _:
            return dict(content)

"""The kinds of subword models, as tokenizer.json has them: what each must keep, and how it is cut. No torch."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from minilm_core.errors import UserError


class SubwordModel(Protocol):
    """A subword model whose vocabulary can be cut."""

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """The id of each piece."""

    def spelling(self, characters: Collection[str]) -> set[int]:
        """Returns the pieces that every cut keeps, so that it can spell what it lost and scores as before.

        Args:
            characters: All characters of the pieces that occur.
        """

    def parts(self, piece: int) -> Collection[int]:
        """Returns the pieces that the model must have to arrive at a piece."""

    def cut(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Returns the "model" of tokenizer.json with the kept pieces alone, under their new ids."""


class WordPiece:
    """Takes the longest piece that fits. A cut takes the same pieces where all of them are kept."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self.vocabulary: Mapping[str, int] = content["vocab"]

    def spelling(self, characters: Collection[str]) -> set[int]:
        """Returns each character at the beginning of a word and inside one."""
        prefix = self._content["continuing_subword_prefix"]
        return _known(self.vocabulary, (piece for c in characters for piece in (c, prefix + c)))

    def parts(self, piece: int) -> Collection[int]:
        """Returns nothing, because no piece depends on another."""
        return ()

    def cut(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Returns the model with the kept pieces."""
        return {**self._content, "vocab": _renumbered(self.vocabulary, new_ids)}


class Unigram:
    """Takes the segmentation with the largest sum of scores. A cut has fewer candidates, with the same scores."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        """Reads the pieces.

        Raises:
            UserError: if the model has no unknown token.
        """
        if content.get("unk_id") is None:
            raise UserError("a Unigram tokenizer must have an unknown token for its vocabulary to be cut, got none")
        self._content = content
        self.vocabulary: Mapping[str, int] = {piece: number for number, (piece, _) in enumerate(content["vocab"])}

    def spelling(self, characters: Collection[str]) -> set[int]:
        """Returns the characters, and the piece with the lowest score.

        The score of an unknown character is a fixed distance below the lowest one, so that it stays as it was.
        """
        lowest = int(np.argmin([score for _, score in self._content["vocab"]]))
        return (
            _known(self.vocabulary, characters)
            | _byte_pieces(self._content, self.vocabulary)
            | {lowest, self._content["unk_id"]}
        )

    def parts(self, piece: int) -> Collection[int]:
        """Returns nothing, because no piece depends on another."""
        return ()

    def cut(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Returns the model with the kept pieces, whose ids are their places in a list."""
        entries = [entry for number, entry in enumerate(self._content["vocab"]) if number in new_ids]
        return {**self._content, "vocab": entries, "unk_id": new_ids[self._content["unk_id"]]}


class BytePair:
    """Merges neighbours in the order of ranks. A cut with all intermediates of a piece takes the same merges to it."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        """Reads the pieces and merges.

        Raises:
            UserError: if pieces have a prefix or a suffix that says where in a word they are.
        """
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if content.get(name):
                raise UserError(
                    f"a BPE tokenizer must have no {name} for its vocabulary to be cut, got {content[name]!r}"
                )
        self._content = content
        self.vocabulary: Mapping[str, int] = content["vocab"]
        self._parts: dict[int, set[int]] = {}
        for left, right in content["merges"]:
            of_piece = self._parts.setdefault(self.vocabulary[left + right], set())
            of_piece.update((self.vocabulary[left], self.vocabulary[right]))

    def spelling(self, characters: Collection[str]) -> set[int]:
        """Returns the characters and the alphabet of bytes."""
        return _known(self.vocabulary, {*characters, *ByteLevel.alphabet()}) | _byte_pieces(
            self._content, self.vocabulary
        )

    def parts(self, piece: int) -> Collection[int]:
        """Returns the pieces on both sides of the merges that make a piece."""
        return self._parts.get(piece, ())

    def cut(self, new_ids: Mapping[int, int]) -> dict[str, Any]:
        """Returns the model with the kept pieces and the merges between them."""
        kept = _renumbered(self.vocabulary, new_ids)
        merges = [
            [left, right]
            for left, right in self._content["merges"]
            if left in kept and right in kept and left + right in kept
        ]
        return {**self._content, "vocab": kept, "merges": merges}


_MODELS: Mapping[str, Callable[[Mapping[str, Any]], SubwordModel]] = {
    "WordPiece": WordPiece,
    "Unigram": Unigram,
    "BPE": BytePair,
}


def subword_model(tokenizer_json: Mapping[str, Any]) -> SubwordModel:
    """Returns the subword model of a tokenizer.

    Raises:
        UserError: if it is of another kind, or is one that cannot be cut.
    """
    kind = tokenizer_json["model"].get("type")
    if kind not in _MODELS:
        raise UserError(f"a tokenizer must be of {', '.join(_MODELS)} for its vocabulary to be cut, got {kind}")
    return _MODELS[kind](tokenizer_json["model"])


def _known(vocabulary: Mapping[str, int], pieces: Iterable[str]) -> set[int]:
    return {vocabulary[piece] for piece in pieces if piece in vocabulary}


def _byte_pieces(content: Mapping[str, Any], vocabulary: Mapping[str, int]) -> set[int]:
    """Returns the pieces that spell the bytes of an unknown character, if the model does so."""
    return _known(vocabulary, (f"<0x{byte:02X}>" for byte in range(256))) if content.get("byte_fallback") else set()


def _renumbered(vocabulary: Mapping[str, int], new_ids: Mapping[int, int]) -> dict[str, int]:
    return {piece: new_ids[number] for piece, number in vocabulary.items() if number in new_ids}

"""Encoded splits on disk, so that one process of a study tokenises a split and the others read it.

The folder of a key holds the arrays of one split and their hash. They are memory-mapped, so that the processes of a
machine share them. Small splits are kept, too: even 30 sentences are read in a third of the time that it takes to
tokenise them, and to write them takes some 20 ms, once.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minilm_core.tasks.column_files import cached_columns
from minilm_core.tasks.features import Features
from minilm_core.tasks.kinds.kind import EncodedSplit, Split
from minilm_core.tasks.ragged import Column
from minilm_core.tasks.spans.examples import Answers
from minilm_core.tasks.task import Task

FORMAT_VERSION = 1
"""Raised with every change of the files, and of what a kind's `encode` returns for the same texts."""
_FEATURES = "features."
_ALIGNMENTS = "alignments."


def encoding_key(task: Task, split: Split, *, max_length: int, tokenizer_sha256: str) -> str:
    """Returns a hash of everything that the encoding of a split depends on: the content, not the names of files."""
    content = {
        "format_version": FORMAT_VERSION,
        "tokenizer": tokenizer_sha256,
        "max_length": max_length,
        "kind": task.task_kind,
        # Some of these settings change no window: one setting too many costs time, and one too few a wrong result.
        "span": None if task.span is None else asdict(task.span),
        "class_weights": None if task.class_weights is None else dict(task.class_weights),
        "balance_classes": task.balance_classes,
        "num_labels": split.num_labels,
        "label_names": split.label_names,
        "texts": [_sha256_of(texts) for texts in (*split.texts, *([split.passages] if split.passages else []))],
        "labels": _sha256_of(split.labels),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def cached_encoding(folder: Path, split: Split, encode: Callable[[], EncodedSplit]) -> EncodedSplit:
    """Returns the encoding of a split, from the folder of its key if it is there, and else made and written to it."""
    return _restored(split, cached_columns(folder, lambda: _columns_of(encode())))


def _columns_of(encoded: EncodedSplit) -> dict[str, Column]:
    """Returns all columns of an encoding, by names that say where they belong."""
    columns = {
        "targets": encoded.targets,
        "example_of": encoded.example_of,
        **{f"{_FEATURES}{name}": column for name, column in encoded.features.inputs.items()},
        **{f"{_ALIGNMENTS}{name}": column for name, column in encoded.alignments.items()},
    }
    return columns if encoded.loss_weights is None else {**columns, "loss_weights": encoded.loss_weights}


def _restored(split: Split, columns: Mapping[str, Any]) -> EncodedSplit:
    def below(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): column for name, column in columns.items() if name.startswith(prefix)}

    return EncodedSplit(
        split=split,
        features=Features(below(_FEATURES)),
        targets=columns["targets"],
        example_of=columns["example_of"],
        loss_weights=columns.get("loss_weights"),
        alignments=below(_ALIGNMENTS),
    )


def _sha256_of(values: Iterable[Any]) -> str:
    """Returns a hash of texts, lists of words or labels, one after another."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, default=_plain).encode() + b"\n")
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return asdict(value) if isinstance(value, Answers) else value.tolist()

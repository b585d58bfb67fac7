"""The files by which sentence-transformers finds out how a folder's model embeds a text. No torch.

modules.json lists the modules that a text goes through: the encoder, the pooling of its last states, and perhaps a
normalisation. The names of the modules are those of all versions of the library.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from minilm_core.atomic import write_text_atomically
from minilm_core.errors import UserError

MODULES_FILE = "modules.json"
POOLING_FOLDER = "1_Pooling"
POOLING_FILE = f"{POOLING_FOLDER}/config.json"
LENGTH_FILE = "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
SENTENCE_FILES = (MODULES_FILE, POOLING_FILE, LENGTH_FILE, PROMPTS_FILE)
"""What a folder has beside its model and its tokenizer."""
QUERY, DOCUMENT = "query", "document"
"""The names of prompts that the library's `encode_query` and `encode_document` look for."""


class Pooling(StrEnum):
    """How the last states of a text's tokens become one vector."""

    MEAN = "mean"
    """Their mean."""
    CLS = "cls"
    """The state of the first token."""
    MAX = "max"
    """The largest value of each dimension."""


_SWITCHES = {
    Pooling.MEAN: "pooling_mode_mean_tokens",
    Pooling.CLS: "pooling_mode_cls_token",
    Pooling.MAX: "pooling_mode_max_tokens",
}
"""The keys of a pooling's config.json, of which one is true; later versions of the library write `pooling_mode`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceSettings:
    """How a model embeds a text: what precedes the text, how many tokens are read, and how their states are pooled.

    Raises:
        UserError: if the pooling is unknown.
    """

    pooling: Pooling
    max_length: int
    """Tokens that a text is cut to, special tokens included."""
    prefix: str = ""
    """What precedes a text, or a query of a retrieval."""
    passage_prefix: str = ""
    """What precedes a passage that is searched for."""

    def __post_init__(self) -> None:
        if self.pooling not in list(Pooling):
            raise UserError(f"pooling must be one of {', '.join(Pooling)}, got {self.pooling}")


def has_sentence_files(folder: Path) -> bool:
    """Returns whether a folder says how its model embeds a text."""
    return (folder / MODULES_FILE).is_file()


def pooling_of(folder: Path) -> Pooling:
    """Returns the pooling that a model folder names, or the mean if it names none.

    Raises:
        UserError: if the model embeds in a way that a student cannot, or a file is damaged.
    """
    if not has_sentence_files(folder):
        return Pooling.MEAN
    kinds = {str(module["type"]).rpartition(".")[2]: module for module in _read(folder / MODULES_FILE)}
    if others := sorted(kinds.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise UserError(
            f"a teacher of embeddings must have the modules Transformer, Pooling and perhaps Normalize, "
            f"got {', '.join(others)} in {folder / MODULES_FILE}; embedding.pooling pools its last states without them"
        )
    if "Pooling" not in kinds:
        return Pooling.MEAN
    path = folder / str(kinds["Pooling"]["path"]) / "config.json"
    modes = _modes(_read(path))
    if len(modes) != 1 or modes[0] not in list(Pooling):
        raise UserError(
            f"a teacher's pooling must be one of {', '.join(Pooling)}, got {' and '.join(modes) or 'none'} in {path}; "
            f"embedding.pooling sets another"
        )
    return Pooling(modes[0])


def read_sentence_settings(folder: Path) -> SentenceSettings:
    """Returns what `write_sentence_files` wrote.

    Raises:
        UserError: if a file is missing or damaged.
    """
    prompts = _read(folder / PROMPTS_FILE).get("prompts", {})
    return SentenceSettings(
        pooling=pooling_of(folder),
        max_length=_read(folder / LENGTH_FILE)["max_seq_length"],
        prefix=prompts.get(QUERY, ""),
        passage_prefix=prompts.get(DOCUMENT, ""),
    )


def write_sentence_files(folder: Path, settings: SentenceSettings, *, hidden_size: int) -> None:
    """Writes the files beside a model and its tokenizer; the embeddings are normalised."""
    (folder / POOLING_FOLDER).mkdir(exist_ok=True)
    modules = (("", "Transformer"), (POOLING_FOLDER, "Pooling"), ("2_Normalize", "Normalize"))
    switches = {switch: mode is settings.pooling for mode, switch in _SWITCHES.items()}
    prompts = {QUERY: settings.prefix, DOCUMENT: settings.passage_prefix}
    contents: Mapping[str, Any] = {
        MODULES_FILE: [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(modules)
        ],
        POOLING_FILE: {"word_embedding_dimension": hidden_size, **switches},
        LENGTH_FILE: {"max_seq_length": settings.max_length, "do_lower_case": False},
        PROMPTS_FILE: {
            "prompts": prompts,
            # A text without a prompt of its own is then embedded as in training.
            "default_prompt_name": QUERY if settings.prefix else None,
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in contents.items():
        write_text_atomically(folder / name, json.dumps(content, indent=2) + "\n")


def _modes(config: Mapping[str, Any]) -> list[str]:
    """Returns the names of a pooling's modes, whose vectors would be concatenated."""
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
        return [modes] if isinstance(modes, str) else list(modes)
    names = {switch: str(mode) for mode, switch in _SWITCHES.items()}
    switched = [name for name, is_on in config.items() if name.startswith("pooling_mode_") and is_on is True]
    return [names.get(name, name.removeprefix("pooling_mode_")) for name in switched]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"a file of a sentence encoder must be readable JSON, got {path}") from error

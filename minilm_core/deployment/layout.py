"""The files of a deployment folder and their checksums. No torch."""

import hashlib
from pathlib import Path

from minilm_core.models.sentence_files import SENTENCE_FILES

REQUIRED_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = (
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    *SENTENCE_FILES,
)
"""Files of a tokenizer, and of sentence-transformers, that are copied where a student has them."""
CARD_FILE = "README.md"
DECISION_FILE = "decision.json"
"""Why the student was picked, as `pick` wrote it."""
EVALUATION_FILE = "eval.json"
PROVENANCE_FILE = "provenance.json"
REFERENCE_FILE = "reference.json"
"""Texts and the outputs that the student gave for them."""
SUMS_FILE = "SHA256SUMS"


def sha256_of(path: Path) -> str:
    """Returns a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> str:
    """Returns the content of SHA256SUMS for all files below a folder, in order of their paths."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)

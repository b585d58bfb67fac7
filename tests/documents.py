"""The READMEs as tests read them: their blocks, commands and tables."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.paths import ROOT

FOLDERS = ("minilm_core", "spaces", "search", "reports", "tests")
DOCUMENTS = [
    path for path in (ROOT / "README.md", *(ROOT / folder / "README.md" for folder in FOLDERS)) if path.exists()
]


class Block(NamedTuple):
    """A fenced block of a document."""

    document: str
    language: str
    text: str


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(*languages: str) -> list[Block]:
    return [
        Block(name_of(document), language, text)
        for document in DOCUMENTS
        for language, text in re.findall(
            r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        if language in languages
    ]


def command_lines(block: Block) -> Iterator[list[str]]:
    """Yields the words of each command, without its comment; a backslash continues a line."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def commands() -> list[tuple[str, list[str]]]:
    """Returns each command of a block, and those that a sentence or a table names."""
    shown = [(block.document, words) for block in blocks("sh") for words in command_lines(block)]
    for document in DOCUMENTS:
        text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        named = re.findall(r"`((?:minilm-search|make|python -m) [^`]+)`", text)
        shown += [(name_of(document), shlex.split(command)) for command in named]
    return shown


def table_rows(name: str, heading: str) -> list[list[str]]:
    """Returns the cells of a table's rows, found by the first cells of its head."""
    table = text_of(name).split(f"\n| {heading} |", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]

"""How benchmarks read what their command lines have in common."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from minilm_core.errors import UserError
from minilm_core.settings.quantities import parse_count
from minilm_core.tasks.benchmarks import NAMED_TASKS
from tests.benchmarks.students import DEFAULT_TEACHER


def named_folder(text: str) -> tuple[str, Path]:
    """Reads NAME=FOLDER."""
    name, equals, folder = text.partition("=")
    if not equals or name not in NAMED_TASKS:
        raise argparse.ArgumentTypeError(f"must be NAME=FOLDER with the name of a known task, got {text}")
    return name, Path(folder)


def size(text: str) -> tuple[int, int]:
    """Reads LAYERSxWIDTH."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be LAYERSxWIDTH such as 3x384, got {text}")
    return int(match[1]), int(match[2])


def count(text: str) -> int:
    """Reads a count such as 3M."""
    try:
        return parse_count(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def rows_parser(prog: str, words: Sequence[str], *, table: str) -> argparse.ArgumentParser:
    """Returns a parser with the options of benchmarks that train students and append rows to a file.

    Args:
        prog: The command.
        words: The words after it, which say whether anything is trained.
        table: What the option `--table` does.
    """
    parser, trains = argparse.ArgumentParser(prog=prog), "--table" not in words
    parser.add_argument("rows", type=Path, help="the file of the rows, in JSON lines")
    parser.add_argument("--table", action="store_true", help=table)
    parser.add_argument("--text", type=Path, nargs="+", required=trains, help="files or folders of text")
    parser.add_argument(
        "--tasks", type=named_folder, nargs="+", required=trains, help="NAME=FOLDER, in the Hub's layout"
    )
    parser.add_argument("--work", type=Path, help="the folder of caches and checkpoints; by default ROWS.work")
    parser.add_argument("--teacher", default=DEFAULT_TEACHER, help="a folder, Hub id or package:")
    parser.add_argument("--sizes", type=size, nargs="+", default=[(3, 384), (3, 192)], help="LAYERSxWIDTH")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of first weights, order and dropout")
    parser.add_argument("--sequence-length", type=int, default=128)
    parser.add_argument("--held-out-sequences", type=int, default=128)
    parser.add_argument("--relation-heads", type=int, default=24)
    parser.add_argument("--max-train-examples", type=int, help="of each task; by default all")
    parser.add_argument("--threads", type=int, default=1, help="more are slower where other work shares the cores")
    return parser


def parsed_rows(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Returns the options of such a benchmark, with the folder of its work."""
    options = parser.parse_args(words)
    options.work = options.work or options.rows.with_suffix(".work")
    return options

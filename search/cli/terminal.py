"""What all commands share: results on stdout, everything else on stderr, and the exit codes."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from minilm_core.results.layout import StudyPaths


@dataclass(slots=True)
class Invocation:
    """The state of a command while it runs: the `obj` of its typer context."""

    study: Path | None = None
    """The folder of the study that the command works on, where the traceback of an unexpected error goes."""


def note_study(context: typer.Context, folder: Path) -> Path:
    """Notes the study that the command works on, and returns its folder."""
    if isinstance(context.obj, Invocation):
        context.obj.study = folder
    return folder


SearchYaml = Annotated[Path, typer.Argument(help="The search.yaml.", show_default=False)]
StudyFolder = Annotated[Path, typer.Argument(help="The study's folder.", show_default=False, callback=note_study)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in --set budget.num_trials=20."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Address = Annotated[
    str | None, typer.Option(help="HOST:PORT of a running Ray cluster, or auto. Default: start Ray on this machine.")
]
Front = Annotated[bool, typer.Option("--front", help="All students on the frontier.")]
Picked = Annotated[bool, typer.Option("--picked", help="The student that pick chose.")]
Trials = Annotated[list[int] | None, typer.Option("--trial", help="The student of this trial; may be given again.")]


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    BUDGET = 3
    """The budget of device-hours was reached, with results."""
    NONE_QUALIFIES = 4
    INTERRUPTED = 130


def complain(text: str) -> None:
    """Prints an error or a note on stderr, each line after the program's name."""
    for line in text.splitlines():
        typer.echo(f"minilm-search: {line}", err=True)


def emit_json(content: Mapping[str, Any]) -> None:
    """Prints a result as JSON on stdout."""
    typer.echo(json.dumps(content, indent=2, default=str))


def emit_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows as a table on stdout."""
    console = Console()
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def say_next(*words: object) -> None:
    """Prints the command to paste next, on stderr."""
    typer.echo(f"next: {shlex.join(str(word) for word in ('minilm-search', *words))}", err=True)


def existing_study(folder: Path) -> StudyPaths:
    """Returns the layout of a study that has been launched.

    Raises:
        UserError: if the folder holds none.
    """
    from minilm_core.errors import UserError

    # Checked before the path is resolved, because resolving fails on a loop of symbolic links.
    if not StudyPaths(root=folder).search_yaml.is_file():
        raise UserError(f"a study must be a folder that launch made, with search.yaml in it, got {folder}")
    return StudyPaths(root=folder.resolve())


def shown_path(path: Path) -> Path:
    """Returns a path as the user would type it in the current folder."""
    current = Path.cwd()
    return path.relative_to(current) if path.is_relative_to(current) else path

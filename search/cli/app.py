"""The verbs' gathering, and how every one of them ends: one line and an exit code, never a traceback."""

import signal
import sys
from typing import Any, NoReturn

import click
import typer

from minilm_core.errors import UserError
from search.cli import preparing, results, running
from search.cli.terminal import ExitCode, complain

app = typer.Typer(
    help="Distil MiniLM students, search for the ones worth deploying, ship one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    preparing.init,
    preparing.validate,
    preparing.doctor,
    preparing.calibrate,
    preparing.plan,
    running.launch,
    running.status,
    running.resume,
    results.report,
    results.pick,
    results.package,
    results.verify,
):
    app.command()(verb)


def main() -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
    except click.ClickException as error:
        complain(error.format_message())
        code = ExitCode.USAGE
    except UserError as error:
        complain(str(error))
        code = ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted; nothing recorded is lost. The same command goes on from here.")
        code = ExitCode.INTERRUPTED
    sys.exit(code or ExitCode.DONE)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt

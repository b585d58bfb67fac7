"""The verbs' gathering, and how every one of them ends: one line and an exit code, never a traceback."""

import signal
import sys
from typing import Any, NoReturn

import typer

from minilm_core.errors import UserError
from search.cli import preparing, results, running
from search.cli.terminal import ExitCode, complain
from search.errors import GroundworkError

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


# Click's base of all mistakes in a call, wherever this version of typer has it: click itself, or its own copy.
_CallError: type[Any] = next(kind for kind in typer.BadParameter.mro() if kind.__name__ == "ClickException")


def main() -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(standalone_mode=False)
    except _CallError as error:
        complain(error.format_message())
        code = ExitCode.USAGE
    except UserError as error:
        complain(str(error))
        code = ExitCode.USAGE
    except GroundworkError as error:
        complain(str(error))
        code = ExitCode.FAILED
    except OSError as error:
        complain(f"{error.strerror or error}{'' if error.filename is None else f': {error.filename}'}")
        code = ExitCode.FAILED
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    # Some versions of typer raise what interrupted a command, others return its exit code.
    if code == ExitCode.INTERRUPTED:
        complain("interrupted; nothing recorded is lost. The same command goes on from here.")
    sys.exit(code or ExitCode.DONE)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt

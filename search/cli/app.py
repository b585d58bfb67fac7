"""Gathers the commands. Every one of them ends with one line and an exit code, never with a traceback."""

import io
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import typer

from minilm_core.errors import FailureKind, UserError, classify_failure, first_line
from search.cli import benching, calibrating, preparing, results, running
from search.cli.terminal import ExitCode, Invocation, complain
from search.driver.log import write_driver_log
from search.errors import SearchError

MAX_MESSAGE_CHARACTERS = 200
"""Characters that are shown of an unexpected error's message."""

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
    calibrating.calibrate,
    preparing.plan,
    running.launch,
    running.status,
    running.resume,
    results.report,
    results.show,
    results.pick,
    results.confirm,
    results.ablate,
    results.check_finetuning,
    benching.bench,
    results.package,
    results.verify,
):
    app.command()(verb)


# Click's base of all mistakes in a call, wherever this version of typer has it: click itself, or its own copy.
_CallError: type[Any] = next(kind for kind in typer.BadParameter.mro() if kind.__name__ == "ClickException")


def main() -> NoReturn:
    """Runs the command line and ends the process with its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    # A file name may contain bytes that are not text, and a terminal may lack a character.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_exit_code(Invocation()))


def _exit_code(invocation: Invocation) -> int:
    """Runs a command and reports in one line whatever ended it."""
    try:
        code = app(standalone_mode=False, obj=invocation)
    except _CallError as error:
        complain(error.format_message())
        code = ExitCode.USAGE
    except UserError as error:
        complain(str(error))
        code = ExitCode.USAGE
    except SearchError as error:
        complain(str(error))
        code = ExitCode.FAILED
    except OSError as error:
        complain(f"{error.strerror or error}{'' if error.filename is None else f': {error.filename}'}")
        code = ExitCode.FAILED
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except SystemExit:
        raise
    # A panic in a library written in Rust is a BaseException.
    except BaseException as error:
        complain(_unexpected(error, invocation.study))
        code = ExitCode.FAILED
    # Some versions of typer raise what interrupted a command, others return its exit code.
    if code == ExitCode.INTERRUPTED:
        complain("interrupted; nothing recorded is lost. The same command continues from here.")
    return code or ExitCode.DONE


def _unexpected(error: BaseException, study: Path | None) -> str:
    """Returns one line about an error that no command handles, and writes its traceback to driver.log."""
    kind, message = classify_failure(error), " ".join(first_line(error).split())[:MAX_MESSAGE_CHARACTERS]
    name = type(error).__name__
    what = name if message == name else f"{name}: {message}"
    cause = "" if kind is FailureKind.CRASH else f"{kind}, "
    try:
        where = f"the traceback is in {write_driver_log(study, error)}"
    except OSError as refusal:
        where = f"the traceback could not be written ({refusal.strerror or refusal})"
    return f"an unexpected error stopped the command: {cause}{what}; {where}"


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt

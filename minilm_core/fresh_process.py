"""Fresh Python processes that run a module of this project and import nothing from the current folder.

Python searches the current folder first: it would run any json.py in it instead of its own. A module that answers a
request reads it from stdin and prints messages as lines of JSON on stdout; one with the key `error` is a UserError's.
"""

import contextlib
import json
import os
import site
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from minilm_core.errors import UserError

Message = Mapping[str, Any]
"""What a process answers, in plain JSON types."""

PROJECT_FOLDER = Path(__file__).parents[1]
"""The folder that this project is imported from."""


def module_command(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module with the current folder excluded from the import path."""
    return [sys.executable, "-P", "-m", module, *arguments]


@contextmanager
def results_on_stdout() -> Iterator[TextIO]:
    """Reserves the stdout of this process for its results, which are written to what this yields.

    Everything else that is printed until the block ends, by native code too, goes to stderr.
    """
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", closefd=False) as results:
            yield results
    finally:
        sys.stdout.flush()
        os.dup2(descriptor, 1)
        os.close(descriptor)


def import_path() -> str:
    """Returns a PYTHONPATH with which a fresh process, in any folder, imports what this process imports.

    Empty entries, which mean the current folder, are removed. The site-packages folder is left out: every process
    searches it anyway, and in PYTHONPATH its packages would precede Python's standard library.
    """
    entries = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    installed = {Path(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
    project = [] if PROJECT_FOLDER in installed else [str(PROJECT_FOLDER)]
    return os.pathsep.join(dict.fromkeys([*project, *entries]))


@contextmanager
def answering(module: str, request: str, what: str) -> Iterator[Iterator[Message]]:
    """Starts a module in a fresh process, hands it a request, and yields its messages; it ends if the block fails.

    What the process prints on stderr is shown.

    Args:
        module: A module that calls `answer_on_stdout`.
        request: What it reads from stdin.
        what: What it does, for the message of a failure.

    Raises:
        UserError: by the messages, if the process answers with one, or fails.
    """
    environment = {**os.environ, "PYTHONPATH": import_path()}
    with subprocess.Popen(
        module_command(module), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdin is not None, "stdin is a pipe"
            # A process that has died already is reported by its exit code.
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(request)
            yield _messages(child, what)
        except BaseException:
            child.kill()
            raise


def _messages(child: "subprocess.Popen[str]", what: str) -> Iterator[Message]:
    assert child.stdout is not None, "stdout is a pipe"
    for line in child.stdout:
        message = json.loads(line)
        if "error" in message:
            raise UserError(message["error"])
        yield message
    if child.wait():
        raise UserError(
            f"{what} must end with exit code 0, got {child.returncode}; what it printed on stderr names the cause"
        )


def answer_on_stdout(answer: Callable[[str, TextIO], None]) -> None:
    """Answers the request on stdin; the main function of a module that `answering` starts."""
    with results_on_stdout() as results:
        try:
            answer(sys.stdin.read(), results)
        except KeyboardInterrupt:
            # The parent was interrupted too, and reports it.
            sys.exit(130)


def write_message(message: Message, out: TextIO) -> None:
    """Writes a message of a process at once."""
    print(json.dumps(message), file=out, flush=True)

"""Commands for fresh Python processes that run a module of this project and import nothing from the current folder.

Python searches the current folder first: it would run any json.py in it instead of its own.
"""

import os
import site
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

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

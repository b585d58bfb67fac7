"""Python processes of our own that run a module of this project, whatever lies in the current folder.

Python puts the current folder first among those it imports from: a stranger's json.py there would be run in our name.
"""

import os
import site
import sys
from pathlib import Path

PROJECT_FOLDER = Path(__file__).parents[1]
"""Where this project is imported from."""


def module_command(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module without the current folder among those it imports from."""
    return [sys.executable, "-P", "-m", module, *arguments]


def import_path() -> str:
    """Returns a PYTHONPATH with which a fresh process finds what this one does, from any folder.

    An empty entry would be the current folder. Where pip has put the project into a folder of its own every process
    looks anyway; named here, packages in it would go before Python's own modules.
    """
    entries = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    installed = {Path(folder) for folder in (*site.getsitepackages(), site.getusersitepackages())}
    project = [] if PROJECT_FOLDER in installed else [str(PROJECT_FOLDER)]
    return os.pathsep.join(dict.fromkeys([*project, *entries]))

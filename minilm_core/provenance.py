"""The software that a result was made with: installed versions and the state of the source. No torch."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

GIT_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceState:
    """The state of a git checkout."""

    commit: str
    """The full hash of the commit that is checked out."""
    is_dirty: bool
    """Whether tracked files differ from that commit."""


def versions_of(packages: Sequence[str]) -> dict[str, str | None]:
    """Returns the versions of Python and of distribution packages; None for a package that is not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in packages}


def source_state(file: Path = Path(__file__)) -> SourceState | None:
    """Returns the state of the git checkout that a source file belongs to.

    Returns None where git does not track the file, as in an installed package, or git cannot be run.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_TIMEOUT_SECONDS)
        return done.stdout.strip()

    try:
        # An installed package may lie in an ignored folder of somebody else's checkout.
        git("ls-files", "--error-unmatch", file.name)
        return SourceState(
            commit=git("rev-parse", "HEAD"), is_dirty=bool(git("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

"""Tests of the record of software: installed versions and the state of the source."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from minilm_core.provenance import source_state, versions_of


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=someone", "-c", "user.email=someone@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with one commit, of module.py."""
    git(tmp_path, "init", "--quiet")
    (tmp_path / "module.py").write_text("first\n", encoding="utf-8")
    git(tmp_path, "add", "module.py")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def test_versions_are_those_of_python_and_of_the_installed_packages() -> None:
    versions = versions_of(["numpy", "no-such-package"])
    assert versions == {
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "no-such-package": None,
    }


def test_the_state_of_a_checkout_is_its_commit_and_whether_tracked_files_changed(checkout: Path) -> None:
    clean = source_state(checkout / "module.py")
    (checkout / "notes.txt").write_text("untracked\n", encoding="utf-8")
    assert source_state(checkout / "module.py") == clean
    (checkout / "module.py").write_text("second\n", encoding="utf-8")
    changed = source_state(checkout / "module.py")
    assert clean is not None
    assert changed is not None
    assert (clean.commit, clean.is_dirty) == (git(checkout, "rev-parse", "HEAD"), False)
    assert (changed.commit, changed.is_dirty) == (clean.commit, True)


def test_a_package_installed_inside_a_checkout_has_no_state(checkout: Path) -> None:
    (checkout / "installed.py").write_text("", encoding="utf-8")
    assert source_state(checkout / "installed.py") is None


def test_a_file_outside_any_checkout_has_no_state(tmp_path: Path) -> None:
    assert source_state(tmp_path / "module.py") is None

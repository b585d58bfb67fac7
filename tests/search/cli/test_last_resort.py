"""Tests of how the command line ends on an error that no command handles. Each call is a process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from search.driver.log import write_driver_log
from tests.paths import ROOT
from tests.reports.example_studies import write_full_study


def run(
    *arguments: object, path: Path | None = None, stdout: int | None = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs the command line. Modules in `path` are imported in place of the installed ones."""
    words = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    folders = [str(ROOT)] if path is None else [str(path), str(ROOT)]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **environment}
    return subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True, env=settings, check=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up students."""
    return write_full_study(tmp_path / "study").path


def broken_library(folder: Path, raising: str) -> Path:
    """Makes a folder with a module `yaml` that cannot be imported, as in a damaged installation."""
    folder.mkdir()
    (folder / "yaml.py").write_text(f"class Panic(BaseException): pass\nraise {raising}\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("raising", "message"),
    [
        ("RuntimeError('one\\ntwo')", "RuntimeError: one;"),
        ("MemoryError", "out of memory, MemoryError;"),
        ("RecursionError('too deep')", "RecursionError: too deep;"),
        ("Panic('from Rust')", "Panic: from Rust;"),
    ],
)
def test_an_unexpected_error_ends_in_one_line_and_the_studys_driver_log(
    study: Path, tmp_path: Path, raising: str, message: str
) -> None:
    done = run("status", study, path=broken_library(tmp_path / "broken", raising))
    assert done.returncode == 1
    assert done.stderr == (
        f"minilm-search: an unexpected error stopped the command: {message} "
        f"the traceback is in {study / 'driver.log'}\n"
    )
    log = (study / "driver.log").read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in log
    assert f" status {study}\n" in log


def test_without_a_study_the_traceback_goes_to_a_file_that_the_line_names(tmp_path: Path) -> None:
    broken = broken_library(tmp_path / "broken", "RuntimeError('no')")
    done = run("validate", tmp_path / "search.yaml", path=broken, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    log = Path(done.stderr.rstrip("\n").rpartition("the traceback is in ")[2])
    assert log.is_relative_to(tmp_path)
    assert "RuntimeError: no" in log.read_text(encoding="utf-8")


def test_an_error_is_appended_to_the_log(tmp_path: Path) -> None:
    for number in (1, 2):
        assert write_driver_log(tmp_path, ValueError(f"number {number} \udcff")) == tmp_path / "driver.log"
    log = (tmp_path / "driver.log").read_text(encoding="utf-8")
    assert log.index("ValueError: number 1 \\udcff") < log.index("ValueError: number 2 \\udcff")


def test_the_log_goes_elsewhere_if_the_study_cannot_be_written_to(tmp_path: Path) -> None:
    log = write_driver_log(tmp_path / "absent", ValueError("why"))
    assert not log.is_relative_to(tmp_path)
    assert "ValueError: why" in log.read_text(encoding="utf-8")
    log.unlink()
    log.parent.rmdir()


def test_a_file_name_that_is_not_text_is_shown_escaped(tmp_path: Path) -> None:
    done = run("init", tmp_path / os.fsdecode(b"st\xffdy"), "--template", "gpu")
    assert done.returncode == 0
    assert done.stdout == f"wrote {tmp_path}/st\\udcffdy/search.yaml\n"


def test_a_closed_pipe_ends_the_command_without_a_message(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run("init", tmp_path / "new", "--template", "gpu", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")

"""How the command line ends when something happens that no command foresees, each call a process of its own."""

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
    """Runs the command line, with the modules in `path` in the place of those that are installed."""
    words = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    places = [str(ROOT)] if path is None else [str(path), str(ROOT)]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(places), **environment}
    return subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True, env=settings, check=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of made-up students."""
    return write_full_study(tmp_path / "study").path


def broken_library(folder: Path, raising: str) -> Path:
    """Makes a folder with a `yaml` that cannot be imported, as a damaged installation has it."""
    folder.mkdir()
    (folder / "yaml.py").write_text(f"class Panic(BaseException): pass\nraise {raising}\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("raising", "told"),
    [
        ("RuntimeError('one\\ntwo')", "RuntimeError: one;"),
        ("MemoryError", "out of memory, MemoryError;"),
        ("RecursionError('too deep')", "RecursionError: too deep;"),
        ("Panic('from Rust')", "Panic: from Rust;"),
    ],
)
def test_an_error_that_nobody_foresaw_ends_in_one_line_and_the_studys_driver_log(
    study: Path, tmp_path: Path, raising: str, told: str
) -> None:
    done = run("status", study, path=broken_library(tmp_path / "broken", raising))
    assert done.returncode == 1
    assert done.stderr == (
        f"minilm-search: an error that was not foreseen stopped the command, {told} "
        f"the details are in {study / 'driver.log'}\n"
    )
    log = (study / "driver.log").read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in log
    assert f" status {study}\n" in log


def test_without_a_study_the_details_go_to_a_file_that_the_line_names(tmp_path: Path) -> None:
    broken = broken_library(tmp_path / "broken", "RuntimeError('no')")
    done = run("validate", tmp_path / "search.yaml", path=broken, TMPDIR=str(tmp_path))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    log = Path(done.stderr.rstrip("\n").rpartition("the details are in ")[2])
    assert log.is_relative_to(tmp_path)
    assert "RuntimeError: no" in log.read_text(encoding="utf-8")


def test_every_error_is_added_to_what_the_log_holds(tmp_path: Path) -> None:
    for number in (1, 2):
        assert write_driver_log(tmp_path, ValueError(f"number {number} \udcff")) == tmp_path / "driver.log"
    log = (tmp_path / "driver.log").read_text(encoding="utf-8")
    assert log.index("ValueError: number 1 \\udcff") < log.index("ValueError: number 2 \\udcff")


def test_a_study_that_cannot_be_written_to_leaves_the_log_elsewhere(tmp_path: Path) -> None:
    log = write_driver_log(tmp_path / "absent", ValueError("why"))
    assert not log.is_relative_to(tmp_path)
    assert "ValueError: why" in log.read_text(encoding="utf-8")
    log.unlink()
    log.parent.rmdir()


def test_a_name_that_is_no_text_is_shown_escaped(tmp_path: Path) -> None:
    done = run("init", tmp_path / os.fsdecode(b"st\xffdy"), "--template", "gpu")
    assert done.returncode == 0
    assert done.stdout == f"wrote {tmp_path}/st\\udcffdy/search.yaml\n"


def test_a_reader_that_has_read_enough_hears_no_complaint(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = run("init", tmp_path / "new", "--template", "gpu", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")

"""Tests of fresh processes: they import the project and nothing from the current folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minilm_core import fresh_process
from minilm_core.fresh_process import PROJECT_FOLDER, import_path, module_command


@pytest.mark.parametrize("given", ["", os.pathsep, f"{os.pathsep}/somewhere"])
def test_an_empty_entry_of_the_users_path_is_not_the_current_folder(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("print('a stranger')\nraise ImportError\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", given)
    environment = {**os.environ, "PYTHONPATH": import_path()}
    command = module_command("json.tool", "--help")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "a stranger" in done.stdout) == (0, False)


def test_a_project_that_was_not_installed_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert import_path().split(os.pathsep) == [str(PROJECT_FOLDER), "/somewhere"]


def test_an_installed_project_does_not_precede_pythons_own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(fresh_process.site, "getsitepackages", lambda: [str(PROJECT_FOLDER)])
    assert import_path() == ""


NATIVE_OUTPUT = """
import os
from minilm_core.fresh_process import results_on_stdout
with results_on_stdout() as results:
    print("a library")
    os.write(1, b"native code\\n")
    print("the result", file=results)
print("after")
"""


def test_only_results_are_written_to_stdout_even_if_native_code_prints() -> None:
    command = [sys.executable, "-c", NATIVE_OUTPUT]
    done = subprocess.run(command, cwd=PROJECT_FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["the result", "after"]
    assert sorted(done.stderr.splitlines()) == ["a library", "native code"]

"""Tests that fresh processes do not run files of the current folder."""

import os
import subprocess
from pathlib import Path

import pytest

from minilm_core import fresh_process
from minilm_core.errors import UserError
from minilm_core.fresh_process import PROJECT_FOLDER, import_path, module_command
from search.driver.calibration import calibrate_apart


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the current folder, with files named like modules of this project and of Python."""
    for module in ("search", "minilm_core", "json", "yaml", "typer"):
        (tmp_path / f"{module}.py").write_text("print('a stranger')\nraise ImportError\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_calibration_imports_nothing_from_the_current_folder(
    strangers: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="must end with exit code 0, got 2"):
        calibrate_apart(strangers / "missing.yaml")
    assert "missing.yaml: must be a file that can be read" in capfd.readouterr().err


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("given", ["", os.pathsep, f"{os.pathsep}/somewhere"])
def test_an_empty_entry_of_the_users_path_is_not_the_current_folder(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", given)
    environment = {**os.environ, "PYTHONPATH": import_path()}
    command = module_command("json.tool", "--help")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "a stranger" in done.stdout) == (0, False)


def test_a_project_that_was_not_installed_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert import_path().split(os.pathsep) == [str(PROJECT_FOLDER), "/somewhere"]


def test_an_installed_project_does_not_go_before_pythons_own_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(fresh_process.site, "getsitepackages", lambda: [str(PROJECT_FOLDER)])
    assert import_path() == ""

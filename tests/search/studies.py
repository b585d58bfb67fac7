"""Functions for the tests of whole studies: they run the command line in its own process and read a study's folder."""

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role, TrialRecord
from search.driver.searcher import STUDY_NAME
from tests.paths import ROOT

NO_BASELINES = ("baselines.teacher=false", "baselines.twin=false", "baselines.truncated_teacher=false")

# Like the installed script, this command does not import from the current folder.
COMMAND = f"import sys; sys.path[:] = [{str(ROOT)!r}, *filter(None, sys.path)]; from search.cli import main; main()"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", COMMAND, *map(str, arguments)]


def run(*arguments: object, timeout: float = 600, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False)


def launch_arguments(material: Path, studies: Path, overrides: Sequence[str]) -> list[object]:
    settings = [f"storage.path={studies}", *overrides]
    return ["launch", material / "search.yaml", *(argument for setting in settings for argument in ("--set", setting))]


def launch(material: Path, studies: Path, *overrides: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run(*launch_arguments(material, studies, overrides), cwd=cwd)


def students(study: StudyPaths) -> list[TrialRecord]:
    return [record for record in read_records(study.records) if record.role is Role.STUDENT]


def optuna_states(study: StudyPaths) -> Counter[TrialState]:
    storage = JournalStorage(JournalFileBackend(str(study.journal)))
    loaded = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    return Counter(trial.state for trial in loaded.get_trials(deepcopy=False))


def wait_for(is_met: Callable[[], bool], seconds: float = 180) -> None:
    """Polls a condition on the files of another process, which sends no signal when the condition is met.

    Raises:
        AssertionError: if the condition is not met in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if is_met():
                return
        except (FileNotFoundError, KeyError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"the condition on the search must be met within {seconds:g} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

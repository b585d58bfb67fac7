"""Test of a whole study on a node whose memory monitor kills processes again and again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Role, Status
from tests.search.local_ray import always_out_of_memory
from tests.search.studies import ROOT, command, launch_arguments

pytestmark = [pytest.mark.slow, pytest.mark.long]

SECONDS_BETWEEN_KILLS = 90


@contextmanager
def stderr_of_search(material: Path, studies: Path, *settings: str) -> Iterator[IO[str]]:
    """Launches a search on such a node, and yields its stderr; the search ends with the block."""
    arguments = launch_arguments(material, studies, settings)
    environ = {**os.environ, **always_out_of_memory(SECONDS_BETWEEN_KILLS)}
    driver = subprocess.Popen(command(*arguments), cwd=ROOT, env=environ, stderr=subprocess.PIPE, text=True)
    assert driver.stderr is not None
    try:
        yield driver.stderr
    finally:
        driver.terminate()
        driver.communicate(timeout=120)


def test_a_search_continues_after_the_memory_monitor_kills_its_processes(material: Path, tmp_path: Path) -> None:
    study, lines = StudyPaths(root=tmp_path / "tiny"), []
    # There are more trials than the test waits for, so that one is running when the monitor kills.
    with stderr_of_search(material, tmp_path, "budget.num_trials=500") as stderr:
        lost = next(
            line for line in stderr if not lines.append(line) and "started once more" in line and " trial " in line
        )
        after = next(line for line in stderr if not lines.append(line) and " accuracy " in line and " trial " in line)
    assert ": out of memory on the node: " in lost, "".join(lines)
    assert "GB in use, largest process" in lost
    assert "Traceback" not in "".join(lines)
    assert "Refer to the documentation" not in "".join(lines)
    assert after
    complete = [record for record in read_records(study.records) if record.status is Status.COMPLETE]
    assert any(record.role is Role.STUDENT for record in complete)
    number = int(lost.split(" trial ")[1].split(":")[0])
    assert "Top 10 memory users" in TrialPaths(root=study.trial_folder(number)).log.read_text(encoding="utf-8")

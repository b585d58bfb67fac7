"""Tests of the memory of a search, which must not grow, and of its measurement."""

import re
from pathlib import Path

import pytest

from tests.benchmarks import trial_memory
from tests.benchmarks.trial_memory import memory_of_search, write_material

MOST_GROWTH = 1.3
NUM_TRIALS = 200
NUM_TRIALS_BEFORE = 10


@pytest.mark.slow
def test_it_prints_one_line_for_each_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trial_memory.main(["loop", "--trials", "2", "--folder", str(tmp_path), "--set", "distillation.num_steps=1"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for number, line in enumerate(lines):
        assert re.fullmatch(rf"{number + 1} trials: \d+ MB resident, \d+ MB anonymous, \d+ threads", line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.long
def test_two_hundred_trials_take_hardly_more_memory_than_ten(tmp_path: Path) -> None:
    found = dict(memory_of_search(write_material(tmp_path), NUM_TRIALS))
    # When the search ends, the processes of its trials have ended already.
    numbers = [number for number, processes in found.items() if len(processes) > 1 and number >= NUM_TRIALS_BEFORE]
    assert numbers[-1] > 0.95 * NUM_TRIALS
    for is_driver in (True, False):
        early, late = (
            max(memory.resident_bytes for name, memory in found[number].items() if (name == "driver") is is_driver)
            for number in (numbers[0], numbers[-1])
        )
        assert late <= MOST_GROWTH * early

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minilm_core.results.records import Role, TrialRecord
from reports import Study
from tests.reports.confirmed_studies import write_runs
from tests.reports.example_studies import write_full_study, write_study


@pytest.fixture
def full_study(tmp_path: Path) -> Study:
    return write_full_study(tmp_path / "study")


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    def make(*records: TrialRecord, **extras: Any) -> Study:
        return write_study(tmp_path / "study", records, **extras)

    return make


@pytest.fixture
def confirmed_study(tmp_path: Path) -> Study:
    study = write_full_study(tmp_path / "study")
    runs = {
        (Role.TEACHER, 0): (0.90, 0.92, 0.91),
        (Role.STUDENT, 0): (0.80, 0.79, 0.81),
        (Role.STUDENT, 1): (0.90, 0.89, 0.90),
    }
    write_runs(study, runs)
    return study

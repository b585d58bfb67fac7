from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minilm_core.results.records import TrialRecord
from reports import Study
from tests.reports.example_studies import write_full_study, write_study


@pytest.fixture
def full_study(tmp_path: Path) -> Study:
    return write_full_study(tmp_path / "study")


@pytest.fixture
def make_study(tmp_path: Path) -> Callable[..., Study]:
    def make(*records: TrialRecord, **extras: Any) -> Study:
        return write_study(tmp_path / "study", records, **extras)

    return make

"""A search.yaml for the tests of the settings, and what it says."""

from pathlib import Path

import pytest

from search.config.loading import load_config
from tests.search.config.example import SEARCH


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_text(text=SEARCH):
        Path("search.yaml").write_text(text, encoding="utf-8")
        return Path("search.yaml")

    return write_text


@pytest.fixture
def config(write):
    return load_config(write()).config

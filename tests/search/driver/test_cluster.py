"""Tests of the environment in which Ray is started, without a start of Ray."""

import os
from pathlib import Path

import pytest

from search.driver.cluster import give_token

VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        # The variable is set first, so that monkeypatch removes the value that a test sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_ray_has_a_token_where_the_home_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    give_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_ray_keeps_its_own_token_in_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    give_token()
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_authentication_that_the_user_has_set_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    give_token()
    assert "RAY_AUTH_TOKEN" not in os.environ

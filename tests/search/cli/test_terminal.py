"""Tests of what all commands print."""

import pytest

from search.cli.terminal import step_shown


def test_without_a_terminal_a_long_step_prints_a_line_at_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    with step_shown("calibrating cpu") as show:
        for fraction in (0.0, 0.25, 0.5):
            show("students, 3x288", fraction)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "calibrating cpu: students, 3x288, 0% done\n"

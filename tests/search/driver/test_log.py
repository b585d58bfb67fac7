"""Tests of driver.log, and of the message of a driver that an exception stopped."""

import logging
import re
from pathlib import Path

import pytest
from ray.tune import TuneError

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from search.driver.log import reported_in_one_line, tune_errors_logged
from search.errors import SearchStoppedError

TUNE_ERROR_TEXT = (
    'Traceback (most recent call last):\n  File "x.py", line 1, in f\nOSError: no space left on the disk\n'
)


@pytest.fixture
def study(tmp_path: Path) -> StudyPaths:
    return StudyPaths(root=tmp_path / "a study")


@pytest.mark.parametrize(
    ("error", "happened"),
    [
        (RuntimeError("Caught unexpected exception: first\nsecond\nthird"), "RuntimeError: Caught unexpected .* first"),
        (TuneError(TUNE_ERROR_TEXT), "OSError: no space left on the disk"),
        (KeyError(), "KeyError: KeyError"),
    ],
)
def test_an_exception_is_one_line_with_the_command_that_goes_on(
    study: StudyPaths, error: Exception, happened: str
) -> None:
    study.root.mkdir()
    with pytest.raises(SearchStoppedError) as stopped, reported_in_one_line(study):
        raise error
    line = str(stopped.value)
    assert line.count("\n") == 0
    assert re.match(f"the search stopped: {happened}; nothing recorded is lost", line)
    assert line.endswith(f"go on with minilm-search resume '{study.root}'")


def test_the_log_has_the_traceback_and_the_whole_message(study: StudyPaths) -> None:
    study.root.mkdir()
    with pytest.raises(SearchStoppedError), reported_in_one_line(study):
        raise RuntimeError("first\nsecond")
    log = study.driver_log.read_text(encoding="utf-8")
    assert "Traceback" in log
    assert "second" in log


@pytest.mark.parametrize("error", [UserError("a rule, got 1"), OSError(28, "no space"), KeyboardInterrupt()])
def test_errors_with_a_message_of_their_own_pass_unchanged(study: StudyPaths, error: BaseException) -> None:
    study.root.mkdir()
    with pytest.raises(type(error)) as passed, reported_in_one_line(study):
        raise error
    assert passed.value is error
    assert not study.driver_log.exists()


def test_errors_of_tune_are_logged_and_not_printed(study: StudyPaths, capsys: pytest.CaptureFixture[str]) -> None:
    study.root.mkdir()
    with tune_errors_logged(study.driver_log):
        logging.getLogger("ray.tune.tune").error("Trials did not complete: [a]")
    assert "Trials did not complete: [a]" in study.driver_log.read_text(encoding="utf-8")
    assert capsys.readouterr().err == ""


def test_there_is_no_log_without_an_error(study: StudyPaths) -> None:
    study.root.mkdir()
    with tune_errors_logged(study.driver_log):
        pass
    assert not study.driver_log.exists()

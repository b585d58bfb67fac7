"""Tests of a journal that a power failure cut short: no record is lost, and no number is used twice."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import TrialRecord
from search.config.settings import SamplerName
from search.driver.journal import repair_journal
from search.driver.searcher import Quota, StudySearcher, reconcile
from spaces.space import StudentChoice
from tests.search.searching import OBJECTIVES, WIDE, Driver, drawn, make_searcher, make_study, trials

TWO_AT_ONCE = Quota(num_students=100, max_concurrent_trials=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, tuple[TrialRecord, ...]]:
    """The journal of three students that ended and one that is running, and the records of the three."""
    study = StudyPaths(root=tmp_path_factory.mktemp("whole"))
    driver = Driver()
    searcher = make_searcher(opened(study), driver, quota=TWO_AT_ONCE)
    drawn(searcher, "a")
    for ended, begun in ("ab", "bc", "cd"):
        drawn(searcher, begun)
        searcher.on_trial_complete(ended, {})
    return study.journal.read_bytes(), tuple(driver.records)


@pytest.fixture
def study(tmp_path: Path) -> StudyPaths:
    return StudyPaths(root=tmp_path)


@pytest.fixture
def lines() -> list[str]:
    """The messages that are shown to the user."""
    return []


def opened(study: StudyPaths, sampler: SamplerName = SamplerName.RANDOM) -> optuna.Study:
    return make_study(JournalStorage(JournalFileBackend(str(study.journal))), sampler)


def resumed(
    study: StudyPaths, records: tuple[TrialRecord, ...], sampler: SamplerName = SamplerName.RANDOM
) -> tuple[optuna.Study, StudySearcher]:
    """Resumes a study as the driver does. The running student, number 3, has a folder already."""
    repair_journal(study, on_trouble=lambda _: None)
    optuna_study = opened(study, sampler)
    begun = {record.number for record in records} | {3}
    interrupted = reconcile(optuna_study, WIDE, records, OBJECTIVES, begun)
    searcher = StudySearcher(
        optuna_study, WIDE, objectives=OBJECTIVES, interrupted=interrupted, quota=TWO_AT_ONCE, events=Driver()
    )
    return optuna_study, searcher


def known(study: optuna.Study) -> list[StudentChoice]:
    """Returns the students whose results the sampler has."""
    return [WIDE.decode(trial.params) for trial in trials(study) if trial.state is TrialState.COMPLETE]


def offsets(content: bytes) -> list[int]:
    """Returns three offsets for each line: before its first byte, in its middle, and before its end."""
    starts = [0, *(index + 1 for index, byte in enumerate(content) if byte == ord("\n"))]
    middles = [(start + end) // 2 for start, end in itertools.pairwise(starts)]
    return sorted({*starts, *middles, *(start - 1 for start in starts[1:])})


def test_a_search_knows_all_recorded_students_wherever_its_journal_is_cut_off(
    whole: tuple[bytes, tuple[TrialRecord, ...]], study: StudyPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test does not depend on fsync, which would take most of its time.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    content, records = whole
    recorded = [StudentChoice.from_record(record) for record in records]
    for offset in offsets(content):
        study.journal.write_bytes(content[:offset])
        optuna_study, searcher = resumed(study, records)
        assert sorted(known(optuna_study), key=str) == sorted(recorded, key=str), offset
        number, choice = drawn(searcher)
        assert number >= 3, offset
        assert choice not in recorded, offset


@pytest.mark.parametrize(
    "break_off",
    [
        lambda content: content[:-40],
        lambda content: content[:-40] + bytes(40),
        lambda content: content + bytes(4096),
        lambda content: content + b'{"op_code":',
        lambda content: content + b"\xff\xfe\n",
        lambda content: content + b"null\n",
        lambda content: content[: len(content) // 2] + bytes(64) + content[len(content) // 2 + 64 :],
        lambda content: bytes(len(content)),
    ],
    ids=["cut", "cut, then zeros", "zeros", "half a line", "no text", "no entry", "hole", "all zeros"],
)
@pytest.mark.parametrize("sampler", [SamplerName.TPE, SamplerName.NSGA2])
def test_a_broken_journal_is_repaired_with_one_message_and_a_copy_is_kept(
    whole: tuple[bytes, tuple[TrialRecord, ...]],
    study: StudyPaths,
    lines: list[str],
    break_off: Callable[[bytes], bytes],
    sampler: SamplerName,
) -> None:
    broken = break_off(whole[0])
    study.journal.write_bytes(broken)
    repair_journal(study, lines.append)
    assert len(lines) == 1
    assert lines[0].startswith("study.journal is broken from line ")
    assert study.damaged_journal.read_bytes() == broken
    optuna_study, searcher = resumed(study, whole[1], sampler)
    assert len(known(optuna_study)) == 3
    assert drawn(searcher)[0] >= 3


def test_a_whole_journal_is_left_as_it_is(
    whole: tuple[bytes, tuple[TrialRecord, ...]], study: StudyPaths, lines: list[str]
) -> None:
    study.journal.write_bytes(whole[0])
    repair_journal(study, lines.append)
    assert study.journal.read_bytes() == whole[0]
    assert not study.damaged_journal.exists()
    assert lines == []


def test_a_study_that_has_no_journal_yet_is_left_alone(study: StudyPaths, lines: list[str]) -> None:
    repair_journal(study, lines.append)
    assert list(study.root.iterdir()) == []


def test_a_lock_that_a_killed_driver_left_behind_is_removed(study: StudyPaths, lines: list[str]) -> None:
    opened(study)
    lock = study.root / "study.journal.lock"
    lock.symlink_to(study.journal)
    repair_journal(study, lines.append)
    assert not lock.is_symlink()


def test_no_student_gets_the_folder_of_one_that_the_journal_lost(study: StudyPaths) -> None:
    folder = study.trial_folder(0)
    folder.mkdir(parents=True)
    (folder / "log.txt").touch()
    optuna_study = opened(study)
    assert reconcile(optuna_study, WIDE, [], OBJECTIVES, study.begun_trials()) == []
    assert drawn(make_searcher(optuna_study))[0] == 1


def test_a_student_that_a_killed_driver_had_enqueued_is_not_run_again(study: StudyPaths) -> None:
    driver = Driver()
    before = make_searcher(make_study(), driver)
    _, choice = drawn(before)
    before.on_trial_complete("a", {})
    optuna_study = opened(study)
    optuna_study.enqueue_trial(WIDE.encode(choice))
    assert reconcile(optuna_study, WIDE, driver.records, OBJECTIVES) == []
    number, other = drawn(make_searcher(optuna_study, records=tuple(driver.records)))
    assert number > 0
    assert other != choice

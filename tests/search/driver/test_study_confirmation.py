"""Tests of a confirmation and of a check of fine-tuning: continued after a stop, and bound to their plans."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.record_lines import read_records, read_reruns
from minilm_core.results.records import Role, Status
from search.cli.terminal import ExitCode
from search.study.lock import only_driver
from tests.search.fuzzing import check_ends_well
from tests.search.running import weights_in
from tests.search.studies import NO_BASELINES, launch, run

pytestmark = pytest.mark.slow

FULL = ("--set", "finetuning.num_epochs=12", "--set", "finetuning.max_length=20")


@pytest.fixture(scope="module")
def study(material: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    folder = tmp_path_factory.mktemp("confirmed")
    done = launch(material, folder, "budget.num_trials=6", "finetuning.num_seeds=2", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    return StudyPaths(root=folder / "tiny")


@dataclass(frozen=True)
class Rerun:
    """A study with runs apart from the search."""

    paths: StudyPaths
    records_before: bytes
    figures: dict[str, Any]
    num_runs_at_first: int = 0
    """The runs that a budget allowed before the command was given again."""


@pytest.fixture(scope="module")
def confirmed(study: StudyPaths) -> Rerun:
    before = study.records.read_bytes()
    command = ("confirm", study.root, "--trial", "0", "--trial", "1", "--seeds", "2")
    first = run(*command, "--max-device-hours", "1e-6")
    assert first.returncode == 3, first.stderr
    num_begun = len(read_reruns(study.confirmation_records))
    done = run(*command, "--json")
    assert done.returncode == 0, done.stderr
    return Rerun(paths=study, records_before=before, figures=json.loads(done.stdout), num_runs_at_first=num_begun)


@pytest.fixture(scope="module")
def checked(study: StudyPaths) -> Rerun:
    before = study.records.read_bytes()
    done = run("check-finetuning", study.root, *FULL, "--students", "5", "--json")
    assert done.returncode == 0, done.stderr
    return Rerun(paths=study, records_before=before, figures=json.loads(done.stdout))


def test_the_search_fine_tunes_every_student_with_each_seed(study: StudyPaths) -> None:
    complete = [record for record in read_records(study.records) if record.is_complete_student]
    assert len(complete) == 6
    for record in complete:
        assert list(record.finetuning_seeds("mood")) == [3, 4]
        assert study.outcomes_of(record.role, record.number, "mood", 4).is_file()


def test_a_confirmation_stops_at_its_budget_and_goes_on(confirmed: Rerun) -> None:
    assert 0 < confirmed.num_runs_at_first < 6
    runs = read_reruns(confirmed.paths.confirmation_records)
    assert sorted((r.role, r.number, r.seed) for r in runs) == sorted(
        (role, number, seed)
        # The search has used the seeds 3 and 4.
        for seed in (5, 6)
        for role, number in ((Role.TEACHER, 0), (Role.STUDENT, 0), (Role.STUDENT, 1))
    )
    assert {record.status for record in runs} == {Status.COMPLETE}
    # What was complete is not run again.
    assert len(confirmed.paths.confirmation_records.read_text().splitlines()) == 6


def test_the_figures_are_those_of_the_test_split(confirmed: Rerun) -> None:
    found = confirmed.figures
    assert (found["split"], found["num_complete"], found["num_runs"]) == ("test", 6, 6)
    assert [candidate["trial"] for candidate in found["candidates"]] == [0, 1]
    runs = read_reruns(confirmed.paths.confirmation_records)
    of_first = [r.tasks["mood"].test.value for r in runs if (r.role, r.number) == (Role.STUDENT, 0)]
    assert found["candidates"][0]["accuracy"]["value"] == pytest.approx(sum(of_first) / 2)


def test_the_records_of_the_search_are_as_before(confirmed: Rerun) -> None:
    assert confirmed.paths.records.read_bytes() == confirmed.records_before


def test_seeds_train_the_same_student_differently(confirmed: Rerun) -> None:
    study = confirmed.paths
    folders = [study.confirmation_folder(seed, Role.STUDENT, 0) for seed in (5, 6)]
    one, other = (weights_in(TrialPaths(root=folder).finetuned("mood")) for folder in folders)
    assert any((one[name] != other[name]).any() for name in one)
    assert all(not TrialPaths(root=folder).student.exists() for folder in folders), "nothing was distilled again"
    assert all(record.num_steps == 0 for record in read_reruns(study.confirmation_records))


def test_the_report_has_what_was_confirmed(confirmed: Rerun) -> None:
    study = confirmed.paths
    assert run("report", study.root).returncode == 0
    assert "## Confirmed" in (study.report / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trial", "0", "--seeds", "2"), "a study's confirmation must keep its candidates, seeds and --redistil"),
        (("--trial", "0", "--trial", "1", "--seeds", "3"), "choosing again is a new selection: remove"),
        (("--trial", "9"), "--trial must be that of a complete student, got 9"),
        (("--front", "--picked"), "confirm needs one of --front, --picked and --trial"),
        ((), "confirm needs one of --front, --picked and --trial"),
        (("--front", "--seeds", "1"), "--seeds must be between 2 and 100, got 1"),
        (("--front", "--max-device-hours", "0"), "--max-device-hours must be positive, got 0"),
        (("--picked",), "--picked needs the decision that pick writes"),
    ],
)
def test_a_mistake_is_one_line(confirmed: Rerun, options: tuple[str, ...], message: str) -> None:
    refused = check_ends_well(confirmed.paths.root.parent, "confirm", confirmed.paths.root.name, *options)
    assert refused.code == ExitCode.USAGE
    assert message in refused.stderr


def test_a_study_that_is_driven_is_not_confirmed(study: StudyPaths) -> None:
    options = ("--trial", "0", "--trial", "1", "--seeds", "2")
    with only_driver(study):
        refused = check_ends_well(study.root.parent, "confirm", study.root.name, *options)
    assert refused.code == ExitCode.USAGE
    assert "a study must have one driver at a time" in refused.stderr


def test_a_check_of_fine_tuning_runs_every_student_that_was_drawn(checked: Rerun) -> None:
    runs = read_reruns(checked.paths.finetuning_check_records)
    drawn = json.loads(checked.paths.finetuning_check_plan.read_text(encoding="utf-8"))["students"]
    assert [record.number for record in runs] == drawn
    assert {(record.role, record.status, record.seed) for record in runs} == {(Role.STUDENT, Status.COMPLETE, 3)}
    # Each student is run once, and the search's own records are as they were.
    assert len(checked.paths.finetuning_check_records.read_text().splitlines()) == 5
    assert checked.paths.records.read_bytes() == checked.records_before


def test_a_check_compares_two_fine_tunings_of_one_student(checked: Rerun) -> None:
    found, searched = checked.figures, {r.number: r for r in read_records(checked.paths.records)}
    runs = read_reruns(checked.paths.finetuning_check_records)
    assert (found["num_complete"], found["num_runs"], found["num_complete_students"]) == (5, 5, 6)
    assert found["students"] == [
        {
            "trial": record.number,
            "accuracy": searched[record.number].objectives["accuracy"],
            "full_accuracy": record.tasks["mood"].validation.value,
        }
        for record in runs
    ]
    for record in runs:
        assert record.finetuning_learning_rate == searched[record.number].finetuning_learning_rate
        folder = TrialPaths(root=checked.paths.finetuning_check_folder(record.number))
        assert not folder.student.exists(), "nothing was distilled again"
        assert not folder.finetuned("mood").exists(), "only results are kept"
    assert any(student["accuracy"] != student["full_accuracy"] for student in found["students"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*FULL, "--students", "6"), "a study's check must keep its --preset, --set and --students"),
        (("--preset", "glue"), "finetuning.max_length must be at most the teacher's 32 positions, got 128"),
        (("--preset", "gleu"), "--preset must be one of glue, glue-small, squad2, xnli, mlqa, search, got gleu"),
        (("--set", "seed=4"), "--set must name a key of finetuning"),
        ((), "whose settings differ from those that the search fine-tunes with, got the same"),
        ((*FULL, "--max-device-hours", "0"), "--max-device-hours must be positive, got 0"),
    ],
)
def test_a_mistake_in_a_check_is_one_line(checked: Rerun, options: tuple[str, ...], message: str) -> None:
    study = checked.paths.root
    refused = check_ends_well(study.parent, "check-finetuning", study.name, *options)
    assert refused.code == ExitCode.USAGE
    assert message in refused.stderr


@pytest.mark.long
def test_a_redistilled_candidate_has_a_student_of_its_own(material: Path, tmp_path: Path) -> None:
    done = launch(material, tmp_path, "budget.num_trials=1", *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    (trial,) = (record for record in read_records(study.records) if record.is_complete_student)
    confirmed = run("confirm", study.root, "--trial", str(trial.number), "--seeds", "2", "--redistil")
    assert confirmed.returncode == 0, confirmed.stderr
    students = [record for record in read_reruns(study.confirmation_records) if record.role is Role.STUDENT]
    assert [record.num_steps for record in students] == [trial.num_steps] * 2
    assert len({record.held_out_loss for record in students} | {trial.held_out_loss}) == 3

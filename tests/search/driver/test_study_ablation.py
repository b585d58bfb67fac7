"""Tests of the twins of chosen students, which `ablate` trains apart from the search."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_reruns
from minilm_core.results.records import Role, Status
from reports import load_study
from search.cli.terminal import ExitCode
from tests.search.fuzzing import check_ends_well
from tests.search.studies import launch, run

pytestmark = pytest.mark.slow

SETTINGS = (
    "budget.num_trials=2",
    "space.initialisations=[spaced_layers]",
    "finetuning.num_seeds=2",
    "finetuning.soft_labels={weight: 0.5, temperature: 2}",
    "baselines.truncated_teacher=false",
)


@dataclass(frozen=True)
class Ablated:
    """A study whose picked student is not the most accurate one, after its twins were trained."""

    paths: StudyPaths
    picked: int
    records_before: bytes
    figures: list[dict[str, Any]]
    num_after_budget: int
    """The twins that a budget allowed before the command was given again."""


@pytest.fixture(scope="module")
def ablated(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Ablated:
    folder = tmp_path_factory.mktemp("ablated")
    done = launch(material, folder, *SETTINGS)
    assert done.returncode == 0, done.stderr
    paths = StudyPaths(root=folder / "tiny")
    study = load_study(paths.root)
    assert study.twin is not None
    (other,) = (student for student in study.students if student.number != study.twin.number)
    # Which student is the best is not known beforehand, so no limit is sure to choose the other one.
    assert run("pick", paths.root, "--prefer", "best").returncode == 0
    decision = json.loads(paths.decision.read_text(encoding="utf-8"))
    decision["winner"]["trial"] = other.number
    paths.decision.write_text(json.dumps(decision), encoding="utf-8")
    before = paths.records.read_bytes()
    command = ("ablate", paths.root, "--picked")
    first = run(*command, "--max-device-hours", "1e-6")
    assert first.returncode == 3, first.stderr
    num_begun = len(read_reruns(paths.ablation_records))
    done = run(*command, "--json")
    assert done.returncode == 0, done.stderr
    return Ablated(
        paths=paths,
        picked=other.number,
        records_before=before,
        figures=json.loads(done.stdout)["worth"],
        num_after_budget=num_begun,
    )


def test_the_picked_students_twins_are_trained_once_each(ablated: Ablated) -> None:
    twins = read_reruns(ablated.paths.ablation_records)
    assert 0 < ablated.num_after_budget < 3
    assert {twin.role for twin in twins} == {
        Role.TWIN,
        Role.TWIN_WITHOUT_SOFT_LABELS,
        Role.TWIN_FROM_RANDOM_WEIGHTS,
    }
    assert {(twin.number, twin.status) for twin in twins} == {(ablated.picked, Status.COMPLETE)}
    lines = ablated.paths.ablation_records.read_bytes().splitlines()
    assert len(lines) == 3
    for twin in twins:
        for seed in (None, 4):
            assert ablated.paths.outcomes_of(twin.role, twin.number, "mood", seed).is_file()


def test_what_each_part_was_worth_is_told_of_that_student(ablated: Ablated) -> None:
    (worth,) = ablated.figures
    assert worth["trial"] == ablated.picked
    assert [part["part"] for part in worth["parts"]] == ["the teacher's weights", "soft labels", "distillation"]
    assert all(part["difference"] is not None for part in worth["parts"])


def test_the_records_and_the_decision_stay_current(ablated: Ablated, tmp_path: Path) -> None:
    assert ablated.paths.records.read_bytes() == ablated.records_before
    done = run("report", ablated.paths.root, "-o", tmp_path / "report")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    of_picked, of_best = (
        text.index(f"The recipe of trial {number} ") for number in (ablated.picked, 1 - ablated.picked)
    )
    assert of_picked < of_best
    assert "minilm-search ablate" not in text


def test_twins_that_are_there_are_not_trained_again(ablated: Ablated) -> None:
    before = ablated.paths.ablation_records.read_bytes()
    for choice in (("--picked",), ("--front",), ("--trial", "0", "--trial", "1")):
        done = run("ablate", ablated.paths.root, *choice)
        assert done.returncode == 0, done.stderr
        assert "The recipe of trial" in done.stdout
    assert ablated.paths.ablation_records.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "ablate needs one of --front, --picked and --trial"),
        (("--picked", "--trial", "0"), "ablate needs one of --front, --picked and --trial"),
        (("--trial", "77"), "--trial must be that of a complete student, got 77"),
        (("--picked", "--max-device-hours", "0"), "--max-device-hours must be positive, got 0"),
    ],
)
def test_a_wrong_choice_is_refused(ablated: Ablated, options: tuple[str, ...], message: str) -> None:
    refused = check_ends_well(ablated.paths.root.parent, "ablate", ablated.paths.root.name, *options)
    assert refused.code == ExitCode.USAGE
    assert message in refused.stderr

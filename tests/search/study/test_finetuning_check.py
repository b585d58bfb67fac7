"""Tests of the check of the search's fine-tuning before its first run: the draw, the settings, the rates, the file."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.layout import StudyPaths, TrialPaths
from minilm_core.results.records import Role, Status, TrialRecord
from minilm_core.settings.finetuning_presets import FINETUNING_PRESETS
from minilm_core.settings.schedules import FinetuningSchedule
from search.config.loading import load_config, resolved_yaml
from search.study.finetuning_check import FinetuningCheck, FullFinetuning, begun_or_drawn, fix_check, full_finetuning
from tests.paths import QUICKSTART_YAML
from tests.search.running import OpenStudy

ARCHITECTURE = StudentArchitecture(num_layers=2, hidden_size=96, num_heads=6)


@pytest.fixture
def paths(tmp_path: Path) -> StudyPaths:
    (tmp_path / "search.yaml").write_text(resolved_yaml(load_config(QUICKSTART_YAML).config), encoding="utf-8")
    return StudyPaths(root=tmp_path)


def students(num_students: int, rate: float = 1e-3) -> list[TrialRecord]:
    return [record(number, Status.COMPLETE, rate) for number in range(num_students)]


def record(number: int, status: Status, rate: float = 1e-3) -> TrialRecord:
    return TrialRecord(
        role=Role.STUDENT,
        number=number,
        status=status,
        architecture=ARCHITECTURE,
        distillation_learning_rate=1e-3,
        finetuning_learning_rate=rate,
    )


def check(paths: StudyPaths, records: list[TrialRecord], preset: str | None = "glue", number: int = 5):
    overrides = [] if preset else ["finetuning.num_epochs=7"]
    full = full_finetuning(paths, preset, overrides)
    return begun_or_drawn(full, paths, records, num_students=number)


def with_seed(full: FullFinetuning, seed: int) -> FullFinetuning:
    return replace(full, config=replace(full.config, seed=seed))


# The draw.


def test_the_draw_depends_on_the_seed_of_the_study_alone(paths: StudyPaths) -> None:
    records = students(30)
    assert check(paths, records) == check(paths, list(reversed(records)))
    other = with_seed(full_finetuning(paths, "glue", []), 1)
    drawn = FinetuningCheck.drawn(other, records, num_students=5)
    assert drawn.students != check(paths, records).students


def test_every_student_is_drawn_as_often_as_any_other(paths: StudyPaths) -> None:
    full = full_finetuning(paths, "glue", [])
    counts = [0] * 10
    for seed in range(400):
        drawn = FinetuningCheck.drawn(with_seed(full, seed), students(10), num_students=5)
        assert len(set(drawn.students)) == 5
        for number in drawn.students:
            counts[number] += 1
    # Four standard deviations of a count of 400 draws with probability 1/2.
    assert all(abs(count - 200) < 40 for count in counts)


def test_only_complete_students_are_drawn(paths: StudyPaths) -> None:
    others = [record(number, status) for number, status in enumerate(Status, start=10) if status != Status.COMPLETE]
    assert sorted(check(paths, [*students(5), *others]).students) == [0, 1, 2, 3, 4]


def test_four_students_are_too_few(paths: StudyPaths) -> None:
    with pytest.raises(UserError, match="must have at least 5 complete students to rank, got 4"):
        check(paths, students(4))


@pytest.mark.parametrize("number", [4, 9])
def test_the_number_of_students_is_between_five_and_all(paths: StudyPaths, number: int) -> None:
    with pytest.raises(UserError, match=f"--students must be between 5 and 8, got {number} of 8 complete students"):
        check(paths, students(8), number=number)


# The settings.


def test_a_preset_takes_the_place_of_the_searchs_finetuning(paths: StudyPaths) -> None:
    """Only what belongs to the machine and what changes no student stays as the search has it."""
    config = load_config(paths.search_yaml).config
    own = replace(config.finetuning, selection_fraction=0.3, patience=1, weight_decay=0.2, num_seeds=2)
    paths.search_yaml.write_text(resolved_yaml(replace(config, finetuning=own)), encoding="utf-8")
    full = full_finetuning(paths, "squad2", []).config.finetuning
    settings = {**FINETUNING_PRESETS["squad2"].settings, "teacher_learning_rate": own.teacher_learning_rate}
    assert full == FinetuningSchedule(**settings, num_seeds=2)


def test_overrides_come_after_the_preset(paths: StudyPaths) -> None:
    full = full_finetuning(paths, "glue", ["finetuning.num_epochs=4"]).config.finetuning
    assert (full.num_epochs, full.batch_size) == (4, 32)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("gleu", [], "--preset must be one of glue, glue-small, squad2, xnli, mlqa, search, got gleu"),
        (None, ["seed=3"], "--set must name a key of finetuning, as in finetuning.num_epochs=5, got 'seed=3'"),
        (None, ["finetuning.preset=glue"], "--set must name a key of finetuning"),
        (None, ["finetuning=3"], "--set must name a key of finetuning"),
        (None, ["finetuning.num_epochs=0"], "num_epochs must be at least 1, got 0"),
        (None, ["finetuning.epochs=2"], "finetuning.epochs"),
        (None, [], "whose settings differ from those that the search fine-tunes with, got the same"),
        (None, ["finetuning.num_epochs=1"], "whose settings differ from those that the search fine-tunes with"),
        (None, ["finetuning.teacher_learning_rate=1e-4"], "whose settings differ from those that the search"),
        ("glue", ["finetuning.num_seeds=3"], "--set must leave num_seeds as the search has it, got 'finetuning.num"),
    ],
)
def test_settings_that_are_no_full_finetuning_are_refused(
    paths: StudyPaths, preset: str | None, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError) as refused:
        full_finetuning(paths, preset, overrides)
    assert message in str(refused.value)


# The learning rates.


@pytest.mark.parametrize(
    ("preset", "searched", "rate"),
    [("glue", 1e-3, 3e-5), ("glue", 5e-5, 5e-5), ("search", 1e-3, 2e-4), ("squad2", 1e-3, 6e-5), (None, 1e-3, 1e-3)],
)
def test_the_rate_is_the_searched_one_or_the_middle_of_the_preset(
    paths: StudyPaths, preset: str | None, searched: float, rate: float
) -> None:
    assert check(paths, students(5, rate=searched), preset).learning_rates == (rate,) * 5


# The file.


def test_a_check_is_read_as_it_was_written(paths: StudyPaths) -> None:
    assert FinetuningCheck.load(paths) is None
    drawn = check(paths, students(12))
    fix_check(paths, drawn)
    assert FinetuningCheck.load(paths) == drawn


def test_trials_that_end_later_do_not_change_what_was_drawn(paths: StudyPaths) -> None:
    drawn = check(paths, students(12))
    fix_check(paths, drawn)
    assert check(paths, students(40)) == drawn


@pytest.mark.parametrize(("preset", "number"), [("xnli", 5), ("glue", 6), (None, 5)])
def test_a_check_that_was_begun_keeps_its_settings(paths: StudyPaths, preset: str | None, number: int) -> None:
    fix_check(paths, check(paths, students(12)))
    with pytest.raises(UserError, match="a study's check must keep its --preset, --set and --students, got"):
        check(paths, students(12), preset, number)


def test_other_overrides_are_named(paths: StudyPaths) -> None:
    fix_check(paths, check(paths, students(12)))
    full = full_finetuning(paths, "glue", ["finetuning.num_epochs=3"])
    with pytest.raises(
        UserError, match=r"got 5 students with preset glue and finetuning\.num_epochs=3 after 5 students"
    ):
        begun_or_drawn(full, paths, students(12), num_students=5)


@pytest.mark.parametrize("content", ["{", "[]", '{"preset": "glue"}', '{"students": [1, 2]}'])
def test_a_damaged_file_is_refused(paths: StudyPaths, content: str) -> None:
    fix_check(paths, check(paths, students(12)))
    paths.finetuning_check_plan.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"plan\.json"):
        check(paths, students(12))


# The runs.


def test_runs_have_the_seed_and_the_encoders_of_the_search(open_study: OpenStudy) -> None:
    study = open_study("seed=9", "finetuning.num_epochs=5", is_prepared=False)
    paths = study.paths
    full = FullFinetuning(preset="glue", overrides=(), config=study.config)
    drawn = FinetuningCheck.drawn(full, students(6), num_students=5)
    with pytest.raises(UserError, match="must have a complete record, got none for trial"):
        drawn.jobs(study, [])
    for number in drawn.students:
        TrialPaths(root=paths.trial_folder(number)).student.mkdir(parents=True)
    jobs = drawn.jobs(study, students(6))
    assert [job.number for job in jobs] == list(drawn.students)
    for job in jobs:
        assert (job.seed, job.choice.finetuning_learning_rate, job.distils) == (9, 3e-5, False)
        assert job.encoder_folder == TrialPaths(root=paths.trial_folder(job.number)).student
        assert job.folder == paths.finetuning_check_folder(job.number)
        assert job.config.finetuning.num_epochs == 5
    TrialPaths(root=paths.trial_folder(drawn.students[2])).student.rmdir()
    with pytest.raises(UserError, match="a student that was drawn must still have its distilled encoder, got no"):
        drawn.jobs(study, students(6))

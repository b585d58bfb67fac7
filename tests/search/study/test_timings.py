"""Tests of the timings of a search's parts: what is timed, and when earlier timings are found again."""

import json
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from search.study.timings import (
    Timings,
    find_timings,
    mean_of,
    num_processes_at_once,
    save_timings,
    students_to_time,
    timings_file,
)
from tests.search.commands.timings import student_of, study_of, timings_of


def test_timings_are_found_as_they_were_kept(tmp_path: Path) -> None:
    timings = timings_of(study_of())
    save_timings(timings, tmp_path / "timings" / "key.json")
    assert find_timings(tmp_path / "timings" / "key.json") == timings
    assert find_timings(tmp_path / "other.json") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"students": []}'])
def test_damaged_timings_are_refused_with_the_file_to_remove(text: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"timings must be as plan --time wrote them; remove the damaged file .*key\.j"):
        find_timings(tmp_path / "key.json")


def test_the_mean_of_several_processes_is_taken_number_by_number() -> None:
    of_one = timings_of(study_of()).to_dict()
    of_other = json.loads(json.dumps(of_one))
    of_other["students"][1]["distillation"]["student_seconds"] += 0.2
    mean = Timings.from_dict(mean_of([of_one, of_other]))
    second, expected = mean.students[1], Timings.from_dict(of_one).students[1]
    assert second.distillation is not None
    assert expected.distillation is not None
    assert second.distillation.student_seconds == pytest.approx(expected.distillation.student_seconds + 0.1)
    assert (second.flops, second.architecture) == (expected.flops, expected.architecture)
    assert mean.students[0] == Timings.from_dict(of_one).students[0]


def test_the_smallest_the_middle_and_the_largest_student_are_timed() -> None:
    study = study_of()
    shapes = [student_of(layers) for layers in (3, 1, 2)]
    assert students_to_time(study, shapes) == (student_of(1), student_of(2), student_of(3))
    assert students_to_time(study, shapes[:2]) == (student_of(1), student_of(3))
    assert students_to_time(study, shapes[:1]) == (student_of(3),)
    assert students_to_time(study, []) == ()


@pytest.mark.parametrize(
    ("resources", "num_cores", "num_processes"),
    [
        ("{max_concurrent_trials: 3}", 2, 2),
        ("{max_concurrent_trials: 3, cpus_per_worker: 4}", 16, 3),
        ("{max_concurrent_trials: 2, workers_per_trial: 2}", 16, 4),
        ("{max_concurrent_trials: 99}", 99, 8),
        ("{cpus_per_worker: 4}", 2, 1),
        # Four trials share a GPU; two with one each do not.
        ("{max_concurrent_trials: 6, gpus_per_worker: 0.25}", 2, 4),
        ("{max_concurrent_trials: 2, gpus_per_worker: 1}", 2, 1),
    ],
)
def test_as_many_processes_measure_as_trials_share_a_device(resources: str, num_cores: int, num_processes: int) -> None:
    assert num_processes_at_once(study_of(f"resources={resources}"), num_cores) == num_processes


def file_of(*overrides: str, num_processes: int = 2) -> str:
    study = study_of(*overrides)
    students = students_to_time(study, list(study.space.architectures()))
    return timings_file(study, students, tuple(study.layers), num_processes).name


@pytest.mark.parametrize(
    "override",
    [
        "budget={num_trials: 99, max_device_hours: 1}",
        "distillation.num_steps=7",
        "distillation.num_evaluations=3",
        "finetuning.num_epochs=4",
        "finetuning.num_seeds=2",
        "finetuning.soft_labels={weight: 0.5, temperature: 2}",
        "stopping={rungs: [10]}",
        "baselines={twin: false}",
        "sampler={name: random}",
        "seed=5",
        "name=another",
        "space.distillation_learning_rate=[1e-3]",
    ],
)
def test_settings_that_change_no_step_find_the_same_timings(override: str) -> None:
    assert file_of(override) == file_of()


@pytest.mark.parametrize(
    "override",
    [
        "space.num_layers=[1, 2, 4]",
        "corpus.sequence_length=64",
        "distillation.batch_size=32",
        "distillation.micro_batch_size=4",
        "distillation.relation_heads=24",
        "distillation.precision=bf16",
        "distillation.dropout=0",
        "finetuning.batch_size=8",
        "finetuning.max_length=32",
        "tasks.0.max_train_examples=100",
        "resources.cpus_per_worker=2",
        "resources.workers_per_trial=2",
        "student_family=electra",
        "vocabulary=4k",
        "assistant={num_steps: 10}",
        "teacher.layer=5",
    ],
)
def test_settings_that_change_a_step_find_none(override: str) -> None:
    more = ("embedding_size=32",) if override == "student_family=electra" else ()
    assert file_of(override, *more) != file_of()


def test_timings_of_another_number_of_processes_are_not_found() -> None:
    assert file_of(num_processes=1) != file_of()

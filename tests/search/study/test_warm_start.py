"""Tests of the warm start: which earlier students teach, which are only tried first, and what is kept."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.errors import UserError
from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import append_record
from minilm_core.results.records import TrialRecord
from search.config.loading import load_config, resolved_yaml
from search.config.settings import SearchConfig
from search.study.warm_start import WarmStart, find_warm_start
from spaces.space import StudentChoice
from tests.paths import QUICKSTART_YAML
from tests.reports.example_studies import student

SPACE = (
    "space={num_layers: [1, 2], hidden_sizes: [96, 192], head_sizes: [32], distillation_learning_rate: [1e-3, 2e-3],"
    " finetuning_learning_rate: [1e-4]}"
)
OTHER_RATES = SPACE.replace("[1e-3, 2e-3]", "[5e-4]")

MakeConfig = Callable[..., SearchConfig]


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    (tmp_path / "template.yaml").write_text(QUICKSTART_YAML.read_text(encoding="utf-8"), encoding="utf-8")
    return lambda *overrides: (
        load_config(
            tmp_path / "template.yaml", ("sampler.name=known_cost", SPACE, "objectives=[accuracy, flops]", *overrides)
        ).config
    )


@pytest.fixture
def earlier(tmp_path: Path, make_config: MakeConfig) -> Callable[..., Path]:
    """Makes a study with students of rate 1e-3."""

    def make(*overrides: str, students: tuple[TrialRecord, ...] = STUDENTS) -> Path:
        paths = StudyPaths(root=tmp_path / "earlier")
        paths.root.mkdir()
        paths.search_yaml.write_text(resolved_yaml(make_config(*overrides)), encoding="utf-8")
        for record in students:
            append_record(paths.records, record)
        return paths.root

    return make


def trained(number: int, accuracy: float, num_layers: int, hidden_size: int, rate: float = 1e-3) -> TrialRecord:
    record = student(number, accuracy, num_layers, hidden_size, distillation_learning_rate=rate)
    flops = 1000 * num_layers * hidden_size
    return replace(record, objectives={"accuracy": accuracy, "flops": float(flops)})


STUDENTS = (
    trained(0, 0.7, 1, 96),
    trained(1, 0.9, 2, 192),
    trained(2, 0.6, 2, 96),  # behind the first
    trained(3, 0.8, 1, 192),
    trained(4, 0.95, 3, 192),  # of a depth that the space lacks
)


def started(config: SearchConfig, folder: Path) -> tuple[WarmStart, StudyPaths]:
    paths = StudyPaths(root=folder)
    paths.root.mkdir(exist_ok=True)
    return find_warm_start(config, config.space, paths), paths


def sizes(choices: tuple[StudentChoice, ...]) -> list[tuple[int, int]]:
    return [(choice.architecture.num_layers, choice.architecture.hidden_size) for choice in choices]


def test_students_of_the_same_tasks_and_schedule_teach(make_config, earlier, tmp_path: Path):
    folder = earlier("budget.num_trials=40", "limits.max_parameters=9M", "distillation.num_evaluations=3")
    found, _ = started(make_config(f"sampler.warm_start=[{folder}]"), tmp_path / "new")
    assert [record.number for record in found.students] == [0, 1, 2, 3]
    assert found.first == ()
    assert found.notes == (f"4 of 5 students of {folder} are in the space and teach the sampler",)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("distillation.num_steps=999", "distillation.num_steps"),
        ("finetuning.num_epochs=9", "finetuning.num_epochs"),
        ("corpus.sequence_length=32", "corpus.sequence_length"),
    ],
)
def test_of_a_study_of_another_schedule_the_front_is_tried_first(make_config, earlier, tmp_path, override, key):
    folder = earlier(override)
    found, _ = started(make_config(f"sampler.warm_start=[{folder}]"), tmp_path / "new")
    assert found.students == ()
    assert sizes(found.first) == [(2, 192), (1, 192), (1, 96)]
    assert {choice.distillation_learning_rate for choice in found.first} == {1e-3}
    assert found.notes == (f"3 students that were on the front of {folder} may be tried first (it has another {key})",)


def test_of_what_is_not_in_the_space_a_guess_has_the_middle(make_config, earlier, tmp_path):
    folder = earlier("distillation.num_steps=999", OTHER_RATES, students=(trained(0, 0.7, 1, 96, rate=5e-4),))
    config = make_config(
        f"sampler.warm_start=[{folder}]",
        "space.distillation_learning_rate=[1e-3, 2e-3, 4e-3]",
        "space.finetuning_learning_rate=[1e-5, 2e-5, 1e-4]",
    )
    (first,) = started(config, tmp_path / "new")[0].first
    assert first.architecture == trained(0, 0.7, 1, 96).architecture
    assert (first.distillation_learning_rate, first.finetuning_learning_rate) == (2e-3, 1e-4)


def test_a_sampler_that_cannot_learn_tries_the_front_first(make_config, earlier, tmp_path):
    folder = earlier()
    found, _ = started(make_config(f"sampler.warm_start=[{folder}]", "sampler.name=tpe"), tmp_path / "new")
    assert (found.students, len(found.first)) == ((), 3)
    assert found.notes[0].endswith("may be tried first (sampler tpe cannot learn)")


def test_a_study_keeps_what_it_was_told(make_config, earlier, tmp_path):
    folder = earlier()
    config = make_config(f"sampler.warm_start=[{folder}]")
    found, paths = started(config, tmp_path / "new")
    append_record(StudyPaths(root=folder).records, trained(5, 0.5, 1, 96, rate=2e-3))
    shutil.rmtree(folder)
    assert started(config, tmp_path / "new")[0] == found
    paths.warm_start.write_text('{"students": 3}', encoding="utf-8")
    with pytest.raises(
        UserError, match=r"the file of a warm start must be as launch wrote it, got a damaged one: .*json"
    ):
        started(config, tmp_path / "new")


def test_without_earlier_studies_nothing_is_written(make_config, tmp_path):
    found, paths = started(make_config(), tmp_path / "new")
    assert found == WarmStart()
    assert not paths.warm_start.exists()


def test_what_is_no_other_study_is_refused(make_config, earlier, tmp_path):
    with pytest.raises(UserError, match=r"sampler.warm_start must name folders of other studies, got .*missing"):
        started(make_config(f"sampler.warm_start=[{tmp_path / 'missing'}]"), tmp_path / "new")
    folder = earlier()
    with pytest.raises(UserError, match="must name folders of other studies"):
        started(make_config(f"sampler.warm_start=[{folder}]"), folder)

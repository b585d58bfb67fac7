"""Tests of a worker that fine-tunes a model with several seeds. No Ray."""

import numpy as np
import pytest

from minilm_core.results.outcomes import load_outcomes
from minilm_core.results.record_lines import from_json, to_json
from minilm_core.results.records import TrialRecord
from search.study.confirmation import ConfirmationPlan
from search.study.jobs import Job
from search.study.progress import Progress
from spaces.space import StudentChoice
from tests.search.running import OpenStudy, assert_same_bits, figures_of, interrupt, record_of, run_job

THREE_SEEDS = "finetuning.num_seeds=3"


@pytest.fixture(scope="module")
def of_seeds(open_study: OpenStudy, choice: StudentChoice) -> Job:
    return Job.of_student(open_study(THREE_SEEDS), 7, choice)


@pytest.fixture(scope="module")
def events_of_seeds(of_seeds: Job) -> list[Progress | TrialRecord]:
    return list(run_job(of_seeds))


@pytest.fixture(scope="module")
def record_of_seeds(events_of_seeds: list[Progress | TrialRecord]) -> TrialRecord:
    last = events_of_seeds[-1]
    assert isinstance(last, TrialRecord)
    return last


def test_the_first_of_several_seeds_is_the_one_that_would_be_alone(
    of_seeds: Job, record_of_seeds: TrialRecord, record: TrialRecord, job: Job
) -> None:
    assert record_of_seeds.tasks["mood"].seeds[0] == record.tasks["mood"]
    assert record_of_seeds.tasks["mood"].of_kept_model == record.tasks["mood"]
    assert_same_bits(of_seeds.paths.finetuned("mood"), job.paths.finetuned("mood"))


def test_a_record_of_several_seeds_has_their_mean(record_of_seeds: TrialRecord) -> None:
    result = record_of_seeds.tasks["mood"]
    values = [one.validation.value for one in result.seeds]
    assert result.validation.value == pytest.approx(np.mean(values)) == record_of_seeds.objectives["accuracy"]
    assert record_of_seeds.finetuning_seeds("mood") == range(3, 6)


def test_every_seed_learns_otherwise(events_of_seeds: list[Progress | TrialRecord]) -> None:
    losses = [
        event.loss for event in events_of_seeds if isinstance(event, Progress) and event.stage == "fine-tuning on mood"
    ]
    of_seeds = np.array(losses).reshape(3, -1)
    assert len(np.unique(of_seeds[:, 0])) == 3


def test_a_record_of_several_seeds_reads_back_from_its_line(record_of_seeds: TrialRecord) -> None:
    assert from_json(to_json(record_of_seeds)) == record_of_seeds


def test_every_seed_has_its_outcomes_and_the_first_alone_its_model(of_seeds: Job, record_of_seeds: TrialRecord) -> None:
    for seed, result in zip(of_seeds.finetuning_seeds, record_of_seeds.tasks["mood"].seeds, strict=True):
        outcomes = load_outcomes(of_seeds.outcomes_file("mood", seed))["validation"]
        assert np.mean(outcomes[:, 0] == outcomes[:, 1]) == result.validation.value
        assert of_seeds.finetuning_paths(seed).finetuned("mood").is_dir() == (seed == 3)
        assert not of_seeds.finetuning_paths(seed).finetuning_checkpoint("mood").exists()


def test_the_steps_of_all_seeds_are_one_stage(events_of_seeds: list[Progress | TrialRecord]) -> None:
    steps = [
        (event.step, event.num_steps)
        for event in events_of_seeds
        if isinstance(event, Progress) and event.stage == "fine-tuning on mood"
    ]
    assert [step for step, _ in steps] == sorted(step for step, _ in steps)
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("num_events", [12, 16, 20])
def test_interrupted_seeds_end_with_the_same_figures(
    open_study: OpenStudy, choice: StudentChoice, record_of_seeds: TrialRecord, num_events: int
) -> None:
    again = Job.of_student(open_study(THREE_SEEDS, "finetuning.checkpoint_every_seconds=0"), 7, choice)
    interrupt([again], after=num_events)
    assert figures_of(record_of(again)) == figures_of(record_of_seeds)


def test_every_run_of_a_confirmation_has_one_seed_that_the_search_has_not(
    of_seeds: Job, record_of_seeds: TrialRecord
) -> None:
    plan = ConfirmationPlan(candidates=(7,), num_seeds=2, redistils=False)
    jobs = plan.jobs(of_seeds.study, [record_of_seeds])
    assert [list(job.finetuning_seeds) for job in jobs] == [[6], [6], [7], [7]]

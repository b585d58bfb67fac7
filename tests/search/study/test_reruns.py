"""Tests of the records of runs apart from the search: each seed of a model has its own."""

from dataclasses import replace
from pathlib import Path

import pytest

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.results.records import Role, Status, TrialRecord
from search.config.loading import load_config
from search.config.settings import SearchConfig, Storage
from search.study.jobs import Job, Rerun
from search.study.reruns import Reruns
from spaces.space import StudentChoice
from tests.paths import QUICKSTART_YAML
from tests.search.running import OpenStudy


@pytest.fixture(scope="module")
def config() -> SearchConfig:
    return load_config(QUICKSTART_YAML).config


def opened(config: SearchConfig, folder: Path) -> Reruns:
    return Reruns(config, folder / "confirmations" / "records.jsonl", lambda _: None, print)


def run(number: int, seed: int, status: Status = Status.COMPLETE, device_hours: float = 0.0) -> TrialRecord:
    architecture = StudentArchitecture(num_layers=2, hidden_size=16, num_heads=4)
    return TrialRecord(
        role=Role.STUDENT,
        number=number,
        seed=seed,
        status=status,
        architecture=architecture,
        device_hours=device_hours,
    )


def test_each_seed_of_a_model_has_its_record(config: SearchConfig, tmp_path: Path) -> None:
    reruns = opened(config, tmp_path)
    failed, *kept = run(0, 1, Status.FAILED, 4.0), run(0, 1, device_hours=0.5), run(0, 2, device_hours=0.25), run(1, 1)
    for record in (failed, *kept):
        reruns.add(record)
    assert reruns.records == opened(config, tmp_path).records == tuple(kept)
    assert reruns.device_hours == 0.75


def test_a_run_is_done_once_its_own_seed_is_complete(
    config: SearchConfig, open_study: OpenStudy, choice: StudentChoice, tmp_path: Path
) -> None:
    reruns = opened(config, tmp_path)
    job = Job.of_student(open_study(is_prepared=False), 0, choice).again(Rerun(folder=tmp_path / "0000", seed=1))
    reruns.add(run(0, 2))
    reruns.add(run(0, 1, Status.FAILED))
    assert not reruns.is_done(job)
    reruns.add(run(0, 1))
    assert reruns.is_done(job)


def test_the_mirror_keeps_the_records_in_a_folder_of_their_own(config: SearchConfig, tmp_path: Path) -> None:
    mirrored = replace(config, storage=Storage(mirror=str(tmp_path / "mirror")))
    opened(mirrored, tmp_path).add(run(0, 1))
    copy = tmp_path / "mirror" / config.name / "confirmations" / "records.jsonl"
    assert copy.read_bytes() == (tmp_path / "confirmations" / "records.jsonl").read_bytes()

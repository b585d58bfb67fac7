"""Test of a process that is replaced because it uses too much memory."""

import os
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from minilm_core.results.layout import StudyPaths
from minilm_core.results.record_lines import read_records
from minilm_core.results.records import Status
from search.config.loading import load_config
from search.driver import run as study
from search.driver import trial
from search.study.ledger import Ending
from search.study.resolved import ResolvedStudy, find_study
from tests.search.local_ray import without_tokens
from tests.search.studies import NO_BASELINES, optuna_states


@pytest.mark.slow
@pytest.mark.long
def test_a_process_that_uses_too_much_memory_is_replaced_without_losing_a_trial(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tokens(monkeypatch)
    processes = tmp_path / "processes"

    def make_trainable(of_trial: ResolvedStudy) -> Any:
        def run(drawn: dict[str, Any]) -> None:
            with processes.open("a") as file:
                file.write(f"{os.getpid()}\n")
            # With this limit, every process uses too much memory.
            trial.MOST_GROWTH = 0.5
            trial.direct_trial(drawn, of_trial)

        return tune.with_resources(run, {"CPU": 1})

    monkeypatch.setattr(study, "make_trainable", make_trainable)
    settings = [f"storage.path={tmp_path}", "budget.num_trials=2", "resources.max_concurrent_trials=1", *NO_BASELINES]
    config = load_config(material / "search.yaml", settings).config
    paths = StudyPaths(root=config.study_folder)
    paths.root.mkdir()
    outcome = study.run_study(find_study(config, paths), None)
    assert outcome.ending is Ending.ALL_TRIALS
    counted = [record for record in read_records(paths.records) if record.counts_for_budget]
    assert [record.status for record in counted] == [Status.COMPLETE] * 2
    assert sum(optuna_states(paths).values()) == len(read_records(paths.records))
    # Each trial starts twice: its second start finds no job left and keeps its process for the next trial.
    runs = processes.read_text().split()
    assert len(runs) == 4
    assert len(set(runs)) == 3

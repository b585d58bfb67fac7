"""A whole study with the sampler that knows costs, and the same study once it is asked for more trials."""

from pathlib import Path

import pytest

from minilm_core.results.layout import StudyPaths
from minilm_core.results.records import Status
from tests.search.studies import NO_BASELINES, launch, run, students

pytestmark = pytest.mark.slow


def test_a_search_that_knows_costs_runs_and_is_resumed(material: Path, tmp_path: Path) -> None:
    settings = (
        "sampler={name: known_cost, num_startup_trials: 3}",
        "budget.num_trials=6",
        "resources.max_concurrent_trials=2",
        "limits.max_parameters=7500",
        "stopping={rungs: [3], reduction: 2}",
    )
    done = launch(material, tmp_path, *settings, *NO_BASELINES)
    assert done.returncode == 0, done.stderr
    study = StudyPaths(root=tmp_path / "tiny")
    more = run("resume", study.root, "--set", "budget.num_trials=8", "--set", "stopping=off")
    assert more.returncode == 0, more.stderr
    counted = [record for record in students(study) if record.counts_for_budget]
    assert len(counted) == 8
    assert {record.status for record in counted[:6]} <= {Status.COMPLETE, Status.STOPPED}
    assert [record.status for record in counted[6:]] == [Status.COMPLETE] * 2
    refused = run("resume", study.root, "--set", "seed=9")
    assert refused.returncode == 2
    assert "got another seed for" in refused.stderr
    assert all((record.num_parameters or 0) <= 7500 for record in counted)

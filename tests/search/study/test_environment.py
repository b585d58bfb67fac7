import json
from collections.abc import Callable

from search.study.environment import add_trial_times, overhead, read_environment, set_seconds, write_environment
from search.study.resolved import ResolvedStudy


def test_versions_machine_and_seed_are_written(open_study: Callable[..., ResolvedStudy]) -> None:
    study = open_study(is_prepared=False)
    write_environment(study.config, "abc", study.paths)
    written = json.loads(study.paths.environment.read_text(encoding="utf-8"))
    assert written["versions"]["torch"]
    assert written["machine"]["num_cpus"] >= 1
    assert (written["seed"], written["config_sha256"]) == (3, "abc")


def test_every_run_adds_its_time_and_keeps_the_seconds_of_the_preparation(
    open_study: Callable[..., ResolvedStudy],
) -> None:
    study = open_study(is_prepared=False)
    write_environment(study.config, "abc", study.paths)
    set_seconds(study.paths, {"packing": 1.5})
    write_environment(study.config, "abc", study.paths)
    written = read_environment(study.paths)
    assert len(written["runs"]) == 2
    assert written["seconds"] == {"packing": 1.5}


def test_the_times_of_trials_add_up_over_runs(open_study: Callable[..., ResolvedStudy]) -> None:
    study = open_study(is_prepared=False)
    assert overhead(study.paths) is None
    add_trial_times(study.paths, 0.0, 0.0)
    assert overhead(study.paths) is None
    add_trial_times(study.paths, held_seconds=10.0, busy_seconds=9.0)
    add_trial_times(study.paths, held_seconds=30.0, busy_seconds=21.0)
    assert read_environment(study.paths)["trials"] == {"held_seconds": 40.0, "busy_seconds": 30.0}
    assert overhead(study.paths) == 0.25

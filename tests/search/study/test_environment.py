import json
from collections.abc import Callable

from search.study.context import StudyContext
from search.study.environment import read_environment, set_seconds, write_environment


def test_versions_machine_and_seed_are_written_down(open_study: Callable[..., StudyContext]) -> None:
    context = open_study(is_prepared=False)
    write_environment(context.config, "abc", context.study)
    written = json.loads(context.study.environment.read_text(encoding="utf-8"))
    assert written["versions"]["torch"]
    assert written["machine"]["num_cpus"] >= 1
    assert (written["seed"], written["config_sha256"]) == (3, "abc")


def test_every_run_adds_its_moment_and_keeps_what_was_measured(open_study: Callable[..., StudyContext]) -> None:
    context = open_study(is_prepared=False)
    write_environment(context.config, "abc", context.study)
    set_seconds(context.study, {"packing": 1.5})
    write_environment(context.config, "abc", context.study)
    written = read_environment(context.study)
    assert len(written["runs"]) == 2
    assert written["seconds"] == {"packing": 1.5}

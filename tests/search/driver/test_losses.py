"""Tests of lost processes: Tune restarts their trials, and the logs say why."""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from minilm_core.errors import FailureKind
from search.driver.cluster import RemoteGenerator
from search.driver.losses import Losses, log_loss, loss_kind, loss_reported_by
from search.driver.room import Reservation, Waiting
from search.study.jobs import Job
from search.study.memory import NodeOutOfMemoryError
from search.study.resolved import ResolvedStudy
from spaces.space import StudentChoice
from tests.search.local_ray import ray_that_kills_every

OpenStudy = Callable[..., ResolvedStudy]

SECONDS_BETWEEN_KILLS = 12


class Recoveries(tune.Callback):
    """Records the loss for which Tune restarts a trial."""

    def __init__(self, losses: Losses) -> None:
        self.losses = losses
        self.losses_at_recovery: list[BaseException | None] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_recover(self, **_: Any) -> None:
        self.losses_at_recovery.append(self.losses.latest)


@pytest.mark.slow
def test_tune_restarts_a_trial_whose_process_the_memory_monitor_killed(tmp_path: Path) -> None:
    attempts = tmp_path / "attempts"

    def trial(_: dict[str, Any]) -> None:
        with attempts.open("a") as file:
            file.write("attempt\n")
        tune.report({"attempts": attempts.read_text().count("\n")})
        if attempts.read_text().count("\n") == 1:
            # The first attempt can only end by a kill.
            threading.Event().wait(120)

    losses = Losses()
    recoveries = Recoveries(losses)
    run_config = tune.RunConfig(
        name="tune",
        storage_path=str(tmp_path),
        verbose=0,
        failure_config=tune.FailureConfig(max_failures=-1),
        callbacks=[recoveries],
    )
    with ray_that_kills_every(SECONDS_BETWEEN_KILLS), losses.observed():
        (result,) = tune.Tuner(tune.with_resources(trial, {"CPU": 1}), run_config=run_config).fit()
    assert result.metrics is not None
    assert result.metrics["attempts"] == 2
    assert {type(loss) for loss in recoveries.losses_at_recovery} == {NodeOutOfMemoryError}
    assert str(recoveries.losses_at_recovery[0]).startswith("out of memory on the node: ")
    assert losses.latest is None


@pytest.mark.slow
def test_a_remote_generator_that_the_memory_monitor_killed_raises_a_message_of_one_line() -> None:

    def work() -> Iterator[int]:
        yield 1
        threading.Event().wait(120)

    reservation = Reservation(num_cpus=1)
    with ray_that_kills_every(SECONDS_BETWEEN_KILLS), pytest.raises(NodeOutOfMemoryError) as killed:
        list(RemoteGenerator(work, reservation=reservation).rest(Waiting(reservation, print)))
    assert re.fullmatch(r"out of memory on the node: .* GB in use, largest process .*", str(killed.value))


def test_a_kill_for_memory_and_a_lost_process_are_failures_of_two_kinds() -> None:
    killed, lost = loss_reported_by(OutOfMemoryError("the node is full")), loss_reported_by(RayActorError())
    assert killed is not None
    assert lost is not None
    assert (loss_kind(killed), loss_kind(lost)) == (FailureKind.OUT_OF_MEMORY, FailureKind.NODE_LOST)
    assert str(killed) == "out of memory on the node: the node is full"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("in the process itself"),
        RayTaskError("f", "", KeyError("x")),
        RuntimeError("the file was closed by peer review"),
    ],
)
def test_an_exception_of_a_running_process_is_no_loss(error: Exception) -> None:
    assert loss_reported_by(error) is None


def test_the_log_of_each_student_has_rays_whole_message(open_study: OpenStudy, choice: StudentChoice) -> None:
    study = open_study(is_prepared=False)
    jobs = [Job.of_student(study, number, choice) for number in (3, 4)]
    log_loss(jobs, NodeOutOfMemoryError.from_ray("the node is full\nTop 10 memory users"))
    for job in jobs:
        log = job.paths.log.read_text(encoding="utf-8")
        assert "started once more: NodeOutOfMemoryError: out of memory on the node: the node is full\n" in log
        assert "Top 10 memory users" in log

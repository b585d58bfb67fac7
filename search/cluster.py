"""Ray, started here or joined: the one place that knows how."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray

import minilm_core
import search
import spaces
from minilm_core.errors import UserError
from search.config import Executor, Resources

# Ray reads these when it starts; what the user set in the environment stays.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Without these two a Train run answers up to 2 s late and takes 7 s to end (the default poll is 2 s).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Workers of one trial too many wait for a free place instead of failing every 60 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # The display is ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C reaches us and not Tune: a search is resumed from its records.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def cluster(resources: Resources, address: str | None) -> Iterator[None]:
    """Starts Ray on this machine, or joins the cluster at `address`, and leaves it again.

    Raises:
        UserError: if there is no cluster at the address, or it has too little for one trial.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    previous = signal.getsignal(signal.SIGTERM)
    if address is None:
        _start(resources)
    else:
        _join(address)
    # Ray has taken the signal over; a search that is told to end says how to go on.
    signal.signal(signal.SIGTERM, previous)
    try:
        _check_capacity(resources, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


class Stream:
    """A generator that runs on the cluster."""

    def __init__(
        self, function: Callable[..., Iterator[Any]], *arguments: Any, num_cpus: float, num_gpus: float
    ) -> None:
        remote = ray.remote(function).options(num_cpus=num_cpus, num_gpus=num_gpus, num_returns="streaming")
        self._generator: Any = remote.remote(*arguments)

    def ready(self) -> Iterator[Any]:
        """Yields what has come since the last call, without waiting."""
        while self._generator is not None and ray.wait([self._generator], timeout=0)[0]:
            yield from self._next()

    def rest(self) -> Iterator[Any]:
        """Yields all that is still to come, waiting for it."""
        while self._generator is not None:
            yield from self._next()

    def _next(self) -> Iterator[Any]:
        try:
            reference = next(self._generator)
        except StopIteration:
            self._generator = None
            return
        yield ray.get(reference)


def _start(resources: Resources) -> None:
    ray.init(
        address="local",
        # Ray frees the place of a Train run that lost its trial only where the dashboard runs.
        include_dashboard=resources.chosen_executor is Executor.TRAIN,
        log_to_driver=False,
        logging_level="error",
        configure_logging=True,
    )


def _join(address: str) -> None:
    # Ray nodes need our dependencies installed, not us.
    modules = [minilm_core, spaces, search]
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", runtime_env={"py_modules": modules})
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"--address must be that of a running Ray cluster, got {address} ({first})") from error


def cores_on_one_node(resources: Resources) -> float:
    """Returns the cores of all trials that run at once, or of the largest node where it has fewer."""
    largest = max(float(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return min(resources.num_cpus, largest)


def _check_capacity(resources: Resources, available: Mapping[str, float]) -> None:
    for name, device, each in (
        ("cpus_per_worker", "CPU", resources.cpus_per_worker),
        ("gpus_per_worker", "GPU", resources.gpus_per_worker),
    ):
        asked, found = resources.workers_per_trial * each, available.get(device, 0.0)
        if asked > found:
            raise UserError(
                f"workers_per_trial times {name} must be at most the cluster's {found:g} {device}s, got {asked:g}"
            )


def cluster_summary() -> str:
    """Returns what the cluster that was joined or started has, as one line."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    found = ray.cluster_resources()
    return f"{ray.__version__}, {len(nodes)} nodes, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"

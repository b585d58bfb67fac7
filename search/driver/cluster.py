"""Ray, started here or joined: the one place that knows how."""

import os
import re
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import ray

import minilm_core
import search
import spaces
from minilm_core.errors import UserError
from minilm_core.fresh_process import import_path
from minilm_core.training.devices import return_freed_memory
from search.config.settings import Executor, Resources
from search.study.memory import NodeOutOfMemoryError

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
    # What befalls a trial stands in its record and its log.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # Ctrl-C reaches us and not Tune: a search is resumed from its records.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


_COLOUR = re.compile(r"\x1b\[[\d;]*m")

NUM_STARTS = 3
"""How often a start of Ray on this machine is tried: it allows its processes 30 seconds, a busy machine needs more."""

SECONDS_TO_ANSWER = 10.0
"""What a cluster's address is given to accept a connection."""


@contextmanager
def cluster(resources: Resources, address: str | None) -> Iterator[None]:
    """Starts Ray on this machine, or joins the cluster at `address`, and leaves it again.

    Raises:
        UserError: if there is no cluster at the address, or it has too little for one trial.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="minilm-search-") as empty_folder:
        try:
            with _started_from(Path(empty_folder)):
                if address is None:
                    _start(resources)
                else:
                    _join(address)
            _check_capacity(resources)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _started_from(folder: Path) -> Iterator[None]:
    """Lets Ray start in a folder, with our import path.

    Ray's workers import from its driver's current folder before all others, where any file may lie.
    """
    previous, given = signal.getsignal(signal.SIGTERM), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = import_path()
    try:
        with chdir(folder):
            yield
    finally:
        # Ray has taken the signal over; a search that is told to end says how to go on.
        signal.signal(signal.SIGTERM, previous)
        if given is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = given


class RemoteGenerator:
    """A generator that runs on the cluster.

    Whoever takes from it hears what the generator raised, NodeOutOfMemoryError if Ray killed its process for memory, or
    another of Ray's errors if it was lost otherwise.
    """

    def __init__(
        self, function: Callable[..., Iterator[Any]], *arguments: Any, num_cpus: float, num_gpus: float
    ) -> None:
        held = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        # No retry: it would repeat what has been yielded.
        remote = ray.remote(_run).options(**held, name=function.__name__, num_returns="streaming", max_retries=0)
        self._generator: Any = remote.remote(function, *arguments)

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
        try:
            yield ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            self._generator = None
            # Where it happened, for who writes the whole of it down.
            error.cause.add_note(_COLOUR.sub("", str(error)))
            raise error.cause from None
        except ray.exceptions.OutOfMemoryError as error:
            self._generator = None
            raise NodeOutOfMemoryError.from_ray(str(error)) from None


def _run(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    """Runs a generator in a process of Ray, which stands idle afterwards and keeps none of its memory meanwhile."""
    try:
        yield from function(*arguments)
    finally:
        return_freed_memory()


def give_token() -> None:
    """Gives a Ray that is started here a token of its own where it cannot keep one in the home folder."""
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        can_keep_one = (folder / "auth_token").exists() or os.access(folder, os.W_OK)
    # A user may have no home folder at all.
    except (OSError, RuntimeError):
        can_keep_one = False
    if not can_keep_one:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _start(resources: Resources) -> None:
    give_token()
    for num_starts_left in reversed(range(NUM_STARTS)):
        try:
            ray.init(
                address="local",
                # Ray frees the place of a Train run that lost its trial only where the dashboard runs.
                include_dashboard=resources.chosen_executor is Executor.TRAIN,
                log_to_driver=False,
                logging_level="error",
                configure_logging=True,
            )
            return
        # Ray has no type of its own for this error.
        except Exception as error:
            if num_starts_left == 0 or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


def _join(address: str) -> None:
    if address.startswith("ray://"):
        # Tune would then run in a process of its own on the head node, and the records would be written there.
        raise UserError(f"--address must be HOST:PORT or auto, given on a node of the cluster, got {address}")
    _check_answers(address)
    # Nodes need our dependencies installed, but not us; our settings of Ray Train do not travel by themselves either.
    settings = {name: os.environ[name] for name in _SETTINGS if name.startswith("RAY_TRAIN")}
    runtime_env = {"py_modules": [minilm_core, spaces, search], "env_vars": settings}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", runtime_env=runtime_env)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"--address must be that of a running Ray cluster with this one's RAY_AUTH_MODE, got {address} ({first})"
        ) from error


def _check_answers(address: str) -> None:
    """Refuses an address where nobody listens, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise UserError(f"--address must be HOST:PORT or auto, got {address}")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address must be that of a running Ray cluster, got {address} ({error})") from error


def _nodes() -> list[tuple[float, float]]:
    """Returns the CPU cores and GPUs of each node."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(float(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in alive]


def cores_on_one_node(resources: Resources) -> float:
    """Returns the cores of all trials that run at once, or those of the largest node where it has fewer."""
    largest = max(cpus for cpus, gpus in _nodes() if gpus >= resources.gpus_per_worker)
    return min(resources.num_cpus, largest)


def _check_capacity(resources: Resources) -> None:
    """Refuses trials that would wait for ever: a worker has to fit on one node, and a trial's workers on all."""
    each_cpus, each_gpus = resources.cpus_per_worker, resources.gpus_per_worker
    places = sum(
        int(min(cpus // each_cpus, gpus // each_gpus if each_gpus else cpus // each_cpus)) for cpus, gpus in _nodes()
    )
    if places < resources.workers_per_trial:
        raise UserError(
            f"the cluster must have room for the {resources.workers_per_trial} workers of a trial, each with "
            f"{each_cpus:g} CPUs and {each_gpus:g} GPUs on one node, got room for {places}"
        )


def cluster_summary() -> str:
    """Returns what the cluster that was joined or started has, as one line."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    found = ray.cluster_resources()
    return f"{ray.__version__}, {len(nodes)} nodes, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"

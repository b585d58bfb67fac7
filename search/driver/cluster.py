"""Ray: a cluster is started on this machine or joined, and generators run on it."""

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
from search.driver.room import Reservation, Waiting, check_capacity
from search.study.memory import NodeOutOfMemoryError

# Ray reads these variables when it starts; those that the user has set are not changed.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Without these two, the events of a Train run come up to 2 s late and its end takes 7 s (the default poll is 2 s).
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # The workers of a trial that finds no free resources wait for them instead of failing every 60 s.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "86400",
    # `search.driver.display` replaces the output of Tune.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The failure of a trial is written into its record and its log.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    # `search.driver.room` says what is waited for.
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S_AUTOSCALER": "86400",
    # Ctrl-C stops this process and not Tune alone: a search is resumed from its records.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


_COLOUR = re.compile(r"\x1b\[[\d;]*m")

NUM_STARTS = 3
"""How often Ray is started on this machine before its error counts: a busy machine may exceed Ray's 30 seconds."""

SECONDS_TO_ANSWER = 10.0
"""The time in which the address of a cluster must accept a connection."""


@contextmanager
def cluster(resources: Resources, address: str | None) -> Iterator[None]:
    """Starts Ray on this machine, or joins the cluster at `address`, and leaves it again.

    Raises:
        UserError: if there is no cluster at the address, or this machine has too few resources for one trial. Nodes
            with more may join a cluster, for which a search waits.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="minilm-search-") as empty_folder:
        try:
            with _started_from(Path(empty_folder)):
                if address is None:
                    _start(resources)
                    check_capacity(resources)
                else:
                    _join(address)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _started_from(folder: Path) -> Iterator[None]:
    """Starts Ray in an empty folder, with the import path of this process.

    Ray's workers import from their driver's current folder first, where a user may have files of any name.
    """
    previous, given = signal.getsignal(signal.SIGTERM), os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = import_path()
    try:
        with chdir(folder):
            yield
    finally:
        # Ray has replaced the handler; on SIGTERM a search must say how to go on.
        signal.signal(signal.SIGTERM, previous)
        if given is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = given


class RemoteGenerator:
    """A generator that runs in a process of the cluster.

    Its methods raise what the generator raised, NodeOutOfMemoryError if Ray killed its process for memory, or another
    of Ray's errors if the process was lost for another reason.
    """

    def __init__(self, function: Callable[..., Iterator[Any]], *arguments: Any, reservation: Reservation) -> None:
        # There is no retry, because it would yield the same items again.
        remote = ray.remote(_run).options(
            **reservation.options, name=function.__name__, num_returns="streaming", max_retries=0
        )
        self._generator: Any = remote.remote(function, *arguments)
        self.has_begun = False
        """Whether a process of the cluster runs it; before that, it waits for the resources that it reserves."""

    @property
    def has_ended(self) -> bool:
        """Whether all items have been yielded."""
        return self._generator is None

    def ready(self) -> Iterator[Any]:
        """Yields the items that have come since the last call, without waiting."""
        while self._generator is not None and ray.wait([self._generator], timeout=0)[0]:
            yield from self._next()

    def rest(self, waiting: Waiting) -> Iterator[Any]:
        """Yields all items that are left, and waits for them; it tells what is waited for until a process runs."""
        while self._generator is not None:
            while not self.has_begun and not ray.wait([self._generator], timeout=1)[0]:
                waiting.follow(is_waiting=True)
            waiting.follow(is_waiting=False)
            yield from self._next()

    def _next(self) -> Iterator[Any]:
        try:
            reference = next(self._generator)
        except StopIteration:
            self._generator = None
            return
        try:
            item = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            self._generator = None
            # The note keeps the remote traceback for logs.
            error.cause.add_note(_COLOUR.sub("", str(error)))
            raise error.cause from None
        except ray.exceptions.OutOfMemoryError as error:
            self._generator = None
            raise NodeOutOfMemoryError.from_ray(str(error)) from None
        if self.has_begun:
            yield item
        self.has_begun = True


def _run(function: Callable[..., Iterator[Any]], *arguments: Any) -> Iterator[Any]:
    """Runs a generator in a process of Ray, and frees memory after it, because the process stays idle afterwards.

    The first item only says that the process runs.
    """
    try:
        yield None
        yield from function(*arguments)
    finally:
        return_freed_memory()


def give_token() -> None:
    """Gives Ray a token in the environment if it cannot keep one in the home folder."""
    if any(name in os.environ for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        return
    try:
        folder = Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        can_keep_one = (folder / "auth_token").exists() or os.access(folder, os.W_OK)
    # A user may have no home folder.
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
                # Only with the dashboard does Ray free the resources of a Train run whose trial was lost.
                include_dashboard=resources.chosen_executor is Executor.TRAIN,
                log_to_driver=False,
                logging_level="error",
                configure_logging=True,
            )
            return
        # Ray raises this error as a plain exception.
        except Exception as error:
            if num_starts_left == 0 or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


def _join(address: str) -> None:
    if address.startswith("ray://"):
        # With Ray Client, Tune runs in a process on the head node, and the records would be written there.
        raise UserError(f"--address must be HOST:PORT or auto, given on a node of the cluster, got {address}")
    _check_answers(address)
    # The nodes need the dependencies but not this package, which is sent to them with the settings of Ray Train.
    settings = {name: os.environ[name] for name in _SETTINGS if name.startswith("RAY_TRAIN")}
    runtime_env = {"py_modules": [minilm_core, spaces, search], "env_vars": settings}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", runtime_env=runtime_env)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"--address must be that of a running Ray cluster with the same RAY_AUTH_MODE, got {address} ({first})"
        ) from error


def _check_answers(address: str) -> None:
    """Refuses an address that accepts no connection, which Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit():
        raise UserError(f"--address must be HOST:PORT or auto, got {address}")
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address must be that of a running Ray cluster, got {address} ({error})") from error


def cluster_summary() -> str:
    """Returns the version, nodes and resources of the cluster in one line."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    found = ray.cluster_resources()
    return f"{ray.__version__}, {len(nodes)} nodes, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"

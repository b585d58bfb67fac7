"""Tests of the error for a process that Ray killed for memory, with messages of Ray 2.60 and other versions."""

import traceback

import pytest

from minilm_core.errors import FailureKind, classify_failure
from search.study.memory import NodeOutOfMemoryError

MESSAGE_OF_RAY_2_60 = """1 worker(s) were killed due to the node running low on memory. Memory on the node \
(IP: 192.0.2.2, ID: bc0be9ec6223a318241bb11276e732) was 22.58GB used / 23.51GB limit (0.960459)
OOM kill reason: Memory usage 24245178368B exceeded threshold of 23981838336B (95.0% of 25244040192B limit)
Ray killed 1 worker(s) based on the killing policy
Considered workers: [
Selected to kill: (Task: job ID=01000000, task name=ImplicitFunc.__init__, pid=14185, actual memory used=0.04GB)
]
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
13074\t12.34\tpython /home/somebody/measure.py cell.parquet
8471\t1.52\tray::ImplicitFunc.train
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/.
"""
MESSAGE_OF_RAY_2_40 = """Task was killed due to the node running low on memory.
Memory on the node (IP: 192.0.2.2, ID: b7e8) where the task (actor ID: 5d2a, name=f, pid=63, memory used=0.05GB) was \
running was 7.00GB / 7.28GB (0.961), which exceeds the memory usage threshold of 0.95. Ray killed this worker
Top 10 memory users:
PID\tMEM(GB)\tCOMMAND
63\t5.96\tray::f
"""


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            MESSAGE_OF_RAY_2_60,
            "out of memory on the node: 22.6 of 23.5 GB in use, "
            "largest process 12.3 GB: python /home/somebody/measure.py cell.parquet",
        ),
        (MESSAGE_OF_RAY_2_40, "out of memory on the node: 7.0 of 7.3 GB in use, largest process 6.0 GB: ray::f"),
        ("was 7.00GB used / 7.28GB limit", "out of memory on the node: 7.0 of 7.3 GB in use"),
        ("\n  the node is full\nand more", "out of memory on the node: the node is full"),
        ("", "out of memory on the node: Ray does not say how much was in use"),
    ],
)
def test_a_message_of_ray_becomes_one_line(message: str, line: str) -> None:
    assert str(NodeOutOfMemoryError.from_ray(message)) == line


def test_the_traceback_has_rays_whole_message() -> None:
    error = NodeOutOfMemoryError.from_ray(MESSAGE_OF_RAY_2_60)
    assert "OOM kill reason: Memory usage 24245178368B" in "".join(traceback.format_exception(error))


def test_the_error_is_classified_as_out_of_memory() -> None:
    assert classify_failure(NodeOutOfMemoryError.from_ray(MESSAGE_OF_RAY_2_60)) is FailureKind.OUT_OF_MEMORY

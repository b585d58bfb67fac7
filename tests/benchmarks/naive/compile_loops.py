"""Compiles the CPU loops that a distillation needs, as its first step would, so that their time is seen apart.

    python -m tests.benchmarks.naive.compile_loops fp32

They are kept in Numba's cache, once for each machine and version of the code.
"""

import sys
import tempfile
from pathlib import Path

from minilm_core.models.architecture import StudentArchitecture
from tests.benchmarks.cases import Batch, Case, Pair, Variant
from tests.benchmarks.steps import begin

SMALL = Case(
    pair=Pair(
        teacher=StudentArchitecture(num_layers=1, hidden_size=48, num_heads=4),
        student=StudentArchitecture(num_layers=1, hidden_size=24, num_heads=2),
        relation_heads=6,
    ),
    batch=Batch(num_rows=2, sequence_length=16),
)
"""Loops are compiled for types and not for sizes."""


def main() -> None:
    """Takes one step."""
    (precision,) = sys.argv[1:]
    variant = Variant.ONLINE_FP32 if precision == "fp32" else Variant.ONLINE_BEST
    with tempfile.TemporaryDirectory() as cache:
        next(begin(SMALL, variant, Path(cache)))


if __name__ == "__main__":
    main()

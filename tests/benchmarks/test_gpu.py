"""Tests of the GPU benchmark's arithmetic, and of its error on a machine without a GPU."""

from pathlib import Path

import pytest
import torch

from tests.benchmarks import gpu
from tests.benchmarks.cases import BASE_TO_SMALL, Batch, Case
from tests.benchmarks.roofline import Rates, relation_encoder_flops

CASE = Case(pair=BASE_TO_SMALL, batch=Batch(num_rows=4, sequence_length=100))
RATES = Rates(matrix_flops=1e12, memory_bytes=1e9, num_exponentials=1e9)
MEASURED = gpu.Measured(median_seconds=0.5, peak_memory_bytes=3 * 2**20)


def test_a_row_has_the_speed_and_the_fractions_of_the_ceilings() -> None:
    row = gpu.row_of("loss", CASE.batch, MEASURED, RATES, flops=int(1e11), floor_seconds=0.1)
    assert row.tokens_per_second == pytest.approx(800)
    assert row.milliseconds == pytest.approx(500)
    assert row.mfu == pytest.approx(0.2)
    assert row.roofline == pytest.approx(0.2)
    assert gpu.line_of(row).split() == [
        *("4x100", "loss", "800", "tok/s", "500.00", "ms", "20.0%", "MFU", "3", "MiB"),
        *("20.0%", "of", "roofline"),
    ]


def test_a_step_has_no_roofline() -> None:
    row = gpu.row_of("step", CASE.batch, MEASURED, RATES, flops=1)
    assert row.roofline is None
    assert gpu.line_of(row).endswith("MiB")


def test_a_relation_has_the_pairs_own_head_sizes() -> None:
    cost = gpu.relation_cost(CASE)
    assert (cost.num_sequences, cost.num_heads, cost.teacher_head_size, cost.student_head_size) == (4, 48, 16, 8)


def test_cached_states_leave_the_step_without_the_teachers_layers() -> None:
    online, cached = (gpu.flops_of_step(CASE, is_cached=is_cached) for is_cached in (False, True))
    teacher = CASE.pair.teacher
    layers = 11 * (teacher.flops(100) - 2 * teacher.hidden_size**2) // 12
    assert online - cached == 4 * layers


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^the benchmark must have a CUDA device, got none$"):
        gpu.main([str(tmp_path / "out.json")])


def test_an_output_file_must_be_named() -> None:
    with pytest.raises(SystemExit, match=r"^usage: .* OUT\.json$"):
        gpu.main([])


def test_students_that_share_a_teacher_run_it_once() -> None:
    alone, three = (gpu.flops_of_step(CASE, is_cached=False, num_students=number) for number in (1, 3))
    teacher = relation_encoder_flops(CASE.pair.teacher, 100)
    assert three == 3 * alone - 2 * 4 * teacher
    assert gpu.row_of("step", CASE.batch, MEASURED, RATES, flops=1, num_students=3).tokens_per_second == 2400

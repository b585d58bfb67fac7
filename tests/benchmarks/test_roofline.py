"""Tests of the cost of a relation and of a step, compared with counts by hand and by torch's own counter."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig

from minilm_core.models.architecture import StudentArchitecture
from minilm_core.models.encoders import RelationEncoder, build_encoder
from minilm_core.settings.schedules import METHOD_RELATIONS, Method
from tests.benchmarks.roofline import (
    Rates,
    RelationCost,
    Work,
    projection_flops,
    relation_encoder_flops,
    step_flops,
)

COST = RelationCost(
    num_sequences=3,
    sequence_length=7,
    num_heads=2,
    teacher_head_size=6,
    student_head_size=4,
    is_symmetric=True,
)
STUDENT = StudentArchitecture(num_layers=3, hidden_size=24, num_heads=4)
BATCH, LENGTH = 2, 10


def counted_flops() -> tuple[int, int]:
    """Returns the FLOPs that torch counts in a student's forward and backward pass up to its Q, K and V."""
    config = BertConfig(vocab_size=40, hidden_dropout_prob=0.0, attn_implementation="eager")
    encoder = build_encoder(STUDENT, config, seed=0)
    student = RelationEncoder(encoder, (STUDENT.num_layers,), METHOD_RELATIONS[Method.MINILMV2])
    tokens = torch.zeros(BATCH, LENGTH, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        (relations,) = student(tokens, None)
    with FlopCounterMode(display=False) as backward:
        torch.stack([operands.left.sum() for operands in relations.values()]).sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_the_forward_flops_of_a_student_are_those_that_torch_counts() -> None:
    forward, _ = counted_flops()
    assert BATCH * relation_encoder_flops(STUDENT, LENGTH) == forward


def test_a_step_costs_three_times_the_students_forward_pass() -> None:
    forward, backward = counted_flops()
    no_relation = replace(COST, num_sequences=BATCH, sequence_length=LENGTH)
    assert step_flops(STUDENT, 0, no_relation, num_relations=0) == forward + backward


def test_a_step_adds_the_teacher_and_the_relations() -> None:
    alone = step_flops(STUDENT, 0, COST, num_relations=0)
    assert step_flops(STUDENT, 1000, COST, num_relations=2) == alone + 3 * 1000 + 2 * COST.needed_flops


def test_one_layer_costs_its_projections() -> None:
    shallow = replace(STUDENT, num_layers=1)
    assert relation_encoder_flops(shallow, LENGTH) == projection_flops(shallow, LENGTH) == 3 * 2 * LENGTH * 24 * 24


def test_a_relation_needs_the_products_of_its_value_and_gradient() -> None:
    teacher, student = (torch.randn(3, 2, 7, size, requires_grad=size == 4) for size in (6, 4))
    # The clone makes torch count a gradient for each operand, as in the mathematics.
    with FlopCounterMode(display=False) as counter:
        of_teacher = teacher @ teacher.mT
        of_student = student @ student.clone().mT
        (of_student - of_teacher).square().sum().backward()
    assert COST.needed_flops == counter.get_total_flops()


def test_the_fused_passes_compute_the_logits_twice_and_sum_three_products() -> None:
    pairs = 3 * 2 * 7 * 7
    first = 2 * pairs * (6 + 4) + 2 * 2 * pairs * 4
    second = 2 * pairs * (6 + 4) + 2 * pairs * 4
    work = COST.fused_work(element_bytes=2)
    assert work.matrix_flops == first + second
    assert work.num_exponentials == 4 * pairs


@pytest.mark.parametrize(("is_symmetric", "num_operands"), [(True, 1), (False, 2)])
def test_the_fused_passes_read_and_write_vectors_and_partitions_only(is_symmetric: bool, num_operands: int) -> None:
    tokens = 3 * 7
    teacher, student = tokens * 2 * 6 * 2, tokens * 2 * 4 * 2
    partitions = 2 * tokens * 2 * 4
    operands = num_operands * (teacher + student)
    first = operands + partitions + student
    second = operands + partitions + student + num_operands * student
    assert replace(COST, is_symmetric=is_symmetric).fused_work(element_bytes=2).memory_bytes == first + second


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(matrix_flops=30, memory_bytes=4, num_exponentials=5), 3.0),
        (Work(matrix_flops=30, memory_bytes=40, num_exponentials=5), 20.0),
        (Work(matrix_flops=30, memory_bytes=4, num_exponentials=500), 100.0),
    ],
)
def test_the_busiest_unit_sets_the_least_time(work: Work, seconds: float) -> None:
    assert Rates(matrix_flops=10, memory_bytes=2, num_exponentials=5).floor_seconds(work) == seconds

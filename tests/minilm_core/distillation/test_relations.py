"""Tests of the losses against a slow transcription of the papers' equations."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minilm_core.distillation import relations
from minilm_core.distillation.relations import relation_losses
from minilm_core.errors import UserError
from minilm_core.models.adapters import LayerRelations, RelationOperands
from minilm_core.settings.schedules import METHOD_RELATIONS, Method, Relation

VECTORS = {
    Relation.ATTENTION: ("query", "key"),
    Relation.QUERY: ("query", "query"),
    Relation.KEY: ("key", "key"),
    Relation.VALUE: ("value", "value"),
}
# fp32 uses the compiled loops; fp64, and operands with a bias, use the blockwise kernel.
PRECISIONS = {torch.float32: 2e-5, torch.float64: 1e-9}


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    exponentials = [math.exp(x - top) for x in row]
    return [x / sum(exponentials) for x in exponentials]


def transcribed_term(teacher: RelationOperands, student: RelationOperands, num_heads: int, lengths: list[int]) -> float:
    """Equations 3, 6, 7 and 9 of MiniLM and 1 to 5 of MiniLMv2 in plain Python, over the real tokens only."""

    def relation(operands: RelationOperands, row: int, head: int, query: int, length: int) -> list[float]:
        size = operands.left.shape[-1] // num_heads
        part = slice(head * size, (head + 1) * size)
        left, right = operands.left[row, query, part].tolist(), operands.right[row, :, part].tolist()
        scores = [sum(a * b for a, b in zip(left, right[key], strict=True)) / math.sqrt(size) for key in range(length)]
        if operands.bias is not None:
            bias = operands.bias[row % len(operands.bias), head, query].tolist()
            scores = [score + extra for score, extra in zip(scores, bias[:length], strict=True)]
        return softmax(scores)

    divergences = []
    for row, length in enumerate(lengths):
        for query in range(length):
            for head in range(num_heads):
                of_teacher = relation(teacher, row, head, query, length)
                of_student = relation(student, row, head, query, length)
                divergences.append(sum(p * math.log(p / q) for p, q in zip(of_teacher, of_student, strict=True)))
    return sum(divergences) / len(divergences)


def random_relations(
    method: Method, batch: int, seq: int, width: int, seed: int, dtype: torch.dtype = torch.float64
) -> LayerRelations:
    generator = torch.Generator().manual_seed(seed)
    vectors = {
        name: torch.randn(batch, seq, width, generator=generator, dtype=torch.float64).to(dtype)
        for name in ("query", "key", "value")
    }
    return {
        relation: RelationOperands(*(vectors[name] for name in VECTORS[relation]))
        for relation in METHOD_RELATIONS[method]
    }


def tensors_of(relations: LayerRelations) -> list[Tensor]:
    """Returns each different tensor once."""
    return list({id(part): part for operands in relations.values() for part in operands[:2]}.values())


def changed(relations: LayerRelations, change: Callable[[Tensor], Tensor]) -> LayerRelations:
    """Applies a change to each different tensor; equal operands stay the same tensor."""
    new = {id(part): change(part) for part in tensors_of(relations)}
    return {
        relation: RelationOperands(new[id(operands.left)], new[id(operands.right)])
        for relation, operands in relations.items()
    }


def mask_of(lengths: list[int], seq: int) -> Tensor:
    return torch.arange(seq) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("head_size", [4, 6, 8, 16])
@pytest.mark.parametrize("lengths", [[5, 5], [5, 1], [3, 4]])
def test_loss_equals_the_papers_equations(
    method: Method, head_size: int, lengths: list[int], dtype: torch.dtype
) -> None:
    num_heads = 2
    teacher = random_relations(method, 2, 5, num_heads * 2 * head_size, 1, dtype)
    student = random_relations(method, 2, 5, num_heads * head_size, 2, dtype)
    losses = relation_losses(teacher, student, num_heads, mask_of(lengths, 5))
    assert list(losses) == list(METHOD_RELATIONS[method])
    for relation, loss in losses.items():
        expected = transcribed_term(teacher[relation], student[relation], num_heads, lengths)
        assert loss.item() == pytest.approx(expected, rel=PRECISIONS[dtype])


@pytest.mark.parametrize("batch_of_bias", [1, 2])
def test_a_bias_is_part_of_both_attention_distributions(batch_of_bias: int) -> None:
    teacher, student = (random_relations(Method.MINILM, 2, 5, width, 3)[Relation.ATTENTION] for width in (8, 4))
    biased = [
        operands._replace(bias=torch.randn(batch_of_bias, 2, 5, 5, dtype=torch.float64))
        for operands in (teacher, student)
    ]
    losses = [
        relation_losses({Relation.ATTENTION: one}, {Relation.ATTENTION: other}, 2, mask_of([5, 3], 5))
        for one, other in (biased, (teacher, student))
    ]
    with_bias, without = (loss[Relation.ATTENTION].item() for loss in losses)
    assert with_bias == pytest.approx(transcribed_term(*biased, 2, [5, 3]), rel=1e-9)
    assert with_bias != pytest.approx(without, rel=1e-3)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("method", Method)
def test_identical_models_have_zero_loss(method: Method, dtype: torch.dtype) -> None:
    relations = random_relations(method, 3, 7, 24, 3, dtype)
    for loss in relation_losses(relations, relations, 4).values():
        assert loss.item() == pytest.approx(0.0, abs=1e-14 if dtype == torch.float64 else 1e-6)


@given(
    seed=st.integers(0, 10_000),
    num_padding=st.integers(1, 4),
    method=st.sampled_from(Method),
    dtype=st.sampled_from(list(PRECISIONS)),
)
@settings(max_examples=30, deadline=None)
def test_padding_leaves_the_loss_unchanged(seed: int, num_padding: int, method: Method, dtype: torch.dtype) -> None:
    teacher = random_relations(method, 2, 4, 12, seed, dtype)
    student = random_relations(method, 2, 4, 6, seed + 1, dtype)

    def padded(part: Tensor) -> Tensor:
        noise = torch.randn(2, num_padding, part.shape[-1], generator=torch.Generator().manual_seed(seed + 2))
        return torch.cat([part, 100 * noise.to(dtype)], dim=1)

    bare = relation_losses(teacher, student, 3)
    masked = relation_losses(changed(teacher, padded), changed(student, padded), 3, mask_of([4, 4], 4 + num_padding))
    for relation, loss in bare.items():
        assert masked[relation].item() == pytest.approx(loss.item(), rel=PRECISIONS[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("method", Method)
def test_batch_order_and_head_order_change_nothing(method: Method, dtype: torch.dtype) -> None:
    teacher, student = (random_relations(method, 3, 5, width, 4, dtype) for width in (16, 8))

    def reordered(part: Tensor) -> Tensor:
        return part.flip(0).unflatten(-1, (4, -1)).flip(-2).flatten(-2)

    before = relation_losses(teacher, student, 4)
    after = relation_losses(changed(teacher, reordered), changed(student, reordered), 4)
    for relation, loss in before.items():
        assert after[relation].item() == pytest.approx(loss.item(), rel=PRECISIONS[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_gradient_flows_into_the_student_only(dtype: torch.dtype) -> None:
    teacher, student = (random_relations(Method.MINILMV2, 2, 4, 8, seed, dtype) for seed in (6, 7))
    for part in (*tensors_of(teacher), *tensors_of(student)):
        part.requires_grad_(True)
    sum(relation_losses(teacher, student, 2).values()).backward()
    assert all(part.grad is None for part in tensors_of(teacher))
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in tensors_of(student))


@pytest.mark.parametrize("method", Method)
def test_gradient_is_that_of_the_loss(method: Method) -> None:
    teacher, student = random_relations(method, 2, 3, 8, 8), random_relations(method, 2, 3, 4, 9)
    parts = tensors_of(student)

    def loss(*parts: Tensor) -> Tensor:
        new = dict(zip(map(id, tensors_of(student)), parts, strict=True))
        of_student = {
            relation: RelationOperands(new[id(operands.left)], new[id(operands.right)])
            for relation, operands in student.items()
        }
        return torch.stack(list(relation_losses(teacher, of_student, 2, mask_of([3, 2], 3)).values())).sum()

    assert torch.autograd.gradcheck(loss, [part.clone().requires_grad_(True) for part in parts])


@pytest.mark.parametrize("batch_of_bias", [1, 2])
def test_gradient_by_a_position_bias_is_that_of_the_loss(batch_of_bias: int) -> None:
    teacher, student = (random_relations(Method.MINILM, 2, 3, width, 10)[Relation.ATTENTION] for width in (8, 4))

    def loss(left: Tensor, right: Tensor, bias: Tensor) -> Tensor:
        of_student = {Relation.ATTENTION: RelationOperands(left, right, bias)}
        return relation_losses({Relation.ATTENTION: teacher}, of_student, 2, mask_of([3, 2], 3))[Relation.ATTENTION]

    bias = torch.randn(batch_of_bias, 2, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, [part.clone().requires_grad_(True) for part in (*student[:2], bias)])


def test_value_vectors_are_compared_by_their_mean_squared_error_over_real_tokens() -> None:
    teacher, student = (torch.randn(2, 4, 6, dtype=torch.float64) for _ in range(2))
    losses = [
        relation_losses(
            {Relation.VALUE_VECTORS: RelationOperands(teacher, teacher)},
            {Relation.VALUE_VECTORS: RelationOperands(student, student)},
            3,
            mask,
        )
        for mask in (None, mask_of([4, 1], 4))
    ]
    whole, masked = (loss[Relation.VALUE_VECTORS].item() for loss in losses)
    assert whole == pytest.approx((teacher - student).square().mean().item())
    real = torch.cat([(teacher - student)[0], (teacher - student)[1, :1]])
    assert masked == pytest.approx(real.square().mean().item())


def test_value_vectors_teach_the_student_only() -> None:
    teacher, student = (torch.randn(2, 4, 6, requires_grad=True) for _ in range(2))
    of_teacher, of_student = ({Relation.VALUE_VECTORS: RelationOperands(part, part)} for part in (teacher, student))
    relation_losses(of_teacher, of_student, 3)[Relation.VALUE_VECTORS].backward()
    assert teacher.grad is None
    assert student.grad is not None
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / student.numel())


@pytest.mark.parametrize(("width", "num_heads"), [(8, 3), (12, 8), (8, 16)])
def test_heads_that_do_not_divide_the_width_are_refused(width: int, num_heads: int) -> None:
    teacher, student = (random_relations(Method.MINILM, 2, 4, w, w, torch.float32) for w in (24, width))
    with pytest.raises(UserError) as refusal:
        relation_losses(teacher, student, num_heads)
    assert str(refusal.value) == (
        f"relation heads must divide the widths of teacher and student, got {num_heads}, 24 and {width}"
    )


def test_value_vectors_of_another_width_are_refused() -> None:
    teacher, student = (
        {Relation.VALUE_VECTORS: RelationOperands(v, v)} for v in (torch.ones(1, 2, 8), torch.ones(1, 2, 4))
    )
    with pytest.raises(UserError, match="value vectors must be as wide as the teacher's, got 4 and 8"):
        relation_losses(teacher, student, 2)


def test_a_teacher_without_a_relation_of_its_student_is_refused() -> None:
    teacher, student = (random_relations(method, 1, 4, 8, 0) for method in (Method.MINILM, Method.MINILMV2))
    with pytest.raises(
        UserError, match="a teacher must have every relation of its student, got attention, value without"
    ):
        relation_losses(teacher, student, 2)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_batch_without_a_real_token_is_refused(dtype: torch.dtype) -> None:
    teacher, student = (random_relations(Method.MINILM, 2, 4, 8, seed, dtype) for seed in (6, 7))
    with pytest.raises(UserError, match="a relation must have at least 1 real token, got 0"):
        relation_losses(teacher, student, 2, mask_of([0, 0], 4))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_teacher_certain_of_one_key_gives_a_finite_loss(dtype: torch.dtype) -> None:
    teacher, student = (random_relations(Method.MINILMV2, 1, 4, 8, seed, dtype) for seed in (10, 11))
    certain = changed(teacher, lambda part: 1e4 * part)
    for loss in relation_losses(certain, student, 2, mask_of([2], 4)).values():
        assert torch.isfinite(loss)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_vectors_that_are_not_finite_give_a_loss_that_is_not_finite(value: float) -> None:
    teacher, student = (random_relations(Method.MINILMV2, 1, 4, 8, seed, torch.float32) for seed in (12, 13))

    def spoilt(part: Tensor) -> Tensor:
        part = part.clone()
        part[0, 1, 2] = value
        return part

    for loss in relation_losses(teacher, changed(student, spoilt), 2).values():
        assert not torch.isfinite(loss)


@pytest.mark.parametrize("method", Method)
def test_without_numba_the_losses_are_the_same(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    def losses_and_gradients() -> list[Tensor]:
        torch.manual_seed(0)
        teacher = {name: torch.randn(2, 9, 24) for name in ("query", "key", "value")}
        student = {name: torch.randn(2, 9, 12, requires_grad=True) for name in teacher}
        pairs = [
            {
                relation: RelationOperands(*(vectors[name] for name in VECTORS[relation]), None)
                for relation in METHOD_RELATIONS[method]
            }
            for vectors in (teacher, student)
        ]
        losses = relation_losses(*pairs, 6)
        torch.stack(list(losses.values())).sum().backward()
        return [*losses.values(), *(part.grad for part in student.values() if part.grad is not None)]

    with_numba = losses_and_gradients()
    monkeypatch.setattr(relations, "HAS_NUMBA", False)
    for ours, theirs in zip(losses_and_gradients(), with_numba, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-7)

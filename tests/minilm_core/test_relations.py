import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minilm_core.encoders import RelationVectors
from minilm_core.relations import relation_losses
from minilm_core.schedules import Method


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    exponentials = [math.exp(x - top) for x in row]
    return [x / sum(exponentials) for x in exponentials]


def transcribed_term(
    teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], num_heads: int, lengths: list[int]
) -> float:
    """Equations 3, 6, 7 and 9 of MiniLM and 1 to 5 of MiniLMv2, a number at a time, over the real tokens only."""

    def relation(left: Tensor, right: Tensor, head: int, query: int, length: int) -> list[float]:
        size = left.shape[-1] // num_heads
        part = slice(head * size, (head + 1) * size)
        return softmax(
            [
                sum((left[query, part][i] * right[key, part][i]).item() for i in range(size)) / math.sqrt(size)
                for key in range(length)
            ]
        )

    divergences = []
    for row, length in enumerate(lengths):
        for query in range(length):
            for head in range(num_heads):
                of_teacher = relation(teacher[0][row], teacher[1][row], head, query, length)
                of_student = relation(student[0][row], student[1][row], head, query, length)
                divergences.append(sum(p * math.log(p / q) for p, q in zip(of_teacher, of_student, strict=True)))
    return sum(divergences) / len(divergences)


def random_vectors(batch: int, seq: int, width: int, seed: int) -> RelationVectors:
    generator = torch.Generator().manual_seed(seed)
    parts = (torch.randn(batch, seq, width, generator=generator, dtype=torch.float64) for _ in range(3))
    return RelationVectors(*parts)


def mask_of(lengths: list[int], seq: int) -> Tensor:
    return torch.arange(seq) < torch.tensor(lengths)[:, None]


PAIRS = {
    Method.MINILM: {"attention": ("query", "key"), "value": ("value", "value")},
    Method.MINILMV2: {"query": ("query", "query"), "key": ("key", "key"), "value": ("value", "value")},
}


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("head_size", [4, 6, 8, 16])
@pytest.mark.parametrize("lengths", [[5, 5], [5, 1], [3, 4]])
def test_loss_equals_the_papers_equations(method: Method, head_size: int, lengths: list[int]) -> None:
    num_heads = 2
    teacher = random_vectors(2, 5, num_heads * 2 * head_size, seed=1)
    student = random_vectors(2, 5, num_heads * head_size, seed=2)
    losses = relation_losses(teacher, student, method, num_heads, mask_of(lengths, 5))
    for name, (left, right) in PAIRS[method].items():
        expected = transcribed_term(
            (getattr(teacher, left), getattr(teacher, right)),
            (getattr(student, left), getattr(student, right)),
            num_heads,
            lengths,
        )
        assert losses[name].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", Method)
def test_identical_models_have_zero_loss(method: Method) -> None:
    vectors = random_vectors(3, 7, 24, seed=3)
    for loss in relation_losses(vectors, vectors, method, 4).values():
        assert loss.item() == pytest.approx(0.0, abs=1e-14)


@given(seed=st.integers(0, 10_000), num_padding=st.integers(1, 4), method=st.sampled_from(Method))
@settings(max_examples=20, deadline=None)
def test_padding_leaves_the_loss_unchanged(seed: int, num_padding: int, method: Method) -> None:
    teacher, student = random_vectors(2, 4, 12, seed), random_vectors(2, 4, 6, seed + 1)
    noise = random_vectors(2, num_padding, 12, seed + 2), random_vectors(2, num_padding, 6, seed + 3)
    padded = [
        RelationVectors(*(torch.cat([real, pad], dim=1) for real, pad in zip(vectors, extra, strict=True)))
        for vectors, extra in zip((teacher, student), noise, strict=True)
    ]
    bare = relation_losses(teacher, student, method, 3)
    masked = relation_losses(*padded, method, 3, mask_of([4, 4], 4 + num_padding))
    for name, loss in bare.items():
        assert masked[name].item() == pytest.approx(loss.item(), rel=1e-12)


@pytest.mark.parametrize("method", Method)
def test_batch_order_and_head_order_change_nothing(method: Method) -> None:
    teacher, student = random_vectors(3, 5, 16, seed=4), random_vectors(3, 5, 8, seed=5)

    def reordered(vectors: RelationVectors) -> RelationVectors:
        return RelationVectors(*(part.flip(0).unflatten(-1, (4, -1)).flip(-2).flatten(-2) for part in vectors))

    before = relation_losses(teacher, student, method, 4)
    after = relation_losses(reordered(teacher), reordered(student), method, 4)
    for name, loss in before.items():
        assert after[name].item() == pytest.approx(loss.item(), rel=1e-12)


def test_gradient_flows_into_the_student_only() -> None:
    teacher, student = random_vectors(2, 4, 8, seed=6), random_vectors(2, 4, 8, seed=7)
    for part in (*teacher, *student):
        part.requires_grad_(True)
    sum(relation_losses(teacher, student, Method.MINILMV2, 2).values()).backward()
    assert all(part.grad is None for part in teacher)
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in student)


@pytest.mark.parametrize("method", Method)
def test_gradient_is_that_of_the_loss(method: Method) -> None:
    teacher, student = random_vectors(2, 3, 8, seed=8), random_vectors(2, 3, 4, seed=9)
    mask = mask_of([3, 2], 3)

    def loss(*parts: Tensor) -> Tensor:
        return torch.stack(list(relation_losses(teacher, RelationVectors(*parts), method, 2, mask).values())).sum()

    assert torch.autograd.gradcheck(loss, [part.requires_grad_(True) for part in student])


def test_a_teacher_certain_of_one_key_gives_a_finite_loss() -> None:
    teacher, student = random_vectors(1, 4, 8, seed=10), random_vectors(1, 4, 8, seed=11)
    certain = RelationVectors(*(1e4 * part.float() for part in teacher))
    hesitant = RelationVectors(*(part.float() for part in student))
    for loss in relation_losses(certain, hesitant, Method.MINILMV2, 2, mask_of([2], 4)).values():
        assert torch.isfinite(loss)

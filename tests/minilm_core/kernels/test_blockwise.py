"""Tests of the blockwise loss: the block size changes nothing, and at most one block of a map is in memory."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minilm_core.kernels import blockwise
from minilm_core.kernels.blockwise import Side, blockwise_kl


def sides(batch: int, num_heads: int, seq: int) -> tuple[Side, Side]:
    generator = torch.Generator().manual_seed(0)

    def vectors(size: int) -> Tensor:
        return torch.randn(batch, num_heads, seq, size, generator=generator, dtype=torch.float64)

    bias = torch.randn(1, num_heads, seq, seq, generator=generator, dtype=torch.float64)
    return Side(vectors(6), vectors(6), bias), Side(vectors(4), vectors(4), bias.clone())


@pytest.mark.parametrize("limit", [1, 2 * 49, 3 * 5 * 49])
def test_the_size_of_the_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    mask = torch.arange(7) < torch.tensor([7, 3, 5, 1])[:, None]
    results = []
    for elements in (10**9, limit):
        monkeypatch.setattr(blockwise, "BLOCK_ELEMENTS_CPU", elements)
        teacher, student = sides(4, 3, 7)
        parts = [part.requires_grad_() for part in student if part is not None]
        value = blockwise_kl(teacher, student, mask)
        value.backward()
        results.append([value.detach(), *(part.grad for part in parts)])
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-15)


class LargestTensor(TorchDispatchMode):
    """Records the largest number of elements that an operation returned."""

    num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.num_elements = max(self.num_elements, tensor.numel())
        return result


def test_no_map_of_the_whole_batch_is_ever_in_memory() -> None:
    teacher, student = (Side(side.left, side.right, None) for side in sides(8, 6, 128))
    vectors = student.left.requires_grad_()
    with LargestTensor() as seen:
        blockwise_kl(teacher, Side(vectors, vectors, None), None).backward()
    assert seen.num_elements <= blockwise.BLOCK_ELEMENTS_CPU < 8 * 6 * 128**2


def test_a_part_without_gradient_gets_none() -> None:
    teacher, student = sides(2, 3, 5)
    left = student.left.requires_grad_()
    blockwise_kl(teacher, Side(left, student.right, student.bias), None).backward()
    assert left.grad is not None
    assert student.right.grad is None

"""Tests of the operands that the fused passes accept, their layout and their blocks. Values: test_gpu."""

import re
from dataclasses import replace

import pytest
import torch

from minilm_core.errors import UserError
from minilm_core.kernels.gpu import (
    MAX_HEAD_SIZE,
    Blocks,
    choose_blocks,
    drop_padding,
    fits,
    fused_relation_kl,
    is_available,
    pad_head_size,
    ragged_layout,
)
from tests.minilm_core.kernels.relation_cases import Case


def test_a_batch_without_padding_is_laid_out_without_a_copy() -> None:
    vectors = torch.randn(3, 4, 2)
    layout = ragged_layout(vectors, None)
    assert layout.cu_seqlens.tolist() == [0, 4, 8, 12]
    assert layout.cu_seqlens.dtype == torch.int32
    assert drop_padding(vectors, layout).data_ptr() == vectors.data_ptr()


def test_real_tokens_keep_their_order() -> None:
    vectors = torch.arange(8.0).view(2, 4, 1)
    layout = ragged_layout(vectors, torch.tensor([[True, False, True, False], [False, True, True, True]]))
    assert layout.cu_seqlens.tolist() == [0, 2, 5]
    assert drop_padding(vectors, layout).flatten().tolist() == [0, 2, 5, 6, 7]


@pytest.mark.parametrize(("head_size", "padded"), [(4, 16), (6, 16), (16, 16), (17, 32), (48, 64), (64, 64)])
def test_heads_are_padded_to_what_a_matrix_instruction_takes(head_size: int, padded: int) -> None:
    assert pad_head_size(head_size) == padded


@pytest.mark.parametrize(
    ("head_size", "max_seqlen", "dtype", "blocks"),
    [
        (16, 512, torch.bfloat16, Blocks(rows=64, columns=64)),
        (64, 512, torch.bfloat16, Blocks(rows=64, columns=32)),
        (16, 512, torch.float32, Blocks(rows=64, columns=32)),
        (64, 512, torch.float32, Blocks(rows=64, columns=16)),
        (16, 33, torch.bfloat16, Blocks(rows=64, columns=64)),
        (16, 20, torch.bfloat16, Blocks(rows=32, columns=32)),
        (16, 1, torch.bfloat16, Blocks(rows=16, columns=16)),
    ],
)
def test_blocks_shrink_with_wide_heads_fp32_and_short_sequences(
    head_size: int, max_seqlen: int, dtype: torch.dtype, blocks: Blocks
) -> None:
    assert choose_blocks(head_size, max_seqlen, dtype) == blocks


def test_a_cpu_has_no_fused_passes() -> None:
    vectors = torch.randn(2, 4)
    assert not is_available(vectors.device)
    assert not fits((vectors, vectors), (vectors, vectors), num_heads=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": (0,)}, "a relation must have at least 1 token, got 0"),
        ({"dtype": torch.float64}, "the vectors of a fused relation must be bf16, fp16 or fp32, got torch.float64"),
        (
            {"student_head_size": MAX_HEAD_SIZE + 1},
            "num_heads must divide a fused relation's width into heads of at most 64, got 2 and 130",
        ),
    ],
)
def test_operands_that_have_no_pass_are_refused(changes: dict[str, object], message: str) -> None:
    case = replace(Case(), **changes)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        fused_relation_kl(*case.operands(), case.num_heads, case.layout(torch.device("cpu")))


def test_heads_that_do_not_divide_a_width_are_refused() -> None:
    case = Case()
    message = "num_heads must divide a fused relation's width into heads of at most 64, got 3 and 16"
    with pytest.raises(UserError, match=f"^{message}$"):
        fused_relation_kl(*case.operands(), 3, case.layout(torch.device("cpu")))

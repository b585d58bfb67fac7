"""The KL of a relation on a GPU: one Triton pass forward and one backward, without a relation in memory or padding.

This module can be imported without triton: `fits` returns whether the passes can run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from minilm_core.errors import UserError

if TYPE_CHECKING:
    from minilm_core.kernels.gpu_passes import Shape

MAX_HEAD_SIZE = 64
"""The widest relation head. Wider ones leave no registers for blocks that keep the matrix units busy; plain matrix
products are fast for them."""
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
BLOCK_BYTES = 4096
"""Bytes of one model's vectors that a pass loads at a time."""

PaddedVectors = Float[Tensor, "batch seq width"]
TokenVectors = Float[Tensor, "tokens width"]
TokenMask = Bool[Tensor, "batch seq"]


def is_available(device: torch.device) -> bool:
    """Returns whether the device is an NVIDIA GPU of compute capability 8.0 or later and triton is installed."""
    return (
        device.type == "cuda"
        and torch.version.hip is None
        and torch.cuda.get_device_capability(device) >= (8, 0)
        and find_spec("triton") is not None
    )


def fits(teacher: Sequence[Tensor], student: Sequence[Tensor], num_heads: int) -> bool:
    """Returns whether the passes support the operands' device, types and relation heads."""
    return is_available(student[0].device) and all(
        vectors.dtype in DTYPES and vectors.shape[-1] // num_heads <= MAX_HEAD_SIZE for vectors in (*teacher, *student)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RaggedLayout:
    """The boundaries of the sequences of a batch whose real tokens are joined, without padding."""

    cu_seqlens: Int[Tensor, " sequences_and_one"]
    """The first token of each sequence and, last, the number of tokens; int32."""
    max_seqlen: int
    """An upper bound of the sequences' lengths."""
    token_numbers: Int[Tensor, " tokens"] | None
    """The indices of the real tokens in the flattened padded batch; None if all tokens are real."""


def ragged_layout(vectors: PaddedVectors, mask: TokenMask | None) -> RaggedLayout:
    """Returns the layout of a padded batch; with a mask, true for real tokens, the host waits for their count."""
    batch, seq, _ = vectors.shape
    if mask is None:
        cu_seqlens = torch.arange(0, (batch + 1) * seq, seq, dtype=torch.int32, device=vectors.device)
        return RaggedLayout(cu_seqlens=cu_seqlens, max_seqlen=seq, token_numbers=None)
    cu_seqlens = pad(mask.sum(dim=1).cumsum(dim=0), (1, 0)).to(torch.int32)
    # Not the longest row, for which the host would have to wait too: programs without work cost less than that.
    return RaggedLayout(cu_seqlens=cu_seqlens, max_seqlen=seq, token_numbers=mask.flatten().nonzero().squeeze(1))


def drop_padding(vectors: PaddedVectors, layout: RaggedLayout) -> TokenVectors:
    """Returns the vectors of the real tokens; a view if there is no padding."""
    tokens = vectors.flatten(0, 1)
    return tokens if layout.token_numbers is None else tokens.index_select(0, layout.token_numbers)


def padded_relation_kl(
    teacher: tuple[PaddedVectors, PaddedVectors],
    student: tuple[PaddedVectors, PaddedVectors],
    num_heads: int,
    mask: TokenMask | None,
) -> Float[Tensor, ""]:
    """`fused_relation_kl` of a padded batch, given the left and right operand of each model; padding is dropped.

    The mask is true for real tokens; None, which `distil` passes with its packed rows, means that all are.
    """
    layout = ragged_layout(student[0], mask)

    def tokens(left: PaddedVectors, right: PaddedVectors) -> tuple[TokenVectors, TokenVectors]:
        kept = drop_padding(left, layout)
        return kept, kept if right is left else drop_padding(right, layout)

    return fused_relation_kl(*tokens(*teacher), *tokens(*student), num_heads, layout)


def fused_relation_kl(
    teacher_left: TokenVectors,
    teacher_right: TokenVectors,
    student_left: TokenVectors,
    student_right: TokenVectors,
    num_heads: int,
    layout: RaggedLayout,
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of softmax(left rightᵀ / √head_size) in nats, averaged over heads and tokens.

    Sums are in fp32; the gradient has the operands' type and flows into the student only. If left and right are the
    same vectors, pass the same tensor for both: its gradient is then computed at once.

    Raises:
        UserError: if there is no token, if the operands' type is not supported, or if the heads do not divide a width
            or are too wide.

    Source: MiniLM (Wang et al., 2020), equations 6 to 9; MiniLMv2 (Wang et al., 2021), equations 1 to 5.
    """
    _check_operands((teacher_left, teacher_right, student_left, student_right), num_heads)
    is_symmetric = student_left is student_right
    student_left = student_left.contiguous()
    student_right = student_left if is_symmetric else student_right.contiguous()
    divergence: Tensor = _FusedRelationKL.apply(  # type: ignore[no-untyped-call]  # as torch has it
        teacher_left.contiguous(), teacher_right.contiguous(), student_left, student_right, num_heads, layout
    )
    return divergence


def _check_operands(operands: Sequence[TokenVectors], num_heads: int) -> None:
    for vectors in operands:
        num_tokens, width = vectors.shape
        if not num_tokens:
            raise UserError("a relation must have at least 1 token, got 0")
        if vectors.dtype not in DTYPES:
            raise UserError(f"the vectors of a fused relation must be bf16, fp16 or fp32, got {vectors.dtype}")
        if width % num_heads or width // num_heads > MAX_HEAD_SIZE:
            raise UserError(
                f"num_heads must divide a fused relation's width into heads of at most {MAX_HEAD_SIZE}, "
                f"got {num_heads} and {width}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Blocks:
    """The block sizes of a pass: a program keeps `rows` tokens of one side and loads `columns` of the other."""

    rows: int
    columns: int
    num_warps: int = 4
    num_stages: int = 2
    """Blocks of columns in flight: the next one is loaded while one is processed."""


def choose_blocks(padded_head_size: int, max_seqlen: int, dtype: torch.dtype) -> Blocks:
    """Returns the block sizes for the wider of both models' heads and the wider of their types.

    One Hopper matrix instruction takes 64 rows from the four warps. With 64 columns, logits and softmax weights of both
    models fill half of the 255 registers of a thread. Wide heads and fp32, whose operands are split in three, need the
    other half and get fewer columns. Compiled for compute capability 9.0, no register spills, and the at most 80 KB of
    shared memory fit the 99 KB of the smallest GPU of compute capability 8.0.
    """
    longest = max(16, _next_power_of_2(max_seqlen))
    columns = BLOCK_BYTES // (dtype.itemsize * max(32, padded_head_size))
    return Blocks(rows=min(64, longest), columns=min(columns, longest))


def pad_head_size(head_size: int) -> int:
    """Returns the width that heads are padded to in registers: a power of two, at least 16 for matrix instructions."""
    return max(16, _next_power_of_2(head_size))


def _next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Launch:
    """The grid of a pass (one program for each block of each head of each sequence) and its compile-time constants."""

    num_heads: int
    teacher_head_size: int
    student_head_size: int
    blocks: Blocks
    layout: RaggedLayout

    @classmethod
    def over(cls, teacher: TokenVectors, student: TokenVectors, num_heads: int, layout: RaggedLayout) -> Self:
        head_sizes = [vectors.shape[1] // num_heads for vectors in (teacher, student)]
        dtype = max(teacher.dtype, student.dtype, key=lambda dtype: dtype.itemsize)
        return cls(
            num_heads=num_heads,
            teacher_head_size=head_sizes[0],
            student_head_size=head_sizes[1],
            blocks=choose_blocks(pad_head_size(max(head_sizes)), layout.max_seqlen, dtype),
            layout=layout,
        )

    @property
    def num_blocks(self) -> int:
        return math.ceil(self.layout.max_seqlen / self.blocks.rows)

    @property
    def num_programs(self) -> int:
        return self.num_heads * self.num_blocks * (len(self.layout.cu_seqlens) - 1)

    @property
    def shape(self) -> "Shape":
        from minilm_core.kernels.gpu_passes import Shape

        return Shape(
            num_heads=self.num_heads,
            teacher_head_size=self.teacher_head_size,
            student_head_size=self.student_head_size,
            teacher_width=pad_head_size(self.teacher_head_size),
            student_width=pad_head_size(self.student_head_size),
            block_rows=self.blocks.rows,
            block_columns=self.blocks.columns,
        )

    def run(self, kernel: Any, operands: Sequence[TokenVectors], *arguments: Any, **constants: bool) -> None:
        from minilm_core.kernels.gpu_passes import Operands, Sequences

        sequences = Sequences(self.layout.cu_seqlens, len(operands[0]), self.num_blocks)
        # Triton launches on the current device, not on that of the operands. The index -1 of a CPU changes nothing.
        with torch.cuda.device(operands[0].get_device()):
            kernel[(self.num_programs,)](
                Operands(*operands),
                sequences,
                *arguments,
                shape=self.shape,
                num_warps=self.blocks.num_warps,
                num_stages=self.blocks.num_stages,
                **constants,
            )


class _FusedRelationKL(torch.autograd.Function):
    """`fused_relation_kl`: forward also computes the gradient by the left operand, backward that by the right one."""

    @staticmethod
    def forward(
        ctx: Any,
        teacher_left: TokenVectors,
        teacher_right: TokenVectors,
        student_left: TokenVectors,
        student_right: TokenVectors,
        num_heads: int,
        layout: RaggedLayout,
    ) -> Float[Tensor, ""]:
        from minilm_core.kernels.gpu_passes import Divergence, divergence_kernel

        operands = (teacher_left, teacher_right, student_left, student_right)
        launch = _Launch.over(teacher_left, student_left, num_heads, layout)
        divergences = student_left.new_zeros(launch.num_programs, dtype=torch.float32)
        has_gradient = any(ctx.needs_input_grad)
        num_kept = len(student_left) if has_gradient else 0
        partitions = student_left.new_empty((2, num_heads, num_kept), dtype=torch.float32)
        left_gradient = torch.empty_like(student_left[:num_kept])
        teacher_partitions, student_partitions = partitions
        out = Divergence(divergences, teacher_partitions, student_partitions, left_gradient)
        launch.run(divergence_kernel, operands, out, has_gradient=has_gradient)
        ctx.save_for_backward(*operands, partitions, left_gradient)
        ctx.launch, ctx.is_symmetric = launch, student_right is student_left
        return divergences.sum() / (num_heads * len(student_left))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, ...]:
        from minilm_core.kernels.gpu_passes import Divergence, gradient_kernel

        *operands, partitions, left_gradient = ctx.saved_tensors
        launch: _Launch = ctx.launch
        factor = gradient / (launch.num_heads * len(left_gradient) * math.sqrt(launch.student_head_size))
        right_gradient = torch.empty_like(left_gradient)
        teacher_partitions, student_partitions = partitions
        # The sums of the divergence, which come first, are not read.
        divergence = Divergence(teacher_partitions, teacher_partitions, student_partitions, left_gradient)
        launch.run(gradient_kernel, operands, divergence, factor, right_gradient, is_symmetric=ctx.is_symmetric)
        if ctx.is_symmetric:
            return None, None, right_gradient, None, None, None
        return None, None, left_gradient * factor, right_gradient, None, None

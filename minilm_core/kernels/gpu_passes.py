"""Device code of the fused relation loss, in Triton: imported only where triton is installed.

Like flash attention, both kernels process one head of one sequence in blocks, for teacher and student at once, so that
no relation is ever in memory. Exponentials and logarithms are to base 2, because the hardware computes those.

With relation heads of width 8 to 32 a Hopper GPU is limited by neither memory nor matrix products: a pair of tokens
costs about 200 FLOPs on units that do 4,096 per clock, and four exponentials on a unit that does 16. The kernels
therefore save exponentials: the pass that computes the divergence also sums the gradient of the left operand, and a
second pass computes that of the right operand. That takes four exponentials per pair, where three passes take six.

Source: MiniLM (Wang et al., 2020), equations 6 to 9; FlashAttention-2 (Dao, 2023), algorithms 1 and 2.
"""

from typing import NamedTuple

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# Stands for infinity: the difference of two such numbers is 0, where the difference of two infinities is NaN.
HUGE = tl.constexpr(1.0e30)
# For fp32 operands only: three products of tf32 parts on the matrix units keep 22 of 24 bits. Plain tf32 keeps 11.
# "ieee" keeps all, but runs on units that need as long for one product of width 16 as a pass needs for exponentials.
PRECISION = tl.constexpr("tf32x3")


class Operands(NamedTuple):
    """The operands of a relation, [tokens, heads * head size] each; all sequences are joined."""

    teacher_left: tl.tensor
    teacher_right: tl.tensor
    student_left: tl.tensor
    student_right: tl.tensor


class Sequences(NamedTuple):
    """The sequences of a batch."""

    starts: tl.tensor
    """The first token of each sequence and, last, the number of tokens, [sequences + 1]."""
    num_tokens: tl.tensor
    """The tokens of all sequences."""
    num_blocks: tl.tensor
    """The blocks of rows in the longest sequence."""


class Divergence(NamedTuple):
    """What the pass that computes the divergence writes; the gradient pass reads all but the first."""

    sums: tl.tensor
    """The divergence of each program, [programs]."""
    teacher_partitions: tl.tensor
    """The log2 partition of each row, [heads, tokens]."""
    student_partitions: tl.tensor
    left_gradient: tl.tensor
    """The gradient by the student's left vectors without its factor 1 / √head_size, [tokens, heads * head size]."""


class Shape(NamedTuple):
    """Sizes that a kernel is compiled for. The host computes the padded widths."""

    num_heads: int
    teacher_head_size: int
    student_head_size: int
    teacher_width: int
    """The teacher's head size, padded to a power of two of at least 16."""
    student_width: int
    block_rows: int
    """The tokens of one side that a program holds."""
    block_columns: int
    """The tokens of the other side that it loads at a time."""


@triton.jit
def _rows(
    vectors: tl.tensor,
    first: tl.tensor,
    length: tl.tensor,
    num_heads: tl.constexpr,
    head_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_width: tl.constexpr,
) -> tl.tensor:
    """Loads a block of one head's vectors, with zeros beyond the end of the sequence and of the head."""
    rows = first + tl.arange(0, block_rows)[:, None]
    columns = tl.arange(0, block_width)[None, :]
    is_inside = (rows < length) & (columns < head_size)
    return tl.load(vectors + rows * (num_heads * head_size) + columns, mask=is_inside, other=0.0)


@triton.jit
def _program_block(
    sequence_starts: tl.tensor, num_blocks: tl.tensor, num_heads: tl.constexpr, block_rows: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Returns this program's head, its sequence's start and length, and the first row of its block.

    Heads vary fastest: programs that run together then share cache lines, because a token's heads are adjacent.
    """
    program = tl.program_id(0)
    sequence = program // num_heads // num_blocks
    start = tl.load(sequence_starts + sequence)
    length = tl.load(sequence_starts + sequence + 1) - start
    return program % num_heads, start, length, program // num_heads % num_blocks * block_rows


@triton.jit
def _online_softmax(
    logits: tl.tensor, maxima: tl.tensor, sums: tl.tensor, head_size: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Adds one more block of logits to a running softmax over the columns.

    Returns the block's weights relative to the largest weight so far, their log2, the new maxima and sums, and the old
    maxima minus the new ones: sums over earlier blocks must be multiplied by 2 to this power.
    """
    scale = LOG2_E / head_size**0.5
    new_maxima = tl.maximum(maxima, tl.max(logits, 1) * scale)
    logarithms = logits * scale - new_maxima[:, None]
    weights = tl.exp2(logarithms)
    shift = maxima - new_maxima
    return weights, logarithms, new_maxima, sums * tl.exp2(shift) + tl.sum(weights, 1), shift


@triton.jit
def divergence_kernel(
    operands: Operands, sequences: Sequences, out: Divergence, shape: tl.constexpr, has_gradient: tl.constexpr
) -> None:
    """Sums KL(teacher ‖ student), in nats, over a block of queries of one head.

    The sum of each program goes to `out.sums`; the rest of `out` is written with `has_gradient`. `shape` is a `Shape`.
    """
    num_heads: tl.constexpr = shape.num_heads
    teacher_head_size: tl.constexpr = shape.teacher_head_size
    student_head_size: tl.constexpr = shape.student_head_size
    teacher_width: tl.constexpr = shape.teacher_width
    student_width: tl.constexpr = shape.student_width
    block_rows: tl.constexpr = shape.block_rows
    block_columns: tl.constexpr = shape.block_columns
    head, start, length, first_row = _program_block(sequences.starts, sequences.num_blocks, num_heads, block_rows)
    if first_row >= length:
        return
    of_teacher = start.to(tl.int64) * (num_heads * teacher_head_size) + head * teacher_head_size
    of_student = start.to(tl.int64) * (num_heads * student_head_size) + head * student_head_size
    teacher_rows = _rows(
        operands.teacher_left + of_teacher,
        first_row,
        length,
        num_heads,
        teacher_head_size,
        block_rows,
        teacher_width,
    )
    student_rows = _rows(
        operands.student_left + of_student,
        first_row,
        length,
        num_heads,
        student_head_size,
        block_rows,
        student_width,
    )

    teacher_maxima = tl.full((block_rows,), -HUGE, tl.float32)
    student_maxima = tl.full((block_rows,), -HUGE, tl.float32)
    teacher_sums = tl.zeros((block_rows,), tl.float32)
    student_sums = tl.zeros((block_rows,), tl.float32)
    # Sum of p (log p - log q) with logarithms relative to the running maxima. These are small, so that the divergence
    # of large logits is not a small difference of large numbers.
    cross = tl.zeros((block_rows,), tl.float32)
    towards_teacher = tl.zeros((block_rows, student_width), tl.float32)
    towards_student = tl.zeros((block_rows, student_width), tl.float32)
    for first in range(0, length, block_columns):
        teacher_columns = _rows(
            operands.teacher_right + of_teacher,
            first,
            length,
            num_heads,
            teacher_head_size,
            block_columns,
            teacher_width,
        )
        student_columns = _rows(
            operands.student_right + of_student,
            first,
            length,
            num_heads,
            student_head_size,
            block_columns,
            student_width,
        )
        teacher_logits = tl.dot(teacher_rows, tl.trans(teacher_columns), input_precision=PRECISION)
        student_logits = tl.dot(student_rows, tl.trans(student_columns), input_precision=PRECISION)
        if first + block_columns > length:
            is_key = (first + tl.arange(0, block_columns) < length)[None, :]
            teacher_logits = tl.where(is_key, teacher_logits, -HUGE)
            student_logits = tl.where(is_key, student_logits, -HUGE)
        previous_sums = teacher_sums
        teacher_weights, teacher_logs, teacher_maxima, teacher_sums, teacher_shift = _online_softmax(
            teacher_logits, teacher_maxima, teacher_sums, teacher_head_size
        )
        student_weights, student_logs, student_maxima, student_sums, student_shift = _online_softmax(
            student_logits, student_maxima, student_sums, student_head_size
        )
        cross = (cross + previous_sums * (teacher_shift - student_shift)) * tl.exp2(teacher_shift)
        cross += tl.sum(teacher_weights * (teacher_logs - student_logs), 1)
        if has_gradient:
            # Weights are rounded to the operands' type, bf16 by at most 2^-9; bf16 logits would lose much more.
            towards_teacher = tl.dot(
                teacher_weights.to(student_columns.dtype),
                student_columns,
                towards_teacher * tl.exp2(teacher_shift)[:, None],
                input_precision=PRECISION,
            )
            towards_student = tl.dot(
                student_weights.to(student_columns.dtype),
                student_columns,
                towards_student * tl.exp2(student_shift)[:, None],
                input_precision=PRECISION,
            )

    rows = first_row + tl.arange(0, block_rows)
    is_query = rows < length
    divergence = LN_2 * (cross / teacher_sums - tl.log2(teacher_sums) + tl.log2(student_sums))
    # A sequence of one token attends to itself: its divergence is exactly 0, where a fused multiply-add would round.
    divergence = tl.where(is_query & (length > 1), divergence, 0.0)
    tl.store(out.sums + tl.program_id(0), tl.sum(divergence, 0))
    if has_gradient:
        offsets = head.to(tl.int64) * sequences.num_tokens + start + rows
        tl.store(out.teacher_partitions + offsets, teacher_maxima + tl.log2(teacher_sums), mask=is_query)
        tl.store(out.student_partitions + offsets, student_maxima + tl.log2(student_sums), mask=is_query)
        gradient = towards_student / student_sums[:, None] - towards_teacher / teacher_sums[:, None]
        gradient = tl.where(length > 1, gradient, 0.0)
        columns = tl.arange(0, student_width)[None, :]
        offsets = of_student + rows[:, None] * (num_heads * student_head_size) + columns
        is_inside = is_query[:, None] & (columns < student_head_size)
        tl.store(out.left_gradient + offsets, gradient.to(out.left_gradient.dtype.element_ty), mask=is_inside)


@triton.jit
def gradient_kernel(
    operands: Operands,
    sequences: Sequences,
    divergence: Divergence,
    factor: tl.tensor,
    gradient: tl.tensor,
    shape: tl.constexpr,
    is_symmetric: tl.constexpr,
) -> None:
    """Writes `factor` times the gradient by a block of the student's right vectors of one head to `gradient`.

    Rows are keys here and columns are queries. `factor` is a tensor of one number. `divergence` is what
    `divergence_kernel` wrote. With `is_symmetric`, left and right are the same, and their gradients are added.
    """
    num_heads: tl.constexpr = shape.num_heads
    teacher_head_size: tl.constexpr = shape.teacher_head_size
    student_head_size: tl.constexpr = shape.student_head_size
    teacher_width: tl.constexpr = shape.teacher_width
    student_width: tl.constexpr = shape.student_width
    block_rows: tl.constexpr = shape.block_rows
    block_columns: tl.constexpr = shape.block_columns
    head, start, length, first_row = _program_block(sequences.starts, sequences.num_blocks, num_heads, block_rows)
    if first_row >= length:
        return
    of_teacher = start.to(tl.int64) * (num_heads * teacher_head_size) + head * teacher_head_size
    of_student = start.to(tl.int64) * (num_heads * student_head_size) + head * student_head_size
    of_partitions = head.to(tl.int64) * sequences.num_tokens + start
    teacher_scale = LOG2_E / teacher_head_size**0.5
    student_scale = LOG2_E / student_head_size**0.5
    teacher_rows = _rows(
        operands.teacher_right + of_teacher,
        first_row,
        length,
        num_heads,
        teacher_head_size,
        block_rows,
        teacher_width,
    )
    student_rows = _rows(
        operands.student_right + of_student,
        first_row,
        length,
        num_heads,
        student_head_size,
        block_rows,
        student_width,
    )

    total = tl.zeros((block_rows, student_width), tl.float32)
    for first in range(0, length, block_columns):
        teacher_columns = _rows(
            operands.teacher_left + of_teacher,
            first,
            length,
            num_heads,
            teacher_head_size,
            block_columns,
            teacher_width,
        )
        student_columns = _rows(
            operands.student_left + of_student,
            first,
            length,
            num_heads,
            student_head_size,
            block_columns,
            student_width,
        )
        queries = first + tl.arange(0, block_columns)
        # With this partition the probabilities of a query beyond the end of the sequence are 0.
        teacher_partition = tl.load(
            divergence.teacher_partitions + of_partitions + queries, mask=queries < length, other=HUGE
        )
        student_partition = tl.load(
            divergence.student_partitions + of_partitions + queries, mask=queries < length, other=HUGE
        )
        teacher_logits = tl.dot(teacher_rows, tl.trans(teacher_columns), input_precision=PRECISION)
        student_logits = tl.dot(student_rows, tl.trans(student_columns), input_precision=PRECISION)
        teacher_probabilities = tl.exp2(teacher_logits * teacher_scale - teacher_partition[None, :])
        student_probabilities = tl.exp2(student_logits * student_scale - student_partition[None, :])
        difference = (student_probabilities - teacher_probabilities).to(student_columns.dtype)
        total = tl.dot(difference, student_columns, total, input_precision=PRECISION)

    total = tl.where(length > 1, total, 0.0)
    rows = first_row + tl.arange(0, block_rows)[:, None]
    columns = tl.arange(0, student_width)[None, :]
    offsets = of_student + rows * (num_heads * student_head_size) + columns
    is_inside = (rows < length) & (columns < student_head_size)
    if is_symmetric:
        total += tl.load(divergence.left_gradient + offsets, mask=is_inside, other=0.0).to(tl.float32)
    total *= tl.load(factor)
    tl.store(gradient + offsets, total.to(gradient.dtype.element_ty), mask=is_inside)

"""Device code of the fused relation loss, in Triton: imported only where triton is installed.

Both kernels walk over one head of one sequence in blocks, as flash attention does, for teacher and student at once: no
relation is ever in memory. Exponentials and logarithms are to base 2, which is what the hardware has.

With relation heads of width 8 to 32 a Hopper GPU is limited by neither memory nor matrix products: a pair of tokens
costs some 200 FLOPs on units that do 4,096 a clock, and four exponentials on one that does 16. So it is exponentials
that are saved. The pass that needs the shares for the divergence sums the gradient of the left operand with them too,
and one more pass gives the right operand's: four exponentials a pair where three passes would take six.

Source: MiniLM (Wang et al., 2020), equations 6 to 9; FlashAttention-2 (Dao, 2023), algorithms 1 and 2.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
# In the place of infinity: the difference of two of these is 0, where that of two infinities is NaN.
HUGE = tl.constexpr(1.0e30)
# Of fp32 operands alone: three products of their tf32 parts keep 22 of 24 bits, on the matrix units. Plain tf32 keeps
# 11; "ieee" keeps all, but on units that one product of width 16 keeps busy for as long as a pass's exponentials take.
PRECISION = tl.constexpr("tf32x3")


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
    """Loads a block of one head's vectors; zeros beyond the end of the sequence and of the head."""
    rows = first + tl.arange(0, block_rows)[:, None]
    columns = tl.arange(0, block_width)[None, :]
    is_inside = (rows < length) & (columns < head_size)
    return tl.load(vectors + rows * (num_heads * head_size) + columns, mask=is_inside, other=0.0)


@triton.jit
def _place(
    sequence_starts: tl.tensor, num_blocks: tl.tensor, num_heads: tl.constexpr, block_rows: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Returns this program's head, its sequence's start and length, and the first row of its block.

    Heads vary fastest: programs that run together then share cache lines, a token's heads being side by side.
    """
    program = tl.program_id(0)
    sequence = program // num_heads // num_blocks
    start = tl.load(sequence_starts + sequence)
    length = tl.load(sequence_starts + sequence + 1) - start
    return program % num_heads, start, length, program // num_heads % num_blocks * block_rows


@triton.jit
def _shares(
    logits: tl.tensor, maxima: tl.tensor, sums: tl.tensor, head_size: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Takes one more block of logits into a running softmax over the columns.

    Returns the block's shares over the largest share so far, their logarithms, the running maxima and sums, and by how
    much the maxima rose (negative): what was summed before has to shrink by its exponential.
    """
    scale = LOG2_E / head_size**0.5
    new_maxima = tl.maximum(maxima, tl.max(logits, 1) * scale)
    logarithms = logits * scale - new_maxima[:, None]
    shares = tl.exp2(logarithms)
    shift = maxima - new_maxima
    return shares, logarithms, new_maxima, sums * tl.exp2(shift) + tl.sum(shares, 1), shift


@triton.jit
def divergence_kernel(
    teacher_left: tl.tensor,
    teacher_right: tl.tensor,
    student_left: tl.tensor,
    student_right: tl.tensor,
    sequence_starts: tl.tensor,
    divergences: tl.tensor,
    teacher_partitions: tl.tensor,
    student_partitions: tl.tensor,
    left_gradient: tl.tensor,
    num_tokens: tl.tensor,
    num_blocks: tl.tensor,
    num_heads: tl.constexpr,
    teacher_head_size: tl.constexpr,
    student_head_size: tl.constexpr,
    teacher_width: tl.constexpr,
    student_width: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    has_gradient: tl.constexpr,
) -> None:
    """Sums KL(teacher ‖ student), in nats, over a block of queries of one head.

    With `has_gradient` also keeps the log2 partition of each relation's row, [heads, tokens], and the gradient of that
    sum by the student's left vectors, but for its factor 1 / √head_size.
    """
    head, start, length, first_row = _place(sequence_starts, num_blocks, num_heads, block_rows)
    if first_row >= length:
        return
    of_teacher = start.to(tl.int64) * (num_heads * teacher_head_size) + head * teacher_head_size
    of_student = start.to(tl.int64) * (num_heads * student_head_size) + head * student_head_size
    teacher_rows = _rows(
        teacher_left + of_teacher, first_row, length, num_heads, teacher_head_size, block_rows, teacher_width
    )
    student_rows = _rows(
        student_left + of_student, first_row, length, num_heads, student_head_size, block_rows, student_width
    )

    teacher_maxima = tl.full((block_rows,), -HUGE, tl.float32)
    student_maxima = tl.full((block_rows,), -HUGE, tl.float32)
    teacher_sums = tl.zeros((block_rows,), tl.float32)
    student_sums = tl.zeros((block_rows,), tl.float32)
    # Sum of p (log p - log q), each logarithm less that of its running partition: what remains is small, so that the
    # divergence of large logits is no small difference of large numbers.
    cross = tl.zeros((block_rows,), tl.float32)
    towards_teacher = tl.zeros((block_rows, student_width), tl.float32)
    towards_student = tl.zeros((block_rows, student_width), tl.float32)
    for first in range(0, length, block_columns):
        teacher_columns = _rows(
            teacher_right + of_teacher, first, length, num_heads, teacher_head_size, block_columns, teacher_width
        )
        student_columns = _rows(
            student_right + of_student, first, length, num_heads, student_head_size, block_columns, student_width
        )
        teacher_logits = tl.dot(teacher_rows, tl.trans(teacher_columns), input_precision=PRECISION)
        student_logits = tl.dot(student_rows, tl.trans(student_columns), input_precision=PRECISION)
        if first + block_columns > length:
            is_key = (first + tl.arange(0, block_columns) < length)[None, :]
            teacher_logits = tl.where(is_key, teacher_logits, -HUGE)
            student_logits = tl.where(is_key, student_logits, -HUGE)
        previous_sums = teacher_sums
        teacher_shares, teacher_logs, teacher_maxima, teacher_sums, teacher_shift = _shares(
            teacher_logits, teacher_maxima, teacher_sums, teacher_head_size
        )
        student_shares, student_logs, student_maxima, student_sums, student_shift = _shares(
            student_logits, student_maxima, student_sums, student_head_size
        )
        cross = (cross + previous_sums * (teacher_shift - student_shift)) * tl.exp2(teacher_shift)
        cross += tl.sum(teacher_shares * (teacher_logs - student_logs), 1)
        if has_gradient:
            # Shares are rounded to the operands' type, bf16 by 2^-9 at most; bf16 logits would cost several times that.
            towards_teacher = tl.dot(
                teacher_shares.to(student_columns.dtype),
                student_columns,
                towards_teacher * tl.exp2(teacher_shift)[:, None],
                input_precision=PRECISION,
            )
            towards_student = tl.dot(
                student_shares.to(student_columns.dtype),
                student_columns,
                towards_student * tl.exp2(student_shift)[:, None],
                input_precision=PRECISION,
            )

    rows = first_row + tl.arange(0, block_rows)
    is_query = rows < length
    divergence = LN_2 * (cross / teacher_sums - tl.log2(teacher_sums) + tl.log2(student_sums))
    # A token that is alone attends to itself, whatever the vectors: exactly 0, where a fused multiply-add rounds.
    divergence = tl.where(is_query & (length > 1), divergence, 0.0)
    tl.store(divergences + tl.program_id(0), tl.sum(divergence, 0))
    if has_gradient:
        places = head.to(tl.int64) * num_tokens + start + rows
        tl.store(teacher_partitions + places, teacher_maxima + tl.log2(teacher_sums), mask=is_query)
        tl.store(student_partitions + places, student_maxima + tl.log2(student_sums), mask=is_query)
        gradient = towards_student / student_sums[:, None] - towards_teacher / teacher_sums[:, None]
        gradient = tl.where(length > 1, gradient, 0.0)
        columns = tl.arange(0, student_width)[None, :]
        places = of_student + rows[:, None] * (num_heads * student_head_size) + columns
        is_inside = is_query[:, None] & (columns < student_head_size)
        tl.store(left_gradient + places, gradient.to(left_gradient.dtype.element_ty), mask=is_inside)


@triton.jit
def gradient_kernel(
    teacher_left: tl.tensor,
    teacher_right: tl.tensor,
    student_left: tl.tensor,
    student_right: tl.tensor,
    sequence_starts: tl.tensor,
    teacher_partitions: tl.tensor,
    student_partitions: tl.tensor,
    left_gradient: tl.tensor,
    factor: tl.tensor,
    gradient: tl.tensor,
    num_tokens: tl.tensor,
    num_blocks: tl.tensor,
    num_heads: tl.constexpr,
    teacher_head_size: tl.constexpr,
    student_head_size: tl.constexpr,
    teacher_width: tl.constexpr,
    student_width: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    is_symmetric: tl.constexpr,
) -> None:
    """Writes `factor` times the gradient by a block of the student's right vectors of one head.

    Rows are keys here and columns queries. With `is_symmetric` right and left are the same vectors and the gradient as
    left, kept by `divergence_kernel`, is added.
    """
    head, start, length, first_row = _place(sequence_starts, num_blocks, num_heads, block_rows)
    if first_row >= length:
        return
    of_teacher = start.to(tl.int64) * (num_heads * teacher_head_size) + head * teacher_head_size
    of_student = start.to(tl.int64) * (num_heads * student_head_size) + head * student_head_size
    of_partitions = head.to(tl.int64) * num_tokens + start
    teacher_scale = LOG2_E / teacher_head_size**0.5
    student_scale = LOG2_E / student_head_size**0.5
    teacher_rows = _rows(
        teacher_right + of_teacher, first_row, length, num_heads, teacher_head_size, block_rows, teacher_width
    )
    student_rows = _rows(
        student_right + of_student, first_row, length, num_heads, student_head_size, block_rows, student_width
    )

    total = tl.zeros((block_rows, student_width), tl.float32)
    for first in range(0, length, block_columns):
        teacher_columns = _rows(
            teacher_left + of_teacher, first, length, num_heads, teacher_head_size, block_columns, teacher_width
        )
        student_columns = _rows(
            student_left + of_student, first, length, num_heads, student_head_size, block_columns, student_width
        )
        queries = first + tl.arange(0, block_columns)
        # A partition beyond all bounds makes the shares of a query that is not there 0.
        teacher_partition = tl.load(teacher_partitions + of_partitions + queries, mask=queries < length, other=HUGE)
        student_partition = tl.load(student_partitions + of_partitions + queries, mask=queries < length, other=HUGE)
        teacher_logits = tl.dot(teacher_rows, tl.trans(teacher_columns), input_precision=PRECISION)
        student_logits = tl.dot(student_rows, tl.trans(student_columns), input_precision=PRECISION)
        teacher_shares = tl.exp2(teacher_logits * teacher_scale - teacher_partition[None, :])
        student_shares = tl.exp2(student_logits * student_scale - student_partition[None, :])
        difference = (student_shares - teacher_shares).to(student_columns.dtype)
        total = tl.dot(difference, student_columns, total, input_precision=PRECISION)

    total = tl.where(length > 1, total, 0.0)
    rows = first_row + tl.arange(0, block_rows)[:, None]
    columns = tl.arange(0, student_width)[None, :]
    places = of_student + rows * (num_heads * student_head_size) + columns
    is_inside = (rows < length) & (columns < student_head_size)
    if is_symmetric:
        total += tl.load(left_gradient + places, mask=is_inside, other=0.0).to(tl.float32)
    total *= tl.load(factor)
    tl.store(gradient + places, total.to(gradient.dtype.element_ty), mask=is_inside)

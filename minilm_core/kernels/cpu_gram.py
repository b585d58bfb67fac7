"""Loops over one relation map of vectors with themselves, which is symmetric: only one half of it is computed.

Queries with queries, keys with keys and values with values are such relations (MiniLMv2). Their logits and exponentials
are symmetric, and so is the sum of the slopes of a pair by either of its logits: of every pair of tokens the loops look
at one order. Exponentials that both rows of a pair share cannot be of distances from either row's own largest logit;
one distance for the whole map serves where the rows' largest logits are not too far apart.
"""

import numpy as np
from numba import njit

from minilm_core.kernels.cpu_rows import LOG2_E, Floats, exp2, four_rows_of_gradients, four_rows_of_logits

MOST_TOKENS = 1024
"""The exponentials of a map are kept, up to here in a processor's own memory."""

HEADROOM = np.float32(60)
"""No exponential is above 2 to this power, and no row's sum of them below 1 over it: fp32 ends at 126."""

# Columns are counted from the first to the end of the block that the diagonal crosses: whole vectors.
_BLOCK = 32


@njit(fastmath=True, error_model="numpy")
def add_gram_map(
    index: int,
    teacher: Floats,
    student: Floats,
    num_heads: int,
    share: np.float32,
    positions: np.ndarray,
    lengths: np.ndarray,
    by_student: Floats,
    sums: np.ndarray,
) -> bool:
    """Writes the KL sum of one map, in nats, and its gradient, and returns True; or nothing and False."""
    row, head = index // num_heads, index % num_heads
    num_tokens = lengths[row]
    if num_tokens > MOST_TOKENS:
        return False
    num_rows = (num_tokens + 3) // 4 * 4
    teacher_size, size = teacher.shape[2] // num_heads, student.shape[2] // num_heads
    padded_teacher, padded = (teacher_size + 3) // 4 * 4, (size + 3) // 4 * 4
    scale = np.float32(1 / np.sqrt(size))
    of_teacher = np.zeros((num_rows, padded_teacher), np.float32)
    of_student, log2_of_student = np.zeros((num_rows, padded), np.float32), np.zeros((num_rows, padded), np.float32)
    teacher_columns = np.zeros((padded_teacher, num_tokens), np.float32)
    columns, by_columns = np.zeros((padded, num_tokens), np.float32), np.zeros((padded, num_tokens), np.float32)
    teacher_scale = LOG2_E / np.float32(np.sqrt(teacher_size))
    teacher_low, teacher_top = _laid_out(
        teacher, teacher_size, row, head, positions, teacher_scale, of_teacher, teacher_columns
    )
    low, top = _laid_out(student, size, row, head, positions, LOG2_E * scale, log2_of_student, columns)
    # A row's largest logit is at least its own token's, and none is above the largest of those.
    teacher_shift, shift = max(teacher_top - HEADROOM, np.float32(0)), max(top - HEADROOM, np.float32(0))
    if min(teacher_low - teacher_shift, low - shift) < -HEADROOM:
        return False
    of_student[:num_tokens] = columns.T
    teacher_weights = np.empty((num_rows, num_tokens), np.float32)
    weights = np.empty((num_rows, num_tokens), np.float32)
    teacher_sums, student_sums = np.zeros(num_rows, np.float32), np.zeros(num_rows, np.float32)
    crosses = np.zeros(num_rows, np.float32)
    teacher_logits, logits = np.empty((4, num_tokens), np.float32), np.empty((4, num_tokens), np.float32)
    crossed = np.empty((4, num_tokens), np.float32)
    for first in range(0, num_tokens, 4):
        start = first // _BLOCK * _BLOCK
        stop = min(start + _BLOCK, num_tokens)
        four_rows_of_logits(of_teacher, first, teacher_columns, teacher_logits, stop)
        four_rows_of_logits(log2_of_student, first, columns, logits, stop)
        for query in range(4):
            place = first + query
            if place < num_tokens:
                teacher_sum, student_sum, cross = np.float32(0), np.float32(0), np.float32(0)
                for key in range(stop):
                    difference = teacher_logits[query, key] - logits[query, key]
                    teacher_weight = exp2(teacher_logits[query, key] - teacher_shift)
                    weight = exp2(logits[query, key] - shift)
                    teacher_weights[place, key], weights[place, key] = teacher_weight, weight
                    crossed[query, key] = teacher_weight * difference
                    teacher_sum += teacher_weight
                    student_sum += weight
                    cross += teacher_weight * difference
                teacher_sums[place] += teacher_sum
                student_sums[place] += student_sum
                crosses[place] += cross
            else:
                teacher_weights[place], weights[place], crossed[query] = 0, 0, 0
        # What is left of the diagonal's block are the earlier rows' logits too.
        for key in range(start):
            teacher_sums[key] += _sum_of_four(teacher_weights, first, key)
            student_sums[key] += _sum_of_four(weights, first, key)
            crosses[key] += _sum_of_four(crossed, 0, key)
    total = num_tokens * np.float64(shift - teacher_shift)
    for token in range(num_tokens):
        total += np.float64(crosses[token] / teacher_sums[token])
        total += np.log2(np.float64(student_sums[token])) - np.log2(np.float64(teacher_sums[token]))
        teacher_sums[token], student_sums[token] = share / teacher_sums[token], share / student_sums[token]
    sums[index] = total * np.log(2.0)
    by_rows = np.empty((num_rows, padded), np.float32)
    for first in range(0, num_tokens, 4):
        start = first // _BLOCK * _BLOCK
        stop = min(start + _BLOCK, num_tokens)
        for query in range(4):
            place = first + query
            per_teacher, per_student = teacher_sums[place], student_sums[place]
            for key in range(stop):
                of_both = weights[place, key] * (per_student + student_sums[key])
                logits[query, key] = of_both - teacher_weights[place, key] * (per_teacher + teacher_sums[key])
            # Inside the diagonal's block both orders of a pair come by, each of which counts both.
            for key in range(start, stop):
                logits[query, key] *= np.float32(0.5)
        four_rows_of_gradients(logits, first, of_student, columns, by_rows, by_columns, stop)
    for token in range(num_tokens):
        place = positions[row, token]
        for part in range(size):
            by_student[row, place, head * size + part] = (by_rows[token, part] + by_columns[part, token]) * scale
    return True


@njit(fastmath=True, inline="always")
def _laid_out(
    vectors: Floats,
    size: int,
    row: int,
    head: int,
    positions: np.ndarray,
    scale: np.float32,
    rows: Floats,
    columns: Floats,
) -> tuple[np.float32, np.float32]:
    """Writes a head's vectors as rows, scaled, and as columns; returns the smallest and the largest scaled square."""
    low, top = np.float32(1e38), np.float32(0)
    for token in range(columns.shape[1]):
        place = positions[row, token]
        square = np.float32(0)
        for part in range(size):
            value = vectors[row, place, head * size + part]
            rows[token, part], columns[part, token] = value * scale, value
            square += value * value
        low, top = min(low, square * scale), max(top, square * scale)
    return low, top


@njit(fastmath=True, inline="always")
def _sum_of_four(values: Floats, first: int, key: int) -> np.float32:
    total: np.float32 = values[first, key] + values[first + 1, key] + values[first + 2, key] + values[first + 3, key]
    return total

"""Loops over relation maps, four queries at a time: logits, divergence and gradients, in fp32.

All in one file, for Numba keeps what it has compiled until the file of the loop that is called changes, and looks at
no other. A map of vectors with themselves is symmetric: queries with queries, keys with keys, values with values
(MiniLMv2). So are its exponentials, and the sum of the slopes of a pair by either of its logits: of a pair of tokens
the loops look at one order. The exponentials that two rows share cannot be of distances from either row's own largest
logit; one distance for the whole map serves where the rows' largest logits are not too far apart.
"""

import math

import numpy as np
from numba import njit, prange

Floats = np.ndarray
"""Of one to three axes, in fp32: Numba compiles a loop for what it is called with."""

_LOG2_E = np.float32(math.log2(math.e))
# exp2 on [-1/2, 1/2] by its Taylor series to the sixth order: (ln 2)^n / n!, relative error below 2e-7.
_EXP2 = tuple(np.float32(math.log(2) ** order / math.factorial(order)) for order in range(7))

MOST_TOKENS = 1024
"""The exponentials of a map are kept, up to here in a processor's own memory."""

HEADROOM = np.float32(60)
"""No exponential is above 2 to this power, and no row's sum of them below 1 over it: fp32 ends at 126."""

# Columns are counted from the first to the end of the block that the diagonal crosses: whole vectors.
_BLOCK = 32


@njit(fastmath=True, inline="always")
def _exp2(exponent: np.float32) -> np.float32:
    """Returns 2 to the power of a number below 127; of one below -126 what it is of -126, all but 0."""
    exponent = max(exponent, np.float32(-126))
    # Positive, so that cutting off its fraction rounds the exponent to the nearest whole number.
    raised = np.int32(exponent + np.float32(126.5))
    rest = exponent - np.float32(np.int32(raised - np.int32(126)))
    series = _EXP2[6]
    series = series * rest + _EXP2[5]
    series = series * rest + _EXP2[4]
    series = series * rest + _EXP2[3]
    series = series * rest + _EXP2[2]
    series = series * rest + _EXP2[1]
    series = series * rest + _EXP2[0]
    # A float's exponent stands 23 bits up, 127 too large: 2 to a whole power is written there directly.
    return series * np.int32((raised + np.int32(1)) << np.int32(23)).view(np.float32)


@njit(fastmath=True, inline="always")
def _four_rows_of_logits(left: Floats, first: int, right: Floats, logits: Floats, num_keys: int) -> None:
    """Writes left[first:first + 4] @ right, for the first keys; the head size is a multiple of 4."""
    for part in range(0, left.shape[1], 4):
        a0, a1, a2, a3 = left[first, part], left[first, part + 1], left[first, part + 2], left[first, part + 3]
        b0, b1, b2, b3 = (
            left[first + 1, part],
            left[first + 1, part + 1],
            left[first + 1, part + 2],
            left[first + 1, part + 3],
        )
        c0, c1, c2, c3 = (
            left[first + 2, part],
            left[first + 2, part + 1],
            left[first + 2, part + 2],
            left[first + 2, part + 3],
        )
        d0, d1, d2, d3 = (
            left[first + 3, part],
            left[first + 3, part + 1],
            left[first + 3, part + 2],
            left[first + 3, part + 3],
        )
        if part == 0:
            for key in range(num_keys):
                r0, r1, r2, r3 = right[part, key], right[part + 1, key], right[part + 2, key], right[part + 3, key]
                logits[0, key] = a0 * r0 + a1 * r1 + a2 * r2 + a3 * r3
                logits[1, key] = b0 * r0 + b1 * r1 + b2 * r2 + b3 * r3
                logits[2, key] = c0 * r0 + c1 * r1 + c2 * r2 + c3 * r3
                logits[3, key] = d0 * r0 + d1 * r1 + d2 * r2 + d3 * r3
        else:
            for key in range(num_keys):
                r0, r1, r2, r3 = right[part, key], right[part + 1, key], right[part + 2, key], right[part + 3, key]
                logits[0, key] += a0 * r0 + a1 * r1 + a2 * r2 + a3 * r3
                logits[1, key] += b0 * r0 + b1 * r1 + b2 * r2 + b3 * r3
                logits[2, key] += c0 * r0 + c1 * r1 + c2 * r2 + c3 * r3
                logits[3, key] += d0 * r0 + d1 * r1 + d2 * r2 + d3 * r3


@njit(fastmath=True, inline="always")
def _divergence(teacher: Floats, student: Floats, row: int, share: np.float32) -> np.float64:
    """Returns the KL of one query in units of ln 2 and writes its slope by the student's logits over them.

    Both rows of logits are in units of log2 e; the slope is share * (softmax(student) - softmax(teacher)).
    """
    num_keys = teacher.shape[1]
    top_teacher, top_student = teacher[row, 0], student[row, 0]
    for key in range(num_keys):
        top_teacher = max(top_teacher, teacher[row, key])
        top_student = max(top_student, student[row, key])
    sum_teacher, sum_student, cross = np.float32(0), np.float32(0), np.float32(0)
    for key in range(num_keys):
        of_teacher, of_student = teacher[row, key], student[row, key]
        teacher_weight, student_weight = _exp2(of_teacher - top_teacher), _exp2(of_student - top_student)
        teacher[row, key], student[row, key] = teacher_weight, student_weight
        sum_teacher += teacher_weight
        sum_student += student_weight
        cross += teacher_weight * (of_teacher - of_student)
    per_teacher, per_student = share / sum_teacher, share / sum_student
    for key in range(num_keys):
        student[row, key] = student[row, key] * per_student - teacher[row, key] * per_teacher
    difference = np.float64(top_student - top_teacher) + np.log2(np.float64(sum_student))
    divergence: np.float64 = np.float64(cross / sum_teacher) + difference - np.log2(np.float64(sum_teacher))
    return divergence


@njit(fastmath=True, inline="always")
def _four_rows_of_gradients(
    slope: Floats, first: int, left: Floats, right: Floats, by_left: Floats, by_right: Floats, num_keys: int
) -> None:
    """Writes slope @ rightᵀ to four rows of `by_left` and adds slopeᵀ @ left to `by_right`, for the first keys."""
    for part in range(0, left.shape[1], 2):
        a0, b0, c0, d0 = left[first, part], left[first + 1, part], left[first + 2, part], left[first + 3, part]
        a1, b1, c1, d1 = (
            left[first, part + 1],
            left[first + 1, part + 1],
            left[first + 2, part + 1],
            left[first + 3, part + 1],
        )
        sum_a0, sum_b0, sum_c0, sum_d0 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        sum_a1, sum_b1, sum_c1, sum_d1 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for key in range(num_keys):
            a, b, c, d = slope[0, key], slope[1, key], slope[2, key], slope[3, key]
            r0, r1 = right[part, key], right[part + 1, key]
            sum_a0 += a * r0
            sum_b0 += b * r0
            sum_c0 += c * r0
            sum_d0 += d * r0
            sum_a1 += a * r1
            sum_b1 += b * r1
            sum_c1 += c * r1
            sum_d1 += d * r1
            by_right[part, key] += a * a0 + b * b0 + c * c0 + d * d0
            by_right[part + 1, key] += a * a1 + b * b1 + c * c1 + d * d1
        by_left[first, part], by_left[first, part + 1] = sum_a0, sum_a1
        by_left[first + 1, part], by_left[first + 1, part + 1] = sum_b0, sum_b1
        by_left[first + 2, part], by_left[first + 2, part + 1] = sum_c0, sum_c1
        by_left[first + 3, part], by_left[first + 3, part + 1] = sum_d0, sum_d1


@njit(fastmath=True, error_model="numpy")
def _add_map(
    index: int,
    teacher_left: Floats,
    teacher_right: Floats,
    left: Floats,
    right: Floats,
    num_heads: int,
    share: np.float32,
    positions: np.ndarray,
    lengths: np.ndarray,
    by_left: Floats,
    by_right: Floats,
    is_gram: bool,
    sums: np.ndarray,
) -> None:
    """Writes the KL sum of one map, in nats, and its gradients; map = row * heads + head."""
    teacher_size, size = teacher_left.shape[2] // num_heads, left.shape[2] // num_heads
    # A multiple of 4 for the unrolled loops; what is added is 0 and stays so.
    padded_teacher, padded = (teacher_size + 3) // 4 * 4, (size + 3) // 4 * 4
    # Logits in units of log2 e: their exponentials are then powers of 2.
    teacher_scale = _LOG2_E / np.float32(np.sqrt(teacher_size))
    scale = np.float32(1 / np.sqrt(size))
    row, head = index // num_heads, index % num_heads
    num_tokens = lengths[row]
    num_rows = (num_tokens + 3) // 4 * 4
    # Of this map's size and not of the largest: loops over an array's own length compile to faster code.
    teacher_queries = np.zeros((num_rows, padded_teacher), np.float32)
    teacher_keys = np.zeros((padded_teacher, num_tokens), np.float32)
    queries, log2_queries = np.zeros((num_rows, padded), np.float32), np.zeros((num_rows, padded), np.float32)
    keys, by_keys = np.zeros((padded, num_tokens), np.float32), np.zeros((padded, num_tokens), np.float32)
    by_queries = np.empty((num_rows, padded), np.float32)
    of_teacher, of_student = np.empty((4, num_tokens), np.float32), np.empty((4, num_tokens), np.float32)
    for token in range(num_tokens):
        place = positions[row, token]
        for part in range(teacher_size):
            teacher_queries[token, part] = teacher_left[row, place, head * teacher_size + part] * teacher_scale
            teacher_keys[part, token] = teacher_right[row, place, head * teacher_size + part]
        for part in range(size):
            queries[token, part] = left[row, place, head * size + part] * scale
            log2_queries[token, part] = queries[token, part] * _LOG2_E
            keys[part, token] = right[row, place, head * size + part]
    total = 0.0
    for first in range(0, num_tokens, 4):
        _four_rows_of_logits(teacher_queries, first, teacher_keys, of_teacher, num_tokens)
        _four_rows_of_logits(log2_queries, first, keys, of_student, num_tokens)
        for query in range(4):
            if first + query < num_tokens:
                total += _divergence(of_teacher, of_student, query, share)
            else:
                of_student[query] = np.float32(0)
        _four_rows_of_gradients(of_student, first, queries, keys, by_queries, by_keys, num_tokens)
    sums[index] = total * np.log(2.0)
    for token in range(num_tokens):
        place = positions[row, token]
        for part in range(size):
            by_query, by_key = by_queries[token, part] * scale, by_keys[part, token]
            by_left[row, place, head * size + part] = by_query + by_key if is_gram else by_query
            if not is_gram:
                by_right[row, place, head * size + part] = by_key


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
    teacher_scale = _LOG2_E / np.float32(np.sqrt(teacher_size))
    teacher_low, teacher_top = _laid_out(
        teacher, teacher_size, row, head, positions, teacher_scale, of_teacher, teacher_columns
    )
    low, top = _laid_out(student, size, row, head, positions, _LOG2_E * scale, log2_of_student, columns)
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
        _four_rows_of_logits(of_teacher, first, teacher_columns, teacher_logits, stop)
        _four_rows_of_logits(log2_of_student, first, columns, logits, stop)
        for query in range(4):
            place = first + query
            if place < num_tokens:
                teacher_sum, student_sum, cross = np.float32(0), np.float32(0), np.float32(0)
                for key in range(stop):
                    difference = teacher_logits[query, key] - logits[query, key]
                    teacher_weight = _exp2(teacher_logits[query, key] - teacher_shift)
                    weight = _exp2(logits[query, key] - shift)
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
        # Left of the diagonal's block they are the earlier rows' too.
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
        _four_rows_of_gradients(logits, first, of_student, columns, by_rows, by_columns, stop)
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


@njit(fastmath=True, parallel=True, error_model="numpy")
def add_maps(
    teacher_left: Floats,
    teacher_right: Floats,
    left: Floats,
    right: Floats,
    num_heads: int,
    share: np.float32,
    positions: np.ndarray,
    lengths: np.ndarray,
    by_left: Floats,
    by_right: Floats,
    is_gram: bool,
    is_symmetric: bool,
    sums: np.ndarray,
) -> None:
    """Writes the KL sums of all maps, in nats, and their gradients, over zeros; map = row * heads + head."""
    for index in prange(len(sums)):
        # A token that is alone attends to itself, whatever the vectors: the divergence and its gradients are 0, which
        # the loops would give but for rounding.
        if lengths[index // num_heads] <= 1:
            continue
        if not is_symmetric or not add_gram_map(
            index, teacher_left, left, num_heads, share, positions, lengths, by_left, sums
        ):
            _add_map(
                index,
                teacher_left,
                teacher_right,
                left,
                right,
                num_heads,
                share,
                positions,
                lengths,
                by_left,
                by_right,
                is_gram,
                sums,
            )

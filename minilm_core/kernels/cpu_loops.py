"""Loops over relation maps, four queries at a time: logits, divergence and gradients, in fp32.

A map is one relation of one head of one row of the batch: a square of logits, queries by keys. Numba keeps compiled
loops until the file of the called loop changes and checks no other file, so all of them are in this file.

A map of vectors with themselves is symmetric: queries with queries, keys with keys, values with values (MiniLMv2). Its
exponentials are then symmetric too, and so is the sum of both gradients of a pair of tokens: the loops compute one
order of each pair. Two rows can only share exponentials that have the same shift, so one shift serves the whole map.
Where the rows' largest logits are too far apart for that, the map is computed as if it were not symmetric.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange

Floats = np.ndarray
"""An array of one to three axes, in fp32; Numba compiles a loop for the types it is called with."""

_LOG2_E = np.float32(math.log2(math.e))
# exp2 on [-1/2, 1/2] by its Taylor series to the sixth order: (ln 2)^n / n!, relative error below 2e-7.
_EXP2 = tuple(np.float32(math.log(2) ** order / math.factorial(order)) for order in range(7))

MOST_TOKENS = 1024
"""The longest row whose map is computed as a symmetric one, with all its exponentials in memory."""

HEADROOM = np.float32(60)
"""In a symmetric map exponentials are at most 2^HEADROOM and sums of a row at least 2^-HEADROOM; fp32 ends at 2^127."""

# Loops over keys end where the block that the diagonal crosses ends, so that they run over whole vector registers.
_BLOCK = 32


class Operands(NamedTuple):
    """The vectors of one model that a relation compares, [batch, seq, width], with concatenated heads."""

    left: Floats
    right: Floats


class Layout(NamedTuple):
    """Which tokens of a batch are real, and how its vectors are split into heads."""

    positions: np.ndarray
    """The positions of each row's real tokens, [batch, seq], in the first entries of the row; uint64."""
    lengths: np.ndarray
    """The number of real tokens of each row, [batch]."""
    num_heads: int
    query_weight: np.float32
    """The weight of one query in the mean: 1 / (heads * real tokens of the batch)."""


class Results(NamedTuple):
    """The arrays that the loops write to, initially zero."""

    sums: np.ndarray
    """The divergence of each map in nats, summed over its queries, [batch * heads]; map = row * heads + head."""
    by_left: Floats
    """The gradient of the mean divergence by the student's left vectors, [batch, seq, width]."""
    by_right: Floats
    """The gradient by the right ones; untouched where left and right are the same vectors."""


class _SymmetricMap(NamedTuple):
    """One model's part of a symmetric map."""

    rows: Floats
    """The vectors, [rows, head size], times log2 e / √head_size."""
    columns: Floats
    """The same vectors transposed and not scaled, [head size, tokens]."""
    shift: np.float32
    """The number that is subtracted from all log2 logits before their exponentials are computed."""
    exponentials: Floats
    """2^(logit - shift), [rows, tokens], of the keys up to the end of the block that the diagonal crosses."""
    sums: Floats
    """The sums of the exponentials over all keys, [rows]."""


@njit(fastmath=True, inline="always")
def _exp2(exponent: np.float32) -> np.float32:
    """Returns 2 to the power of a number below 127; exponents below -126 are taken as -126."""
    exponent = max(exponent, np.float32(-126))
    # The sum is positive, so that truncation rounds the exponent to the nearest integer.
    raised = np.int32(exponent + np.float32(126.5))
    rest = exponent - np.float32(np.int32(raised - np.int32(126)))
    series = _EXP2[6]
    series = series * rest + _EXP2[5]
    series = series * rest + _EXP2[4]
    series = series * rest + _EXP2[3]
    series = series * rest + _EXP2[2]
    series = series * rest + _EXP2[1]
    series = series * rest + _EXP2[0]
    # A float stores its exponent plus 127 from bit 23 on: this writes 2 to an integer power directly.
    return series * np.int32((raised + np.int32(1)) << np.int32(23)).view(np.float32)


@njit(fastmath=True, inline="always")
def _four_rows_of_logits(left: Floats, first: int, right: Floats, logits: Floats, num_keys: int) -> None:
    """Writes left[first:first + 4] @ right for the first `num_keys` keys; the head size is a multiple of 4."""
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
def _divergence(teacher: Floats, student: Floats, row: int, weight: np.float32) -> np.float64:
    """Returns the KL of one query in units of ln 2 and overwrites the student's logits with its gradient by them.

    Both rows of logits are in units of log2 e; the gradient is weight * (softmax(student) - softmax(teacher)).
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
    per_teacher, per_student = weight / sum_teacher, weight / sum_student
    for key in range(num_keys):
        student[row, key] = student[row, key] * per_student - teacher[row, key] * per_teacher
    difference = np.float64(top_student - top_teacher) + np.log2(np.float64(sum_student))
    divergence: np.float64 = np.float64(cross / sum_teacher) + difference - np.log2(np.float64(sum_teacher))
    return divergence


@njit(fastmath=True, inline="always")
def _four_rows_of_gradients(
    slope: Floats, first: int, left: Floats, right: Floats, by_left: Floats, by_right: Floats, num_keys: int
) -> None:
    """Writes slope @ rightᵀ to four rows of `by_left` and adds slopeᵀ @ left to `by_right`, for `num_keys` keys."""
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


@njit(fastmath=True, inline="always")
def _multiple_of_4(number: int) -> int:
    return (number + 3) // 4 * 4


@njit(fastmath=True, inline="always")
def _one_head(
    left: Floats, right: Floats, positions: np.ndarray, head: int, head_size: int, scale: np.float32
) -> tuple[Floats, Floats]:
    """Returns the left vectors of a head times `scale` as rows, and the right ones as columns: one for each real token.

    Zeros pad the head size, and the number of rows, to a multiple of 4 for the unrolled loops. The arrays have the size
    of this map and not of the largest: loops over an array's own length compile to faster code.
    """
    num_tokens, padded = len(positions), _multiple_of_4(head_size)
    rows = np.zeros((_multiple_of_4(num_tokens), padded), np.float32)
    columns = np.zeros((padded, num_tokens), np.float32)
    for token in range(num_tokens):
        for part in range(head_size):
            rows[token, part] = left[positions[token], head * head_size + part] * scale
            columns[part, token] = right[positions[token], head * head_size + part]
    return rows, columns


@njit(fastmath=True, error_model="numpy")
def _compute_map(
    index: int, teacher: Operands, student: Operands, layout: Layout, results: Results, is_gram: bool
) -> None:
    """Writes the divergence of one map and its gradients; with `is_gram` left and right are the same vectors."""
    row, head = index // layout.num_heads, index % layout.num_heads
    positions = layout.positions[row, : layout.lengths[row]]
    num_tokens = len(positions)
    teacher_size, size = teacher.left.shape[2] // layout.num_heads, student.left.shape[2] // layout.num_heads
    # With logits in units of log2 e, their exponentials are powers of 2.
    teacher_scale, scale = _LOG2_E / np.float32(np.sqrt(teacher_size)), np.float32(1 / np.sqrt(size))
    teacher_queries, teacher_keys = _one_head(
        teacher.left[row], teacher.right[row], positions, head, teacher_size, teacher_scale
    )
    queries, keys = _one_head(student.left[row], student.right[row], positions, head, size, _LOG2_E * scale)
    by_queries, by_keys = np.empty_like(queries), np.zeros_like(keys)
    of_teacher, of_student = np.empty((4, num_tokens), np.float32), np.empty((4, num_tokens), np.float32)
    total = 0.0
    for first in range(0, num_tokens, 4):
        _four_rows_of_logits(teacher_queries, first, teacher_keys, of_teacher, num_tokens)
        _four_rows_of_logits(queries, first, keys, of_student, num_tokens)
        for query in range(4):
            if first + query < num_tokens:
                total += _divergence(of_teacher, of_student, query, layout.query_weight)
            else:
                of_student[query] = np.float32(0)
        _four_rows_of_gradients(of_student, first, queries, keys, by_queries, by_keys, num_tokens)
    results.sums[index] = total * np.log(2.0)
    for token in range(num_tokens):
        position = positions[token]
        for part in range(size):
            # `by_keys` is made of queries that are scaled already, by log2 e too.
            by_query, by_key = by_queries[token, part] * scale, by_keys[part, token] / _LOG2_E
            results.by_left[row, position, head * size + part] = by_query + by_key if is_gram else by_query
            if not is_gram:
                results.by_right[row, position, head * size + part] = by_key


@njit(fastmath=True, error_model="numpy")
def compute_symmetric_map(index: int, teacher: Floats, student: Floats, layout: Layout, results: Results) -> bool:
    """Writes the divergence of one symmetric map and its gradient and returns True; or writes nothing, returns False.

    It returns False where a row has too many tokens or where no shift keeps all exponentials within fp32.
    """
    row, head = index // layout.num_heads, index % layout.num_heads
    positions = layout.positions[row, : layout.lengths[row]]
    num_tokens = len(positions)
    if num_tokens > MOST_TOKENS:
        return False
    teacher_size, size = teacher.shape[2] // layout.num_heads, student.shape[2] // layout.num_heads
    of_teacher, teacher_fits = _symmetric_map(teacher[row], positions, head, teacher_size)
    of_student, student_fits = _symmetric_map(student[row], positions, head, size)
    if not (teacher_fits and student_fits):
        return False
    crosses = _take_exponentials(of_teacher, of_student)
    total = num_tokens * np.float64(of_student.shift - of_teacher.shift)
    teacher_factors, factors = np.zeros_like(of_teacher.sums), np.zeros_like(of_student.sums)
    for token in range(num_tokens):
        teacher_sum, student_sum = of_teacher.sums[token], of_student.sums[token]
        total += np.float64(crosses[token] / teacher_sum)
        total += np.log2(np.float64(student_sum)) - np.log2(np.float64(teacher_sum))
        teacher_factors[token], factors[token] = layout.query_weight / teacher_sum, layout.query_weight / student_sum
    results.sums[index] = total * np.log(2.0)
    by_rows, by_columns = _symmetric_gradients(of_teacher, of_student, teacher_factors, factors)
    scale = np.float32(1 / np.sqrt(size))
    for token in range(num_tokens):
        for part in range(size):
            # `by_columns` is made of rows that are scaled already, by log2 e too.
            gradient = by_rows[token, part] * scale + by_columns[part, token] / _LOG2_E
            results.by_left[row, positions[token], head * size + part] = gradient
    return True


@njit(fastmath=True, inline="always")
def _symmetric_map(vectors: Floats, positions: np.ndarray, head: int, head_size: int) -> tuple[_SymmetricMap, np.bool]:
    """Returns a map without its exponentials, and whether these will be within the range of fp32."""
    scale = _LOG2_E * np.float32(1 / np.sqrt(head_size))
    rows, columns = _one_head(vectors, vectors, positions, head, head_size, scale)
    smallest, largest = np.float32(1e38), np.float32(0)
    for token in range(len(positions)):
        square = np.float32(0)
        for part in range(head_size):
            square += rows[token, part] * rows[token, part]
        # The product has the scale twice, a logit once.
        smallest, largest = min(smallest, square / scale), max(largest, square / scale)
    # A row's largest logit is at least that of its own token, and no logit is above the largest of those.
    shift = max(largest - HEADROOM, np.float32(0))
    exponentials = np.empty((len(rows), len(positions)), np.float32)
    sums = np.zeros(len(rows), np.float32)
    fits: np.bool = smallest - shift >= -HEADROOM
    return _SymmetricMap(rows, columns, shift, exponentials, sums), fits


@njit(fastmath=True, inline="always")
def _take_exponentials(teacher: _SymmetricMap, student: _SymmetricMap) -> Floats:
    """Writes the exponentials of both maps and their sums; returns Σ teacher * (log2 teacher - log2 student) by row."""
    num_tokens = teacher.columns.shape[1]
    teacher_logits, logits = np.empty((4, num_tokens), np.float32), np.empty((4, num_tokens), np.float32)
    crossed = np.zeros((4, num_tokens), np.float32)
    crosses = np.zeros_like(teacher.sums)
    for first in range(0, num_tokens, 4):
        start = first // _BLOCK * _BLOCK
        stop = min(start + _BLOCK, num_tokens)
        _four_rows_of_logits(teacher.rows, first, teacher.columns, teacher_logits, stop)
        _four_rows_of_logits(student.rows, first, student.columns, logits, stop)
        for query in range(4):
            token = first + query
            if token < num_tokens:
                teacher_sum, student_sum, cross = np.float32(0), np.float32(0), np.float32(0)
                for key in range(stop):
                    difference = teacher_logits[query, key] - logits[query, key]
                    of_teacher = _exp2(teacher_logits[query, key] - teacher.shift)
                    of_student = _exp2(logits[query, key] - student.shift)
                    teacher.exponentials[token, key], student.exponentials[token, key] = of_teacher, of_student
                    crossed[query, key] = of_teacher * difference
                    teacher_sum += of_teacher
                    student_sum += of_student
                    cross += of_teacher * difference
                teacher.sums[token] += teacher_sum
                student.sums[token] += student_sum
                crosses[token] += cross
            else:
                teacher.exponentials[token], student.exponentials[token], crossed[query] = 0, 0, 0
        # The exponentials left of the block that the diagonal crosses belong to the earlier rows too.
        for key in range(start):
            teacher.sums[key] += _sum_of_four(teacher.exponentials, first, key)
            student.sums[key] += _sum_of_four(student.exponentials, first, key)
            crosses[key] += _sum_of_four(crossed, 0, key)
    return crosses


@njit(fastmath=True, inline="always")
def _sum_of_four(values: Floats, first: int, key: int) -> np.float32:
    total: np.float32 = values[first, key] + values[first + 1, key] + values[first + 2, key] + values[first + 3, key]
    return total


@njit(fastmath=True, inline="always")
def _symmetric_gradients(
    teacher: _SymmetricMap, student: _SymmetricMap, teacher_factors: Floats, factors: Floats
) -> tuple[Floats, Floats]:
    """Returns the gradient in two parts: rows without the factor 1 / √head_size, columns with it and log2 e.

    Args:
        teacher: The teacher's map with its exponentials.
        student: The student's.
        teacher_factors: query_weight / sum of each row, which turns exponentials into a weighted softmax; 0 in padding.
        factors: The same for the student's rows.
    """
    num_tokens = student.columns.shape[1]
    slopes = np.empty((4, num_tokens), np.float32)
    by_rows, by_columns = np.empty_like(student.rows), np.zeros_like(student.columns)
    for first in range(0, num_tokens, 4):
        start = first // _BLOCK * _BLOCK
        stop = min(start + _BLOCK, num_tokens)
        for query in range(4):
            token = first + query
            teacher_factor, factor = teacher_factors[token], factors[token]
            for key in range(stop):
                of_student = student.exponentials[token, key] * (factor + factors[key])
                of_teacher = teacher.exponentials[token, key] * (teacher_factor + teacher_factors[key])
                slopes[query, key] = of_student - of_teacher
            # Inside the block that the diagonal crosses, both orders of a pair are computed, and each counts for both.
            for key in range(start, stop):
                slopes[query, key] *= np.float32(0.5)
        _four_rows_of_gradients(slopes, first, student.rows, student.columns, by_rows, by_columns, stop)
    return by_rows, by_columns


@njit(fastmath=True, parallel=True, error_model="numpy")
def compute_maps(
    teacher: Operands,
    student: Operands,
    layout: Layout,
    results: Results,
    is_teacher_gram: bool,
    is_student_gram: bool,
) -> None:
    """Writes the divergences of all maps and their gradients; a model is `gram` if its left and right are the same."""
    for index in prange(len(results.sums)):
        # A row of one token attends to itself, whatever its vector: the divergence and its gradients are exactly 0,
        # where the loops would give a rounding error.
        if layout.lengths[index // layout.num_heads] <= 1:
            continue
        is_symmetric = is_teacher_gram and is_student_gram
        if not is_symmetric or not compute_symmetric_map(index, teacher.left, student.left, layout, results):
            _compute_map(index, teacher, student, layout, results, is_student_gram)

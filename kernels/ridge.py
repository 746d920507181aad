"""Closed-form heads: running sums of features, and the weights that are solved from them.

With ``f = (features, 1)``: ``gram = sum f f^T`` (its lower triangle, row by row) and ``moments = sum f onehot(y)^T``.
They are all that is kept of the samples; solving leaves the weights of classes without samples as they are. Sums go on
for as long as the device does: in float32 a sum of ones would stop at 2^24, so they are float64 or, of features that
are whole numbers, int32 or int64, which are exact and so do not depend on the order of samples. Of int32 sums, those
that could overflow are refused beforehand.

References
----------
Hoerl and Kennard 1970, "Ridge regression" (RIDGE). Hayes and Kanan 2020, "Lifelong machine learning with deep streaming
linear discriminant analysis", eq. 1 to 4 (PROTOTYPE: class means under one covariance).
"""

import numpy as np

from edgerev.kernels.barrier import barrier
from edgerev.kernels.intrinsics import advance, f64_at, i32_at, i64_at, round_half_even, sqrt64, to_int32_inside
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import LEVELS, MOST_INT32_SAMPLES, DType, SolveKind, Status
from edgerev.kernels.operands import (
    FIRST,
    T_CHANNELS,
    T_DTYPE,
    T_OFFSET,
    T_SIZE,
    T_STRIDE,
    floats,
    origin,
    parameter,
    real_parameter,
    record,
    samples,
    share,
    share_elements,
    task_columns,
    tensor,
)

BAD_LABEL, SINGULAR, FULL = (
    int(Status.LABEL_OUT_OF_RANGE), int(Status.NOT_POSITIVE_DEFINITE), int(Status.SUMS_FULL),
)
F64, I32, I64 = int(DType.F64), int(DType.I32), int(DType.I64)
PROTOTYPE = int(SolveKind.PROTOTYPE)
TOP = np.float32(LEVELS)
GROUP = 4  # samples added at once
FADED = 1e-100  # share of all samples below which a class has none left: what fades further loses its digits
HIGH_WORD = 4294967296.0


@kernel
def value_range(row, tensors, arena, n, thread, threads, status):
    """RANGE low high; features: threads share features."""
    low, high = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    tf = tensor(row, tensors, 2)
    features = floats(row, tensors, arena, 2)
    first, last = share_elements(tf[T_CHANNELS], thread, threads)
    for s in range(samples(row, n)):
        f = advance(features, s * tf[T_STRIDE])
        for i in range(first, last):
            low[i] = f[i] if f[i] < low[i] else low[i]
            high[i] = f[i] if f[i] > high[i] else high[i]


@kernel
def quantise(row, tensors, arena, n, thread, threads, status):
    """QUANTISE f; low high: threads share samples."""
    tf = tensor(row, tensors, 0)
    features, low, high = (
        floats(row, tensors, arena, 0), floats(row, tensors, arena, 1), floats(row, tensors, arena, 2),
    )
    first, last = share(samples(row, n), thread, threads)
    half = np.float32(0.5)
    for s in range(first, last):
        f = advance(features, s * tf[T_STRIDE])
        for i in range(tf[T_CHANNELS]):
            middle, reach = half * low[i] + half * high[i], half * high[i] - half * low[i]
            value = (f[i] - middle) * (TOP / reach) if reach > np.float32(0) else np.float32(0)
            value = value if value > -TOP else -TOP  # NaN too
            f[i] = round_half_even(value if value < TOP else TOP)


@jit
def _start(i):
    """Return where row `i` of a packed lower triangle starts."""
    return i * (i + 1) // 2


@jit
def _add_floats(line, f, value, count):
    for j in range(count):
        line[j] += value * np.float64(f[j])  # the product is exact: two of float32


@jit
def _add_words(line, f, value, count):
    for j in range(count):
        line[j] += np.int32(value * to_int32_inside(f[j]))


@jit
def _add_long_words(line, f, value, count):
    for j in range(count):
        line[j] += np.int64(np.int32(value * to_int32_inside(f[j])))


@jit
def _add_group_of_floats(line, f0, stride, i, constant, count):
    f1, f2, f3 = advance(f0, stride), advance(f0, 2 * stride), advance(f0, 3 * stride)
    one = np.float32(1)
    v0, v1 = np.float64(one if constant else f0[i]), np.float64(one if constant else f1[i])
    v2, v3 = np.float64(one if constant else f2[i]), np.float64(one if constant else f3[i])
    for j in range(count):
        line[j] += (v0 * np.float64(f0[j]) + v1 * np.float64(f1[j])) + (
            v2 * np.float64(f2[j]) + v3 * np.float64(f3[j])
        )


@jit
def _add_group_of_words(line, f0, stride, i, constant, count):
    f1, f2, f3 = advance(f0, stride), advance(f0, 2 * stride), advance(f0, 3 * stride)
    one = np.float32(1)
    v0, v1 = one if constant else f0[i], one if constant else f1[i]
    v2, v3 = one if constant else f2[i], one if constant else f3[i]
    for j in range(count):  # float32 holds the sum of four products of LEVELS exactly
        line[j] += to_int32_inside((v0 * f0[j] + v1 * f1[j]) + (v2 * f2[j] + v3 * f3[j]))


@jit
def _add_group_of_long_words(line, f0, stride, i, constant, count):
    f1, f2, f3 = advance(f0, stride), advance(f0, 2 * stride), advance(f0, 3 * stride)
    one = np.float32(1)
    v0, v1 = one if constant else f0[i], one if constant else f1[i]
    v2, v3 = one if constant else f2[i], one if constant else f3[i]
    for j in range(count):
        line[j] += np.int64(to_int32_inside((v0 * f0[j] + v1 * f1[j]) + (v2 * f2[j] + v3 * f3[j])))


@jit
def _add_group(arena, t, at, f, stride, i, constant, count):
    """Add f[i] times f (f itself where `constant`) for GROUP samples: the sum is read and written once for all."""
    if t[T_DTYPE] == F64:
        _add_group_of_floats(advance(f64_at(arena, t[T_OFFSET]), at), f, stride, i, constant, count)
    elif t[T_DTYPE] == I32:
        _add_group_of_words(advance(i32_at(arena, t[T_OFFSET]), at), f, stride, i, constant, count)
    else:
        _add_group_of_long_words(advance(i64_at(arena, t[T_OFFSET]), at), f, stride, i, constant, count)


@jit
def _add(arena, t, at, f, value, count):
    """Add value times f to `count` elements of a sum from `at` on, whatever its type."""
    if t[T_DTYPE] == F64:
        _add_floats(advance(f64_at(arena, t[T_OFFSET]), at), f, np.float64(value), count)
    elif t[T_DTYPE] == I32:
        _add_words(advance(i32_at(arena, t[T_OFFSET]), at), f, to_int32_inside(value), count)
    else:
        _add_long_words(advance(i64_at(arena, t[T_OFFSET]), at), f, to_int32_inside(value), count)


@jit
def _get(arena, t, at):
    """Return an element of a sum as float64; an int64 in two halves, for its conversion would be a call on ARMv7."""
    if t[T_DTYPE] == F64:
        return f64_at(arena, t[T_OFFSET])[at]
    if t[T_DTYPE] == I32:
        return np.float64(i32_at(arena, t[T_OFFSET])[at])
    halves = i32_at(arena, t[T_OFFSET])  # little-endian, as all targets are
    return np.float64(halves[2 * at + 1]) * HIGH_WORD + np.float64(np.uint32(halves[2 * at]))


@jit
def _check_samples(row, tensors, arena, count, status, classes):
    """Return whether all labels are classes and the sums have room; nothing was added yet."""
    tg, tl = tensor(row, tensors, 0), tensor(row, tensors, 4)
    labels = i32_at(arena, tl[T_OFFSET])
    if tg[T_DTYPE] == I32 and _get(arena, tg, tg[T_SIZE] - 1) + np.float64(count) > np.float64(MOST_INT32_SAMPLES):
        record(status, FULL, np.intp(row[FIRST]))
        return False
    for s in range(count):
        label = labels[origin(row, tl) + s * tl[T_STRIDE]]
        if label < 0 or np.intp(label) >= classes:
            record(status, BAD_LABEL, np.intp(row[FIRST]) + s)
            return False
    return True


@kernel
def ridge_sums(row, tensors, arena, n, thread, threads, status):
    """RIDGE_SUMS gram moments counts; features labels counters barrier (outputs); threads share rows of the sums."""
    count = samples(row, n)
    tg, tm, tf, tl = (
        tensor(row, tensors, 0), tensor(row, tensors, 1), tensor(row, tensors, 3), tensor(row, tensors, 4),
    )
    seen, features = i64_at(arena, tensor(row, tensors, 2)[T_OFFSET]), floats(row, tensors, arena, 3)
    labels = i32_at(arena, tl[T_OFFSET])
    size, columns = tf[T_CHANNELS], tm[T_CHANNELS]
    first_column, classes = task_columns(row, tensors, arena, 5, parameter(row, 0), columns)
    good = _check_samples(row, tensors, arena, count, status, classes)
    words = i32_at(arena, tensor(row, tensors, 6)[T_OFFSET])
    barrier(words, thread, threads)  # else a slow thread counts the samples that a fast one has added
    if not good:
        return
    one = np.float32(1)
    grouped = count - count % GROUP
    for i in range(thread, size + 1, threads):  # long rows and short ones to all threads alike
        for s in range(0, grouped, GROUP):
            f = advance(features, s * tf[T_STRIDE])
            _add_group(arena, tg, _start(i), f, tf[T_STRIDE], i, i == size, min(i + 1, size))
        for s in range(count):
            f = advance(features, s * tf[T_STRIDE])
            value = f[i] if i < size else one
            if s >= grouped:
                _add(arena, tg, _start(i), f, value, min(i + 1, size))
            column = first_column + np.intp(labels[origin(row, tl) + s * tl[T_STRIDE]])
            _add_one(arena, tm, i * columns + column, value)
            if i == size:
                _add_one(arena, tg, _start(size) + size, one)
                seen[column] += 1


@jit
def _add_one(arena, t, at, value):
    if t[T_DTYPE] == F64:
        f64_at(arena, t[T_OFFSET])[at] += np.float64(value)
    elif t[T_DTYPE] == I32:
        i32_at(arena, t[T_OFFSET])[at] += to_int32_inside(value)
    else:
        i64_at(arena, t[T_OFFSET])[at] += np.int64(to_int32_inside(value))


@jit
def _matrix(work, row, tensors, arena, size, columns, kind, penalty):
    """Write the lower triangle that is to be solved with to `work`; the last row is the constant's."""
    tg, tm = tensor(row, tensors, 3), tensor(row, tensors, 4)
    for i in range(size + 1):
        line = advance(work, _start(i))
        for j in range(i + 1):
            line[j] = _get(arena, tg, _start(i) + j)
        if i < size:
            line[i] += penalty
    if kind != PROTOTYPE:
        return
    least = FADED * _get(arena, tg, tg[T_SIZE] - 1)
    for k in range(columns):
        count = _get(arena, tm, size * columns + k)
        if count > least:
            for i in range(size):
                line = advance(work, _start(i))
                mean = _get(arena, tm, i * columns + k) / count
                for j in range(i + 1):
                    line[j] -= mean * _get(arena, tm, j * columns + k)


@jit
def _factor(work, column, total):
    """Cholesky in place, column by column; return whether it worked."""
    for k in range(total):
        pivot = work[_start(k) + k]
        if not pivot > 0.0:
            return False
        root = sqrt64(pivot)
        work[_start(k) + k] = root
        for i in range(k + 1, total):
            value = work[_start(i) + k] / root
            work[_start(i) + k] = value
            column[i] = value
        for i in range(k + 1, total):
            line, value = advance(work, _start(i)), column[i]
            for j in range(k + 1, i + 1):
                line[j] -= value * column[j]
    return True


@jit
def _solve(work, column, total):
    """Solve L L^T x = column in place."""
    for i in range(total):
        line, value = advance(work, _start(i)), column[i]
        for k in range(i):
            value -= line[k] * column[k]
        column[i] = value / line[i]
    for step in range(total):
        i = total - 1 - step
        line = advance(work, _start(i))
        value = column[i] / line[i]
        column[i] = value
        for k in range(i):
            column[k] -= line[k] * value


@kernel
def ridge_solve(row, tensors, arena, n, thread, threads, status):
    """RIDGE_SOLVE w b work; gram moments (strength, kind); work holds L and one column, in float64."""
    if thread != 0:
        return
    tg, tm = tensor(row, tensors, 3), tensor(row, tensors, 4)
    w, b = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    work = f64_at(arena, tensor(row, tensors, 2)[T_OFFSET])
    columns, kind = tm[T_CHANNELS], parameter(row, 1)
    size = tensor(row, tensors, 0)[T_SIZE] // columns
    total = size if kind == PROTOTYPE else size + 1
    column = advance(work, _start(size + 1))
    samples_seen = _get(arena, tg, tg[T_SIZE] - 1)
    _matrix(work, row, tensors, arena, size, columns, kind, np.float64(real_parameter(row, 0)) * samples_seen)
    if not _factor(work, column, total):
        record(status, SINGULAR, -1)
        return
    for k in range(columns):
        count = _get(arena, tm, size * columns + k)
        if not count > FADED * samples_seen:
            continue
        for i in range(total):
            column[i] = _get(arena, tm, i * columns + k)
        if kind == PROTOTYPE:
            for i in range(size):
                column[i] /= count
        _solve(work, column, total)
        bias = column[size] if kind != PROTOTYPE else 0.0
        if kind == PROTOTYPE:
            for i in range(size):
                column[i] *= samples_seen
                bias -= 0.5 * column[i] * (_get(arena, tm, i * columns + k) / count)
        for i in range(size):
            w[i * columns + k] = np.float32(column[i])
        b[k] = np.float32(bias)

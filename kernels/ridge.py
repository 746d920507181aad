"""The closed-form head: running sums of features, and ridge regression solved from them (Hoerl and Kennard 1970).

With ``f = (features, 1)``: ``gram = sum f f^T``, ``moments = sum f onehot(y)^T`` and
``W = (gram + s N I')^-1 moments`` where I' leaves the constant out. The sums are all that is kept of the samples, and
go on for as long as the device does: in float32 a sum of ones would stop at 2^24, so they are float64 (the last
element of gram is N), and the counts int64.
"""

import numpy as np

from edgerev.kernels.intrinsics import advance, f64_at, i32_at, i64_at, sqrt64
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import Status
from edgerev.kernels.operands import (
    FIRST,
    T_CHANNELS,
    T_OFFSET,
    T_STRIDE,
    floats,
    origin,
    real_parameter,
    record,
    samples,
    share,
    tensor,
)

BAD_LABEL, SINGULAR = int(Status.LABEL_OUT_OF_RANGE), int(Status.NOT_POSITIVE_DEFINITE)
NEVER_SEEN = np.float32(-1e30)


@kernel
def ridge_sums(row, tensors, arena, n, thread, threads, status):
    """RIDGE_SUMS gram moments counts; features labels; threads share rows of the sums."""
    count = samples(row, n)
    tf, tl, tm = tensor(row, tensors, 3), tensor(row, tensors, 4), tensor(row, tensors, 1)
    gram, moments, seen = (
        f64_at(arena, tensor(row, tensors, 0)[T_OFFSET]), f64_at(arena, tm[T_OFFSET]),
        i64_at(arena, tensor(row, tensors, 2)[T_OFFSET]),
    )
    features, labels = floats(row, tensors, arena, 3), i32_at(arena, tl[T_OFFSET])
    size, classes = tf[T_CHANNELS], tm[T_CHANNELS]
    for s in range(count):  # before any sum is touched
        label = labels[origin(row, tl) + s * tl[T_STRIDE]]
        if label < 0 or np.intp(label) >= classes:
            record(status, BAD_LABEL, np.intp(row[FIRST]) + s)
            return
    first, last = share(size + 1, thread, threads)
    for i in range(first, last):
        line = advance(gram, i * (size + 1))
        for s in range(count):
            f = advance(features, s * tf[T_STRIDE])
            value = np.float64(f[i]) if i < size else 1.0
            for j in range(min(i + 1, size)):
                line[j] += value * np.float64(f[j])  # the product is exact: two of float32
            label = np.intp(labels[origin(row, tl) + s * tl[T_STRIDE]])
            moments[i * classes + label] += value
            if i == size:
                line[size] += 1.0
                seen[label] += 1


@jit
def _factor(work, gram, size, penalty):
    """Cholesky of the lower triangle in float64; the last row is the constant's. Return whether it worked."""
    total = size + 1
    for i in range(total):
        a = advance(work, i * total)
        for j in range(i + 1):
            b = advance(work, j * total)
            value = gram[i * total + j]
            if i == j and i < size:
                value += penalty
            for k in range(j):
                value -= a[k] * b[k]
            if i == j:
                if not value > 0.0:
                    return False
                a[i] = sqrt64(value)
            else:
                a[j] = value / b[j]
    return True


@jit
def _solve(work, column, total):
    """Solve L L^T x = column in place."""
    for i in range(total):
        value = column[i]
        for k in range(i):
            value -= work[i * total + k] * column[k]
        column[i] = value / work[i * total + i]
    for step in range(total):
        i = total - 1 - step
        value = column[i]
        for k in range(i + 1, total):
            value -= work[k * total + i] * column[k]
        column[i] = value / work[i * total + i]


@kernel
def ridge_solve(row, tensors, arena, n, thread, threads, status):
    """RIDGE_SOLVE w b work; gram moments counts (strength); work holds L and one column, in float64."""
    if thread != 0:
        return
    tm = tensor(row, tensors, 4)
    w, b = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    work = f64_at(arena, tensor(row, tensors, 2)[T_OFFSET])
    gram, moments = f64_at(arena, tensor(row, tensors, 3)[T_OFFSET]), f64_at(arena, tm[T_OFFSET])
    seen = i64_at(arena, tensor(row, tensors, 5)[T_OFFSET])
    classes = tm[T_CHANNELS]
    size = tensor(row, tensors, 3)[T_CHANNELS] - 1
    total = size + 1
    samples_seen = gram[total * total - 1]  # converting an int64 would be a library call on ARMv7
    if not _factor(work, gram, size, np.float64(real_parameter(row, 0)) * samples_seen):
        record(status, SINGULAR, -1)
        return
    column = advance(work, total * total)
    for k in range(classes):
        for i in range(total):
            column[i] = moments[i * classes + k]
        _solve(work, column, total)
        for i in range(size):
            w[i * classes + k] = np.float32(column[i])
        b[k] = np.float32(column[size]) if seen[k] > 0 else NEVER_SEEN

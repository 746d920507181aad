"""Losses with their gradients, the batch's report, and probabilities."""

import numpy as np

from edgerev.kernels.intrinsics import absolute, advance, f32_at, i32_at, outside
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import R_CORRECT, R_LOSS, LossKind, Status
from edgerev.kernels.maths import exp, fill, log, sigmoid
from edgerev.kernels.operands import (
    FIRST,
    T_CHANNELS,
    T_OFFSET,
    T_STRIDE,
    floats,
    has,
    origin,
    parameter,
    real_parameter,
    record,
    samples,
    share,
    task_columns,
    tensor,
)

CROSS_ENTROPY, BINARY, SOFT = (
    int(LossKind.CROSS_ENTROPY), int(LossKind.BINARY_CROSS_ENTROPY), int(LossKind.SOFT_CROSS_ENTROPY),
)
BAD_LABEL, BAD_TARGET, BAD_LOSS = (
    int(Status.LABEL_OUT_OF_RANGE), int(Status.TARGET_NOT_FINITE), int(Status.LOSS_NOT_FINITE),
)

BAD_OUTPUT = int(Status.OUTPUT_NOT_FINITE)
INFINITY, HALF, ABOVE_HALF = np.float32(np.inf), np.float32(0.5), np.float32(0.50000006)


@jit
def _softmax(p, z, count):
    """Write the softmax of z to p; return the largest z and the logarithm of the sum."""
    largest = z[0]
    for k in range(count):
        largest = z[k] if z[k] > largest else largest
    total = np.float32(0)
    for k in range(count):
        p[k] = exp(z[k] - largest)
        total += p[k]
    for k in range(count):
        p[k] = p[k] / total
    return largest, log(total)


@jit
def _cross_entropy(dz, z, count, label, smoothing):
    """Return loss and whether z is largest at the label; dz is the gradient of the loss."""
    largest, log_total = _softmax(dz, z, count)
    correct = np.float32(1)
    total = np.float32(0)
    for k in range(count):
        total += (largest - z[k]) + log_total
        if (z[k] > z[label] or (z[k] == z[label] and k < label)) or z[k] != z[k]:
            correct = np.float32(0)
    share_each = smoothing / np.float32(count)
    for k in range(count):
        dz[k] -= share_each
    dz[label] -= np.float32(1) - smoothing
    nll = (largest - z[label]) + log_total
    return (np.float32(1) - smoothing) * nll + share_each * total, correct


@jit
def _soft_cross_entropy(dz, z, count, target, weights, weighted):
    """Return loss and whether z is largest where the target is; dz is the gradient of the loss."""
    largest, log_total = _softmax(dz, z, count)
    mass, total = np.float32(0), np.float32(0)
    answer, wanted = np.intp(0), np.intp(0)
    for k in range(count):
        share_of_k = target[k] * weights[k] if weighted else target[k]
        mass += share_of_k
        total += share_of_k * ((largest - z[k]) + log_total)
        answer = np.intp(k) if z[k] > z[answer] else answer
        wanted = np.intp(k) if target[k] > target[wanted] else wanted
    for k in range(count):
        share_of_k = target[k] * weights[k] if weighted else target[k]
        dz[k] = dz[k] * mass - share_of_k
    return total, np.float32(1) if answer == wanted else np.float32(0)


@jit
def _element(kind, z, target, smoothing):
    """Return loss, gradient and whether the answer is right for one output of BCE or MSE."""
    if kind == BINARY:
        t = target * (np.float32(1) - smoothing) + np.float32(0.5) * smoothing
        positive = z if z > np.float32(0) else np.float32(0)
        value = positive - z * t + log(np.float32(1) + exp(-absolute(z)))
        right = (z > np.float32(0)) == (target > np.float32(0.5))
        return value, sigmoid(z) - t, np.float32(1) if right else np.float32(0)
    return (z - target) * (z - target), np.float32(2) * (z - target), np.float32(0)


@kernel
def loss(row, tensors, arena, n, thread, threads, status):
    """LOSS dz losses; z target weights counters (kind, smoothing, outputs)."""
    td, tl, tz, tt = (
        tensor(row, tensors, 0), tensor(row, tensors, 1), tensor(row, tensors, 2), tensor(row, tensors, 3),
    )
    dz_base, losses_base, z_base = (
        floats(row, tensors, arena, 0), floats(row, tensors, arena, 1), floats(row, tensors, arena, 2),
    )
    kind, smoothing = parameter(row, 0), real_parameter(row, 1)
    begin, count = task_columns(row, tensors, arena, 5, parameter(row, 2), tz[T_CHANNELS])
    divisor = np.float32(n)
    first, last = share(samples(row, n), thread, threads)
    for s in range(first, last):
        dz, z = advance(dz_base, s * td[T_STRIDE]), advance(z_base, s * tz[T_STRIDE])
        losses = advance(losses_base, s * tl[T_STRIDE])
        if count < tz[T_CHANNELS]:  # answers of other tasks have no part in it
            fill(dz, np.float32(0), tz[T_CHANNELS])
        dz, z = advance(dz, begin), advance(z, begin)
        sample = np.intp(row[FIRST]) + s
        value, correct = np.float32(0), np.float32(0)
        if kind == CROSS_ENTROPY:
            label = np.intp(i32_at(arena, tt[T_OFFSET])[origin(row, tt) + s * tt[T_STRIDE]])
            if label < 0 or label >= count:
                record(status, BAD_LABEL, sample)
                label = np.intp(0)
            value, correct = _cross_entropy(dz, z, count, label, smoothing)
            weight = floats(row, tensors, arena, 4)[label] if has(row, 4) else np.float32(1)
            value *= weight
            for k in range(count):
                dz[k] = dz[k] * weight / divisor
        elif kind == SOFT:
            target, weighted = advance(floats(row, tensors, arena, 3), s * tt[T_STRIDE] + begin), has(row, 4)
            for k in range(count):
                if outside(target[k] - HALF, ABOVE_HALF):
                    record(status, BAD_TARGET, sample)
            weights = floats(row, tensors, arena, 4) if weighted else target
            value, correct = _soft_cross_entropy(dz, z, count, target, weights, weighted)
            for k in range(count):
                dz[k] = dz[k] / divisor
        else:
            target = advance(floats(row, tensors, arena, 3), s * tt[T_STRIDE] + begin)
            for k in range(count):
                if outside(target[k], INFINITY) or (kind == BINARY and outside(target[k] - HALF, ABOVE_HALF)):
                    record(status, BAD_TARGET, sample)
                weight = floats(row, tensors, arena, 4)[k] if has(row, 4) else np.float32(1)
                one, slope, right = _element(kind, z[k], target[k], smoothing)
                value += weight * one
                correct += right
                dz[k] = weight * slope / np.float32(count) / divisor
            value, correct = value / np.float32(count), correct / np.float32(count)
        if not value - value == np.float32(0):
            record(status, BAD_LOSS, sample)
        losses[0], losses[1] = value, correct


@kernel
def report(row, tensors, arena, n, thread, threads, status):
    """REPORT report; losses: means over the run's samples, added in order."""
    if thread != 0:
        return
    target = f32_at(arena, tensor(row, tensors, 0)[T_OFFSET])
    losses, stride = floats(row, tensors, arena, 1), tensor(row, tensors, 1)[T_STRIDE]
    total, correct = np.float32(0), np.float32(0)
    for s in range(n):
        total += losses[s * stride]
        correct += losses[s * stride + 1]
    target[R_LOSS], target[R_CORRECT] = total / np.float32(n), correct / np.float32(n)


@kernel
def probability(row, tensors, arena, n, thread, threads, status):
    """PROBABILITY p; z counters (kind, outputs)."""
    tp, tz = tensor(row, tensors, 0), tensor(row, tensors, 1)
    p_base, z_base = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    kind = parameter(row, 0)
    begin, count = task_columns(row, tensors, arena, 2, parameter(row, 1), tz[T_CHANNELS])
    first, last = share(samples(row, n), thread, threads)
    for s in range(first, last):
        p, z = advance(p_base, s * tp[T_STRIDE]), advance(z_base, s * tz[T_STRIDE])
        if count < tz[T_CHANNELS]:
            fill(p, np.float32(0), tz[T_CHANNELS])
        p, z = advance(p, begin), advance(z, begin)
        for k in range(count):
            if outside(z[k], INFINITY):
                record(status, BAD_OUTPUT, np.intp(row[FIRST]) + s)
        if kind in (CROSS_ENTROPY, SOFT):
            _softmax(p, z, count)
        else:
            for k in range(count):
                p[k] = sigmoid(z[k]) if kind == BINARY else z[k]

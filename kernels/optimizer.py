"""Learning-rate schedule, clipping, and the updates: SGD, AdamW, Lion. docs/program.md has the equations."""

import numpy as np

from edgerev.kernels.intrinsics import block_of_floats, f32_at, fma, i64_at, outside, sqrt, to_int32_inside
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import (
    C_STEP,
    C_TASK,
    V_CLIP,
    V_CORRECTION1,
    V_CORRECTION2,
    V_FACTOR,
    V_GRAD_SQUARES,
    V_POWER1,
    V_POWER2,
    V_RATE,
    V_TASK,
    V_WEIGHT_SQUARES,
    ClipKind,
    ScheduleKind,
    Status,
    UpdateKind,
)
from edgerev.kernels.maths import cos_pi
from edgerev.kernels.operands import (
    T_CHANNELS,
    T_OFFSET,
    T_SIZE,
    floats,
    has,
    parameter,
    real_parameter,
    record,
    share,
    share_elements,
    tensor,
)
from edgerev.kernels.vectors import dot

COSINE, ADAPTIVE = int(ScheduleKind.COSINE), int(ClipKind.ADAPTIVE)
SGD, ADAMW = int(UpdateKind.SGD), int(UpdateKind.ADAMW)
NOT_FINITE = int(Status.GRADIENT_NOT_FINITE)
INFINITY = np.float32(np.inf)
BLOCK = 64  # weights that are updated at a time where a gradient has to be kept beside them: half of block_of_floats


@jit
def _rate(row, step):
    rate, warmup, total = real_parameter(row, 1), parameter(row, 2), parameter(row, 3)
    if step <= warmup:
        return rate * np.float32(step) / np.float32(warmup)
    if parameter(row, 0) != COSINE:
        return rate
    span = max(total - warmup, np.intp(1))
    q = np.float32(min(step - warmup, span)) / np.float32(span)
    floor = real_parameter(row, 4)
    return rate * fma((np.float32(1) - floor) * np.float32(0.5), np.float32(1) + cos_pi(q), floor)


@kernel
def schedule(row, tensors, arena, n, thread, threads, status):
    """SCHEDULE scalars; counters (kind, rate, warmup, total, floor, beta1, beta2)."""
    if thread != 0:
        return
    scalars = f32_at(arena, tensor(row, tensors, 0)[T_OFFSET])
    counters = i64_at(arena, tensor(row, tensors, 1)[T_OFFSET])
    step = np.intp(counters[C_STEP])
    one = np.float32(1)
    scalars[V_RATE] = scalars[V_FACTOR] * _rate(row, step + 1)
    scalars[V_CORRECTION1] = one / (one - scalars[V_POWER1] * real_parameter(row, 5))
    scalars[V_CORRECTION2] = one / (one - scalars[V_POWER2] * real_parameter(row, 6))
    scalars[V_CLIP] = one
    scalars[V_TASK] = np.float32(np.int32(counters[C_TASK]))


@kernel
def advance_step(row, tensors, arena, n, thread, threads, status):
    """ADVANCE scalars counters (beta1, beta2)."""
    if thread != 0:
        return
    scalars = f32_at(arena, tensor(row, tensors, 0)[T_OFFSET])
    counters = i64_at(arena, tensor(row, tensors, 1)[T_OFFSET])
    scalars[V_POWER1] *= real_parameter(row, 0)
    scalars[V_POWER2] *= real_parameter(row, 1)
    counters[C_STEP] += 1


@kernel
def grad_norm(row, tensors, arena, n, thread, threads, status):
    """GRAD_NORM scalars; g (slot, reset)."""
    if thread != 0:
        return
    scalars = f32_at(arena, tensor(row, tensors, 0)[T_OFFSET])
    tg = tensor(row, tensors, 1)
    g = f32_at(arena, tg[T_OFFSET])
    slot = parameter(row, 0)
    before = np.float32(0) if parameter(row, 1) != 0 else scalars[slot]
    scalars[slot] = before + dot(g, g, tg[T_SIZE])
    if slot == V_GRAD_SQUARES and not scalars[slot] - scalars[slot] == np.float32(0):
        record(status, NOT_FINITE, -1)


@kernel
def clip(row, tensors, arena, n, thread, threads, status):
    """CLIP scalars (kind, limit); ADAPTIVE after Brock et al. 2021, for a whole function."""
    if thread != 0:
        return
    scalars = f32_at(arena, tensor(row, tensors, 0)[T_OFFSET])
    limit = real_parameter(row, 1)
    if parameter(row, 0) == ADAPTIVE:
        limit *= max(sqrt(scalars[V_WEIGHT_SQUARES]), np.float32(1e-3))
    size = sqrt(scalars[V_GRAD_SQUARES])
    scalars[V_CLIP] = limit / size if size > limit else np.float32(1)


@jit
def _any_not_finite(g, first, last):
    found = np.int32(0)
    for i in range(first, last):
        found = np.int32(found | np.int32(outside(g[i], INFINITY)))
    return found != np.int32(0)


@jit
def _sgd(w, m, g, first, last, rate, clipped, beta, decay, nesterov, momentum):
    for i in range(first, last):
        slope = fma(decay, w[i], g[i] * clipped)
        if momentum:
            m[i] = fma(beta, m[i], slope)
            slope = fma(beta, m[i], slope) if nesterov else m[i]
        w[i] = fma(-rate, slope, w[i])


@jit
def _adamw(w, m, v, g, first, last, rate, clipped, beta1, beta2, epsilon, decay, correction1, correction2):
    one = np.float32(1)
    for i in range(first, last):
        slope = g[i] * clipped
        m[i] = fma(beta1, m[i], (one - beta1) * slope)
        v[i] = fma(beta2, v[i], (one - beta2) * (slope * slope))
        shrunk = fma(-rate * decay, w[i], w[i])
        w[i] = shrunk - rate * (m[i] * correction1) / (sqrt(v[i] * correction2) + epsilon)


@jit
def _lion(w, m, g, first, last, rate, clipped, beta1, beta2, decay):
    one, zero = np.float32(1), np.float32(0)
    for i in range(first, last):
        slope = g[i] * clipped
        mixed = fma(beta1, m[i], (one - beta1) * slope)
        sign = one if mixed > zero else (-one if mixed < zero else zero)
        w[i] = fma(-rate, fma(decay, w[i], sign), w[i])
        m[i] = fma(beta2, m[i], (one - beta2) * slope)


@jit
def _pull(w, g, importance, anchor, first, last, clipped, strength, kept):
    """Keep weights and gradients of a block, and add to the gradients what draws the weights to their anchors."""
    for i in range(first, last):
        kept[i - first] = w[i]
        kept[BLOCK + i - first] = g[i]
        g[i] = fma(strength * importance[i], w[i] - anchor[i], g[i] * clipped)


@jit
def _add_work(path, w, first, last, kept):
    """Add what the loss's own gradient did along the way of a block of weights."""
    for i in range(first, last):
        path[i] = fma(-kept[BLOCK + i - first], w[i] - kept[i - first], path[i])


@jit
def _change(row, tensors, arena, first, last, kept):
    """Update the weights first .. last - 1."""
    w, g = floats(row, tensors, arena, 0), floats(row, tensors, arena, 4)
    m = floats(row, tensors, arena, 1) if has(row, 1) else w
    scalars = f32_at(arena, tensor(row, tensors, 5)[T_OFFSET])
    kind, beta1, beta2 = parameter(row, 0), real_parameter(row, 1), real_parameter(row, 2)
    decay = real_parameter(row, 4)
    rate = scalars[V_RATE] * real_parameter(row, 6)
    clipped = scalars[V_CLIP] if parameter(row, 7) != 0 else np.float32(1)
    remembers, size = has(row, 6), BLOCK if has(row, 6) else max(last - first, np.intp(1))
    for start in range(first, last, size):
        stop = min(start + size, last)
        if remembers:
            importance, anchor = floats(row, tensors, arena, 6), floats(row, tensors, arena, 7)
            _pull(w, g, importance, anchor, start, stop, clipped, real_parameter(row, 8), kept)
        factor = np.float32(1) if remembers else clipped
        if kind == SGD:
            _sgd(w, m, g, start, stop, rate, factor, beta1, decay, parameter(row, 5) != 0, has(row, 1))
        elif kind == ADAMW:
            v = floats(row, tensors, arena, 2)
            _adamw(
                w, m, v, g, start, stop, rate, factor, beta1, beta2, real_parameter(row, 3), decay,
                scalars[V_CORRECTION1], scalars[V_CORRECTION2],
            )
        else:
            _lion(w, m, g, start, stop, rate, factor, beta1, beta2, decay)
        if has(row, 3):
            _add_work(floats(row, tensors, arena, 3), w, start, stop, kept)


@kernel
def update(row, tensors, arena, n, thread, threads, status):
    """UPDATE w m v path; g scalars importance anchor (kind, beta1, beta2, epsilon, decay, ..., strength, outputs)."""
    tw, g = tensor(row, tensors, 0), floats(row, tensors, arena, 4)
    task = np.intp(to_int32_inside(f32_at(arena, tensor(row, tensors, 5)[T_OFFSET])[V_TASK]))
    outputs, columns = parameter(row, 9), tw[T_CHANNELS]
    kept = block_of_floats()
    if outputs == 0 or task == 0:
        first, last = share_elements(tw[T_SIZE], thread, threads)
        if _any_not_finite(g, first, last):
            record(status, NOT_FINITE, -1)
            return
        _change(row, tensors, arena, first, last, kept)
        return
    top, bottom = share(tw[T_SIZE] // columns, thread, threads)
    if _any_not_finite(g, top * columns, bottom * columns):
        record(status, NOT_FINITE, -1)
        return
    for line in range(top, bottom):
        first = line * columns + (task - 1) * outputs
        _change(row, tensors, arena, first, first + outputs, kept)

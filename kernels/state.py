"""The state of the backbone: additive couplings on a fixed-point grid, and the moves of data around them.

``y1 = x1 + F(x2)`` (NICE, Dinh et al. 2015, eq. 8; RevNet, Gomez et al. 2017, eq. 6). On the grid the addition is one
of integers, so subtracting undoes it bit for bit as long as F gives the same bits.
"""

import numpy as np

from edgerev.kernels.intrinsics import advance, f32_at, i16_at, i32_at, outside, round_half_even, to_int32_inside
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import DType, Status
from edgerev.kernels.operands import (
    FIRST,
    T_CHANNELS,
    T_DTYPE,
    T_HEIGHT,
    T_OFFSET,
    T_PAD_X,
    T_PAD_Y,
    T_SIZE,
    T_STRIDE,
    T_WIDTH,
    floats,
    line_length,
    line_offset,
    line_stride,
    origin,
    parameter,
    real_parameter,
    record,
    samples,
    share,
    share_elements,
    tensor,
    whole,
)

I32, I16, I64 = int(DType.I32), int(DType.I16), int(DType.I64)
STEP32, STEP16 = np.float32(2.0**-20), np.float32(2.0**-10)
SCALE32, SCALE16 = np.float32(2.0**20), np.float32(2.0**10)
LIMIT32, LIMIT16 = np.float32(2.0**31), np.float32(2.0**30)
INFINITY = np.float32(np.inf)
NOT_FINITE, OVERFLOW = int(Status.STATE_NOT_FINITE), int(Status.STATE_OVERFLOW)


@jit
def _load_run(y, arena, t, at, scale, count):
    """y = scale times the state's elements from `at` on; one loop for each type, so that each is vectorised."""
    if t[T_DTYPE] == I32:
        s32 = advance(i32_at(arena, t[T_OFFSET]), at)
        for c in range(count):
            y[c] = np.float32(s32[c]) * STEP32 * scale
    elif t[T_DTYPE] == I16:
        s16 = advance(i16_at(arena, t[T_OFFSET]), at)
        for c in range(count):
            y[c] = np.float32(s16[c]) * STEP16 * scale
    else:
        s = advance(f32_at(arena, t[T_OFFSET]), at)
        for c in range(count):
            y[c] = s[c] * scale


@kernel
def load(row, tensors, arena, n, thread, threads, status):
    """LOAD y; s (channel, scale): the state as float32 times scale, into a range of y's channels."""
    ty, ts = tensor(row, tensors, 0), tensor(row, tensors, 1)
    y_base = advance(floats(row, tensors, arena, 0), parameter(row, 0))
    start, scale = origin(row, ts), real_parameter(row, 1)
    channels, width, step = ts[T_CHANNELS], ts[T_WIDTH], ty[T_CHANNELS]
    if step == channels and whole(ty):  # the state has no halo
        first, last = share_elements(samples(row, n) * ts[T_STRIDE], thread, threads)
        _load_run(advance(y_base, first), arena, ts, start + first, scale, last - first)
        return
    if step == channels:  # then a line is contiguous in both
        channels, width = channels * width, np.intp(1)
    first, last = share(samples(row, n) * ts[T_HEIGHT], thread, threads)
    for line in range(first, last):
        y, at = advance(y_base, line_offset(ty, line)), start + line_offset(ts, line)
        for i in range(width):
            _load_run(advance(y, i * step), arena, ts, at + i * channels, scale, channels)


# The loops of the couplings have no branches, so that they become vector code; what went wrong is found afterwards.


@jit
def _couple32(s, t, keep, flip, scale, count):
    """s = (s & keep) +- t on the int32 grid, minus where flip is -1; return whether something was out of range."""
    bad = np.int32(0)
    for i in range(count):
        scaled = round_half_even(t[i] * scale)
        lost = outside(scaled, LIMIT32)
        added = np.int32(to_int32_inside(np.float32(0) if lost else scaled) ^ flip)  # flip is 0 or -1: x ^ -1 is -x - 1
        old = np.int32(s[i] & keep)
        new = np.int32(np.int32(old + added) - flip)
        wrapped = np.int32((old ^ new) & (added ^ new))  # negative if both terms have the sign that the sum has not
        bad = np.int32(bad | np.int32(wrapped < np.int32(0)) | np.int32(lost))
        s[i] = new
    return bad != np.int32(0)


@jit
def _couple16(s, t, keep, flip, scale, count):
    """The same on the int16 grid."""
    bad = np.int32(0)
    for i in range(count):
        scaled = round_half_even(t[i] * scale)
        lost = outside(scaled, LIMIT16)
        added = np.int32(to_int32_inside(np.float32(0) if lost else scaled) ^ flip)
        new = np.int32(np.int32(np.int32(np.int32(s[i]) & keep) + added) - flip)
        bad = np.int32(bad | np.int32(np.int32(np.int16(new)) != new) | np.int32(lost))
        s[i] = np.int16(new)
    return bad != np.int32(0)


@jit
def _couple_float(s, t, keep, flip, scale, count):
    """The same in float32."""
    bad = np.int32(0)
    sign = np.float32(-1) if flip else np.float32(1)
    for i in range(count):
        value = s[i] + t[i] * scale * sign if keep else t[i] * scale
        bad = np.int32(bad | np.int32(outside(value, INFINITY)))
        s[i] = value
    return bad != np.int32(0)


@jit
def _any_nan(t, count):
    found = np.int32(0)
    for i in range(count):
        found = np.int32(found | np.int32(t[i] != t[i]))
    return found != np.int32(0)


@jit
def _couple_run(arena, ts, at, t, keep, flip, scale, count):
    """Couple elements that follow one another; return the Status."""
    if ts[T_DTYPE] == I32:
        bad = _couple32(advance(i32_at(arena, ts[T_OFFSET]), at), t, keep, flip, scale * SCALE32, count)
    elif ts[T_DTYPE] == I16:
        bad = _couple16(advance(i16_at(arena, ts[T_OFFSET]), at), t, keep, flip, scale * SCALE16, count)
    else:
        bad = _couple_float(advance(f32_at(arena, ts[T_OFFSET]), at), t, keep, flip, scale, count)
    if not bad:
        return np.intp(0)
    return np.intp(NOT_FINITE) if _any_nan(t, count) else np.intp(OVERFLOW)


@kernel
def couple(row, tensors, arena, n, thread, threads, status):
    """COUPLE s; t (sign, channel, scale): the coupling's sum or difference, or the stem's output on the grid."""
    ts, tt = tensor(row, tensors, 0), tensor(row, tensors, 1)
    keep = np.int32(0) if parameter(row, 0) == 0 else np.int32(-1)
    flip = np.int32(-1) if parameter(row, 0) < 0 else np.int32(0)
    scale = real_parameter(row, 2)
    t_base = advance(floats(row, tensors, arena, 1), parameter(row, 1))
    start, channels, width, step = origin(row, ts), ts[T_CHANNELS], ts[T_WIDTH], tt[T_CHANNELS]
    if step == channels and whole(tt):  # the state has no halo
        first, last = share_elements(samples(row, n) * ts[T_STRIDE], thread, threads)
        t = advance(t_base, first)
        if _couple_run(arena, ts, start + first, t, keep, flip, scale, last - first):
            if keep:  # take it all back, to find the sample
                _couple_run(arena, ts, start + first, t, keep, np.int32(~flip), scale, last - first)
            _couple_samples(row, arena, ts, start, t_base, keep, flip, scale, first, last, status)
        return
    if step == channels:
        channels, width = channels * width, np.intp(1)
    first, last = share(samples(row, n) * ts[T_HEIGHT], thread, threads)
    for line in range(first, last):
        for i in range(width):
            t = advance(t_base, line_offset(tt, line) + i * step)
            at = start + line_offset(ts, line) + i * channels
            found = _couple_run(arena, ts, at, t, keep, flip, scale, channels)
            if found:
                record(status, found, np.intp(row[FIRST]) + line // ts[T_HEIGHT])


@jit
def _couple_samples(row, arena, ts, start, t_base, keep, flip, scale, first, last, status):
    """Couple elements sample by sample, so that what goes wrong has one."""
    while first < last:
        sample = first // ts[T_STRIDE]
        end = min(last, (sample + 1) * ts[T_STRIDE])
        found = _couple_run(arena, ts, start + first, advance(t_base, first), keep, flip, scale, end - first)
        if found:
            record(status, found, np.intp(row[FIRST]) + sample)
        first = end


@kernel
def accumulate(row, tensors, arena, n, thread, threads, status):
    """ACCUMULATE g; t: g += t."""
    tg, tt = tensor(row, tensors, 0), tensor(row, tensors, 1)
    g_base, t_base = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    length = line_length(tg)
    first, last = share(samples(row, n) * tg[T_HEIGHT], thread, threads)
    for line in range(first, last):
        g, t = advance(g_base, line_offset(tg, line)), advance(t_base, line_offset(tt, line))
        for i in range(length):
            g[i] += t[i]


@jit
def clear_halo(row, tensors, arena, n, thread, threads):
    """Write the zeros around the samples of an instruction's first output."""
    ty = tensor(row, tensors, 0)
    if not whole(ty):
        _clear_halo(row, tensors, arena, n, thread, threads)


@kernel
def _clear_halo(row, tensors, arena, n, thread, threads):
    ty = tensor(row, tensors, 0)
    stride, height, pad = line_stride(ty), ty[T_HEIGHT], ty[T_PAD_Y]
    edge = ty[T_PAD_X] * ty[T_CHANNELS]
    base = advance(floats(row, tensors, arena, 0), -(pad * stride + edge))
    lines = height + 2 * pad
    first, last = share(samples(row, n) * lines, thread, threads)
    for item in range(first, last):
        line = item % lines
        y = advance(base, (item // lines) * ty[T_STRIDE] + line * stride)
        if line < pad or line >= pad + height:
            for i in range(stride):
                y[i] = np.float32(0)
        else:
            for i in range(edge):
                y[i] = np.float32(0)
                y[stride - edge + i] = np.float32(0)


@jit
def _squeeze(y, x, ty, tx, inverse, line, start_y, start_x):
    """Move one line of the larger image to or from depth."""
    large = ty if inverse else tx
    small = tx if inverse else ty
    factor_h, factor_w = large[T_HEIGHT] // small[T_HEIGHT], large[T_WIDTH] // small[T_WIDTH]
    channels, height = large[T_CHANNELS], large[T_HEIGHT]
    sample, i = line // height, line % height
    wide = sample * large[T_STRIDE] + i * line_stride(large)
    deep = sample * small[T_STRIDE] + (i // factor_h) * line_stride(small) + (i % factor_h) * factor_w * channels
    run = factor_w * channels
    for j in range(small[T_WIDTH]):
        at_wide, at_deep = wide + j * run, deep + j * small[T_CHANNELS]
        target = at_wide if inverse else at_deep
        source = at_deep if inverse else at_wide
        for c in range(run):
            y[start_y + target + c] = x[start_x + source + c]


@kernel
def squeeze(row, tensors, arena, n, thread, threads, status):
    """SQUEEZE y; x (inverse): space to depth (i-RevNet, Jacobsen et al. 2018), or back."""
    ty, tx = tensor(row, tensors, 0), tensor(row, tensors, 1)
    inverse, kind = parameter(row, 0) != 0, ty[T_DTYPE]
    height = ty[T_HEIGHT] if inverse else tx[T_HEIGHT]
    first, last = share(samples(row, n) * height, thread, threads)
    a, b = origin(row, ty), origin(row, tx)
    for line in range(first, last):
        if kind == I16:
            _squeeze(i16_at(arena, ty[T_OFFSET]), i16_at(arena, tx[T_OFFSET]), ty, tx, inverse, line, a, b)
        else:
            _squeeze(i32_at(arena, ty[T_OFFSET]), i32_at(arena, tx[T_OFFSET]), ty, tx, inverse, line, a, b)


@kernel
def copy(row, tensors, arena, n, thread, threads, status):
    """COPY y; x: lines of samples, any dtype of 2 or 4 bytes."""
    ty, tx = tensor(row, tensors, 0), tensor(row, tensors, 1)
    a, b, length = origin(row, ty), origin(row, tx), line_length(ty)
    first, last = share(samples(row, n) * ty[T_HEIGHT], thread, threads)
    for line in range(first, last):
        to, source = a + line_offset(ty, line), b + line_offset(tx, line)
        if ty[T_DTYPE] == I16:
            y16, x16 = i16_at(arena, ty[T_OFFSET]), i16_at(arena, tx[T_OFFSET])
            for i in range(length):
                y16[to + i] = x16[source + i]
        else:
            y32, x32 = i32_at(arena, ty[T_OFFSET]), i32_at(arena, tx[T_OFFSET])
            for i in range(length):
                y32[to + i] = x32[source + i]


@kernel
def zero(row, tensors, arena, n, thread, threads, status):
    """ZERO y: a whole tensor of 4 or 8 bytes an element that does not depend on the batch."""
    ty = tensor(row, tensors, 0)
    first, last = share(ty[T_SIZE] * (2 if ty[T_DTYPE] >= I64 else 1), thread, threads)
    y = f32_at(arena, ty[T_OFFSET])
    for i in range(first, last):
        y[i] = np.float32(0)

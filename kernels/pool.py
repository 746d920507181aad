"""The features that a head sees: means of the state over cells of its positions."""

import numpy as np

from edgerev.kernels.intrinsics import advance, f32_at, i16_at, i32_at
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.maths import fill
from edgerev.kernels.operands import (
    T_CHANNELS,
    T_DTYPE,
    T_HEIGHT,
    T_OFFSET,
    T_STRIDE,
    T_WIDTH,
    floats,
    has,
    origin,
    parameter,
    samples,
    share,
    tensor,
)
from edgerev.kernels.state import I16, I32, STEP16, STEP32


@jit
def _add_real(y, arena, t, at, count):
    """y += the state's elements from `at` on, as float32; one loop for each type, so that each is vectorised."""
    if t[T_DTYPE] == I32:
        s32 = advance(i32_at(arena, t[T_OFFSET]), at)
        for c in range(count):
            y[c] += np.float32(s32[c]) * STEP32
    elif t[T_DTYPE] == I16:
        s16 = advance(i16_at(arena, t[T_OFFSET]), at)
        for c in range(count):
            y[c] += np.float32(s16[c]) * STEP16
    else:
        s = advance(f32_at(arena, t[T_OFFSET]), at)
        for c in range(count):
            y[c] += s[c]


@jit
def _add_positive(y, arena, t, at, count):
    """The same of what is positive; NaN passes."""
    zero = np.float32(0)
    for c in range(count):
        value = _real(arena, t, at + c)
        y[c] += zero if value < zero else value


@jit
def _mask(g, arena, t, at, count):
    """g = 0 where the state is not positive."""
    for c in range(count):
        g[c] = g[c] if _real(arena, t, at + c) > np.float32(0) else np.float32(0)


@jit
def _real(arena, t, at):
    """Return an element of the state as float32."""
    if t[T_DTYPE] == I32:
        return np.float32(i32_at(arena, t[T_OFFSET])[at]) * STEP32
    if t[T_DTYPE] == I16:
        return np.float32(i16_at(arena, t[T_OFFSET])[at]) * STEP16
    return f32_at(arena, t[T_OFFSET])[at]


@jit
def _edge(cell, cells, size):
    """Return the first position of a cell, for `cells` of them along `size` positions."""
    return cell * size // cells


@jit
def _pool_cell(features, arena, ts, at, y, x, rectified):
    """features = mean over the positions of one cell, whose ends are pairs."""
    channels = ts[T_CHANNELS]
    for row in range(y[0], y[1]):
        for column in range(x[0], x[1]):
            place = at + (row * ts[T_WIDTH] + column) * channels
            if rectified:
                _add_positive(features, arena, ts, place, channels)
            else:
                _add_real(features, arena, ts, place, channels)
    positions = (y[1] - y[0]) * (x[1] - x[0])
    if positions > 1:
        for c in range(channels):
            features[c] = features[c] / np.float32(positions)


@kernel
def pool(row, tensors, arena, n, thread, threads, status):
    """POOL features; s1 s2 (rows, columns, rectify): threads share samples."""
    tf = tensor(row, tensors, 0)
    base = floats(row, tensors, arena, 0)
    rows, columns, rectified = parameter(row, 0), parameter(row, 1), parameter(row, 2) != 0
    first, last = share(samples(row, n), thread, threads)
    offset = np.intp(0)
    for half in range(1, 3):
        if not has(row, half):
            continue
        ts = tensor(row, tensors, half)
        start, channels = origin(row, ts), ts[T_CHANNELS]
        height, width = ts[T_HEIGHT], ts[T_WIDTH]  # the state has no halo
        for sample in range(first, last):
            at = start + sample * ts[T_STRIDE]
            for cell in range(rows * columns):
                features = advance(base, sample * tf[T_STRIDE] + offset + cell * channels)
                r, c = cell // columns, cell % columns
                y = (_edge(r, rows, height), _edge(r + 1, rows, height))
                x = (_edge(c, columns, width), _edge(c + 1, columns, width))
                fill(features, np.float32(-0.0), channels)  # what leaves any number as it is, -0 too
                _pool_cell(features, arena, ts, at, y, x, rectified)
        offset += rows * columns * channels


@kernel
def pool_grad(row, tensors, arena, n, thread, threads, status):
    """POOL_GRAD g1 g2; dfeatures s1 s2 (rows, columns, rectify): threads share samples."""
    tf = tensor(row, tensors, 2)
    base = floats(row, tensors, arena, 2)
    rows, columns, rectified = parameter(row, 0), parameter(row, 1), parameter(row, 2) != 0
    first, last = share(samples(row, n), thread, threads)
    offset = np.intp(0)
    for half in range(2):
        tg, ts = tensor(row, tensors, half), tensor(row, tensors, 3 + half)
        g_base, channels = floats(row, tensors, arena, half), tg[T_CHANNELS]
        height, width = tg[T_HEIGHT], tg[T_WIDTH]
        start = origin(row, ts)
        for sample in range(first, last):
            features, g = advance(base, sample * tf[T_STRIDE] + offset), advance(g_base, sample * tg[T_STRIDE])
            at = start + sample * ts[T_STRIDE]
            for r in range(rows):
                top, bottom = _edge(r, rows, height), _edge(r + 1, rows, height)
                for c in range(columns):
                    left, right = _edge(c, columns, width), _edge(c + 1, columns, width)
                    slope = advance(features, (r * columns + c) * channels)
                    divisor = np.float32((bottom - top) * (right - left))
                    for y in range(top, bottom):
                        for x in range(left, right):
                            place = (y * width + x) * channels
                            for i in range(channels):
                                g[place + i] = slope[i] / divisor
                            if rectified:
                                _mask(advance(g, place), arena, ts, at + place, channels)
        offset += rows * columns * channels

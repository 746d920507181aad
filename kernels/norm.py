"""Normalisation without batch statistics: RMS (Zhang and Sennrich 2019) and group (Wu and He 2018).

Sums over channels use the 16 virtual lanes of `dot`; sums over positions go position by position.
"""

import numpy as np

from edgerev.kernels.intrinsics import advance, fma, sqrt
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import NormKind
from edgerev.kernels.operands import (
    T_CHANNELS,
    T_HEIGHT,
    T_STRIDE,
    T_WIDTH,
    continues,
    floats,
    has,
    line_offset,
    line_stride,
    parameter,
    real_parameter,
    samples,
    share,
    tensor,
)
from edgerev.kernels.vectors import dot

RMS = int(NormKind.RMS)


@jit
def _rms(y, x, gamma, channels, epsilon):
    mean = dot(x, x, channels) / np.float32(channels)
    r = np.float32(1) / sqrt(mean + epsilon)
    for c in range(channels):
        y[c] = x[c] * r * gamma[c]
    return r


@jit
def _group_moments(x, tx, first, width):
    """Return mean and variance of channels ``first .. first + width`` of one sample."""
    height, columns, channels = tx[T_HEIGHT], tx[T_WIDTH], tx[T_CHANNELS]
    count = np.float32(height * columns * width)
    total = np.float32(0)
    for y in range(height):
        for i in range(columns):
            source = advance(x, y * line_stride(tx) + i * channels + first)
            for c in range(width):
                total += source[c]
    mean = total / count
    squares = np.float32(0)
    for y in range(height):
        for i in range(columns):
            source = advance(x, y * line_stride(tx) + i * channels + first)
            for c in range(width):
                squares = fma(source[c] - mean, source[c] - mean, squares)
    return mean, squares / count


@kernel
def norm(row, tensors, arena, n, thread, threads, status):
    """NORM y stats; x gamma beta (kind, groups, epsilon)."""
    ty, ts, tx = tensor(row, tensors, 0), tensor(row, tensors, 1), tensor(row, tensors, 2)
    y_base, stats = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    x_base, gamma = floats(row, tensors, arena, 2), floats(row, tensors, arena, 3)
    groups, epsilon = parameter(row, 1), real_parameter(row, 2)
    channels, columns = ty[T_CHANNELS], ty[T_WIDTH]
    if parameter(row, 0) == RMS:
        first, last = share(samples(row, n) * ty[T_HEIGHT], thread, threads)
        for line in range(first, last):
            y, x = advance(y_base, line_offset(ty, line)), advance(x_base, line_offset(tx, line))
            r = advance(stats, line_offset(ts, line))
            for i in range(columns):
                r[i] = _rms(advance(y, i * channels), advance(x, i * channels), gamma, channels, epsilon)
        return
    width = channels // groups
    beta = floats(row, tensors, arena, 4)
    first, last = share(samples(row, n) * groups, thread, threads)
    for item in range(first, last):
        sample, start = item // groups, (item % groups) * width
        x, moments = advance(x_base, sample * tx[T_STRIDE]), advance(stats, sample * ts[T_STRIDE])
        mean, variance = _group_moments(x, tx, start, width)
        r = np.float32(1) / sqrt(variance + epsilon)
        moments[2 * (item % groups)] = mean
        moments[2 * (item % groups) + 1] = r
        for line in range(ty[T_HEIGHT]):
            for i in range(columns):
                source = advance(x, line * line_stride(tx) + i * channels + start)
                target = advance(y_base, sample * ty[T_STRIDE] + line * line_stride(ty) + i * channels + start)
                for c in range(width):
                    target[c] = fma((source[c] - mean) * r, gamma[start + c], beta[start + c])


@jit
def _rms_grad(dx, x, dy, gamma, channels, r):
    """dx = r (dy gamma - x r^2 mean(dy gamma x))."""
    for c in range(channels):
        dx[c] = dy[c] * gamma[c]
    slope = dot(dx, x, channels) / np.float32(channels) * r * r
    for c in range(channels):
        dx[c] = fma(-slope, x[c], dx[c]) * r


@kernel
def norm_grad(row, tensors, arena, n, thread, threads, status):
    """NORM_GRAD dx; x dy gamma stats (kind, groups)."""
    td, tx, ty, ts = (
        tensor(row, tensors, 0), tensor(row, tensors, 1), tensor(row, tensors, 2), tensor(row, tensors, 4),
    )
    d_base, x_base, y_base = (
        floats(row, tensors, arena, 0), floats(row, tensors, arena, 1), floats(row, tensors, arena, 2),
    )
    gamma, stats = floats(row, tensors, arena, 3), floats(row, tensors, arena, 4)
    channels, columns, height = td[T_CHANNELS], td[T_WIDTH], td[T_HEIGHT]
    if parameter(row, 0) == RMS:
        first, last = share(samples(row, n) * height, thread, threads)
        for line in range(first, last):
            dx, x = advance(d_base, line_offset(td, line)), advance(x_base, line_offset(tx, line))
            dy, r = advance(y_base, line_offset(ty, line)), advance(stats, line_offset(ts, line))
            for i in range(columns):
                at = i * channels
                _rms_grad(advance(dx, at), advance(x, at), advance(dy, at), gamma, channels, r[i])
        return
    groups = parameter(row, 1)
    width = channels // groups
    count = np.float32(height * columns * width)
    first, last = share(samples(row, n) * groups, thread, threads)
    for item in range(first, last):
        sample, start = item // groups, (item % groups) * width
        moments = advance(stats, sample * ts[T_STRIDE] + 2 * (item % groups))
        mean, r = moments[0], moments[1]
        x, dy = advance(x_base, sample * tx[T_STRIDE]), advance(y_base, sample * ty[T_STRIDE])
        total, projected = np.float32(0), np.float32(0)
        for line in range(height):
            for i in range(columns):
                a = advance(x, line * line_stride(tx) + i * channels + start)
                b = advance(dy, line * line_stride(ty) + i * channels + start)
                for c in range(width):
                    slope = b[c] * gamma[start + c]
                    total += slope
                    projected = fma(slope, (a[c] - mean) * r, projected)
        total, projected = total / count, projected / count
        for line in range(height):
            for i in range(columns):
                a = advance(x, line * line_stride(tx) + i * channels + start)
                b = advance(dy, line * line_stride(ty) + i * channels + start)
                target = advance(d_base, sample * td[T_STRIDE] + line * line_stride(td) + i * channels + start)
                for c in range(width):
                    slope = b[c] * gamma[start + c]
                    target[c] = r * (fma(-projected, (a[c] - mean) * r, slope) - total)


@kernel
def norm_wgrad(row, tensors, arena, n, thread, threads, status):
    """NORM_WGRAD dgamma dbeta; x dy stats (kind, groups); threads share channels."""
    tx, ty, ts = tensor(row, tensors, 2), tensor(row, tensors, 3), tensor(row, tensors, 4)
    dgamma, stats = floats(row, tensors, arena, 0), floats(row, tensors, arena, 4)
    dbeta = floats(row, tensors, arena, 1) if has(row, 1) else dgamma
    x_base, y_base = floats(row, tensors, arena, 2), floats(row, tensors, arena, 3)
    rms, groups, accumulate = parameter(row, 0) == RMS, parameter(row, 1), continues(row)
    channels, columns = tx[T_CHANNELS], tx[T_WIDTH]
    width = channels if rms else channels // groups
    first, last = share(channels, thread, threads)
    if not accumulate:
        for c in range(first, last):
            dgamma[c] = np.float32(0)
            if not rms:
                dbeta[c] = np.float32(0)
    for line in range(samples(row, n) * tx[T_HEIGHT]):
        x, dy = advance(x_base, line_offset(tx, line)), advance(y_base, line_offset(ty, line))
        if rms:
            r = advance(stats, line_offset(ts, line))
            for i in range(columns):
                for c in range(first, last):
                    dgamma[c] = fma(dy[i * channels + c], x[i * channels + c] * r[i], dgamma[c])
        else:
            moments = advance(stats, (line // tx[T_HEIGHT]) * ts[T_STRIDE])
            for i in range(columns):
                for c in range(first, last):
                    mean, r1 = moments[2 * (c // width)], moments[2 * (c // width) + 1]
                    dgamma[c] = fma(dy[i * channels + c], (x[i * channels + c] - mean) * r1, dgamma[c])
                    dbeta[c] += dy[i * channels + c]

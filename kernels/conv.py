"""Convolutions of stride 1 (dense layers and 1-D signals are the small cases), their weight gradients and FLIP.

Implicit GEMM over channels-last rows: with a halo, the inputs of neighbouring outputs are the same row shifted by one
pixel, so the innermost run of k is ``kernel_w * channels`` contiguous elements and no im2col buffer exists. Where
neither tensor has a halo and the kernel is 1x1, all positions of all samples are one matrix.
"""

import numpy as np

from edgerev.kernels.intrinsics import advance, as_float, f32_at, fma, outside, three_floats
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import V_RATE, Status
from edgerev.kernels.maths import float_bits
from edgerev.kernels.matrix import product, product_of_transposed
from edgerev.kernels.operands import (
    T_CHANNELS,
    T_HEIGHT,
    T_OFFSET,
    T_STRIDE,
    T_WIDTH,
    continues,
    floats,
    has,
    line_offset,
    line_stride,
    parameter,
    real_parameter,
    record,
    samples,
    share,
    tensor,
    whole,
)
from edgerev.kernels.tile import (
    DECAY,
    FAILED,
    FROM_BIAS,
    FROM_C,
    FROM_ZERO,
    MASK,
    PLAIN,
    RATE,
    RELU,
    SGD,
    WIDTH,
    strip,
    strip_transposed,
    strip_width,
)
from edgerev.kernels.vectors import transpose, update_by_outer

INFINITY = np.float32(np.inf)
NOT_FINITE = int(Status.GRADIENT_NOT_FINITE)
PART = 32  # positions of a line that one thread computes in a row


@kernel
def conv(row, tensors, arena, n, thread, threads, status):
    """CONV y; x w b mask (kernel_h, kernel_w, relu, add)."""
    count = samples(row, n)
    ty, tx, tm = tensor(row, tensors, 0), tensor(row, tensors, 1), tensor(row, tensors, 0)
    y, x, w = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1), floats(row, tensors, arena, 2)
    bias, start, mask, end = w, np.intp(FROM_ZERO), y, np.intp(PLAIN)
    if has(row, 3):
        bias, start = floats(row, tensors, arena, 3), np.intp(FROM_BIAS)
    if parameter(row, 3) != 0:
        start = np.intp(FROM_C)
    if parameter(row, 2) != 0:
        end = np.intp(RELU)
    if has(row, 4):
        tm, mask, end = tensor(row, tensors, 4), floats(row, tensors, arena, 4), np.intp(MASK)
    kernel_h, kernel_w = parameter(row, 0), parameter(row, 1)
    channels, columns = tx[T_CHANNELS], ty[T_CHANNELS]
    if kernel_h * kernel_w == 1 and whole(tx) and whole(ty) and whole(tm):
        rows = count * ty[T_HEIGHT] * ty[T_WIDTH]
        product(y, x, w, bias, start, mask, end, rows, channels, columns, thread, threads)
        return
    x = advance(x, -((kernel_h // 2) * line_stride(tx) + (kernel_w // 2) * channels))
    inner = kernel_w * channels
    parts = (ty[T_WIDTH] + PART - 1) // PART
    part0, part1 = share(count * ty[T_HEIGHT] * parts, thread, threads)
    j = np.intp(0)
    while j < columns:
        width = strip_width(columns - j, min(ty[T_WIDTH], np.intp(PART)))
        for part in range(part0, part1):
            line, first = part // parts, (part % parts) * PART
            strip(
                width, advance(y, line_offset(ty, line) + first * columns + j), columns,
                advance(x, line_offset(tx, line) + first * channels), channels, advance(w, j), columns,
                min(ty[T_WIDTH] - first, np.intp(PART)), inner, kernel_h, line_stride(tx), inner * columns, 1, 0, 0,
                advance(bias, j), start, advance(mask, line_offset(tm, line) + first * columns + j), end,
            )
        j += width


@jit
def _weight_gradient(dw, x, dy, tx, ty, count, kernel_h, kernel_w, bias, start, end, thread, threads):
    """Sum x dy over samples and positions for each weight; threads share rows."""
    channels, columns = tx[T_CHANNELS], ty[T_CHANNELS]
    height, width = ty[T_HEIGHT], ty[T_WIDTH]
    if whole(tx) and whole(ty):  # then the kernel is 1x1
        first, last = share(channels, thread, threads)
        positions = count * height * width
        product_of_transposed(
            advance(dw, first * columns), advance(x, first), channels, dy, bias, start, end, last - first, positions,
            columns,
        )
        return
    x = advance(x, -((kernel_h // 2) * line_stride(tx) + (kernel_w // 2) * channels))
    per_tap_row = kernel_w * channels
    row0, row1 = share(kernel_h * per_tap_row, thread, threads)
    for ky in range(kernel_h):
        first, last = max(row0, ky * per_tap_row), min(row1, (ky + 1) * per_tap_row)
        if first >= last:
            continue
        a = advance(x, ky * line_stride(tx) + first - ky * per_tap_row)
        j = np.intp(0)
        while j < columns:
            lanes = strip_width(columns - j, last - first)
            strip_transposed(
                lanes, advance(dw, first * columns + j), columns, a, channels, advance(dy, j), columns,
                last - first, width, height, line_stride(tx), line_stride(ty), count, tx[T_STRIDE], ty[T_STRIDE], bias,
                start, dw, end,
            )
            j += lanes


@jit
def bias_gradient(db, dy, ty, count, bias, start, end, thread, threads):
    """Sum dy over samples and positions, in that order, for each channel; threads share channels."""
    channels, one = ty[T_CHANNELS], three_floats(np.float32(1), np.float32(0), np.float32(0))
    j, last = share(channels, thread, threads)
    while j < last:
        lanes = strip_width(last - j, 1)
        strip_transposed(
            lanes, advance(db, j), channels, one, 0, advance(dy, j), channels, 1, ty[T_WIDTH], ty[T_HEIGHT], 0,
            line_stride(ty), count, 0, ty[T_STRIDE], bias, start, db, end,
        )
        j += lanes


@jit
def start_of_sums(row):
    """Return where the sums over samples of this instruction's chunk start."""
    return np.intp(FROM_C) if continues(row) else np.intp(FROM_ZERO)


@kernel
def conv_wgrad(row, tensors, arena, n, thread, threads, status):
    """CONV_WGRAD dw db; x dy (kernel_h, kernel_w)."""
    tx, ty, count = tensor(row, tensors, 2), tensor(row, tensors, 3), samples(row, n)
    dw, x, dy = floats(row, tensors, arena, 0), floats(row, tensors, arena, 2), floats(row, tensors, arena, 3)
    kernel_h, kernel_w, start = parameter(row, 0), parameter(row, 1), start_of_sums(row)
    _weight_gradient(dw, x, dy, tx, ty, count, kernel_h, kernel_w, dw, start, PLAIN, thread, threads)
    if has(row, 1):
        bias_gradient(floats(row, tensors, arena, 1), dy, ty, count, dw, start, PLAIN, thread, threads)


@jit
def _largest(values, count):
    """Return the largest magnitude, NaN if there is one: as integers, the bits of magnitudes are in their order."""
    most = np.int32(0)
    for i in range(count):
        most = np.int32(max(most, np.int32(float_bits(values[i]) & np.int32(0x7FFFFFFF))))
    return as_float(most)


@jit
def _outer_sgd(w, x, dy, channels, columns, constants, thread, threads):
    """The update by the product of one position's inputs and slopes: no sums, so no tiles."""
    rate, decay = constants[RATE], constants[DECAY]
    if outside(_largest(x, channels) * _largest(dy, columns), INFINITY):  # the largest gradient of all
        constants[FAILED] = np.float32(1)
        return
    first, last = share(channels, thread, threads)
    x = advance(x, first)
    j = np.intp(0)
    while j + 4 * WIDTH <= columns:
        update_by_outer(advance(w, first * columns + j), columns, x, advance(dy, j), last - first, rate, decay)
        j += 4 * WIDTH
    for c in range(last - first):
        line = advance(w, (first + c) * columns)
        for o in range(j, columns):
            line[o] = fma(-rate, fma(decay, line[o], fma(x[c], dy[o], np.float32(0))), line[o])


@kernel
def conv_sgd(row, tensors, arena, n, thread, threads, status):
    """CONV_SGD w b; x dy scalars (kernel_h, kernel_w, decay)."""
    tx, ty, count = tensor(row, tensors, 2), tensor(row, tensors, 3), samples(row, n)
    w, x, dy = floats(row, tensors, arena, 0), floats(row, tensors, arena, 2), floats(row, tensors, arena, 3)
    rate = f32_at(arena, tensor(row, tensors, 4)[T_OFFSET])[V_RATE]
    kernel_h, kernel_w = parameter(row, 0), parameter(row, 1)
    constants = three_floats(rate, real_parameter(row, 2), np.float32(0))
    if count * ty[T_HEIGHT] * ty[T_WIDTH] == 1 and kernel_h * kernel_w == 1:
        _outer_sgd(w, x, dy, tx[T_CHANNELS], ty[T_CHANNELS], constants, thread, threads)
    else:
        _weight_gradient(w, x, dy, tx, ty, count, kernel_h, kernel_w, constants, FROM_ZERO, SGD, thread, threads)
    constants[DECAY] = np.float32(0)  # biases do not decay
    bias_gradient(floats(row, tensors, arena, 1), dy, ty, count, constants, FROM_ZERO, SGD, thread, threads)
    if constants[FAILED] != np.float32(0):
        record(status, NOT_FINITE, -1)


@kernel
def flip(row, tensors, arena, n, thread, threads, status):
    """FLIP flipped; w: taps backwards, channels in and out exchanged."""
    tw = tensor(row, tensors, 1)
    target, w = f32_at(arena, tensor(row, tensors, 0)[T_OFFSET]), f32_at(arena, tw[T_OFFSET])
    taps, channels, columns = tw[T_HEIGHT], tw[T_WIDTH], tw[T_CHANNELS]
    bands = (columns + WIDTH - 1) // WIDTH  # a band is as many columns of w, so lines of the target, as a vector has
    first, last = share(taps * bands, thread, threads)
    for band in range(first, last):
        tap, column = band // bands, (band % bands) * WIDTH
        source = advance(w, (taps - 1 - tap) * channels * columns + column)
        lines = advance(target, (tap * columns + column) * channels)
        width = min(columns - column, np.intp(WIDTH))
        i = np.intp(0)
        if width == WIDTH:
            while i + WIDTH <= channels:
                transpose(advance(lines, i), channels, advance(source, i * columns), columns)
                i += WIDTH
        while i < channels:
            for k in range(width):
                lines[k * channels + i] = source[i * columns + k]
            i += 1

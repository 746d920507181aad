"""Convolutions by Winograd's minimal filtering (Winograd 1980; Lavin and Gray 2016): fewer products, some more sums.

Four outputs in a row of a filter of `r` taps cost ``n = 4 + r - 1`` products instead of ``4 r``:
``y = A^T ((G w) * (B^T x))``, in both directions of an image. The products of all tiles are, for each of the n (or
n x n) positions, one matrix product over channels. The gradient of the weights is the transposed algorithm,
``dw = G^T ((A dy) * (B^T x))``, summed over the tiles of a sample before the last map. Each product sum is one chain in
a fixed order, so the bits depend on shapes alone.
"""

from __future__ import annotations

import numpy as np

from edgerev.kernels.barrier import barrier
from edgerev.kernels.conv import bias_gradient, start_of_sums
from edgerev.kernels.intrinsics import advance, f32_at, i32_at
from edgerev.kernels.jit import TARGET, jit, kernel
from edgerev.kernels.layout import WINOGRAD_BLOCK, WINOGRAD_LINE_BLOCK, WINOGRAD_OUTPUTS, WINOGRAD_PAD
from edgerev.kernels.minimal_filter import make_gradient, make_map, make_output, toom_cook, transposed
from edgerev.kernels.operands import (
    T_CHANNELS,
    T_HEIGHT,
    T_OFFSET,
    T_WIDTH,
    continues,
    floats,
    has,
    line_offset,
    line_stride,
    parameter,
    samples,
    share,
    tensor,
)
from edgerev.kernels.tile import FROM_C, FROM_ZERO, PLAIN, strip, strip_transposed, strip_width

WIDTH = TARGET.width
M, BLOCK, LINE_BLOCK, PAD = WINOGRAD_OUTPUTS, WINOGRAD_BLOCK, WINOGRAD_LINE_BLOCK, WINOGRAD_PAD

def _make_kernels(taps: int, both: bool):
    """Make the three kernels for filters of `taps` (in both directions, or along the line only)."""
    a_t, g, b_t = toom_cook(M, taps)
    size = M + taps - 1
    positions = size * size if both else size
    tall, reach = (M, taps // 2) if both else (1, 0)
    map_weights, map_inputs, map_slopes = make_map(g, both), make_map(b_t, both), make_map(transposed(a_t), both)
    map_outputs, map_gradients = make_output(a_t, both), make_gradient(transposed(g), both)

    @jit
    def place(t, tile, across):
        """Return the elements from the first interior element to the first output of a tile."""
        return line_offset(t, (tile // across) * tall) + (tile % across) * M * t[T_CHANNELS]

    @jit
    def inputs(v, position, x, tx, first, count, across):
        """Map the inputs of `count` tiles; v is (positions, tiles, channels), its positions `position` apart."""
        channels = tx[T_CHANNELS]
        corner = reach * line_stride(tx) + (taps // 2) * channels
        for tile in range(count):
            source = advance(x, place(tx, first + tile, across) - corner)
            for c in range(0, channels, WIDTH):
                map_inputs(advance(v, tile * channels + c), position, advance(source, c), line_stride(tx), channels)

    @jit
    def slopes(d, position, dy, ty, first, count, across):
        """Map the gradients of the outputs of `count` tiles."""
        channels = ty[T_CHANNELS]
        for tile in range(count):
            source = advance(dy, place(ty, first + tile, across))
            for c in range(0, channels, WIDTH):
                map_slopes(advance(d, tile * channels + c), position, advance(source, c), line_stride(ty), channels)

    @kernel
    def weights(u, w, channels, columns, thread, threads):
        first, last = share(channels, thread, threads)
        for c in range(first, last):
            for o in range(0, columns, WIDTH):
                at = c * columns + o
                map_weights(
                    advance(u, at), channels * columns + PAD, advance(w, at), taps * channels * columns,
                    channels * columns,
                )

    @kernel
    def forward(row, tensors, arena, n, thread, threads):
        ty, tx, tm = tensor(row, tensors, 0), tensor(row, tensors, 2), tensor(row, tensors, 0)
        y, x, u = floats(row, tensors, arena, 0), floats(row, tensors, arena, 2), floats(row, tensors, arena, 3)
        bias, mask = y, y
        if has(row, 4):
            bias = floats(row, tensors, arena, 4)
        if has(row, 5):
            tm, mask = tensor(row, tensors, 5), floats(row, tensors, arena, 5)
        channels, columns = tx[T_CHANNELS], ty[T_CHANNELS]
        work = f32_at(arena, tensor(row, tensors, 1)[T_OFFSET])
        inner, outer = BLOCK * channels + PAD, BLOCK * columns + PAD
        v = advance(work, thread * positions * (inner + outer))
        sums = advance(v, positions * inner)
        across = ty[T_WIDTH] // M
        tiles = samples(row, n) * (ty[T_HEIGHT] // tall) * across
        first, last = share((tiles + BLOCK - 1) // BLOCK, thread, threads)
        for block in range(first, last):
            start = block * BLOCK
            count = min(np.intp(BLOCK), tiles - start)
            inputs(v, inner, x, tx, start, count, across)
            for position in range(positions):
                j = np.intp(0)
                while j < columns:
                    width = strip_width(columns - j, count)
                    strip(
                        width, advance(sums, position * outer + j), columns, advance(v, position * inner), channels,
                        advance(u, position * (channels * columns + PAD) + j), columns, count, channels, 1, 0, 0,
                        1, 0, 0, u, FROM_ZERO, u, PLAIN,
                    )
                    j += width
            for tile in range(count):
                target, there = place(ty, start + tile, across), place(tm, start + tile, across)
                for o in range(0, columns, WIDTH):
                    map_outputs(
                        advance(y, target + o), line_stride(ty), columns, advance(sums, tile * columns + o), outer,
                        advance(bias, o), np.intp(has(row, 4)), parameter(row, 3), parameter(row, 2),
                        advance(mask, there + o), line_stride(tm), np.intp(has(row, 5)),
                    )

    @jit
    def products(du, v, d, each, there, channels, columns, tiles, goes_on):
        """Sum the products of one position over the tiles of each sample; sums of two samples are `each` apart."""
        chain = np.intp(FROM_C) if goes_on else np.intp(FROM_ZERO)
        for s in range(there):
            j = np.intp(0)
            while j < columns:
                width = strip_width(columns - j, channels)
                strip_transposed(
                    width, advance(du, s * each + j), columns, advance(v, s * tiles * channels), channels,
                    advance(d, s * tiles * columns + j), columns, channels, tiles, 1, 0, 0, 1, 0, 0, du, chain,
                    du, PLAIN,
                )
                j += width

    @kernel
    def weight_gradient(row, tensors, arena, n, thread, threads):
        tx, ty = tensor(row, tensors, 3), tensor(row, tensors, 4)
        dw, x, dy = floats(row, tensors, arena, 0), floats(row, tensors, arena, 3), floats(row, tensors, arena, 4)
        words = i32_at(arena, tensor(row, tensors, 5)[T_OFFSET])
        channels, columns = tx[T_CHANNELS], ty[T_CHANNELS]
        across = ty[T_WIDTH] // M
        tiles, area = (ty[T_HEIGHT] // tall) * across, channels * columns
        most = (BLOCK if both else LINE_BLOCK) * threads
        group = max(most // tiles, np.intp(1))  # samples that are mapped at a time
        inner, outer, each = most * channels + PAD, most * columns + PAD, positions * (area + PAD)
        v = f32_at(arena, tensor(row, tensors, 2)[T_OFFSET])
        d = advance(v, positions * inner)
        du = advance(d, positions * outer)
        position0, position1 = share(positions, thread, threads)
        channel0, channel1 = share(channels, thread, threads)
        for sample in range(0, samples(row, n), group):
            there = min(group, samples(row, n) - sample)
            for start in range(0, there * tiles, most):
                count = min(most, there * tiles - start)
                first, last = share(count, thread, threads)
                begin = sample * tiles + start + first
                inputs(advance(v, first * channels), inner, x, tx, begin, last - first, across)
                slopes(advance(d, first * columns), outer, dy, ty, begin, last - first, across)
                barrier(words, thread, threads)
                for position in range(position0, position1):
                    products(
                        advance(du, position * (area + PAD)), advance(v, position * inner),
                        advance(d, position * outer), each, there, channels, columns, count // there, start > 0,
                    )
                barrier(words, thread, threads)
            for s in range(there):
                add = np.intp(1) if sample + s > 0 or continues(row) else np.intp(0)
                for c in range(channel0, channel1):
                    for o in range(0, columns, WIDTH):
                        at = c * columns + o
                        source = advance(du, s * each + at)
                        map_gradients(advance(dw, at), taps * area, area, source, area + PAD, add)

    return weights, forward, weight_gradient


_weights_3x3, _forward_3x3, _gradient_3x3 = _make_kernels(3, True)
_weights_3, _forward_3, _gradient_3 = _make_kernels(3, False)
_weights_5, _forward_5, _gradient_5 = _make_kernels(5, False)


@kernel
def winograd_weights(row, tensors, arena, n, thread, threads, status):
    """WINOGRAD_WEIGHTS u; w (kernel_h, kernel_w)."""
    tw = tensor(row, tensors, 1)
    u, w = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    channels, columns = tw[T_WIDTH], tw[T_CHANNELS]
    if parameter(row, 0) == 3:
        _weights_3x3(u, w, channels, columns, thread, threads)
    elif parameter(row, 1) == 3:
        _weights_3(u, w, channels, columns, thread, threads)
    else:
        _weights_5(u, w, channels, columns, thread, threads)


@kernel
def winograd(row, tensors, arena, n, thread, threads, status):
    """WINOGRAD y work; x u b mask (kernel_h, kernel_w, relu, add)."""
    if parameter(row, 0) == 3:
        _forward_3x3(row, tensors, arena, n, thread, threads)
    elif parameter(row, 1) == 3:
        _forward_3(row, tensors, arena, n, thread, threads)
    else:
        _forward_5(row, tensors, arena, n, thread, threads)


@kernel
def winograd_wgrad(row, tensors, arena, n, thread, threads, status):
    """WINOGRAD_WGRAD dw db work; x dy barrier (kernel_h, kernel_w)."""
    if parameter(row, 0) == 3:
        _gradient_3x3(row, tensors, arena, n, thread, threads)
    elif parameter(row, 1) == 3:
        _gradient_3(row, tensors, arena, n, thread, threads)
    else:
        _gradient_5(row, tensors, arena, n, thread, threads)
    if has(row, 1):
        dy, ty = floats(row, tensors, arena, 4), tensor(row, tensors, 4)
        db, start = floats(row, tensors, arena, 1), start_of_sums(row)
        bias_gradient(db, dy, ty, samples(row, n), db, start, PLAIN, thread, threads)

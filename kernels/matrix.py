"""Products of matrices that lie row by row: the micro-kernel with the traffic between it and the caches.

A strip of B is copied to a panel, where its rows follow one another, if many rows of A read it: a long step between
rows would map them all to a few sets of the cache. Blocks of k continue the chains that earlier ones began, so neither
panels nor blocks change a bit.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.intrinsics import F32P, advance, f32, intp
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.operands import share, share_elements
from edgerev.kernels.tile import (
    FROM_BIAS,
    FROM_C,
    MASK,
    PLAIN,
    ROW_VECTORS,
    SGD,
    TILE_ROWS,
    TILE_WIDTH,
    WIDTH,
    panel_width,
    row_tile,
    strip,
    strip_transposed,
    strip_width,
)
from edgerev.kernels.vectors import load_vector, store_vector

PANEL_K = 256  # rows of a panel: 16 KiB at two vectors of AVX2, half of a usual first-level cache
BLOCK_ROWS = 240  # rows of A that stay in the second-level cache while they meet one panel after another
MANY_ROWS, SOME_ROWS, SMALL, LARGE = 48, 12, 1 << 14, 1 << 18  # rows of A, and elements of B, from which a panel pays
ROW_K = 64  # rows of B that one row of A meets before it goes on, so that B is read in runs
TAIL_ROWS = 48  # rows of a tail that are computed at a time


def _make_buffer(elements: int):
    @intrinsic
    def buffer(typing_context):
        def generate(context, builder, signature, arguments):
            pointer = cgutils.alloca_once(builder, f32, size=elements)
            return builder.bitcast(pointer, ir.PointerType(f32))

        return F32P(), generate

    return buffer


_panel = _make_buffer(PANEL_K * TILE_WIDTH)
_tail = _make_buffer(TAIL_ROWS * TILE_WIDTH)
_bias = _make_buffer(TILE_WIDTH)


@intrinsic
def _copy_tile_row(typing_context, target, source):
    """Copy as many elements as a tile is wide."""

    def generate(context, builder, signature, arguments):
        places = [intp(first) for first in range(0, TILE_WIDTH, WIDTH)]
        values = [load_vector(builder, builder.gep(arguments[1], [place]), WIDTH) for place in places]
        for place, value in zip(places, values):
            store_vector(builder, value, builder.gep(arguments[0], [place]))
        return context.get_dummy_value()

    return types.void(F32P, F32P), generate


@jit
def pack(panel, b, b_row, rows, columns, width):
    """Copy `rows` of `columns` elements to rows of `width`, with zeros at their ends."""
    if columns == TILE_WIDTH:
        for k in range(rows):
            _copy_tile_row(advance(panel, k * TILE_WIDTH), advance(b, k * b_row))
        return
    for k in range(rows):
        for j in range(width):
            panel[k * width + j] = b[k * b_row + j] if j < columns else np.float32(0)


@jit
def block_of_chains(k, count, inner, start, end):
    """Return how the chains of a block of k begin and end: between two blocks they pause in C.

    What ends them must not need C for anything else before, as SGD does.
    """
    return (start if k == 0 else np.intp(FROM_C)), (end if k + count == inner else np.intp(PLAIN))


@kernel
def product(c, a, b, bias, start, mask, end, rows, inner, columns, thread, threads):
    """C (rows x columns) = A (rows x inner) B, by the rules of `edgerev.kernels.tile`.

    Threads share rows, or columns where rows are few.
    """
    row0, row1, column0, column1 = np.intp(0), rows, np.intp(0), columns
    if rows >= threads * TILE_ROWS:
        row0, row1 = share(rows, thread, threads)
    else:
        column0, column1 = share_elements(columns, thread, threads)
    if row1 - row0 == 1 and column1 - column0 >= WIDTH:
        at = row0 * columns + column0
        _row(
            advance(c, at), advance(a, row0 * inner), advance(b, column0), columns, inner, column1 - column0,
            advance(bias, column0), start, advance(mask, at), end,
        )
        return
    left = (column1 - column0) % TILE_WIDTH
    tailed = left % WIDTH != 0 and end != MASK and row1 - row0 >= TILE_ROWS
    last = column1 - left if tailed else column1
    if last - column0 > TILE_WIDTH and panel_pays(row1 - row0, inner * columns):
        _packed(c, a, b, bias, start, mask, end, row0, row1, inner, columns, column0, last)
    else:
        _direct(c, a, b, bias, start, mask, end, row0, row1, inner, columns, column0, last)
    if tailed:
        _tailing(c, a, b, bias, start, end, row0, row1, inner, columns, last, column1)


@kernel
def _row(c, a, b, b_row, inner, columns, bias, start, mask, end):
    """One row of C: as many chains at a time as there are registers, so that none waits for its own last product."""
    vectors = (columns + WIDTH - 1) // WIDTH
    tiles = (vectors + ROW_VECTORS - 1) // ROW_VECTORS
    step = np.intp(ROW_K) if tiles > 1 else inner
    for k in range(0, inner, step):
        count = min(step, inner - k)
        begin, finish = block_of_chains(k, count, inner, start, end)
        first = np.intp(0)
        for tile in range(tiles):
            take = (vectors - first + tiles - tile - 1) // (tiles - tile)
            j = first * WIDTH
            last = min((take - 1) * WIDTH, columns - WIDTH - j)
            row_tile(
                take, last, advance(c, j), advance(a, k), advance(b, k * b_row + j), b_row, count, advance(bias, j),
                begin, advance(mask, j), finish,
            )
            first += take


@jit
def panel_pays(rows, size):
    """Return whether so many rows of A make up for copying a B of so many elements."""
    return (rows >= MANY_ROWS and size >= SMALL) or (rows >= SOME_ROWS and size >= LARGE)


@jit
def _direct(c, a, b, bias, start, mask, end, row0, row1, inner, columns, column0, column1):
    j = column0
    while j < column1:
        width = strip_width(column1 - j, row1 - row0)
        at = row0 * columns + j
        strip(
            width, advance(c, at), columns, advance(a, row0 * inner), inner, advance(b, j), columns,
            row1 - row0, inner, 1, 0, 0, 1, 0, 0, advance(bias, j), start, advance(mask, at), end,
        )
        j += width


@jit
def _packed(c, a, b, bias, start, mask, end, row0, row1, inner, columns, column0, column1):
    panel = _panel()
    for k in range(0, inner, PANEL_K):
        count = min(np.intp(PANEL_K), inner - k)
        begin, finish = block_of_chains(k, count, inner, start, end)
        for i in range(row0, row1, BLOCK_ROWS):
            rows = min(np.intp(BLOCK_ROWS), row1 - i)
            j = column0
            while j < column1:
                width = panel_width(column1 - j)
                pack(panel, advance(b, k * columns + j), columns, count, width, width)
                at = i * columns + j
                strip(
                    width, advance(c, at), columns, advance(a, i * inner + k), inner, panel, width, rows, count,
                    1, 0, 0, 1, 0, 0, advance(bias, j), begin, advance(mask, at), finish,
                )
                j += width


@jit
def _tailing(c, a, b, bias, start, end, row0, row1, inner, columns, column0, column1):
    """The columns that fill no vector: computed with zeros beside them, and copied from what that gives."""
    panel, sums, line, left = _panel(), _tail(), _bias(), column1 - column0
    width = np.intp(WIDTH) if left < WIDTH else np.intp(TILE_WIDTH)
    for j in range(width):
        line[j] = bias[column0 + j] if start == FROM_BIAS and j < left else np.float32(0)
    for k in range(0, inner, PANEL_K):
        count = min(np.intp(PANEL_K), inner - k)
        pack(panel, advance(b, k * columns + column0), columns, count, left, width)
        begin, finish = block_of_chains(k, count, inner, start, end)
        for i in range(row0, row1, TAIL_ROWS):
            rows = min(np.intp(TAIL_ROWS), row1 - i)
            if begin == FROM_C:
                for m in range(rows):
                    for j in range(left):
                        sums[m * width + j] = c[(i + m) * columns + column0 + j]
            strip(
                width, sums, width, advance(a, i * inner + k), inner, panel, width, rows, count, 1, 0, 0, 1, 0, 0,
                line, begin, sums, finish,
            )
            for m in range(rows):
                for j in range(left):
                    c[(i + m) * columns + column0 + j] = sums[m * width + j]


@jit
def product_of_transposed(c, a, a_row, b, bias, start, end, rows, inner, columns):
    """C (rows x columns) (+)= A^T B for an A of (inner x a_row) from which `rows` columns are taken."""
    panel = _panel()
    # SGD takes each weight with its whole gradient, so its chains cannot pause in C, where the weights are
    packs = end != SGD and columns > TILE_WIDTH and panel_pays(rows, inner * columns)
    step = np.intp(PANEL_K) if packs else inner
    for k in range(0, inner, step):
        count = min(step, inner - k)
        begin, finish = block_of_chains(k, count, inner, start, end)
        j = np.intp(0)
        while j < columns:
            width = panel_width(columns - j) if packs else strip_width(columns - j, rows)
            strip_of_b, b_k = advance(b, k * columns + j), columns
            if packs:
                pack(panel, strip_of_b, columns, count, width, width)
                strip_of_b, b_k = panel, width
            strip_transposed(
                width, advance(c, j), columns, advance(a, k * a_row), a_row, strip_of_b, b_k, rows, count,
                1, 0, 0, 1, 0, 0, bias, begin, c, finish,
            )
            j += width

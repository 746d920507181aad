"""The micro-kernel: a register tile of C that stays in registers while products are added in one fixed order.

``C[m, n] (+)= sum_k A[m, k] B[k, n]`` with k in three nested runs, so that the same kernel carries dense layers,
convolutions over shifted rows (implicit GEMM) and weight gradients. Each element of C is one chain of fused
multiply-adds over k, whatever the tile, so tiles and vector widths do not change bits.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.intrinsics import F32P, advance, declare, f32, i32, intp
from edgerev.kernels.jit import TARGET, jit, kernel

FROM_ZERO, FROM_BIAS, FROM_C = 0, 1, 2  # where the chain starts


def make_tile(rows: int, vectors: int, width: int):
    """Make the intrinsic for a tile of `rows` x (`vectors` * `width`)."""
    vector = ir.VectorType(f32, width)
    name = f"llvm.fma.v{width}f32"

    @intrinsic
    def tile(
        typing_context, c, c_row, a, a_row, a_k, b, b_k, count, count1, a1, b1, count2, a2, b2, bias, start
    ):
        size = types.intp
        signature = types.void(
            F32P, size, F32P, size, size, F32P, size, size, size, size, size, size, size, size, F32P, size
        )

        def generate(context, builder, signature, arguments):
            c, c_row, a, a_row, a_k, b, b_k, count, count1, a1, b1, count2, a2, b2, bias, start = arguments
            multiply_add = declare(builder, name, vector, vector, vector, vector)
            grid = [(m, j) for m in range(rows) for j in range(vectors)]
            sums = {place: cgutils.alloca_once(builder, vector) for place in grid}
            c_rows = [builder.gep(c, [builder.mul(c_row, intp(m))]) for m in range(rows)]

            def at(pointer, j):
                return builder.bitcast(builder.gep(pointer, [intp(j * width)]), vector.as_pointer())

            def load(pointer, j):
                value = builder.load(at(pointer, j))
                value.align = 4
                return value

            def splat(scalar):
                undefined = ir.Constant(vector, ir.Undefined)
                single = builder.insert_element(undefined, scalar, i32(0))
                return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(i32, width), [0] * width))

            for place in grid:
                builder.store(ir.Constant(vector, [0.0] * width), sums[place])
            with builder.if_then(builder.icmp_signed("==", start, intp(FROM_BIAS))):
                for m, j in grid:
                    builder.store(load(bias, j), sums[m, j])
            with builder.if_then(builder.icmp_signed("==", start, intp(FROM_C))):
                for m, j in grid:
                    builder.store(load(c_rows[m], j), sums[m, j])
            with cgutils.for_range(builder, count2, intp=intp) as outer:
                a_outer = builder.gep(a, [builder.mul(outer.index, a2)])
                b_outer = builder.gep(b, [builder.mul(outer.index, b2)])
                with cgutils.for_range(builder, count1, intp=intp) as middle:
                    a_base = builder.gep(a_outer, [builder.mul(middle.index, a1)])
                    b_base = builder.gep(b_outer, [builder.mul(middle.index, b1)])
                    a_rows = [builder.gep(a_base, [builder.mul(a_row, intp(m))]) for m in range(rows)]
                    with cgutils.for_range(builder, count, intp=intp) as inner:
                        b_row = builder.gep(b_base, [builder.mul(inner.index, b_k)])
                        b_values = [load(b_row, j) for j in range(vectors)]
                        a_index = builder.mul(inner.index, a_k)
                        for m in range(rows):
                            a_value = splat(builder.load(builder.gep(a_rows[m], [a_index])))
                            for j in range(vectors):
                                total = builder.call(multiply_add, [a_value, b_values[j], builder.load(sums[m, j])])
                                builder.store(total, sums[m, j])
            for m, j in grid:
                builder.store(builder.load(sums[m, j]), at(c_rows[m], j)).align = 4
            return context.get_dummy_value()

        return signature, generate

    return tile


TILE_ROWS = TARGET.tile_rows


def _make_strip(vectors: int, width: int, transposed: bool):
    """Make a kernel for all rows of a strip of C that is ``vectors * width`` wide."""
    tile_most, tile_4, tile_2, tile_1 = (make_tile(rows, vectors, width) for rows in (TILE_ROWS, 4, 2, 1))

    @kernel
    def strip(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start):
        a_row, a_k = (np.intp(1), a_step) if transposed else (a_step, np.intp(1))
        i = np.intp(0)
        while i + TILE_ROWS <= rows:
            tile_most(
                advance(c, i * c_row), c_row, advance(a, i * a_row), a_row, a_k, b, b_k,
                count, count1, a1, b1, count2, a2, b2, bias, start,
            )
            i += TILE_ROWS
        while i + 4 <= rows:
            tile_4(
                advance(c, i * c_row), c_row, advance(a, i * a_row), a_row, a_k, b, b_k,
                count, count1, a1, b1, count2, a2, b2, bias, start,
            )
            i += 4
        if i + 2 <= rows:
            tile_2(
                advance(c, i * c_row), c_row, advance(a, i * a_row), a_row, a_k, b, b_k,
                count, count1, a1, b1, count2, a2, b2, bias, start,
            )
            i += 2
        if i < rows:
            tile_1(
                advance(c, i * c_row), c_row, advance(a, i * a_row), a_row, a_k, b, b_k,
                count, count1, a1, b1, count2, a2, b2, bias, start,
            )

    return strip


WIDTH = TARGET.width
WIDEST = TARGET.width * TARGET.tile_vectors
HALF = 8 if WIDTH == 16 else 4 if WIDTH == 8 else 2
QUARTER = HALF // 2

@jit
def strip_width(columns):
    """Return the width of the next strip when `columns` are left: no scalar tails, nothing read past the end."""
    if columns >= WIDEST:
        return np.intp(WIDEST)
    if columns >= WIDTH:
        return np.intp(WIDTH)
    if columns >= HALF:
        return np.intp(HALF)
    if columns >= QUARTER:
        return np.intp(QUARTER)
    return np.intp(1)


def _make_strips(transposed: bool):
    """Make the kernel that chooses among strips of all widths."""
    widest = _make_strip(TARGET.tile_vectors, WIDTH, transposed)
    vector, half, quarter, single = (_make_strip(1, width, transposed) for width in (WIDTH, HALF, QUARTER, 1))

    @jit
    def strip(width, c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start):
        """Compute a strip of C, `width` columns wide as `strip_width` said.

        Parameters
        ----------
        c, a, b, bias : pointers to float32
        c_row : elements between rows of C
        a_step : elements between rows of A, or, transposed, between neighbours along the innermost run of k; the
            other step is 1, and known to the compiler, since two unknown steps need more registers than there are
        b_k : elements between neighbours in B along the innermost run of k
        rows : rows of C
        count, count1, count2 : lengths of the runs of k, innermost first
        a1, b1, a2, b2 : elements between the middle and the outer runs
        start : FROM_ZERO, FROM_BIAS or FROM_C
        """
        if width == WIDEST:
            widest(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start)
        elif width == WIDTH:
            vector(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start)
        elif width == HALF:
            half(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start)
        elif width == QUARTER:
            quarter(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start)
        else:
            single(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start)

    return strip


strip = _make_strips(transposed=False)
strip_transposed = _make_strips(transposed=True)

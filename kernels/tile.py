"""The micro-kernel: a register tile of C that stays in registers while products are added in one fixed order.

``C[m, n] (+)= sum_k A[m, k] B[k, n]`` with k in three nested runs, so that the same kernel carries dense layers,
convolutions over shifted rows (implicit GEMM) and weight gradients. Each element of C is one chain of fused
multiply-adds over k, whatever the tile, so tiles and vector widths do not change bits. Bias, ReLU and the mask of its
gradient are applied while the tile is in registers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.fused import emit_chains, multiply_add
from edgerev.kernels.intrinsics import F32P, advance, declare, f32, intp, sizes
from edgerev.kernels.jit import TARGET, jit, kernel
from edgerev.kernels.vectors import load_vector, splat, store_vector

FROM_ZERO, FROM_BIAS, FROM_C = 0, 1, 2  # where the chains start
# How they end: as they are; max(x, 0); 0 where the mask's element is not positive; as gradients of C, which is updated.
PLAIN, RELU, MASK, SGD = 0, 1, 2, 3


# With SGD, `bias` points at three float32: learning rate, weight decay, and what becomes 1 if a gradient is not finite.
RATE, DECAY, FAILED = 0, 1, 2


class _Operands(NamedTuple):
    """Arguments of a tile, as LLVM values; `_make_strips` tells what they mean."""

    c: ir.Value
    c_row: ir.Value
    a: ir.Value
    a_row: ir.Value
    a_k: ir.Value
    b: ir.Value
    b_k: ir.Value
    count: ir.Value
    count1: ir.Value
    a1: ir.Value
    b1: ir.Value
    count2: ir.Value
    a2: ir.Value
    b2: ir.Value
    bias: ir.Value
    start: ir.Value
    mask: ir.Value
    end: ir.Value


class _Tile:
    """The IR of one tile of `rows` x (`vectors` * `width`); the last vector may lie at another column, `last`."""

    def __init__(self, builder, operands: _Operands, rows: int, vectors: int, width: int, last=None) -> None:
        self.builder, self.operands, self.rows, self.vectors, self.width = builder, operands, rows, vectors, width
        self.vector = ir.VectorType(f32, width)
        self.zero = ir.Constant(self.vector, [0.0] * width)
        self.grid = [(m, j) for m in range(rows) for j in range(vectors)]
        self.sums = {place: cgutils.alloca_once(builder, self.vector) for place in self.grid}
        self.lines = [builder.mul(operands.c_row, intp(m)) for m in range(rows)]
        self.columns = [intp(j * width) for j in range(vectors)]
        if last is not None:
            self.columns[-1] = last

    def emit(self) -> None:
        emit_chains(self.builder, list(self.sums.values()), self._start, self._add_products)
        self._finish()

    def _load(self, pointer, j):
        return load_vector(self.builder, self.builder.gep(pointer, [self.columns[j]]), self.width)

    def _when(self, value, constant):
        return self.builder.if_then(self.builder.icmp_signed("==", value, intp(constant)))

    def _start(self) -> None:
        builder, operands = self.builder, self.operands
        for place in self.grid:
            builder.store(self.zero, self.sums[place])
        with self._when(operands.start, FROM_BIAS):
            for m, j in self.grid:
                builder.store(self._load(operands.bias, j), self.sums[m, j])
        with self._when(operands.start, FROM_C):
            for m, j in self.grid:
                builder.store(self._load(builder.gep(operands.c, [self.lines[m]]), j), self.sums[m, j])

    def _add_products(self, arithmetic, sums) -> None:
        builder, operands = self.builder, self.operands
        with cgutils.for_range(builder, operands.count2, intp=intp) as outer:
            a_outer = builder.gep(operands.a, [builder.mul(outer.index, operands.a2)])
            b_outer = builder.gep(operands.b, [builder.mul(outer.index, operands.b2)])
            with cgutils.for_range(builder, operands.count1, intp=intp) as middle:
                a_base = builder.gep(a_outer, [builder.mul(middle.index, operands.a1)])
                b_base = builder.gep(b_outer, [builder.mul(middle.index, operands.b1)])
                a_rows = [builder.gep(a_base, [builder.mul(operands.a_row, intp(m))]) for m in range(self.rows)]
                with cgutils.for_range(builder, operands.count, intp=intp) as inner:
                    b_row = builder.gep(b_base, [builder.mul(inner.index, operands.b_k)])
                    a_values = [builder.gep(row, [builder.mul(inner.index, operands.a_k)]) for row in a_rows]
                    self._add_row(arithmetic, sums, a_values, b_row)

    def _add_row(self, arithmetic, sums, a_values, b_row) -> None:
        """Add the products of one k."""
        builder = self.builder
        b_values = [arithmetic.widen(self._load(b_row, j)) for j in range(self.vectors)]
        slots = iter(sums)
        for pointer in a_values:
            a_value = splat(builder, arithmetic.widen(builder.load(pointer)), self.width)
            for b_value in b_values:
                slot = next(slots)
                builder.store(arithmetic.multiply_add(a_value, b_value, builder.load(slot)), slot)

    def _finish(self) -> None:
        builder, operands = self.builder, self.operands
        with self._when(operands.end, RELU):
            for place in self.grid:
                value = builder.load(self.sums[place])
                negative = builder.fcmp_ordered("<", value, self.zero)
                builder.store(builder.select(negative, self.zero, value), self.sums[place])
        with self._when(operands.end, MASK):
            for m, j in self.grid:
                mask = self._load(builder.gep(operands.mask, [self.lines[m]]), j)
                positive = builder.fcmp_ordered(">", mask, self.zero)
                builder.store(builder.select(positive, builder.load(self.sums[m, j]), self.zero), self.sums[m, j])
        with self._when(operands.end, SGD):
            self._update()
        for m, j in self.grid:
            target = builder.gep(operands.c, [builder.add(self.lines[m], self.columns[j])])
            store_vector(builder, builder.load(self.sums[m, j]), target)

    def _update(self) -> None:
        """Replace each gradient by what becomes of its weight; see `edgerev.kernels.optimizer`."""
        builder, operands, vector = self.builder, self.operands, self.vector
        rate, decay = (
            splat(builder, builder.load(builder.gep(operands.bias, [intp(k)])), self.width) for k in (RATE, DECAY)
        )
        absolute = declare(builder, f"llvm.fabs.v{self.width}f32", vector, vector)
        infinity = ir.Constant(vector, [float("inf")] * self.width)
        bad = None
        for m, j in self.grid:
            gradient, weight = builder.load(self.sums[m, j]), self._load(builder.gep(operands.c, [self.lines[m]]), j)
            strange = builder.fcmp_unordered(">=", builder.call(absolute, [gradient]), infinity)
            bad = strange if bad is None else builder.or_(bad, strange)
            slope = multiply_add(builder, decay, weight, gradient)
            builder.store(multiply_add(builder, builder.fneg(rate), slope, weight), self.sums[m, j])
        bits = builder.bitcast(bad, ir.IntType(self.width))
        with builder.if_then(builder.icmp_unsigned("!=", bits, ir.IntType(self.width)(0)), likely=False):
            builder.store(ir.Constant(f32, 1.0), builder.gep(operands.bias, [intp(FAILED)]))


def _make_tile(most_rows: int, vectors: int, width: int):
    """Make the intrinsic ``tile(rows, operands...)`` for 1 to `most_rows` rows of ``vectors * width`` columns."""

    @intrinsic
    def tile(
        typing_context, rows, c, c_row, a, a_row, a_k, b, b_k, count, count1, a1, b1, count2, a2, b2, bias, start,
        mask, end,
    ):
        pointers = ("c", "a", "b", "bias", "mask")
        kinds = [F32P if name in pointers else types.intp for name in _Operands._fields]

        def generate(context, builder, signature, arguments):
            rows, *operands = sizes(builder, arguments)
            done = builder.append_basic_block("tile.done")
            switch = builder.switch(rows, done)
            for number in range(1, most_rows + 1):
                block = builder.append_basic_block(f"tile.{number}")
                switch.add_case(intp(number), block)
                builder.position_at_end(block)
                _Tile(builder, _Operands(*operands), number, vectors, width).emit()
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(types.intp, *kinds), generate

    return tile


def _make_strip(most_rows: int, vectors: int, width: int, transposed: bool):
    """Make a kernel for all rows of a strip of C, `most_rows` at a time.

    Rows are split evenly, since a tile of few rows cannot keep the processor busy.
    """
    tile = _make_tile(most_rows, vectors, width)

    @kernel
    def strip(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end):
        a_row, a_k = (np.intp(1), a_step) if transposed else (a_step, np.intp(1))
        left = (rows + most_rows - 1) // most_rows
        i = np.intp(0)
        while left > 0:
            take = (rows - i + left - 1) // left
            tile(
                take, advance(c, i * c_row), c_row, advance(a, i * a_row), a_row, a_k, b, b_k,
                count, count1, a1, b1, count2, a2, b2, bias, start, advance(mask, i * c_row), end,
            )
            i += take
            left -= 1

    return strip


WIDTH = TARGET.width
# With one row, every product has a B of its own, so that only sums take registers.
ROW_VECTORS = 12 if TARGET.registers >= 16 else 6


@intrinsic
def row_tile(typing_context, vectors, last, c, a, b, b_k, count, bias, start, mask, end):
    """Compute one row of C, 1 to `ROW_VECTORS` vectors wide; the last vector begins at column `last`.

    It may overlap the one before it: both compute the same chains.
    """
    size = types.intp

    def generate(context, builder, signature, arguments):
        vectors, last, c, a, b, b_k, count, bias, start, mask, end = sizes(builder, arguments)
        one, none = intp(1), intp(0)
        operands = _Operands(
            c, none, a, none, one, b, b_k, count, one, none, none, one, none, none, bias, start, mask, end
        )
        done = builder.append_basic_block("row.done")
        switch = builder.switch(vectors, done)
        for number in range(1, ROW_VECTORS + 1):
            block = builder.append_basic_block(f"row.{number}")
            switch.add_case(intp(number), block)
            builder.position_at_end(block)
            _Tile(builder, operands, 1, number, TARGET.width, last).emit()
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(size, size, F32P, F32P, F32P, size, size, F32P, size, F32P, size), generate


HALF = 8 if WIDTH == 16 else 4 if WIDTH == 8 else 2
QUARTER = HALF // 2
TILE_ROWS, TILE_WIDTH = TARGET.tile_rows, TARGET.tile_vectors * WIDTH
# Few rows need many vectors, or the processor waits for each multiply-add to end before the next of its chain.
WIDE_ROWS, WIDE_VECTORS, WIDEST_VECTORS = (3, 4, 8) if TARGET.registers >= 16 else (2, 3, 6)
WIDE_WIDTH, WIDEST_ROWS, WIDEST = WIDE_VECTORS * WIDTH, 1, WIDEST_VECTORS * WIDTH
if TILE_ROWS <= WIDE_ROWS:
    raise ValueError(f"{TARGET.name}: tiles of {TILE_ROWS} rows; expected more than {WIDE_ROWS}, or panels overflow")


@jit
def strip_width(columns, rows):
    """Return the width of the next strip of `rows` when `columns` are left: nothing is read past the end."""
    if rows <= WIDEST_ROWS and columns >= WIDEST:
        return np.intp(WIDEST)
    if rows <= WIDE_ROWS and columns >= WIDE_WIDTH:
        return np.intp(WIDE_WIDTH)
    if columns >= TILE_WIDTH:
        return np.intp(TILE_WIDTH)
    if columns >= WIDTH:
        return np.intp(WIDTH)
    if columns >= HALF:
        return np.intp(HALF)
    if columns >= QUARTER:
        return np.intp(QUARTER)
    return np.intp(1)


@jit
def panel_width(columns):
    """Return the width of the next strip when it is to fit a panel: never wider than a tile of many rows."""
    return strip_width(columns, np.intp(TILE_ROWS))


def _make_strips(transposed: bool):
    """Make the kernel that chooses among strips of all widths."""
    widest = _make_strip(WIDEST_ROWS, WIDEST_VECTORS, WIDTH, transposed)
    wide = _make_strip(WIDE_ROWS, WIDE_VECTORS, WIDTH, transposed)
    narrow = (_make_strip(TILE_ROWS, 1, width, transposed) for width in (WIDTH, HALF, QUARTER, 1))
    vector, half, quarter, single = narrow
    usual = _make_strip(TILE_ROWS, TARGET.tile_vectors, WIDTH, transposed) if TILE_WIDTH > WIDTH else vector

    @jit
    def strip(
        width, c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end
    ):
        """Compute a strip of C, `width` columns wide as `strip_width` said.

        Parameters
        ----------
        c, a, b, bias, mask : pointers to float32; the mask lies like C
        c_row : elements between rows of C
        a_step : elements between rows of A, or, transposed, between neighbours along the innermost run of k; the
            other step is 1, and known to the compiler, since two unknown steps need more registers than there are
        b_k : elements between neighbours in B along the innermost run of k
        rows : rows of C
        count, count1, count2 : lengths of the runs of k, innermost first
        a1, b1, a2, b2 : elements between the middle and the outer runs
        start : FROM_ZERO, FROM_BIAS or FROM_C
        end : PLAIN, RELU, MASK or SGD
        """
        if width == TILE_WIDTH:
            usual(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end)
        elif width == WIDTH:
            vector(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end)
        elif width == WIDE_WIDTH:
            wide(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end)
        elif width == WIDEST:
            widest(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end)
        elif width == HALF:
            half(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end)
        elif width == QUARTER:
            quarter(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end)
        else:
            single(c, c_row, a, a_step, b, b_k, rows, count, count1, a1, b1, count2, a2, b2, bias, start, mask, end)

    return strip


strip = _make_strips(transposed=False)
strip_transposed = _make_strips(transposed=True)

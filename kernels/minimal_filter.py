"""The linear maps of Winograd's minimal filtering, as vector code: from inputs, weights and slopes to sums and back.

Matrices are found in exact fractions; each map is a fixed sequence of vector additions and fused multiply-adds, so the
bits do not depend on the vector's width.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.fused import multiply_add
from edgerev.kernels.intrinsics import F32P, f32, intp, sizes
from edgerev.kernels.jit import TARGET
from edgerev.kernels.layout import WINOGRAD_OUTPUTS
from edgerev.kernels.vectors import load_vector, store_vector

WIDTH = TARGET.width
VECTOR = ir.VectorType(f32, WIDTH)
ZERO = ir.Constant(VECTOR, [0.0] * WIDTH)

Matrix = list[list[Fraction]]


def toom_cook(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return A^T, G and B^T for the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity (Toom-Cook, transposed).

    ``A^T`` evaluates, ``B^T`` holds the coefficients of the Lagrange polynomials without their denominators, and ``G``
    evaluates and divides by those.
    """
    size = outputs + taps - 1
    points = [Fraction(text) for text in ("0", "1", "-1", "2", "-2", "1/2", "-1/2")][: size - 1]

    def product(roots):
        coefficients = [Fraction(1)]
        for root in roots:
            shifted = [Fraction(0), *coefficients]
            coefficients = [high - root * low for high, low in zip(shifted, [*coefficients, Fraction(0)])]
        return coefficients

    a_t = [[point**i for point in points] + [Fraction(i == outputs - 1)] for i in range(outputs)]
    g, b_t = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = Fraction(1)
        for other in others:
            scale *= point - other
        g.append([point**k / scale for k in range(taps)])
        b_t.append([*product(others), Fraction(0)])
    g.append([Fraction(k == taps - 1) for k in range(taps)])
    b_t.append(product(points))
    return a_t, g, b_t


def transposed(matrix: Matrix) -> Matrix:
    """Return `matrix` with rows and columns exchanged."""
    return [list(column) for column in zip(*matrix)]


def _combine(builder, terms):
    """Return the sum of ``coefficient * vector``, in order; one of coefficient 1 comes first if there is one."""
    terms = sorted(terms, key=lambda term: term[0] != 1)
    total = None
    for coefficient, vector in terms:
        constant = ir.Constant(VECTOR, [float(np.float32(float(coefficient)))] * WIDTH)
        if total is None:
            total = vector if coefficient == 1 else builder.fmul(constant, vector)
        elif coefficient == 1:
            total = builder.fadd(total, vector)
        elif coefficient == -1:
            total = builder.fsub(total, vector)
        else:
            total = multiply_add(builder, constant, vector, total)
    return total


def _partners(rows: Matrix) -> list[tuple[int, int]]:
    """Return pairs of rows that differ only in signs, as those of the points p and -p do."""
    sizes = [list(map(abs, row)) for row in rows]
    return [(i, i + 1) for i in range(len(rows) - 1) if sizes[i] == sizes[i + 1] and rows[i] != rows[i + 1]]


def _apply(builder, matrix: Matrix, vectors):
    """Return `matrix` times `vectors`; partners among rows, or else among columns, share their sums."""
    pairs = _partners(matrix)
    if not pairs:
        return _apply_to_columns(builder, matrix, vectors)
    results: dict[int, ir.Value] = {}
    for first, second in pairs:
        terms = list(zip(matrix[first], matrix[second], vectors))
        even = _combine(builder, [(value, vector) for value, other, vector in terms if value and value == other])
        odd = _combine(builder, [(value, vector) for value, other, vector in terms if value and value != other])
        results[first], results[second] = builder.fadd(even, odd), builder.fsub(even, odd)
    for i, row in enumerate(matrix):
        if i not in results:
            results[i] = _combine(builder, [(value, vector) for value, vector in zip(row, vectors) if value])
    return [results[i] for i in range(len(matrix))]


def _apply_to_columns(builder, matrix: Matrix, vectors):
    columns = transposed(matrix)
    sums, differences = list(vectors), list(vectors)
    for first, second in _partners(columns):
        sums[first] = builder.fadd(vectors[first], vectors[second])
        differences[first] = builder.fsub(vectors[first], vectors[second])
        sums[second] = differences[second] = None
    results = []
    for row in matrix:
        terms = []
        for j, value in enumerate(row):
            if value and sums[j] is not None:
                pair = j + 1 < len(row) and sums[j + 1] is None
                terms.append((value, differences[j] if pair and row[j + 1] != value else sums[j]))
        results.append(_combine(builder, terms))
    return results


def _apply_both(builder, matrix: Matrix, grid):
    """Return ``matrix grid matrix^T``, or, where the grid has one line, ``grid matrix^T``."""
    if len(grid) > 1:
        columns = [_apply(builder, matrix, column) for column in zip(*grid)]
        grid = list(zip(*columns))
    return [_apply(builder, matrix, list(line)) for line in grid]


def _load_grid(builder, pointer, height, width, line, step):
    """Load ``height x width`` vectors that lie `line` and `step` elements apart."""
    return [
        [
            load_vector(
                builder,
                builder.gep(pointer, [builder.add(builder.mul(line, intp(i)), builder.mul(step, intp(j)))]), WIDTH,
            )
            for j in range(width)
        ]
        for i in range(height)
    ]  # fmt: skip


def make_map(matrix: Matrix, both: bool):
    """Make the intrinsic ``map(target, position, source, line, step)``: one vector of channels of one tile.

    It reads a grid of vectors that lie `line` and `step` elements apart, and writes the mapped grid in row order, with
    `position` elements between neighbours.
    """
    taken = len(matrix[0])

    @intrinsic
    def transform(typing_context, target, position, source, line, step):
        def generate(context, builder, signature, arguments):
            target, position, source, line, step = sizes(builder, arguments)
            grid = _load_grid(builder, source, taken if both else 1, taken, line, step)
            mapped = _apply_both(builder, matrix, grid)
            for index, value in enumerate(value for row in mapped for value in row):
                store_vector(builder, value, builder.gep(target, [builder.mul(position, intp(index))]))
            return context.get_dummy_value()

        return types.void(F32P, types.intp, F32P, types.intp, types.intp), generate

    return transform


def make_output(matrix: Matrix, both: bool):
    """Make the intrinsic that maps sums to outputs, adds bias or what is there, and applies ReLU or its mask."""
    taken = len(matrix[0])

    @intrinsic
    def output(typing_context, y, line, step, sums, position, bias, has_bias, add, relu, mask, mask_line, has_mask):
        size = types.intp
        signature = types.void(F32P, size, size, F32P, size, F32P, size, size, size, F32P, size, size)

        def generate(context, builder, signature, arguments):
            arguments = sizes(builder, arguments)
            y, line, step, sums, position, bias, has_bias, add, relu, mask, mask_line, has_mask = arguments
            line_of_sums = builder.mul(position, intp(taken))
            grid = _load_grid(builder, sums, taken if both else 1, taken, line_of_sums, position)
            mapped = _apply_both(builder, matrix, grid)
            places = [(i, j) for i in range(len(mapped)) for j in range(WINOGRAD_OUTPUTS)]
            slots = {place: cgutils.alloca_once_value(builder, mapped[place[0]][place[1]]) for place in places}

            def offset(i, j, lines):
                return builder.add(builder.mul(lines, intp(i)), builder.mul(step, intp(j)))

            def change(flag, function):
                with builder.if_then(builder.icmp_signed("!=", flag, intp(0))):
                    for i, j in places:
                        builder.store(function(builder.load(slots[i, j]), i, j), slots[i, j])

            def masked(value, i, j):
                there = load_vector(builder, builder.gep(mask, [offset(i, j, mask_line)]), WIDTH)
                return builder.select(builder.fcmp_ordered(">", there, ZERO), value, ZERO)

            change(has_bias, lambda value, i, j: builder.fadd(value, load_vector(builder, bias, WIDTH)))
            change(add, lambda value, i, j: builder.fadd(
                value, load_vector(builder, builder.gep(y, [offset(i, j, line)]), WIDTH)
            ))  # fmt: skip
            change(relu, lambda value, i, j: builder.select(builder.fcmp_ordered("<", value, ZERO), ZERO, value))
            change(has_mask, masked)
            for i, j in places:
                store_vector(builder, builder.load(slots[i, j]), builder.gep(y, [offset(i, j, line)]))
            return context.get_dummy_value()

        return signature, generate

    return output


def make_gradient(matrix: Matrix, both: bool):
    """Make the intrinsic that maps sums over tiles to the gradient of one vector of weights."""
    taken = len(matrix[0])

    @intrinsic
    def gradient(typing_context, dw, line, step, sums, position, add):
        def generate(context, builder, signature, arguments):
            dw, line, step, sums, position, add = sizes(builder, arguments)
            grid = _load_grid(builder, sums, taken if both else 1, taken, builder.mul(position, intp(taken)), position)
            again = builder.icmp_signed("!=", add, intp(0))
            for i, row in enumerate(_apply_both(builder, matrix, grid)):
                for j, value in enumerate(row):
                    target = builder.gep(dw, [builder.add(builder.mul(line, intp(i)), builder.mul(step, intp(j)))])
                    before = load_vector(builder, target, WIDTH)
                    store_vector(builder, builder.select(again, builder.fadd(before, value), value), target)
            return context.get_dummy_value()

        return types.void(F32P, types.intp, types.intp, F32P, types.intp, types.intp), generate

    return gradient

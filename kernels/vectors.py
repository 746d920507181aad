"""Vectors of float32 as LLVM IR: loads, stores and shuffles of any width, and the loops that only vectors make fast."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.fused import multiply_add
from edgerev.kernels.intrinsics import F32P, f32, i32, intp, sizes
from edgerev.kernels.jit import TARGET

LANES = 16  # virtual lanes of every sum along a vector, whatever the hardware's width


def load_vector(builder, pointer, width):
    """Load `width` float32 that need not be aligned."""
    value = builder.load(builder.bitcast(pointer, ir.VectorType(f32, width).as_pointer()))
    value.align = 4
    return value


def store_vector(builder, value, pointer):
    """Store a vector of float32 where it need not be aligned."""
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer())).align = 4


def splat(builder, scalar, width):
    """Return a vector of `width` copies of a number."""
    undefined = ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined)
    single = builder.insert_element(undefined, scalar, i32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(i32, width), [0] * width))


def transposed_lines(builder, lines):
    """Return the columns of a square of vectors: first of squares of 4 within 128 bits, where shuffles are cheapest,
    then the squares off the diagonal are exchanged."""
    width, lines = len(lines), list(lines)

    def shuffle(a, b, lanes):
        lanes = [lane % 4 + (lane // 4 * width) + block for block in range(0, width, 4) for lane in lanes]
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(i32, width), lanes))

    for i in range(0, width, 4):
        a, b, c, d = lines[i : i + 4]
        low, high = (0, 4, 1, 5), (2, 6, 3, 7)  # lanes 4 to 7 are those of the second vector
        a, b, c, d = shuffle(a, b, low), shuffle(a, b, high), shuffle(c, d, low), shuffle(c, d, high)
        low, high = (0, 1, 4, 5), (2, 3, 6, 7)
        lines[i : i + 4] = shuffle(a, c, low), shuffle(a, c, high), shuffle(b, d, low), shuffle(b, d, high)
    step = 4
    while step < width:
        low = [lane + (width - step) * bool(lane & step) for lane in range(width)]
        high = [lane + (width if lane & step else step) for lane in range(width)]
        for i in (i for i in range(width) if not i & step):
            pair = lines[i], lines[i + step]
            for place, lanes in ((i, low), (i + step, high)):
                lines[place] = builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(i32, width), lanes))
        step *= 2
    return lines


@intrinsic
def transpose(typing_context, target, target_row, source, source_row):
    """Write the transposed of a square block of one vector's width: as many rows, their starts that far apart."""

    def generate(context, builder, signature, arguments):
        target, target_row, source, source_row = sizes(builder, arguments)
        width = TARGET.width
        lines = [
            load_vector(builder, builder.gep(source, [builder.mul(source_row, intp(i))]), width) for i in range(width)
        ]
        for i, line in enumerate(transposed_lines(builder, lines)):
            store_vector(builder, line, builder.gep(target, [builder.mul(target_row, intp(i))]))
        return context.get_dummy_value()

    return types.void(F32P, types.intp, F32P, types.intp), generate


@intrinsic
def update_by_outer(typing_context, w, w_row, x, dy, rows, rate, decay):
    """Update a band of weights, 4 vectors wide, by SGD with the gradient ``x dy``.

    What `edgerev.kernels.tile` does with a chain of one product, without the cost of a tile.
    """

    def generate(context, builder, signature, arguments):
        w, w_row, x, dy, rows, rate, decay = sizes(builder, arguments)
        width, vectors = TARGET.width, 4
        vector = ir.VectorType(f32, width)
        zero = ir.Constant(vector, [0.0] * width)
        minus_rate, decays = splat(builder, builder.fneg(rate), width), splat(builder, decay, width)
        slopes = [load_vector(builder, builder.gep(dy, [intp(j * width)]), width) for j in range(vectors)]

        def update(decaying):
            with cgutils.for_range(builder, rows, intp=intp) as loop:
                value = splat(builder, builder.load(builder.gep(x, [loop.index])), width)
                line = builder.gep(w, [builder.mul(loop.index, w_row)])
                for j in range(vectors):
                    place = builder.gep(line, [intp(j * width)])
                    weight = load_vector(builder, place, width)
                    slope = multiply_add(builder, value, slopes[j], zero)
                    if decaying:
                        slope = multiply_add(builder, decays, weight, slope)
                    store_vector(builder, multiply_add(builder, minus_rate, slope, weight), place)

        with builder.if_else(builder.fcmp_ordered("==", decay, ir.Constant(f32, 0.0))) as (without, with_decay):
            with without:  # the same bits: 0 times a weight adds nothing
                update(False)
            with with_decay:
                update(True)
        return context.get_dummy_value()

    f = types.float32
    return types.void(F32P, types.intp, F32P, F32P, types.intp, f, f), generate


@intrinsic
def dot(typing_context, a, b, count):
    """Return ``sum a[i] * b[i]``: 16 lanes, element i in lane i % 16, joined by a fixed tree.

    The order of additions does not depend on the hardware's vectors, so neither do the bits.
    """

    def generate(context, builder, signature, arguments):
        a, b, count = sizes(builder, arguments)
        vector = ir.VectorType(f32, LANES)
        lanes = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, [0.0] * LANES), lanes)
        whole = builder.and_(count, intp(-LANES))

        def load(pointer, index):
            return load_vector(builder, builder.gep(pointer, [index]), LANES)

        with cgutils.for_range_slice(builder, intp(0), whole, intp(LANES), intp=intp) as (index, _):
            builder.store(multiply_add(builder, load(a, index), load(b, index), builder.load(lanes)), lanes)
        with cgutils.for_range_slice(builder, whole, count, intp(1), intp=intp) as (index, _):
            lane = builder.trunc(builder.sub(index, whole), i32)
            total = builder.load(lanes)
            products = [builder.load(builder.gep(pointer, [index])) for pointer in (a, b)]
            value = multiply_add(builder, *products, builder.extract_element(total, lane))
            builder.store(builder.insert_element(total, value, lane), lanes)
        value = builder.load(lanes)
        half = LANES // 2
        while half:
            low = ir.Constant(ir.VectorType(i32, half), list(range(half)))
            high = ir.Constant(ir.VectorType(i32, half), list(range(half, 2 * half)))
            undefined = ir.Constant(value.type, ir.Undefined)
            value = builder.fadd(
                builder.shuffle_vector(value, undefined, low), builder.shuffle_vector(value, undefined, high)
            )
            half //= 2
        return builder.extract_element(value, i32(0))

    return types.float32(F32P, F32P, types.intp), generate

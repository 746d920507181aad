"""PEAK: nothing but fused multiply-adds on registers, the most that a processor can do of them.

A chain's multiply-add waits for the one before it, so a core with two units of four cycles each needs eight chains to
be busy; twelve leave four of the sixteen vector registers of AVX2 for the operands. Factor and addend come from the
instruction's row, so the compiler cannot know where the chains lead.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.intrinsics import F32P, advance, declare, f32, f32_at, i32, intp
from edgerev.kernels.jit import TARGET, kernel
from edgerev.kernels.operands import T_OFFSET, T_SIZE, parameter, real_parameter, share, tensor

CHAINS = 12


def _make_chains(chains: int, width: int):
    """Make the intrinsic that takes ``chains * width`` neighbours through all rounds."""
    vector = ir.VectorType(f32, width)

    @intrinsic
    def run(typing_context, y, rounds, factor, addend):
        signature = types.void(F32P, types.intp, types.float32, types.float32)

        def generate(context, builder, signature, arguments):
            y, rounds, factor, addend = arguments
            multiply_add = declare(builder, f"llvm.fma.v{width}f32", vector, vector, vector, vector)
            undefined = ir.Constant(vector, ir.Undefined)
            lanes = ir.Constant(ir.VectorType(i32, width), [0] * width)
            factors, addends = (
                builder.shuffle_vector(builder.insert_element(undefined, scalar, i32(0)), undefined, lanes)
                for scalar in (factor, addend)
            )
            places = [
                builder.bitcast(builder.gep(y, [intp(chain * width)]), vector.as_pointer()) for chain in range(chains)
            ]
            values = [cgutils.alloca_once(builder, vector) for _ in places]
            for place, value in zip(places, values):
                loaded = builder.load(place)
                loaded.align = 4
                builder.store(loaded, value)
            with cgutils.for_range(builder, rounds, intp=intp):
                for value in values:
                    builder.store(builder.call(multiply_add, [builder.load(value), factors, addends]), value)
            for place, value in zip(places, values):
                builder.store(builder.load(value), place).align = 4
            return context.get_dummy_value()

        return signature, generate

    return run


TOGETHER = CHAINS * TARGET.width
_together = _make_chains(CHAINS, TARGET.width)
_single = _make_chains(1, 1)


@kernel
def peak(row, tensors, arena, n, thread, threads, status):
    """PEAK y (rounds, factor, addend); threads share runs of `TOGETHER` elements."""
    ty = tensor(row, tensors, 0)
    y, rounds = f32_at(arena, ty[T_OFFSET]), parameter(row, 0)
    factor, addend = real_parameter(row, 1), real_parameter(row, 2)
    runs = (ty[T_SIZE] + TOGETHER - 1) // TOGETHER
    first, last = share(runs, thread, threads)
    for index in range(first, last):
        start = index * TOGETHER
        if start + TOGETHER <= ty[T_SIZE]:
            _together(advance(y, start), rounds, factor, addend)
        else:
            for element in range(start, np.intp(ty[T_SIZE])):
                _single(advance(y, element), rounds, factor, addend)

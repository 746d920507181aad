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

from edgerev.kernels.fused import emit_chains
from edgerev.kernels.intrinsics import F32P, advance, f32, f32_at, intp, sizes
from edgerev.kernels.jit import TARGET, kernel
from edgerev.kernels.operands import T_OFFSET, T_SIZE, parameter, real_parameter, share, tensor
from edgerev.kernels.vectors import load_vector, splat, store_vector

CHAINS = 12


def _make_chains(chains: int, width: int):
    """Make the intrinsic that takes ``chains * width`` neighbours through all rounds."""
    vector = ir.VectorType(f32, width)

    @intrinsic
    def run(typing_context, y, rounds, factor, addend):
        signature = types.void(F32P, types.intp, types.float32, types.float32)

        def generate(context, builder, signature, arguments):
            y, rounds, factor, addend = sizes(builder, arguments)
            places = [builder.gep(y, [intp(chain * width)]) for chain in range(chains)]
            values = [cgutils.alloca_once(builder, vector) for _ in places]

            def start():
                for place, value in zip(places, values):
                    builder.store(load_vector(builder, place, width), value)

            def add(arithmetic, slots):
                factors, addends = (
                    splat(builder, arithmetic.widen(scalar), width) for scalar in (factor, addend)
                )
                with cgutils.for_range(builder, rounds, intp=intp):
                    for slot in slots:
                        builder.store(arithmetic.multiply_add(builder.load(slot), factors, addends), slot)

            emit_chains(builder, values, start, add)
            for place, value in zip(places, values):
                store_vector(builder, builder.load(value), place)
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

"""Convolutions of each channel by itself, and the gradients of their weights.

A vector of channels at a time: outputs of four neighbouring positions share each load of a weight, and sums of five
taps each load of a slope. Each element is one chain of fused multiply-adds in the order of taps, or of positions.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from edgerev.kernels.conv import bias_gradient, start_of_sums
from edgerev.kernels.fused import emit_chains
from edgerev.kernels.intrinsics import F32P, advance, f32, intp, sizes
from edgerev.kernels.jit import TARGET, jit, kernel
from edgerev.kernels.operands import (
    T_CHANNELS,
    T_HEIGHT,
    T_STRIDE,
    T_WIDTH,
    floats,
    has,
    line_offset,
    line_stride,
    parameter,
    samples,
    share,
    tensor,
)
from edgerev.kernels.tile import FROM_C, PLAIN
from edgerev.kernels.vectors import load_vector, store_vector

WIDTH = TARGET.width
POSITIONS, TAPS = 4, 5  # at a time


def _switch(builder, value, most, emit):
    """Emit a case for each number from 1 to `most` that `value` may be."""
    done = builder.append_basic_block("depthwise.done")
    switch = builder.switch(value, done)
    for number in range(1, most + 1):
        block = builder.append_basic_block(f"depthwise.{number}")
        switch.add_case(intp(number), block)
        builder.position_at_end(block)
        emit(number)
        builder.branch(done)
    builder.position_at_end(done)


def _make_outputs(width: int):
    """Make the intrinsic for up to `POSITIONS` outputs of `width` channels."""
    vector = ir.VectorType(f32, width)

    @intrinsic
    def outputs(typing_context, positions, y, x, line, channels, w, w_step, kernel_h, kernel_w, bias, has_bias):
        size = types.intp

        def generate(context, builder, signature, arguments):
            positions, y, x, line, channels, w, w_step, kernel_h, kernel_w, bias, has_bias = sizes(builder, arguments)
            biased = builder.icmp_signed("!=", has_bias, intp(0))
            zero = ir.Constant(vector, [0.0] * width)
            begin = builder.select(biased, load_vector(builder, bias, width), zero)

            def emit(number):
                sums = [cgutils.alloca_once(builder, vector) for _ in range(number)]
                steps = [builder.mul(channels, intp(p)) for p in range(number)]

                def start():
                    for total in sums:
                        builder.store(begin, total)

                def add(arithmetic, slots):
                    with cgutils.for_range(builder, kernel_h, intp=intp) as ky:
                        first = builder.mul(ky.index, kernel_w)
                        row = builder.gep(x, [builder.mul(ky.index, line)])
                        with cgutils.for_range(builder, kernel_w, intp=intp) as kx:
                            tap = builder.mul(builder.add(first, kx.index), w_step)
                            weight = arithmetic.widen(load_vector(builder, builder.gep(w, [tap]), width))
                            place = builder.gep(row, [builder.mul(kx.index, channels)])
                            for slot, step in zip(slots, steps):
                                value = arithmetic.widen(load_vector(builder, builder.gep(place, [step]), width))
                                builder.store(arithmetic.multiply_add(value, weight, builder.load(slot)), slot)

                emit_chains(builder, sums, start, add)
                for total, step in zip(sums, steps):
                    store_vector(builder, builder.load(total), builder.gep(y, [step]))

            _switch(builder, positions, POSITIONS, emit)
            return context.get_dummy_value()

        return types.void(size, F32P, F32P, size, size, F32P, size, size, size, F32P, size), generate

    return outputs


def _make_sums(width: int):
    """Make the intrinsic for the gradients of up to `TAPS` taps from tap `first` on, of `width` channels."""
    vector = ir.VectorType(f32, width)

    @intrinsic
    def sums(
        typing_context, taps, first, kernel_w, dw, channels, x, x_line, x_sample, dy, y_line, y_sample, count, height,
        columns, goes_on,
    ):
        size = types.intp
        signature = types.void(
            size, size, size, F32P, size, F32P, size, size, F32P, size, size, size, size, size, size
        )

        def generate(context, builder, signature, arguments):
            (
                taps, first, kernel_w, dw, channels, x, x_line, x_sample, dy, y_line, y_sample, count, height, columns,
                goes_on,
            ) = sizes(builder, arguments)
            again = builder.icmp_signed("!=", goes_on, intp(0))
            zero = ir.Constant(vector, [0.0] * width)

            def emit(number):
                numbers = [builder.add(first, intp(i)) for i in range(number)]
                places = [builder.gep(dw, [builder.mul(tap, channels)]) for tap in numbers]
                shifts = [
                    builder.add(
                        builder.mul(builder.sdiv(tap, kernel_w), x_line),
                        builder.mul(builder.srem(tap, kernel_w), channels),
                    )
                    for tap in numbers
                ]  # fmt: skip
                totals = [cgutils.alloca_once(builder, vector) for _ in range(number)]

                def start():
                    for total, place in zip(totals, places):
                        builder.store(builder.select(again, load_vector(builder, place, width), zero), total)

                def add(arithmetic, slots):
                    with cgutils.for_range(builder, count, intp=intp) as sample:
                        x_start = builder.gep(x, [builder.mul(sample.index, x_sample)])
                        y_start = builder.gep(dy, [builder.mul(sample.index, y_sample)])
                        with cgutils.for_range(builder, height, intp=intp) as line:
                            x_row = builder.gep(x_start, [builder.mul(line.index, x_line)])
                            y_row = builder.gep(y_start, [builder.mul(line.index, y_line)])
                            with cgutils.for_range(builder, columns, intp=intp) as position:
                                at = builder.mul(position.index, channels)
                                slope = arithmetic.widen(load_vector(builder, builder.gep(y_row, [at]), width))
                                for slot, shift in zip(slots, shifts):
                                    place = builder.gep(x_row, [builder.add(at, shift)])
                                    value = arithmetic.widen(load_vector(builder, place, width))
                                    builder.store(arithmetic.multiply_add(value, slope, builder.load(slot)), slot)

                emit_chains(builder, totals, start, add)
                for total, place in zip(totals, places):
                    store_vector(builder, builder.load(total), place)

            _switch(builder, taps, TAPS, emit)
            return context.get_dummy_value()

        return signature, generate

    return sums


def _make_kernels(width: int):
    """Make the loops around the intrinsics for `width` channels."""
    outputs, sums = _make_outputs(width), _make_sums(width)

    @kernel
    def lines(y, x, ty, tx, w, w_step, kernel_h, kernel_w, bias, has_bias, line0, line1):
        channels, columns = ty[T_CHANNELS], ty[T_WIDTH]
        for line in range(line0, line1):
            target, source = advance(y, line_offset(ty, line)), advance(x, line_offset(tx, line))
            for first in range(0, columns, POSITIONS):
                at = first * channels
                outputs(
                    min(columns - first, np.intp(POSITIONS)), advance(target, at), advance(source, at), line_stride(tx),
                    channels, w, w_step, kernel_h, kernel_w, bias, has_bias,
                )

    @kernel
    def gradient(dw, x, dy, tx, ty, count, taps, kernel_w, goes_on):
        groups = (taps + TAPS - 1) // TAPS
        first = np.intp(0)
        for group in range(groups):
            take = (taps - first + groups - group - 1) // (groups - group)
            sums(
                take, first, kernel_w, dw, ty[T_CHANNELS], x, line_stride(tx), tx[T_STRIDE], dy, line_stride(ty),
                ty[T_STRIDE], count, ty[T_HEIGHT], ty[T_WIDTH], goes_on,
            )
            first += take

    return lines, gradient


_lines, _gradient = _make_kernels(WIDTH)
_lines_1, _gradient_1 = _make_kernels(1)


@jit
def _corner(x, tx, kernel_h, kernel_w):
    """Return the input under the first tap of the first output."""
    return advance(x, -((kernel_h // 2) * line_stride(tx) + (kernel_w // 2) * tx[T_CHANNELS]))


@kernel
def depthwise(row, tensors, arena, n, thread, threads, status):
    """DEPTHWISE y; x w b (kernel_h, kernel_w, flipped)."""
    ty, tx = tensor(row, tensors, 0), tensor(row, tensors, 1)
    y, x, w = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1), floats(row, tensors, arena, 2)
    kernel_h, kernel_w, channels = parameter(row, 0), parameter(row, 1), ty[T_CHANNELS]
    bias, has_bias, step = w, np.intp(has(row, 3)), channels
    if has(row, 3):
        bias = floats(row, tensors, arena, 3)
    if parameter(row, 2) != 0:
        w, step = advance(w, (kernel_h * kernel_w - 1) * channels), -channels
    x = _corner(x, tx, kernel_h, kernel_w)
    first, last = share(samples(row, n) * ty[T_HEIGHT], thread, threads)
    c = np.intp(0)
    while c < channels:
        to, source, weights, begin = advance(y, c), advance(x, c), advance(w, c), advance(bias, c)
        if c + WIDTH <= channels:
            _lines(to, source, ty, tx, weights, step, kernel_h, kernel_w, begin, has_bias, first, last)
            c += WIDTH
        else:
            _lines_1(to, source, ty, tx, weights, step, kernel_h, kernel_w, begin, has_bias, first, last)
            c += 1


@kernel
def depthwise_wgrad(row, tensors, arena, n, thread, threads, status):
    """DEPTHWISE_WGRAD dw db; x dy (kernel_h, kernel_w); threads share vectors of channels."""
    tx, ty, count = tensor(row, tensors, 2), tensor(row, tensors, 3), samples(row, n)
    dw, x, dy = floats(row, tensors, arena, 0), floats(row, tensors, arena, 2), floats(row, tensors, arena, 3)
    kernel_h, kernel_w, channels = parameter(row, 0), parameter(row, 1), ty[T_CHANNELS]
    x, start = _corner(x, tx, kernel_h, kernel_w), start_of_sums(row)
    taps, goes_on = kernel_h * kernel_w, np.intp(start == FROM_C)
    first, last = share((channels + WIDTH - 1) // WIDTH, thread, threads)
    c, end = first * WIDTH, min(last * WIDTH, channels)
    while c < end:
        to, source, slopes = advance(dw, c), advance(x, c), advance(dy, c)
        if c + WIDTH <= channels:
            _gradient(to, source, slopes, tx, ty, count, taps, kernel_w, goes_on)
            c += WIDTH
        else:
            _gradient_1(to, source, slopes, tx, ty, count, taps, kernel_w, goes_on)
            c += 1
    if has(row, 1):
        db = floats(row, tensors, arena, 1)
        bias_gradient(db, dy, ty, count, dw, start, PLAIN, thread, threads)

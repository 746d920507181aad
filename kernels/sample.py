"""Where random numbers meet samples: input with augmentation, dropout, initial weights."""

import numpy as np

from edgerev.kernels.intrinsics import advance, f32_at, i64_at, outside
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import Status
from edgerev.kernels.operands import (
    FIRST,
    T_CHANNELS,
    T_HEIGHT,
    T_OFFSET,
    T_SIZE,
    T_STRIDE,
    T_WIDTH,
    floats,
    line_offset,
    line_stride,
    parameter,
    real_parameter,
    record,
    samples,
    share,
    tensor,
)
from edgerev.kernels.random import HALF_WORD, uniform, words_at

INPUT_NOT_FINITE = int(Status.INPUT_NOT_FINITE)
INFINITY = np.float32(np.inf)
ROOT_3 = np.float32(1.7320508075688772)


@jit
def _choose(word, choices):
    """Return one of 0 .. choices - 1."""
    return np.intp((word * np.uint64(choices)) >> HALF_WORD)


@jit
def _placement(row, counters, sample, height, spare_y, spare_x):
    """Return offset y, offset x and mirror of the window into the raw sample."""
    y, x = spare_y // 2, spare_x // 2
    if parameter(row, 0) == 0:
        return y, x, False
    shift = parameter(row, 1)
    w0, w1, w2, _ = words_at(counters, True, 0, sample, 0)
    shift_y = shift if height > 1 else np.intp(0)  # a signal has nowhere to go
    y = _choose(w0, spare_y + 2 * shift_y + 1) - shift_y
    x = _choose(w1, spare_x + 2 * shift + 1) - shift
    return y, x, parameter(row, 2) != 0 and (w2 >> np.uint64(31)) != np.uint64(0)


@kernel
def read_input(row, tensors, arena, n, thread, threads, status):
    """INPUT y; raw mean scale counters (augment, shift, flip, noise)."""
    ty, tr = tensor(row, tensors, 0), tensor(row, tensors, 1)
    y_base, raw = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    mean, scale = floats(row, tensors, arena, 2), floats(row, tensors, arena, 3)
    counters = i64_at(arena, tensor(row, tensors, 4)[T_OFFSET])
    noise = real_parameter(row, 3) if parameter(row, 0) != 0 else np.float32(0)
    height, width, channels = ty[T_HEIGHT], ty[T_WIDTH], ty[T_CHANNELS]
    tall, wide = tr[T_HEIGHT], tr[T_WIDTH]
    first, last = share(samples(row, n), thread, threads)
    for s in range(first, last):
        sample = np.intp(row[FIRST]) + s
        offset_y, offset_x, mirror = _placement(row, counters, sample, height, tall - height, wide - width)
        bad = np.int32(0)
        for i in range(height):
            source_y = i + offset_y
            y = advance(y_base, s * ty[T_STRIDE] + i * line_stride(ty))
            for j in range(width):
                source_x = (width - 1 - j if mirror else j) + offset_x
                inside = source_y >= 0 and source_y < tall and source_x >= 0 and source_x < wide
                at = s * tr[T_STRIDE] + (source_y * wide + source_x) * channels
                for c in range(channels):
                    value = ((raw[at + c] if inside else np.float32(0)) - mean[c]) * scale[c]
                    bad |= np.int32(outside(value, INFINITY))
                    y[j * channels + c] = value
            if noise > np.float32(0):
                _add_noise(y, noise, counters, sample, i * width * channels, width * channels)
        if bad != np.int32(0):
            record(status, INPUT_NOT_FINITE, sample)


@jit
def _add_noise(y, noise, counters, sample, first, count):
    """Add a sum of four uniforms, centred and scaled to unit variance, times `noise`."""
    for e in range(count):
        w0, w1, w2, w3 = words_at(counters, True, 1 + first + e, sample, 0)
        total = (uniform(w0) + uniform(w1)) + (uniform(w2) + uniform(w3)) - np.float32(2)
        y[e] += noise * (ROOT_3 * total)


@kernel
def dropout(row, tensors, arena, n, thread, threads, status):
    """DROPOUT y; x counters (rate, stream); Srivastava et al. 2014, scaled while training."""
    ty, tx = tensor(row, tensors, 0), tensor(row, tensors, 1)
    y_base, x_base = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    counters = i64_at(arena, tensor(row, tensors, 2)[T_OFFSET])
    rate, stream = real_parameter(row, 0), parameter(row, 1)
    keep = np.float32(1) / (np.float32(1) - rate)
    height, length = ty[T_HEIGHT], ty[T_WIDTH] * ty[T_CHANNELS]
    first, last = share(samples(row, n) * height, thread, threads)
    for line in range(first, last):
        y, x = advance(y_base, line_offset(ty, line)), advance(x_base, line_offset(tx, line))
        sample, before = np.intp(row[FIRST]) + line // height, (line % height) * length
        i = np.intp(0)
        while i < length:
            element = before + i
            words = words_at(counters, True, element // 4, sample, stream)
            for k in range(element % 4, 4):
                if i < length:
                    word = words[0] if k == 0 else (words[1] if k == 1 else (words[2] if k == 2 else words[3]))
                    y[i] = x[i] * keep if uniform(word) >= rate else np.float32(0)
                    i += 1


@kernel
def initialise(row, tensors, arena, n, thread, threads, status):
    """INIT w; counters (random, value, stream)."""
    tw = tensor(row, tensors, 0)
    w, value = f32_at(arena, tw[T_OFFSET]), real_parameter(row, 1)
    counters = i64_at(arena, tensor(row, tensors, 1)[T_OFFSET])
    first, last = share(tw[T_SIZE], thread, threads)
    for i in range(first, last):
        if parameter(row, 0) == 0:
            w[i] = value
        else:
            words = words_at(counters, False, i // 4, 0, parameter(row, 2))
            k = i % 4
            word = words[0] if k == 0 else (words[1] if k == 1 else (words[2] if k == 2 else words[3]))
            w[i] = (np.float32(2) * uniform(word) - np.float32(1)) * value

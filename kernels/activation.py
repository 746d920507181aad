"""Activations and their gradients: ReLU, GELU (Hendrycks and Gimpel 2016, the tanh form), SiLU."""

import numpy as np

from edgerev.kernels.intrinsics import advance, fma
from edgerev.kernels.jit import jit, kernel
from edgerev.kernels.layout import Activation
from edgerev.kernels.maths import exp, sigmoid, tanh
from edgerev.kernels.operands import T_HEIGHT, floats, line_length, line_offset, parameter, samples, share, tensor

RELU, GELU = int(Activation.RELU), int(Activation.GELU)
GELU_SCALE, GELU_CUBE = np.float32(0.7978845608028654), np.float32(0.044715)


@jit
def _at_least(x, low):
    """max(x, low), where NaN stays NaN: below `low` the activation is 0 and its formula infinity times 0."""
    return low if x < low else x


@jit
def _gelu(x):
    x = _at_least(x, np.float32(-10))
    inner = GELU_SCALE * fma(GELU_CUBE * x, x * x, x)
    return np.float32(0.5) * x * (np.float32(1) + tanh(inner))


@jit
def _gelu_slope(x):
    x = _at_least(-_at_least(-x, np.float32(-10)), np.float32(-10))
    square = x * x
    t = tanh(GELU_SCALE * fma(GELU_CUBE * x, square, x))
    inner_slope = GELU_SCALE * fma(np.float32(3) * GELU_CUBE, square, np.float32(1))
    return np.float32(0.5) * ((np.float32(1) + t) + x * (np.float32(1) - t * t) * inner_slope)


@jit
def _silu(x):
    x = _at_least(x, np.float32(-87))
    return x * sigmoid(x)


@jit
def _silu_slope(x):
    x = _at_least(-_at_least(-x, np.float32(-87)), np.float32(-87))
    e = exp(-x)
    s = np.float32(1) / (np.float32(1) + e)
    return s * fma(x, e * s, np.float32(1))  # e s is 1 - s without its rounding


@kernel
def activation(row, tensors, arena, n, thread, threads, status):
    """ACTIVATION y; x (kind)."""
    ty, tx = tensor(row, tensors, 0), tensor(row, tensors, 1)
    y_base, x_base = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    kind, length = parameter(row, 0), line_length(ty)
    first, last = share(samples(row, n) * ty[T_HEIGHT], thread, threads)
    for line in range(first, last):
        y, x = advance(y_base, line_offset(ty, line)), advance(x_base, line_offset(tx, line))
        if kind == RELU:
            for i in range(length):
                y[i] = np.float32(0) if x[i] < np.float32(0) else x[i]
        elif kind == GELU:
            for i in range(length):
                y[i] = _gelu(x[i])
        else:
            for i in range(length):
                y[i] = _silu(x[i])


@kernel
def activation_grad(row, tensors, arena, n, thread, threads, status):
    """ACTIVATION_GRAD dx; x dy (kind)."""
    td, tx, ty = tensor(row, tensors, 0), tensor(row, tensors, 1), tensor(row, tensors, 2)
    d_base, x_base = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    y_base = floats(row, tensors, arena, 2)
    kind, length = parameter(row, 0), line_length(td)
    first, last = share(samples(row, n) * td[T_HEIGHT], thread, threads)
    for line in range(first, last):
        dx, dy = advance(d_base, line_offset(td, line)), advance(y_base, line_offset(ty, line))
        x = advance(x_base, line_offset(tx, line))
        if kind == RELU:
            for i in range(length):
                slope = dy[i]  # read in any case: a load under a condition would not become vector code
                dx[i] = slope if x[i] > np.float32(0) else np.float32(0)
        elif kind == GELU:
            for i in range(length):
                dx[i] = dy[i] * _gelu_slope(x[i])
        else:
            for i in range(length):
                dx[i] = dy[i] * _silu_slope(x[i])

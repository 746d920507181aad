"""Elementary functions as polynomials: the same bits on every processor, vectorised, no C library.

Coefficients of `exp` and `log` are those of Cephes (Moshier 1989), good to 2 units in the last place.
"""

import numpy as np
from numba import types
from numba.extending import intrinsic

from edgerev.kernels.intrinsics import as_float, fma, i32, round_half_even, to_int32
from edgerev.kernels.jit import jit


@intrinsic
def float_bits(typing_context, value):
    """Return the bits of a float32 as int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], i32)

    return types.int32(types.float32), generate


@jit
def exp(x):
    """e**x in float32; clamped to the range of normal numbers, NaN stays NaN."""
    clamped = x if x < np.float32(88.0) else np.float32(88.0)
    clamped = clamped if clamped > np.float32(-87.0) else np.float32(-87.0)
    n = round_half_even(clamped * np.float32(1.44269504088896341))
    r = fma(n, np.float32(-0.693359375), clamped)
    r = fma(n, np.float32(2.12194440e-4), r)
    p = np.float32(1.9875691500e-4)
    p = fma(p, r, np.float32(1.3981999507e-3))
    p = fma(p, r, np.float32(8.3334519073e-3))
    p = fma(p, r, np.float32(4.1665795894e-2))
    p = fma(p, r, np.float32(1.6666665459e-1))
    p = fma(p, r, np.float32(5.0000001201e-1))
    value = fma(p, r * r, r) + np.float32(1.0)
    scaled = value * as_float(np.int32((to_int32(n) + np.int32(127)) << np.int32(23)))
    return scaled if x == x else np.float32(np.nan)


@jit
def log(x):
    """Natural logarithm in float32 of a normal, positive x."""
    bits = float_bits(x)
    exponent = np.int32((bits >> np.int32(23)) - np.int32(126))
    mantissa = as_float(np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)))  # 0.5 .. 1
    low = mantissa < np.float32(0.707106781186547524)
    e = np.float32(exponent) - (np.float32(1) if low else np.float32(0))
    m = (mantissa + mantissa if low else mantissa) - np.float32(1)
    z = m * m
    p = np.float32(7.0376836292e-2)
    p = fma(p, m, np.float32(-1.1514610310e-1))
    p = fma(p, m, np.float32(1.1676998740e-1))
    p = fma(p, m, np.float32(-1.2420140846e-1))
    p = fma(p, m, np.float32(1.4249322787e-1))
    p = fma(p, m, np.float32(-1.6668057665e-1))
    p = fma(p, m, np.float32(2.0000714765e-1))
    p = fma(p, m, np.float32(-2.4999993993e-1))
    p = fma(p, m, np.float32(3.3333331174e-1))
    y = p * m * z
    y = fma(e, np.float32(-2.12194440e-4), y)
    y = fma(np.float32(-0.5), z, y)
    return fma(e, np.float32(0.693359375), m + y)


@jit
def sigmoid(x):
    """1 / (1 + e**-x)."""
    return np.float32(1) / (np.float32(1) + exp(-x))


@jit
def tanh(x):
    """Hyperbolic tangent, good to 1e-7 absolute."""
    return np.float32(1) - np.float32(2) / (np.float32(1) + exp(np.float32(2) * x))


@jit
def cos_pi(q):
    """cos(pi q) for q in 0 .. 1, good to 1e-6: minus the odd Taylor polynomial of the sine of pi (q - 1/2)."""
    x = (q - np.float32(0.5)) * np.float32(3.14159265358979)
    z = x * x
    p = np.float32(-2.5052108e-8)
    p = fma(p, z, np.float32(2.7557319e-6))
    p = fma(p, z, np.float32(-1.9841270e-4))
    p = fma(p, z, np.float32(8.3333333e-3))
    p = fma(p, z, np.float32(-1.6666667e-1))
    return -fma(p * z, x, x)


@jit
def fill(y, value, count):
    """y = value."""
    for i in range(count):
        y[i] = value


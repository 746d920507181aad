"""Counter-based random numbers: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011), keyed by seed, step and place.

A mask is a pure function of where it is used, so the backward pass computes it again instead of storing it.
"""

import numpy as np

from edgerev.kernels.jit import jit
from edgerev.kernels.layout import C_SEED, C_STEP

LOW = np.uint64(0xFFFFFFFF)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
HALF_WORD = np.uint64(32)


@jit
def philox(c0, c1, c2, c3, k0, k1):
    """Return four words of 32 bits (as uint64) for a counter of four words and a key of two."""
    for _ in range(10):
        p0, p1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = (p1 >> HALF_WORD) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF_WORD) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + WEYL_0) & LOW, (k1 + WEYL_1) & LOW
    return c0, c1, c2, c3


@jit
def words_at(counters, use_step, element, sample, stream):
    """Return the four words for (seed, step, stream, sample, element)."""
    seed = np.uint64(counters[C_SEED])
    step = np.uint64(counters[C_STEP]) & LOW if use_step else np.uint64(0)
    return philox(np.uint64(element), np.uint64(sample), np.uint64(stream), step, seed & LOW, seed >> HALF_WORD)


@jit
def uniform(word):
    """Return a word as float32 in [0, 1)."""
    return np.float32(np.int32(word >> np.uint64(8))) * np.float32(2.0**-24)

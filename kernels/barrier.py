"""Where threads wait for one another."""

import numpy as np

from edgerev.kernels import layout
from edgerev.kernels.intrinsics import atomic_load, atomic_store, call_address, pause
from edgerev.kernels.jit import jit

ARRIVALS, SPINS, YIELD = layout.BARRIER_LINE, layout.BARRIER_SPINS, layout.BARRIER_YIELD


@jit
def barrier(words, thread, threads):
    """Wait for all threads; spin a little, then give the processor away.

    Each thread counts its arrivals where only it writes, and looks at the others' counts: no line of the cache goes
    back and forth more than once.
    """
    if threads == 1:
        return
    mine = np.int32(words[thread * ARRIVALS] + np.int32(1))
    atomic_store(words, thread * ARRIVALS, mine)
    for other in range(threads):
        spins = np.int32(0)
        while np.int32(atomic_load(words, other * ARRIVALS) - mine) < np.int32(0):  # counts wrap around
            if spins < words[SPINS]:
                spins = np.int32(spins + np.int32(1))
                pause()
            else:
                call_address(words, YIELD)

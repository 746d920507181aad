"""Compile the executor for one target, in a process that does nothing else."""

import gc
import sys


def main() -> int:
    """Write the object for the target named by ``EDGEREV_KERNEL_TARGET``, or the host's, to standard output."""
    gc.disable()  # the compiler makes millions of objects and drops few before this process ends
    from edgerev.kernels.executor import SIGNATURE, run
    from edgerev.kernels.jit import emit
    from edgerev.kernels.layout import RUN_SYMBOL

    sys.stdout.buffer.write(emit(run, SIGNATURE, RUN_SYMBOL))
    return 0

"""Compile the executor for one target: ``python -m edgerev.kernels.compile > OUT`` writes the object file."""

import gc
import sys


def main() -> int:
    """Write the object for the target named by ``EDGEREV_KERNEL_TARGET``, or the host's, to standard output."""
    gc.disable()  # the compiler makes millions of objects and drops few before this process ends
    from edgerev.kernels.executor import SIGNATURE, run
    from edgerev.kernels.jit import emit
    from edgerev.kernels.library import RUN

    sys.stdout.buffer.write(emit(run, SIGNATURE, RUN))
    return 0


if __name__ == "__main__":
    sys.exit(main())

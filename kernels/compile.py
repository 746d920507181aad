"""Compile the executor for one target: ``python -m edgerev.kernels.compile > OUT`` writes the object file."""

import gc
import sys

from edgerev.kernels.library import SYMBOL


def main() -> int:
    """Write the object for the target named by ``EDGEREV_KERNEL_TARGET``, or the host's, to standard output."""
    gc.disable()  # the compiler makes millions of objects and drops few before this process ends
    from edgerev.kernels.executor import SIGNATURE, run
    from edgerev.kernels.jit import emit

    sys.stdout.buffer.write(emit(run, SIGNATURE, SYMBOL))
    return 0


if __name__ == "__main__":
    sys.exit(main())

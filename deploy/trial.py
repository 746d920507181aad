"""Does a model run: load it and send one sample through it; where a bundle is made, and again on the device.

The installer runs this there as ``python -m edgerev.deploy.trial MODEL INTERFACE``.
"""

from __future__ import annotations

import math
import sys
from array import array

from edgerev.errors import EdgerevError, KernelError
from edgerev.kernels import library
from edgerev.kernels.layout import INTERFACE


def try_model(path: str) -> str:
    """Load the checkpoint at `path` and send its mean sample through it; return what was done.

    The mean is what standardisation was set to, or zeros: of all samples the one that cannot be far from those to come.
    A ridge head that has no samples yet cannot predict, so there the sample goes as far as the head.

    Raises
    ------
    EdgerevError
        The kernels or the checkpoint cannot be loaded, or the model does not take its mean sample.
    """
    from edgerev.learner import Learner

    learner = Learner.load(path)
    mean = list(learner.runtime.view("input.mean"))
    sample = mean * (math.prod(learner.sample_shape) // len(mean))
    if learner.net.head.closed_form and not learner.remembers:
        learner.transform(array("f", sample))
        return "model loaded, one sample sent to its head, which has learned nothing yet"
    learner.predict_proba_one(sample)
    return "model loaded, one prediction made"


def main(path: str, interface: str) -> int:
    """Try the model of a bundle on the device; return the exit code."""
    try:
        if int(interface) != INTERFACE:
            raise KernelError(
                f"the wheel has interface version {INTERFACE}, the manifest {interface}; expected the same; "
                "make the bundle again"
            )
        print(f"kernels for {library.load().target}, {try_model(path)}")
    except EdgerevError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

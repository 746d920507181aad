"""Do the kernels of this installation compute what they should? A small training whose every bit is known."""

from __future__ import annotations

from array import array

from edgerev.layers import GELU, Conv2d, Depthwise, GroupNorm, Pointwise, ReLU, RMSNorm
from edgerev.learner import Learner
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import AdamW
from edgerev.program import Region

# SHA-256 of the parameters afterwards. Kernels give the same bits on every processor, so there is one for all.
EXPECTED = "31f25f07f09d11f0b29a4b1053f93432cda41f046e088e51e32b06f65b04ea0b"
SIDE, CHANNELS, CLASSES, BATCH, STEPS = 8, 3, 4, 5, 6


def train(threads: int = 1) -> str:
    """Train for some steps on numbers made up here; return the digest of the parameters.

    Raises
    ------
    KernelError
        There are no kernels for this machine.
    NumericError
        The kernels compute nonsense.
    """
    import hashlib

    net = Net(
        (SIDE, SIDE, CHANNELS), Conv2d(16, 3),
        (
            Block((Conv2d(8, 3), ReLU(), Conv2d(8, 3))), Squeeze(),
            Block((GroupNorm(4), Depthwise(3), GELU(), Pointwise(32)), (RMSNorm(), Pointwise(32))),
        ),
        Head(CLASSES),
    )
    learner = Learner(net, optimizer=AdamW(0.01), batch=BATCH, seed=1, threads=threads)
    size = SIDE * SIDE * CHANNELS
    for step in range(STEPS):
        samples = array("f", ((place * 37 + step * 11) % 29 / 8 - 1.75 for place in range(BATCH * size)))
        learner.learn_many(samples, [(place + step) % CLASSES for place in range(BATCH)])
    return hashlib.sha256(learner.runtime.region(Region.PARAMETERS)).hexdigest()

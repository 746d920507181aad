"""How a net is trained: batch, loss, optimizer, augmentation; and the schedule that a budget asks for."""

from __future__ import annotations

from edgerev.continual.consolidation import Consolidation
from edgerev.errors import UsageError
from edgerev.kernels.layout import MAX_THREADS
from edgerev.losses import CrossEntropy, Loss
from edgerev.numbers import FLOAT32_MAX, INT32_MAX, finite32, of_type, settle, whole
from edgerev.optimizers import SGD, Clip, Optimizer, RateSchedule
from edgerev.value import Value


class Augment(Value):
    """Random changes to each training sample, drawn by the kernels from seed and step.

    Parameters
    ----------
    shift : most pixels by which the window moves, with zeros outside
    flip : mirror left and right by chance 1/2
    crop : pixels by which stored samples are larger than the net's input on every side; training takes a random
        window, prediction the centre
    noise : standard deviation of what is added after standardising
    """

    shift: int = 0
    flip: bool = False
    crop: int = 0
    noise: float = 0.0

    def __post_init__(self) -> None:
        settle(
            self, shift=(whole, 0, INT32_MAX), crop=(whole, 0, INT32_MAX), noise=(finite32, 0, FLOAT32_MAX)
        )


class Recipe(Value):
    """Everything besides the net that decides what a training step computes.

    Parameters
    ----------
    batch : most samples of one step
    consolidation : what protects weights that mattered for earlier experiences, or None
    rates : factor on the learning rate of the stem, of each residual function, and of the head; none: 1 for all
    atomic : commit all updates at the end of a step, at 4 bytes for each parameter, so that a gradient that is not
        finite leaves the model as it was
    """

    batch: int = 16
    optimizer: Optimizer = SGD()
    rate_schedule: RateSchedule = RateSchedule()
    clip: Clip | None = None
    loss: Loss = CrossEntropy()
    augment: Augment = Augment()
    consolidation: Consolidation | None = None
    rates: tuple[float, ...] = ()
    atomic: bool = False

    def __post_init__(self) -> None:
        settle(self, batch=(whole, 1, INT32_MAX))
        for name, kind, example in (
            ("optimizer", Optimizer, "AdamW(1e-3)"), ("rate_schedule", RateSchedule, 'RateSchedule(warmup=100)'),
            ("loss", Loss, "CrossEntropy()"), ("augment", Augment, "Augment(shift=1)"),
            ("clip", (Clip, type(None)), "Clip(1.0) or None"), ("rates", (tuple, list), "(0.1, 1.0, 1.0, 1.0)"),
            ("consolidation", (Consolidation, type(None)), "SynapticIntelligence(0.1) or None"),
        ):
            of_type(name, getattr(self, name), kind, example, UsageError)
        rates = tuple(finite32("rates: factor", factor, 0, FLOAT32_MAX) for factor in self.rates)
        object.__setattr__(self, "rates", rates)


class Schedule(Value):
    """How a step is carried out; it never changes the bits of the result, unless the state is float32.

    A float32 state is rebuilt with rounding errors, which stored activations are without.

    Parameters
    ----------
    micro_batch : samples whose state is there at one time
    chunk : samples for which a residual function's workspace is there at one time; divides `micro_batch`
    stored : residual functions, counted from the stem, whose activations stay in memory instead of being
        computed again
    threads : most threads that run it; each needs some scratch of its own
    """

    micro_batch: int
    chunk: int
    stored: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        settle(
            self, micro_batch=(whole, 1, INT32_MAX), chunk=(whole, 1, INT32_MAX), stored=(whole, 0, INT32_MAX),
            threads=(whole, 1, MAX_THREADS),
        )
        if self.micro_batch % self.chunk:
            raise UsageError(f"{self}: chunk must divide micro_batch")

    def name(self, depth: int) -> str:
        """Return the kind of schedule in a word, for a net with `depth` residual functions."""
        if not self.stored:
            return "reversible"
        return "stored" if self.stored == depth else "mixed"

"""Consolidation: what draws weights that mattered for earlier experiences back to where they were."""

from __future__ import annotations

from typing import ClassVar

from edgerev.kernels.layout import ConsolidationKind
from edgerev.numbers import FLOAT32_MAX, TINY, finite32, settle
from edgerev.value import Value


class Consolidation(Value):
    """Base of the methods: the gradient of each weight w gets ``pull * importance * (w - anchor)``.

    Attributes
    ----------
    number : its kind in the program
    values : float32 values that it keeps for each parameter
    """

    number: ClassVar[ConsolidationKind]
    values: ClassVar[int]
    strength: float

    @property
    def pull(self) -> float:
        """Factor on the penalty's gradient."""
        raise NotImplementedError


class SynapticIntelligence(Consolidation):
    """Synaptic intelligence: ``strength * sum importance (w - anchor)^2``.

    While training, the work of the task's own gradient (before penalty, weight decay and clipping) is added up along
    the way of each weight; at the end of an experience, what is positive of it is divided by the squared distance plus
    `damping`, and added to the importance.

    References
    ----------
    Zenke, Poole, Ganguli 2017, "Continual learning through synaptic intelligence", eq. 3 to 5.
    """

    number = ConsolidationKind.SYNAPTIC_INTELLIGENCE
    values = 3
    strength: float = 0.1
    damping: float = 0.1

    def __post_init__(self) -> None:
        settle(self, strength=(finite32, 0, FLOAT32_MAX / 2), damping=(finite32, TINY, FLOAT32_MAX))

    @property
    def pull(self) -> float:
        return 2 * self.strength


class EWC(Consolidation):
    """Online elastic weight consolidation: ``strength / 2 * sum fisher (w - anchor)^2``.

    At the end of an experience the Fisher information so far is multiplied by `decay`, and the mean over samples of the
    squared gradient of one sample's loss is added: of samples one by one, not of a batch's mean.

    References
    ----------
    Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3; Schwarz et al. 2018,
    "Progress and compress", section 3.2.
    """

    number = ConsolidationKind.EWC
    values = 2
    strength: float = 100.0
    decay: float = 1.0

    def __post_init__(self) -> None:
        settle(self, strength=(finite32, 0, FLOAT32_MAX), decay=(finite32, 0, 1))

    @property
    def pull(self) -> float:
        return self.strength


CONSOLIDATIONS: dict[str, type[Consolidation]] = {"si": SynapticIntelligence, "ewc": EWC}

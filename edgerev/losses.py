"""Losses, as plain descriptions; kernels/loss.py computes them. Each is a mean over the samples of a batch."""

from __future__ import annotations

from typing import ClassVar

from edgerev.errors import UsageError
from edgerev.kernels.layout import LossKind
from edgerev.numbers import BELOW_ONE, FLOAT32_MAX, finite32, settle
from edgerev.value import Value


class Loss(Value):
    """Base of the losses.

    Attributes
    ----------
    number : its kind in the program
    weights : factor for each class or output, or None
    """

    number: ClassVar[LossKind]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            weights = tuple(finite32("loss: weight", weight, 0, FLOAT32_MAX) for weight in self.weights)
            object.__setattr__(self, "weights", weights)
            if not self.weights:
                raise UsageError(f"{self}: expected a weight for each class or output, or None")

    @property
    def labels(self) -> bool:
        """Whether targets are class numbers rather than a value for each output."""
        return self.number == LossKind.CROSS_ENTROPY


class _Smoothed(Loss):
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, smoothing=(finite32, 0, BELOW_ONE))


class CrossEntropy(_Smoothed):
    """Softmax cross-entropy; `smoothing` spreads that share of the target over all classes (Szegedy et al. 2016)."""

    number = LossKind.CROSS_ENTROPY


class BinaryCrossEntropy(_Smoothed):
    """Cross-entropy of each output on its own, for several labels at once; `smoothing` pulls targets to 1/2."""

    number = LossKind.BINARY_CROSS_ENTROPY


class SoftCrossEntropy(Loss):
    """Softmax cross-entropy with a share of each class as target, as in distillation (Hinton et al. 2015)."""

    number = LossKind.SOFT_CROSS_ENTROPY


class MeanSquaredError(Loss):
    """Mean over outputs of the squared difference."""

    number = LossKind.MEAN_SQUARED_ERROR


LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy, "soft_cross_entropy": SoftCrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy, "mean_squared_error": MeanSquaredError,
}

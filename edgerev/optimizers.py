"""Optimizers, learning-rate schedules and clipping, as plain descriptions; kernels/optimizer.py computes them."""

from __future__ import annotations

from typing import ClassVar, Literal

from edgerev.errors import UsageError
from edgerev.kernels.layout import ScheduleKind, UpdateKind
from edgerev.numbers import BELOW_ONE, FLOAT32_MAX, INT32_MAX, TINY, finite32, settle, whole
from edgerev.value import Value


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


class RateSchedule(Value):
    """Learning rate over steps: a linear warm-up, then constant, or a cosine down to ``floor * rate``.

    Parameters
    ----------
    kind : "constant" or "cosine" (Loshchilov and Hutter 2017, without restarts)
    warmup : steps over which the rate rises from 0
    steps : step at which the cosine ends
    floor : share of the rate that is left then
    """

    kind: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    steps: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _need(self.kind in ("constant", "cosine"), f"rate schedule {self.kind!r}: expected constant or cosine")
        settle(self, warmup=(whole, 0, INT32_MAX), steps=(whole, 0, INT32_MAX), floor=(finite32, 0, 1))
        _need(self.kind == "constant" or self.steps > self.warmup, "schedule: steps must be more than warmup")

    @property
    def number(self) -> ScheduleKind:
        return ScheduleKind[self.kind.upper()]


class Clip(Value):
    """Shrink gradients whose norm passes a limit.

    Parameters
    ----------
    limit : largest norm; for "adaptive" as a multiple of the norm of the function's weights (Brock et al. 2021)
    kind : "function" and "adaptive" take one residual function's gradient at a time, in no further memory; "global"
        takes all of them and plans 4 bytes for each parameter
    """

    limit: float
    kind: Literal["function", "global", "adaptive"] = "function"

    def __post_init__(self) -> None:
        settle(self, limit=(finite32, TINY, FLOAT32_MAX))
        known = ("function", "global", "adaptive")
        _need(self.kind in known, f"clip {self.kind!r}: expected function, global or adaptive")


class Optimizer(Value):
    """Base of the optimizers.

    Attributes
    ----------
    number : its kind in the program
    moments : float32 values that it keeps for each parameter
    """

    number: ClassVar[UpdateKind]
    rate: float

    @property
    def moments(self) -> int:
        return 0

    def constants(self) -> dict[str, float]:
        """Return the parameters of the UPDATE instruction."""
        raise NotImplementedError

    def _check(self, *shares: str) -> None:
        """Check rate and decay, and the fields that are shares of an average."""
        settle(self, rate=(finite32, 0, FLOAT32_MAX), weight_decay=(finite32, 0, FLOAT32_MAX))
        for share in shares:
            settle(self, **{share: (finite32, 0, BELOW_ONE)})  # type: ignore[arg-type]


class SGD(Optimizer):
    """Gradient descent with momentum (Sutskever et al. 2013); `weight_decay` is added to the gradient."""

    number = UpdateKind.SGD
    rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check("momentum")
        _need(not self.nesterov or self.momentum > 0, f"{self}: nesterov needs a momentum")

    @property
    def moments(self) -> int:
        return 1 if self.momentum else 0

    def constants(self) -> dict[str, float]:
        return {"beta1": self.momentum, "decay": self.weight_decay, "nesterov": self.nesterov}


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    number = UpdateKind.ADAMW
    rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        self._check("beta1", "beta2")
        # where the square of a gradient is 0 in float32, epsilon alone keeps its step small
        settle(self, epsilon=(finite32, 1e-20, FLOAT32_MAX))

    @property
    def moments(self) -> int:
        return 2

    def constants(self) -> dict[str, float]:
        return {"beta1": self.beta1, "beta2": self.beta2, "epsilon": self.epsilon, "decay": self.weight_decay}


class Lion(Optimizer):
    """Sign of an interpolated momentum (Chen et al. 2023, algorithm 2), with decoupled weight decay."""

    number = UpdateKind.LION
    rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        self._check("beta1", "beta2")

    @property
    def moments(self) -> int:
        return 1

    def constants(self) -> dict[str, float]:
        return {"beta1": self.beta1, "beta2": self.beta2, "decay": self.weight_decay}


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "adamw": AdamW, "lion": Lion}

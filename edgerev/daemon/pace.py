"""How many samples come in a second, and how many may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgerev.errors import QueueFullError

RATE_SECONDS = 10.0  # over which the rate of learning is measured
BURST_SECONDS = 5.0  # worth of samples that may come at once, after a silence


class Pace:
    """A token bucket (Turner 1986): what is taken is paid for later, so no request is too large for it.

    Parameters
    ----------
    per_second : samples; 0 is no limit
    """

    def __init__(self, per_second: float) -> None:
        self._rate, self._lock = per_second, threading.Lock()
        self._saved, self._when = BURST_SECONDS * per_second, time.monotonic()

    def spend(self, count: int) -> None:
        """Take samples into account.

        Raises
        ------
        QueueFullError
            Those before have not been paid for; `seconds` says when they will be.
        """
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._saved = min(self._saved + (now - self._when) * self._rate, BURST_SECONDS * self._rate)
            self._when = now
            if self._saved < 0:
                raise QueueFullError(
                    f"more than {self._rate:g} samples came in a second; expected fewer, as limits.samples_per_second "
                    "says; send them again later",
                    -self._saved / self._rate,
                )
            self._saved -= count


class Rate:
    """How many samples are learned in a second, lately; for the one thread that learns.

    Parameters
    ----------
    clock : tells seconds

    Attributes
    ----------
    per_second : 0 before the first
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since, self._count = clock, clock(), 0
        self.per_second = 0.0

    def add(self, count: int) -> None:
        """Take samples into account that were learned; 0 lets time pass."""
        self._count += count
        passed = self._clock() - self._since
        if passed >= RATE_SECONDS or (count and not self.per_second):
            self.per_second = self._count / max(passed, 1e-3)
            self._count, self._since = 0, self._since + passed

"""How many samples come in a second, and how many may."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from edgerev.errors import QueueFullError

RATE_SECONDS = 5.0  # over which the rate of learning is measured
SHORTEST_SECONDS = 0.2  # since learning began; less tells nothing
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
                owed, seconds = math.ceil(-self._saved), -self._saved / self._rate
                raise QueueFullError(
                    f"asked for room for {count}, and there is room for none: {owed} too many came before, "
                    f"for limits.samples_per_second {self._rate:g}; send them again in {math.ceil(seconds)} s",
                    seconds,
                )
            self._saved -= count


class Rate:
    """How many samples are learned in a second, lately; for the one thread that learns.

    Parameters
    ----------
    clock : tells seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._learned: deque[tuple[float, int]] = deque()  # when, and how many samples, in the last seconds

    @property
    def per_second(self) -> float:
        """Over the last seconds, or since learning began within them; 0 if none was learned."""
        now = self._clock()
        recent = [(when, count) for when, count in tuple(self._learned) if now - when <= RATE_SECONDS]
        if not recent:
            return 0.0
        return sum(count for _, count in recent) / max(now - recent[0][0], SHORTEST_SECONDS)

    def add(self, count: int) -> None:
        """Take samples into account that were learned just now."""
        now = self._clock()
        if self._learned and now - self._learned[-1][0] < SHORTEST_SECONDS / 2:
            when, before = self._learned.pop()
            self._learned.append((when, before + count))
        else:
            self._learned.append((now, count))
        while now - self._learned[0][0] > RATE_SECONDS:
            self._learned.popleft()

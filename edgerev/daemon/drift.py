"""Whether the stream has changed: by how wrong the model's answers are, and by what the inputs are like.

The detectors take one number after another and keep little. Their state is plain data, so it is kept with a generation
of the model, and a run that is repeated after a power cut finds the same drifts.

What they do badly: neighbours in a stream that resemble each other (a file sorted by class) look like drift of the
inputs, and a change within the first samples is taken for how the stream is.

References
----------
Bifet and Gavaldà 2007, "Learning from time-changing data with adaptive windowing" (ADWIN2: figure 1, the bound of
equation 3.1 with the variance, the exponential histogram of section 4).
Page 1954, "Continuous inspection schemes"; Gama et al. 2014, "A survey on concept drift adaptation", section 3.3.1 (the
Page-Hinkley test for a rise).
"""

from __future__ import annotations

from array import array
from itertools import accumulate
from math import log, log1p, sqrt
from operator import mul
from typing import Any

_ROW = 5  # buckets of one size
_LEAST = 5  # samples in each part of a window that is cut
_CLOCK = 32  # samples between two looks for a cut


class Adwin:
    """Mean of the numbers that came since the last change; a window of any length in a few hundred bytes.

    Parameters
    ----------
    delta : probability of a change being found where there is none, at each look
    """

    def __init__(self, delta: float = 0.002) -> None:
        self.delta = delta
        self._rows: list[list[tuple[float, float]]] = [[]]  # sum and squared deviations of 2**row samples, newest first
        self.count, self.total, self._ticks = 0, 0.0, 0

    @property
    def mean(self) -> float:
        """Mean of the numbers in the window; 0 if there are none."""
        return self.total / self.count if self.count else 0.0

    def add(self, value: float) -> bool:
        """Take a number from 0 to 1; return whether the mean has risen, after which the old ones are dropped.

        If it has fallen, the old ones are dropped as well.
        """
        self._rows[0].insert(0, (value, 0.0))
        self.count += 1
        self.total += value
        self._compress()
        self._ticks += 1
        return self._ticks % _CLOCK == 0 and self._cut()

    def _compress(self) -> None:
        for level, row in enumerate(self._rows):
            if len(row) <= _ROW:
                return
            size = 1 << level
            (one, spread), (other, also) = row.pop(), row.pop()
            gap = (one - other) / size
            merged = one + other, spread + also + gap * gap * size / 2
            if level + 1 == len(self._rows):
                self._rows.append([])
            self._rows[level + 1].insert(0, merged)

    def _cut(self) -> bool:
        """Drop the oldest bucket as long as two parts of the window differ; return whether the later mean is higher."""
        rose, shrinking = False, True
        while shrinking and self.count > 2 * _LEAST:
            shrinking = False
            bound = self._bound()
            for old, old_sum in self._parts():
                new = self.count - old
                if old < _LEAST or new < _LEAST:
                    continue
                gap = (self.total - old_sum) / new - old_sum / old
                if abs(gap) > bound(old, new):
                    rose, shrinking = rose or gap > 0, True
                    self._drop()
                    break
        return rose

    def _bound(self) -> Any:
        spread = sum(part for row in self._rows for _, part in row)
        spread += sum(
            (1 << level) * (value / (1 << level) - self.mean) ** 2
            for level, row in enumerate(self._rows) for value, _ in row
        )  # fmt: skip
        variance, doubt = spread / self.count, log(2 * log(self.count) / self.delta)

        def bound(old: int, new: int) -> float:
            inverse = 1 / (old - _LEAST + 1) + 1 / (new - _LEAST + 1)
            return sqrt(2 * inverse * variance * doubt) + 2 / 3 * inverse * doubt

        return bound

    def _parts(self) -> list[tuple[int, float]]:
        """Return size and sum of each older part, from the oldest bucket on."""
        oldest = [
            (1 << level, value)
            for level, row in reversed(list(enumerate(self._rows))) for value, _ in reversed(row)
        ]  # fmt: skip
        return list(accumulate(oldest, lambda one, other: (one[0] + other[0], one[1] + other[1])))

    def _drop(self) -> None:
        value, _ = self._rows[-1].pop()
        self.count -= 1 << (len(self._rows) - 1)
        self.total -= value
        while len(self._rows) > 1 and not self._rows[-1]:
            self._rows.pop()

    def state(self) -> Any:
        """Return all that it keeps, as JSON has it."""
        return [self._rows, self.count, self.total, self._ticks]

    def restore(self, state: Any) -> None:
        """Go on from a state."""
        rows, self.count, self.total, self._ticks = state
        self._rows = [[(value, spread) for value, spread in row] for row in rows]


class PageHinkley:
    """Tells when numbers have risen above their mean so far.

    Parameters
    ----------
    slack : rise that is not counted
    threshold : sum of rises, less falls, from which it is a change
    least : numbers before the first change
    """

    def __init__(self, slack: float, threshold: float, least: int) -> None:
        self.slack, self.threshold, self.least = slack, threshold, least
        self._count, self._mean, self._sum, self._lowest = 0, 0.0, 0.0, 0.0

    def add(self, value: float) -> bool:
        """Take a number; return whether it makes a change, after which all begins anew."""
        self._count += 1
        self._mean += (value - self._mean) / self._count
        self._sum += value - self._mean - self.slack
        self._lowest = min(self._lowest, self._sum)
        if self._count < self.least or self._sum - self._lowest <= self.threshold:
            return False
        self.restore([0, 0.0, 0.0, 0.0])
        return True

    def state(self) -> Any:
        """Return all that it keeps, as JSON has it."""
        return [self._count, self._mean, self._sum, self._lowest]

    def restore(self, state: Any) -> None:
        """Go on from a state."""
        self._count, self._mean, self._sum, self._lowest = state


class InputDistance:
    """How far the means of a batch's channels lie from those of the first batches, in their standard errors.

    Parameters
    ----------
    channels : of the input
    reference : samples that the first means and variances are taken from
    """

    def __init__(self, channels: int, reference: int = 512) -> None:
        self.channels, self.reference = channels, reference
        self.restore([0, [0.0] * channels, [0.0] * channels])

    def add(self, x: array, samples: int) -> float | None:
        """Take a batch, flat and channels last; return the distance, or None while the reference grows.

        The distance is the logarithm of 1 + the mean of the squares: about 0.7 where nothing has changed.
        """
        each = len(x) // self.channels
        means = [sum(x[channel :: self.channels]) / each for channel in range(self.channels)]
        if self._count < self.reference:
            self._extend(x, means, samples, each)
            return None
        squares = (
            (mean - first) ** 2 * samples / max(variance, 1e-12)
            for mean, first, variance in zip(means, self._means, self._variances)
        )
        return log1p(sum(squares) / self.channels)

    def _extend(self, x: array, means: list[float], samples: int, each: int) -> None:
        share = samples / (self._count + samples)
        for channel, mean in enumerate(means):
            values = x[channel :: self.channels]
            variance = max(sum(map(mul, values, values)) / each - mean * mean, 0.0)
            step = mean - self._means[channel]
            before = (1 - share) * (self._variances[channel] + share * step * step)
            self._variances[channel] = before + share * variance
            self._means[channel] += share * step
        self._count += samples

    def state(self) -> Any:
        """Return all that it keeps, as JSON has it."""
        return [self._count, self._means, self._variances]

    def restore(self, state: Any) -> None:
        """Go on from a state."""
        self._count, means, variances = state
        self._means, self._variances = list(means), list(variances)


class DriftDetector:
    """Tells of drift by the answers (ADWIN on what was missing to certainty of the truth) and by the inputs.

    Parameters
    ----------
    channels : of the input
    """

    def __init__(self, channels: int) -> None:
        self._misses, self._distance = Adwin(), InputDistance(channels)
        self._inputs = PageHinkley(slack=0.3, threshold=10.0, least=20)

    def add_answer(self, missing: float) -> bool:
        """Take one minus the probability of the true class; return whether answers have got worse."""
        return self._misses.add(missing)

    def add_inputs(self, x: array, samples: int) -> bool:
        """Take a batch, flat and channels last; return whether inputs have changed, after which they are the norm."""
        distance = self._distance.add(x, samples)
        changed = distance is not None and self._inputs.add(distance)
        if changed:
            self._distance = InputDistance(self._distance.channels, self._distance.reference)
        return changed

    def state(self) -> Any:
        """Return all that it keeps, as JSON has it."""
        return [self._misses.state(), self._distance.state(), self._inputs.state()]

    def restore(self, state: Any) -> None:
        """Go on from a state."""
        misses, distance, inputs = state
        self._misses.restore(misses)
        self._distance.restore(distance)
        self._inputs.restore(inputs)

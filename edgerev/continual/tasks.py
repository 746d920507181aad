"""Which task a sample is of, when nobody says: from what the inputs of each task look like."""

from __future__ import annotations

from typing import Any

import numpy

from edgerev.errors import DataError, UsageError
from edgerev.numbers import INT32_MAX, whole


class InputStatistics:
    """Mean and variance of every input value, for each task; no sample is kept.

    A sample is taken to be of the task under whose normal distribution (one for each value, values taken as
    independent) it is the likeliest. This tells tasks apart whose inputs differ, such as permuted or rotated images,
    other sensors or rooms; where only the labels differ, ask `Learner.predict_task_many`.

    Parameters
    ----------
    tasks : how many, at most
    size : values of one sample

    References
    ----------
    Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", eq. 2.1 (sums of parts joined).
    """

    FLOOR = 0.01  # of a task's mean variance is added to all, for values that hardly vary

    def __init__(self, tasks: int, size: int) -> None:
        whole("tasks", tasks, 1, INT32_MAX)
        whole("size", size, 1, INT32_MAX)
        self.counts = numpy.zeros(tasks, "i8")
        self.means = numpy.zeros((tasks, size))
        self.squares = numpy.zeros((tasks, size))  # sums of squared distances from the mean

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self.counts.nbytes + self.means.nbytes + self.squares.nbytes

    def add(self, task: int, x: Any) -> None:
        """Take samples into the statistics of a task.

        Parameters
        ----------
        task : its number, from 0
        x : ``(samples, ...)`` finite real numbers, `size` for each sample

        Raises
        ------
        DataError
            Values are not finite, or their number is another; nothing changed.
        UsageError
            There is no such task.
        """
        whole("task", task, 0, len(self.counts) - 1)
        values = self._values(x)
        if not len(values):
            return
        mean = values.mean(0)
        before, total = int(self.counts[task]), int(self.counts[task]) + len(values)
        step = mean - self.means[task]
        self.squares[task] += ((values - mean) ** 2).sum(0) + step**2 * (before * len(values) / total)
        self.means[task] += step * (len(values) / total)
        self.counts[task] = total

    def likeliest(self, x: Any) -> numpy.ndarray:
        """Return the ``(samples,)`` int64 number of the task that each sample is likeliest of.

        Raises
        ------
        DataError
            As for `add`.
        UsageError
            No task has samples yet.
        """
        known = numpy.flatnonzero(self.counts)
        if not len(known):
            raise UsageError("no task has samples yet; expected some to compare with; call add() first")
        values = self._values(x)
        origin = self.means[known].mean(0)  # else values far from 0 would cancel below
        means, variances = self.means[known] - origin, self.squares[known] / self.counts[known, None]
        values = values - origin
        variances += self.FLOOR * variances.mean(1, keepdims=True) + numpy.finfo("f4").tiny
        # the exponent (x - m)^2 / v, multiplied out so that it is two products of matrices
        distances = values**2 @ (1 / variances).T - 2 * values @ (means / variances).T
        return known[(distances + (means**2 / variances + numpy.log(variances)).sum(1)).argmin(1)]

    def _values(self, x: Any) -> numpy.ndarray:
        values = numpy.asarray(x, "f8")
        size = self.means.shape[1]
        if not values.ndim or values.size != len(values) * size:
            raise DataError(f"x of shape {values.shape}: expected (samples, ...) with {size} values each; reshape it")
        if not numpy.isfinite(values).all():
            raise DataError("x holds NaN or infinity; expected finite numbers; clean the samples")
        return values.reshape(len(values), size)

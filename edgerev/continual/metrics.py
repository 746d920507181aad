"""Metrics of continual learning and of streams, as published; plain Python, for a device computes them too.

Those of experiences come from the matrix R of accuracies: ``R[i][j]`` on experience j after learning i, both from 0
here. Rows may end at the diagonal (nothing was measured on what is not learned yet), but for `forward_transfer`.

References
----------
Chaudhry et al. 2018, "Riemannian walk for incremental learning: understanding forgetting and intransigence", eq. 3
(forgetting).
Gama, Sebastião and Rodrigues 2013, "On evaluating stream learning algorithms", Machine Learning 90
(prequential error, over all samples and with a fading factor).
Lopez-Paz and Ranzato 2017, "Gradient episodic memory for continual learning", eq. 2 to 4 (average accuracy, backward
and forward transfer).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum, isfinite, sqrt
from typing import NamedTuple

from edgerev.errors import UsageError
from edgerev.numbers import finite32

Matrix = Sequence[Sequence[float]]


def average_accuracy(matrix: Matrix) -> float:
    """Return the mean of the accuracies on all experiences after the last one.

    Parameters
    ----------
    matrix : sequence of sequence of float
        R, see the module.

    Raises
    ------
    UsageError
        The matrix has no rows, or one ends before its diagonal.

    References
    ----------
    Lopez-Paz and Ranzato 2017, eq. 2: ``ACC = 1/T * sum over i of R[T,i]``.
    """
    _check(matrix)
    return _mean(matrix[-1][: len(matrix)])


def backward_transfer(matrix: Matrix) -> float:
    """Return the mean over earlier experiences of the last accuracy minus the one right after learning; 0 for one.

    Parameters
    ----------
    matrix : sequence of sequence of float
        R, see the module.

    Raises
    ------
    UsageError
        The matrix has no rows, or one ends before its diagonal.

    References
    ----------
    Lopez-Paz and Ranzato 2017, eq. 3: ``BWT = 1/(T-1) * sum over i < T of R[T,i] - R[i,i]``.
    """
    _check(matrix)
    return _mean([matrix[-1][j] - matrix[j][j] for j in range(len(matrix) - 1)])


def forward_transfer(matrix: Matrix, untrained: Sequence[float]) -> float:
    """Return the mean over later experiences of the accuracy just before learning minus the untrained one; 0 for one.

    Parameters
    ----------
    matrix : sequence of sequence of float
        R, see the module; each row reaches at least one past its diagonal, but for the last.
    untrained : sequence of float
        Accuracy on each experience of a model with random parameters.

    Raises
    ------
    UsageError
        The matrix has no rows, one is too short, or there are not as many untrained accuracies.

    References
    ----------
    Lopez-Paz and Ranzato 2017, eq. 4: ``FWT = 1/(T-1) * sum over i > 1 of R[i-1,i] - b[i]``.
    """
    _check(matrix, ahead=1)
    if len(untrained) != len(matrix):
        raise UsageError(
            f"{len(untrained)} accuracies without training for {len(matrix)} experiences; expected one for each; "
            "measure an untrained model on all of them"
        )
    return _mean([matrix[j - 1][j] - untrained[j] for j in range(1, len(matrix))])


def forgetting(matrix: Matrix) -> float:
    """Return the mean over earlier experiences of the best accuracy they ever had minus the last one; 0 for one.

    Where a row goes past its diagonal, what was measured before learning counts as well, as in the definition.

    Parameters
    ----------
    matrix : sequence of sequence of float
        R, see the module.

    Raises
    ------
    UsageError
        The matrix has no rows, or one ends before its diagonal.

    References
    ----------
    Chaudhry et al. 2018, eq. 3: ``f[j] = max over l < k of a[l,j] - a[k,j]``, and its mean over j < k.
    """
    _check(matrix)
    last = matrix[-1]
    best = [max(row[j] for row in matrix[:-1] if len(row) > j) for j in range(len(matrix) - 1)]
    return _mean([most - now for most, now in zip(best, last)])


# -- streams -------------------------------------------------------------------------------------------------------


class Prequential:
    """Accuracy of answers that are each given before their sample is learned: over all, and with the past fading.

    Parameters
    ----------
    fading : float
        Factor on the weight of every earlier answer, above 0 and at most 1, where both accuracies are one.

    Attributes
    ----------
    samples : answers so far
    right : right ones

    Raises
    ------
    UsageError
        The factor is out of range.

    References
    ----------
    Gama, Sebastião and Rodrigues 2013: with loss L in {0, 1} of sample k, the prequential error at i is
    ``1/i * sum of L[k]``, with fading factor a ``sum of a^(i-k) L[k] / sum of a^(i-k)``, computed as S/B from
    ``S = L + a S`` and ``B = 1 + a B``. The accuracy is 1 minus that.
    """

    def __init__(self, fading: float = 0.999) -> None:
        self.fading = finite32("fading", fading, 0.0, 1.0)
        if not self.fading:
            raise UsageError("fading 0: expected a factor above 0, at most 1; take such as 0.999")
        self.samples = self.right = 0
        self._sum = self._weight = 0.0

    def add(self, right: bool) -> None:
        """Count one more answer, whether it was right."""
        self.samples += 1
        self.right += bool(right)
        self._sum = bool(right) + self.fading * self._sum
        self._weight = 1 + self.fading * self._weight

    @property
    def overall(self) -> float:
        """Accuracy over all answers; 0 before the first."""
        return self.right / self.samples if self.samples else 0.0

    @property
    def faded(self) -> float:
        """Accuracy with the past fading; 0 before the first answer."""
        return self._sum / self._weight if self.samples else 0.0


def prequential_accuracy(answers: Iterable[bool], fading: float = 1.0) -> float:
    """Return the prequential accuracy after the last answer, see `Prequential`; overall without a fading factor.

    Parameters
    ----------
    answers : iterable of bool
        Whether each answer, given before its sample was learned, was right, in their order.
    fading : float
        See `Prequential`.

    Raises
    ------
    UsageError
        The factor is out of range.
    """
    counted = Prequential(fading)
    for right in answers:
        counted.add(right)
    return counted.faded


# -- seeds ---------------------------------------------------------------------------------------------------------


class Spread(NamedTuple):
    """Mean and spread of a figure over runs.

    Attributes
    ----------
    mean : of the runs
    deviation : sample standard deviation (by runs - 1); None for one run, which tells nothing of it
    runs : how many
    """

    mean: float
    deviation: float | None
    runs: int


def over_seeds(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation of a figure over seeds.

    Parameters
    ----------
    values : sequence of float
        The figure of each run.

    Raises
    ------
    UsageError
        There are none, or one is not finite.
    """
    if len(values) == 0 or not all(map(isfinite, values)):
        raise UsageError(f"figures {list(values)[:9]} of runs: expected finite numbers, at least one; leave others out")
    mean = _mean(values)
    squares = fsum((value - mean) ** 2 for value in values)
    return Spread(mean, sqrt(squares / (len(values) - 1)) if len(values) > 1 else None, len(values))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation of the differences of two methods, run with the same seeds.

    What a seed does to both, such as a hard split, cancels; the deviation is that of the differences, which is not what
    follows from those of the two methods.

    Parameters
    ----------
    first, second : sequence of float
        The figure of each method for each seed, in the same order; the difference is first minus second.

    Raises
    ------
    UsageError
        They are not of one length, there are none, or one is not finite.
    """
    if len(first) != len(second):
        raise UsageError(
            f"{len(first)} runs of one method and {len(second)} of the other; expected pairs with the same seeds; run "
            "what is missing"
        )
    return over_seeds([one - other for one, other in zip(first, second)])


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values) if len(values) else 0.0


def _check(matrix: Matrix, ahead: int = 0) -> None:
    """Refuse a matrix without rows, or with one that does not reach `ahead` past its diagonal within the matrix."""
    if len(matrix) == 0:
        raise UsageError("a matrix of no experiences; expected a row for each; measure after learning one")
    for i, row in enumerate(matrix):
        need = min(i + 1 + ahead, len(matrix))
        if len(row) < need:
            raise UsageError(
                f"row {i} of the matrix has {len(row)} accuracies; expected at least {need}, for experiences 0 to "
                f"{need - 1}; measure on these as well"
            )

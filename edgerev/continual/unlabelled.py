"""Learning where labels are rare: confident answers as labels, asking for the rest, inputs that are followed.

All of it works on probabilities, as `Learner.predict_proba_many` returns them, or on inputs, and leaves the learning to
the caller, with a guard (`edgerev.continual.guard`) on what comes of it::

    found = pseudo_labels(learner.predict_proba_many(x), 0.9, recordings)
    before = learner.predict_proba_many(recent)
    learner.save("accepted.edgerev")
    learner.remember_many(x[found.kept], found.labels[found.kept])
    if not Guard().check(before, learner.predict_proba_many(recent)).accepted:
        learner.restore("accepted.edgerev")

Nothing here is random: equal arguments give equal results, and ties go to the earlier sample or the lower class. NumPy
is imported when a function is first called.

What it does not do: answers that are confidently wrong stay so, since pseudo-labels only repeat what the model
believes; and where classes come one after another, as in a file sorted by class, the inputs' mean follows the class
rather than the sensor, and refreshing the standardisation does harm.

References
----------
Lee 2013, "Pseudo-label: the simple and efficient semi-supervised learning method for deep neural networks".
Li et al. 2017, "Revisiting batch normalization for practical domain adaptation" (AdaBN); Schneider et al. 2020,
"Improving robustness against common corruptions by covariate shift adaptation" (old statistics count as well).
Niu et al. 2022, "Efficient test-time model adaptation without forgetting" (EATA: only reliable samples count).
Scheffer, Decomain and Wrobel 2001, "Active hidden Markov models for information extraction" (smallest margin).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from edgerev.errors import DataError, UsageError
from edgerev.numbers import FLOAT32_MAX, INT32_MAX, TINY, finite32, whole

if TYPE_CHECKING:
    import numpy as np

LEAST_SPREAD = 1e-3  # of a channel, by its spread at the start: one that stands still is not blown up


class PseudoLabels(NamedTuple):
    """Answers taken as labels.

    Attributes
    ----------
    labels : ``(samples,)`` int32 class numbers, of all samples
    kept : ``(samples,)`` bool, whether each is confident enough to be learned
    """

    labels: np.ndarray
    kept: np.ndarray


def pseudo_labels(
    probabilities: Any, confidence: float, groups: Sequence[Hashable] | None = None
) -> PseudoLabels:
    """Return the likeliest class of each sample as its label, and which of them are confident enough.

    Parameters
    ----------
    probabilities : ``(samples, classes)`` real numbers, at least 0
    confidence : least probability of the likeliest class of what is kept, 0 .. 1
    groups : the recording, or what else is all of one class, of every sample; the mean of the probabilities of a group
        then votes, and its samples have one label and are kept together or not at all

    Raises
    ------
    DataError
        The shape is another, a number is negative or not finite, or there are not as many groups as samples.
    UsageError
        The confidence is out of range.
    """
    import numpy

    values = checked_answers(probabilities)
    least = finite32("confidence", confidence, 0.0, 1.0)
    if groups is not None:
        if len(groups) != len(values):
            raise DataError(
                f"{len(groups)} groups for {len(values)} samples; expected one for each; pass the recording of every "
                "sample"
            )
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        member = numpy.array([numbers[group] for group in groups], "i8")
        sums = numpy.zeros((len(numbers), values.shape[1]))
        numpy.add.at(sums, member, values)
        values = (sums / numpy.bincount(member, minlength=len(numbers))[:, None])[member]
    return PseudoLabels(values.argmax(1).astype("i4"), values.max(1) >= least)


def margin(probabilities: Any) -> np.ndarray:
    """Return ``(samples,)`` float64: minus the lead of the likeliest class over the second, so that high is surprising.

    Parameters
    ----------
    probabilities : see `pseudo_labels`

    Raises
    ------
    DataError
        See `pseudo_labels`.
    """
    import numpy

    two = numpy.partition(checked_answers(probabilities), -2, 1)[:, -2:]
    return two[:, 0] - two[:, 1]


def entropy(probabilities: Any) -> np.ndarray:
    """Return ``(samples,)`` float64: the entropy of each sample's answer in nats; high is surprising.

    Parameters
    ----------
    probabilities : see `pseudo_labels`

    Raises
    ------
    DataError
        See `pseudo_labels`.
    """
    import numpy

    values = checked_answers(probabilities)
    return -(values * numpy.log(numpy.where(values > 0, values, 1))).sum(1)


def most_surprising(probabilities: Any, count: int, measure: Callable[[Any], np.ndarray] = margin) -> np.ndarray:
    """Return the places of the samples whose labels are most worth asking for, the most surprising first.

    Parameters
    ----------
    probabilities : see `pseudo_labels`
    count : how many, at most all
    measure : `margin`, `entropy`, or what else gives a number for each sample

    Returns
    -------
    ``(count,)`` places in `probabilities`.

    Raises
    ------
    DataError
        See `pseudo_labels`.
    UsageError
        There are fewer samples.
    """
    import numpy

    surprise = measure(probabilities)
    return numpy.argsort(-surprise, kind="stable")[: whole("count", count, 0, len(surprise))]


class RunningStandardisation:
    """Mean and scale of each channel that follow the inputs, for `Learner.set_standardisation`.

    What was there before counts as `memory` samples against those of each call, so old inputs fade. A channel whose
    scale is 0 at the start stays out.

    Parameters
    ----------
    mean, scale : ``(channels,)`` numbers, the standardisation at the start: ``(x - mean) * scale``
    memory : samples; fewer follow faster

    Raises
    ------
    UsageError
        They are not of one length, not finite, or the memory is out of range.
    """

    def __init__(self, mean: Any, scale: Any, memory: float) -> None:
        import numpy

        self._mean, start = numpy.array(mean, "f8"), numpy.array(scale, "f8")
        self._memory = finite32("memory", memory, TINY, FLOAT32_MAX)
        if self._mean.ndim != 1 or start.shape != self._mean.shape or not numpy.isfinite([self._mean, start]).all():
            raise UsageError(
                f"mean of shape {self._mean.shape} and scale of shape {start.shape}; expected a finite number of each "
                "for every channel; pass those of the training data"
            )
        self._sign = numpy.sign(start)
        self._variance = numpy.where(start != 0, start, numpy.inf) ** -2.0
        self._least = LEAST_SPREAD**2 * self._variance

    def add(self, x: Any) -> None:
        """Follow some inputs.

        Parameters
        ----------
        x : ``(samples, ..., channels)`` finite real numbers

        Raises
        ------
        DataError
            The channels are others, or a number is not finite; nothing changed.
        """
        import numpy

        values = numpy.asarray(x, "f8")
        if values.ndim < 2 or values.shape[-1] != len(self._mean) or not numpy.isfinite(values).all():
            raise DataError(
                f"inputs of shape {values.shape}; expected finite numbers of shape (samples, ..., {len(self._mean)}); "
                "pass them as to the learner"
            )
        if not values.size:
            return
        share = len(values) / (self._memory + len(values))
        axes = tuple(range(values.ndim - 1))
        step = values.mean(axes) - self._mean
        self._variance = (1 - share) * self._variance + share * values.var(axes) + share * (1 - share) * step**2
        self._mean = self._mean + share * step

    @property
    def mean(self) -> np.ndarray:
        """``(channels,)`` float32."""
        return self._mean.astype("f4")

    @property
    def scale(self) -> np.ndarray:
        """``(channels,)`` float32: one by the standard deviation."""
        import numpy

        spread = numpy.sqrt(numpy.maximum(self._variance, self._least))
        return (self._sign / numpy.where(self._sign != 0, spread, 1)).astype("f4")


def checked_answers(probabilities: Any) -> np.ndarray:
    """Return probabilities as float64, ``(samples, classes)``; see `pseudo_labels`."""
    import numpy

    values = numpy.asarray(probabilities)
    if values.dtype.kind not in "fiu" or values.ndim != 2 or not 2 <= values.shape[1] <= INT32_MAX:
        raise DataError(
            f"answers of type {values.dtype} and shape {values.shape}; expected numbers of shape (samples, classes), "
            "two classes at least; pass what predict_proba_many returned for a NumPy array"
        )
    values = values.astype("f8")
    if not (numpy.isfinite(values).all() and (values >= 0).all()):
        sample = int((~(numpy.isfinite(values) & (values >= 0)).all(1)).argmax())
        raise DataError(
            f"the answer for sample {sample} is negative or not finite; expected probabilities; load an earlier "
            "checkpoint"
        )
    return values

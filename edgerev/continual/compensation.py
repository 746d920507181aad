"""Sums of a closed form when the backbone beneath them has moved: what to do without the samples.

Sums are of the features that samples had when they were added. If training goes on, these are not the features that the
backbone gives now. Two remedies, and what they are good for:

`recall` before training, `refresh_sums` after it
    Draws samples from the class means and the covariance that the sums hold, carries them back through the inverse of
    the backbone to its entry, and adds up the features that the trained backbone gives them. This is replay from class
    statistics: no sample is stored, but between the two calls there are `per_class` states of each class. The entry
    must be the same place before and after, so the stem has to stay: set `learner.frozen = 1` after the first
    experience, or make the learner with `rates=(0.0, ...)`. With a stem that goes on training it hardly helps.
`carry_sums` after training
    Fits a linear map from old to new features on samples at hand, and takes the sums through it. It asks nothing of
    the stem, and knows nothing of where the samples at hand are not.

Where classes come one after another, the first gives nearly what stored samples would, and the second less. Both cost
accuracy where all classes come again in every experience, for there the sums are hardly stale. And neither has beaten
a backbone that is left as it is after the first experience: `edgerev bench gas --compensation` measures all of it.

References
----------
Gomez-Villa et al. 2024, "Exemplar-free continual representation learning via learnable drift compensation" (a map from
old to new features, fitted on samples of the new experience).
Yu et al. 2020, "Semantic drift compensation for class-incremental learning" (means that move with the samples at hand).
Zhu et al. 2021, "Prototype augmentation and self-supervision for incremental learning" (samples drawn around means).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from edgerev.errors import DataError, UsageError
from edgerev.learner import Learner
from edgerev.numbers import FLOAT32_MAX, INT32_MAX, TINY, finite32, whole

if TYPE_CHECKING:
    import numpy as np


class Recalled(NamedTuple):
    """Samples drawn from what the sums hold, at the backbone's entry.

    Attributes
    ----------
    states : ``(samples, features)`` float64, as `Learner.invert` returns them
    labels : ``(samples,)`` int32
    weights : ``(classes,)`` float64, how much the samples of each class count together
    """

    states: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def class_statistics(learner: Learner) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what the sums say of features by class.

    Returns
    -------
    Weights ``(classes,)``, means ``(classes, features)``, 0 for a class not seen, and the covariance about them
    ``(features, features)``, which all classes share; float64.

    Raises
    ------
    UsageError
        The head has no float64 sums, or none yet.
    """
    import numpy

    gram, moments = _sums(learner)
    features = len(gram) - 1
    weights = moments[features].copy()
    means = (moments[:features] / numpy.where(weights > 0, weights, 1)).T
    covariance = (gram[:features, :features] - (means.T * weights) @ means) / weights.sum()
    return weights, means, covariance


def recall(learner: Learner, per_class: int, seed: int) -> Recalled:
    """Draw samples of every class seen from its Gaussian, and take them back through the inverse; call before training.

    Parameters
    ----------
    per_class : samples of each class
    seed : of the draw, 0 at least; equal arguments give equal samples

    Raises
    ------
    UsageError
        See `class_statistics`; or the features that the sums see are not the backbone's output, because the head
        averages over positions, rectifies, or has an expansion; or it has several tasks.
    DataError
        A drawn sample is out of the state's range.
    """
    import numpy

    net, per_class = learner.net, whole("per_class", per_class, 1, INT32_MAX)
    random = numpy.random.default_rng(whole("seed", seed, 0, 2**63 - 1))
    if len(net.exit_shape) > 1 or net.head.rectify or net.head.expansion:
        raise UsageError(
            "the head's features are not the backbone's output, so they cannot be taken back; expected samples of "
            "shape (features,), and a head without rectify and expansion; use carry_sums"
        )
    if net.head.tasks > 1:
        raise UsageError(
            "the sums are of several tasks, while samples are added to those of the task at hand; expected one task; "
            "use carry_sums"
        )
    weights, means, covariance = class_statistics(learner)
    values, directions = numpy.linalg.eigh(covariance)
    root = directions * numpy.sqrt(numpy.maximum(values, 0))
    seen = numpy.flatnonzero(weights > 0)
    drawn = []
    for label in seen:
        noise = random.normal(size=(per_class, len(root)))
        drawn.append(means[label] + (noise - noise.mean(0)) @ root.T)  # so the class means are met
    return Recalled(learner.invert(numpy.concatenate(drawn)), numpy.repeat(seen, per_class).astype("i4"), weights)


def refresh_sums(learner: Learner, recalled: Recalled) -> None:
    """Make the sums anew from recalled samples, with the features that the backbone gives now; call after training.

    Parameters
    ----------
    recalled : what `recall` returned; classes keep their weights

    Raises
    ------
    UsageError, DataError, NumericError
        See `Learner.remember_states`, or samples came to the sums after `recall`; the sums are as they were.
    """
    import numpy

    gram, moments = _sums(learner)
    counts = _counts(learner)
    if moments.shape[1] != len(recalled.weights) or (moments[-1] > recalled.weights * (1 + 1e-12)).any():
        raise UsageError(
            "the sums have samples that came after recall, and would lose them; expected those of recall; refresh "
            "first, then remember"
        )
    new_gram, new_moments = numpy.zeros_like(gram), numpy.zeros_like(moments)
    none = numpy.zeros_like(gram), numpy.zeros_like(moments), numpy.zeros_like(counts)
    try:
        for label in numpy.unique(recalled.labels):
            member = recalled.labels == label
            _write(learner, *none)
            learner.remember_states(recalled.states[member], recalled.labels[member])
            share = recalled.weights[label] / member.sum()
            for new, part in zip((new_gram, new_moments), _sums(learner)):
                new += share * part
    except BaseException:
        _write(learner, gram, moments, counts)
        raise
    _write(learner, new_gram, new_moments, counts)


def carry_sums(learner: Learner, before: Any, after: Any, strength: float = 1e-3) -> None:
    """Take the sums through the linear map that takes old features to new ones; call after training.

    Parameters
    ----------
    before, after : ``(samples, features)`` features of the same samples before and after training, as
        `Learner.transform` returns them; of samples with positions, averaged as the head does it
    strength : of the ridge, for one sample, that draws the map to the identity

    Raises
    ------
    UsageError
        See `class_statistics`.
    DataError
        Shapes do not fit, or a number is not finite.
    """
    import numpy

    gram, moments = _sums(learner)
    old, new = numpy.asarray(before, "f8"), numpy.asarray(after, "f8")
    penalty = finite32("strength", strength, TINY, FLOAT32_MAX) * len(old)
    if old.shape != new.shape or old.shape[1:] != (len(gram) - 1,) or not len(old):
        raise DataError(
            f"features of shapes {old.shape} and {new.shape}; expected (samples, {len(gram) - 1}) of both, of the same "
            "samples; pass what transform returned before and after training"
        )
    if not (numpy.isfinite(old).all() and numpy.isfinite(new).all()):
        raise DataError("a feature is not finite; expected finite numbers; load an earlier checkpoint")
    if learner.net.head.rectify and not learner.net.head.expansion:
        old, new = numpy.maximum(old, 0), numpy.maximum(new, 0)  # as the sums see them; means of such stay as they are
    old = numpy.concatenate([old, numpy.ones((len(old), 1))], 1)
    change = numpy.eye(len(gram))
    change[:, :-1] += numpy.linalg.solve(old.T @ old + penalty * numpy.eye(len(gram)), old.T @ (new - old[:, :-1]))
    _write(learner, change.T @ gram @ change, change.T @ moments, _counts(learner))


def _sums(learner: Learner) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of products of features, the last of which is 1, and of features by class."""
    import numpy

    head = learner.net.head
    if not head.closed_form or head.sums != "float64" or not any(learner.runtime.view("ridge.counts")):
        raise UsageError(
            "there are no float64 sums; expected a head in closed form with samples; make it with "
            "Head(kind='prototype') and call remember_many"
        )
    size = learner.net.closed_features + 1
    gram = numpy.zeros((size, size))
    gram[numpy.tril_indices(size)] = numpy.array(learner.runtime.view("ridge.gram"))
    return gram + numpy.tril(gram, -1).T, numpy.array(learner.runtime.view("ridge.moments")).reshape(size, -1)


def _counts(learner: Learner) -> np.ndarray:
    import numpy

    return numpy.array(learner.runtime.view("ridge.counts"), "i8")


def _write(learner: Learner, gram: np.ndarray, moments: np.ndarray, counts: np.ndarray) -> None:
    import numpy

    learner.replace_sums(gram[numpy.tril_indices(len(gram))], numpy.ascontiguousarray(moments), counts)

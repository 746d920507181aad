"""Ways to adapt sums to a new wearer: with labels, with few, and without; see `edgerev.tools.bench_wearer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy

from edgerev import Learner
from edgerev.continual.guard import Guard
from edgerev.continual.unlabelled import RunningStandardisation, most_surprising, pseudo_labels
from edgerev.numbers import BELOW_ONE

ASKED = 0.1  # labels asked for, as a share of the windows or recordings
SHARE = 1.0  # what labelled windows of the wearer weigh together, by all others
PSEUDO_WEIGHT, ASKED_WEIGHT = 10.0, 30.0  # of one window, by one of the others
CONFIDENCE = 0.0  # leaving out what is less sure made it worse


class Wearer(NamedTuple):
    """Windows of a wearer to adapt to, and a learner that knows the others.

    Attributes
    ----------
    learner : its sums are of `others` windows
    x, y, recording : windows, their labels and the recordings that they were cut from
    moments : mean and standard deviation of the others' inputs
    seed : of what is drawn
    """

    learner: Learner
    others: int
    x: numpy.ndarray
    y: numpy.ndarray
    recording: numpy.ndarray
    moments: tuple[numpy.ndarray, numpy.ndarray]
    seed: int


Way = Callable[[Wearer, str], None]  # is given the checkpoint of what the others taught, to go back to


def _weigh(learner: Learner, weight: float) -> None:
    """Let samples to come count `weight` times as much as those so far, if that is more."""
    if weight > 1:
        learner.fade(min(1 / weight, BELOW_ONE))


def _before(wearer: Wearer, accepted: str) -> None:
    """Nothing is learned."""


def _labels(wearer: Wearer, accepted: str) -> None:
    _weigh(wearer.learner, SHARE * wearer.others / len(wearer.y))
    wearer.learner.remember_many(wearer.x, wearer.y)


def _pseudo(wearer: Wearer, groups: list[int] | None) -> None:
    found = pseudo_labels(wearer.learner.predict_proba_many(wearer.x), CONFIDENCE, groups)
    if found.kept.any():
        _weigh(wearer.learner, PSEUDO_WEIGHT)
        wearer.learner.remember_many(wearer.x[found.kept], found.labels[found.kept])


def _by_window(wearer: Wearer, accepted: str) -> None:
    _pseudo(wearer, None)


def _by_recording(wearer: Wearer, accepted: str) -> None:
    _pseudo(wearer, wearer.recording.tolist())


def _ask(wearer: Wearer, places: numpy.ndarray) -> None:
    _weigh(wearer.learner, ASKED_WEIGHT)
    wearer.learner.remember_many(wearer.x[places], wearer.y[places])


def _share(count: int) -> int:
    return max(round(ASKED * count), 1)


def _smallest_margins(wearer: Wearer, accepted: str) -> None:
    _ask(wearer, most_surprising(wearer.learner.predict_proba_many(wearer.x), _share(len(wearer.y))))


def _any(wearer: Wearer, accepted: str) -> None:
    _ask(wearer, _some(wearer))


def _some(wearer: Wearer) -> numpy.ndarray:
    return numpy.random.default_rng(wearer.seed).permutation(len(wearer.y))[: _share(len(wearer.y))]


def _asked_recordings(wearer: Wearer) -> numpy.ndarray:
    """Return which windows are of the recordings of smallest margin; one question tells the label of a recording."""
    numbers, member = numpy.unique(wearer.recording, return_inverse=True)
    answers = wearer.learner.predict_proba_many(wearer.x)
    means = numpy.stack([answers[member == number].mean(0) for number in range(len(numbers))])
    return numpy.isin(member, most_surprising(means, _share(len(numbers))))


def _recordings(wearer: Wearer, accepted: str) -> None:
    _ask(wearer, numpy.flatnonzero(_asked_recordings(wearer)))


def _recordings_and_own(wearer: Wearer, accepted: str) -> None:
    asked = _asked_recordings(wearer)
    _ask(wearer, numpy.flatnonzero(asked))
    rest = wearer._replace(x=wearer.x[~asked], y=wearer.y[~asked], recording=wearer.recording[~asked])
    if len(rest.y):
        _by_recording(rest, accepted)


def _normalisation(wearer: Wearer, accepted: str) -> None:
    """Windows of the wearer count as much for the moments as those of the others; the net sees what it saw of these."""
    mean, spread = wearer.moments
    running = RunningStandardisation(mean, 1 / spread, memory=len(wearer.x))
    running.add(wearer.x)
    factor = spread * running.scale  # inputs are scaled already
    wearer.learner.set_standardisation(running.mean - mean / factor, factor)


def _guarded(adapt: Way, *, labels: bool = False) -> Way:
    """Undo what a guard refuses; it looks at the windows to adapt to, or at the labels of some of them."""

    def run(wearer: Wearer, accepted: str) -> None:
        places = _some(wearer) if labels else numpy.arange(len(wearer.y))
        before = wearer.learner.predict_proba_many(wearer.x[places])
        adapt(wearer, accepted)
        after = wearer.learner.predict_proba_many(wearer.x[places])
        if not Guard().check(before, after, wearer.y[places] if labels else None).accepted:
            wearer.learner.restore(accepted)

    return run


WAYS: dict[str, Way] = {
    "before": _before,
    "labels of all": _labels,
    "10 % of labels, smallest margin": _smallest_margins,
    "10 % of labels, any": _any,
    "10 % of recordings, smallest margin": _recordings,
    "the same, own answers for the rest": _recordings_and_own,
    "own answers, by window": _by_window,
    "own answers, by recording": _by_recording,
    "own answers, by recording, guarded": _guarded(_by_recording),
    "normalisation": _normalisation,
    "normalisation, guarded": _guarded(_normalisation),
    "normalisation, guarded by 10 % of labels": _guarded(_normalisation, labels=True),
}

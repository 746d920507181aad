"""Whether the model that learns may go on, by how it and the last accepted one answer what neither has learned yet.

Every sample is answered by both before it is learned. At the end of a window of samples there are three ways:

- The model is worse than the accepted one, by more than is allowed and than chance explains: it goes back. Counted are
  the windows in which it has been behind, taken together, since it was last ahead or another was accepted.
- In some windows in a row the model's accuracy did not fall below what it usually is: the candidate that was put by
  before them is accepted, and the model as it is now becomes the next candidate. So what is accepted is older than
  these windows, and labels that are wrong for a shorter time do not get into it.
- Else all stays as it is.

What it does badly: while labels are wrong in a consistent way (two classes swapped), a model that follows them looks
good; it goes back when right labels return. Wrong labels that last longer than `probation` windows, and are learned so
well that the accuracy is the usual one, are taken for how the world is now.

References
----------
McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages" (only
samples that one model has right and the other wrong tell them apart).
Page 1954, "Continuous inspection schemes" (a sum that begins anew wherever it would fall below zero).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from math import exp, log, sqrt
from typing import Any

from edgerev.continual.guard import Guard
from edgerev.daemon.settings import GuardTable

CHANCE = 3.0  # standard deviations; by chance alone in one window of 500, of 20,000 with models as good as each other
_LEAST_PROBABILITY = 1e-30
_LEAST_KNOWN = 8  # labels from outside that an accuracy is made of
_RATE = 1 / 8  # of a window in the usual accuracy
_RATE_BELOW = 1 / 32  # if it is below: slowly, a harder world is taken for the usual one


class Decision(Enum):
    """What becomes of the model at the end of a window."""

    GO_ON = "go on"
    ACCEPT = "accept"
    GO_BACK = "go back"


class Window:
    """What two models answered for some samples: counts, and sums of probabilities.

    Attributes
    ----------
    samples : of the window so far
    known : those with a label from outside
    right, usual : right answers of the model and of the accepted one, of the known
    won, lost : of the known, those that only the model, or only the accepted one, had right
    loss : sum of the cross-entropies of the model, of the known
    changed, sure, sums : of the others: answers that differ, and for each model the sums of the likeliest class's
        probability and of each class's
    """

    def __init__(self, classes: int) -> None:
        self.samples = self.known = self.right = self.usual = self.won = self.lost = self.changed = 0
        self.loss = 0.0
        self.sure = [0.0, 0.0]
        self.sums = [[0.0] * classes, [0.0] * classes]

    def add(self, accepted: Sequence[float], candidate: Sequence[float], label: int, known: bool) -> None:
        """Take the probabilities of both models for a sample."""
        answers = [_likeliest(values) for values in (accepted, candidate)]
        self.samples += 1
        if known:
            usual, right = (answer == label for answer in answers)
            self.known += 1
            self.usual += usual
            self.right += right
            self.won += right and not usual
            self.lost += usual and not right
            self.loss -= log(max(candidate[label], _LEAST_PROBABILITY))
            return
        self.changed += answers[0] != answers[1]
        for place, values in enumerate((accepted, candidate)):
            self.sure[place] += values[answers[place]]
            self.sums[place] = [one + other for one, other in zip(self.sums[place], values)]


class Behind:
    """By how much a model is behind the accepted one, over windows: sums of what `Window` counts, as long as it is."""

    def __init__(self) -> None:
        self.known = self.right = self.usual = self.apart = 0

    def add(self, window: Window) -> None:
        """Take a window's counts."""
        self.known += window.known
        self.right += window.right
        self.usual += window.usual
        self.apart += window.won + window.lost

    def reason(self, accuracy_loss: float) -> str:
        """Return what speaks for going back, or nothing while it is allowed or may be chance."""
        gap = self.usual - self.right
        if gap <= max(accuracy_loss * self.known, CHANCE * sqrt(self.apart)):
            return ""
        return f"of {self.known} samples it had {self.right} right, where the accepted model had {self.usual}"


class WindowGuard:
    """Decides at the end of each window; see the module.

    Parameters
    ----------
    classes : that a model answers with
    table : `window`, `probation` and `accuracy_loss`

    Attributes
    ----------
    reason : why the model went back the last time
    answered : unix time of the newest answer since the start, or 0; no part of the state, and nothing is decided by it
    """

    def __init__(self, classes: int, table: GuardTable) -> None:
        self.classes, self.table = classes, table
        self.reason, self.answered = "", 0.0
        self.window, self.behind = Window(classes), Behind()
        self.good_windows = 0
        self.usual_accuracy: float | None = None

    @property
    def full(self) -> bool:
        """Whether the window is at its end."""
        return self.window.samples >= self.table.window

    def begin_anew(self) -> None:
        """Forget what speaks for or against a model that has given way."""
        self.window, self.behind, self.good_windows = Window(self.classes), Behind(), 0

    def decide(self) -> Decision:
        """End the window, and say what becomes of the model."""
        window, self.window = self.window, Window(self.classes)
        self.reason = self._harm(window)
        if self.reason:
            self.begin_anew()
            return Decision.GO_BACK
        self.good_windows = self.good_windows + 1 if self._is_usual(window) else 0
        if self.good_windows < self.table.probation:
            return Decision.GO_ON
        self.good_windows, self.behind = 0, Behind()
        return Decision.ACCEPT

    def _harm(self, window: Window) -> str:
        """Return what speaks for going back."""
        self.behind.add(window)
        if self.behind.usual <= self.behind.right:
            self.behind = Behind()
        others = window.samples - window.known
        if (found := self.behind.reason(self.table.accuracy_loss)) or others < window.samples / 2:
            return found
        sure = [total / others for total in window.sure]
        classes = [_in_use(sums) for sums in window.sums]
        return Guard().judge(sure, classes, window.changed / others).reason

    def _is_usual(self, window: Window) -> bool:
        """Return whether the accuracy is what it usually is, and let this window count in that."""
        if window.known < _LEAST_KNOWN:
            return True
        found = window.right / window.known
        if self.usual_accuracy is None:
            self.usual_accuracy = found
            return True
        usual = self.usual_accuracy
        tolerance = self.table.accuracy_loss + CHANCE * sqrt(usual * (1 - usual) / window.known)
        fits = found >= usual - tolerance
        self.usual_accuracy += (found - usual) * (_RATE if fits or found > usual else _RATE_BELOW)
        return fits

    def state(self) -> Any:
        """Return all that it keeps, as JSON has it."""
        return {
            "window": vars(self.window), "behind": vars(self.behind), "good_windows": self.good_windows,
            "usual_accuracy": self.usual_accuracy,
        }  # fmt: skip

    def restore(self, state: Any) -> None:
        """Go on from a state."""
        self.window = Window(self.classes)
        vars(self.window).update(state["window"])
        self.behind = Behind()
        vars(self.behind).update(state.get("behind", {}))  # older stores have none
        self.good_windows, self.usual_accuracy = state["good_windows"], state["usual_accuracy"]


def _likeliest(values: Sequence[float]) -> int:
    return values.index(max(values))


def _in_use(sums: Sequence[float]) -> float:
    """Return the exponential of the entropy of the mean answer."""
    total = sum(sums) or 1.0
    return exp(-sum(value / total * log(value / total) for value in sums if value > 0))

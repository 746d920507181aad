"""Whether to go on with a changed model or back to the last one accepted, by what both answer for the same samples.

Going back is the caller's: a checkpoint (`Learner.save` and `restore`), or a generation that a service keeps.

References
----------
Niu et al. 2023, "Towards stable test-time adaptation in dynamic wild world" (SAR: a model that is about to
collapse into one class goes back to where it began).
Wang et al. 2021, "Tent: fully test-time adaptation by entropy minimization" (what such a guard is for).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING, Any, NamedTuple

from edgerev.continual.unlabelled import checked_answers, entropy
from edgerev.errors import DataError, UsageError
from edgerev.numbers import finite32, settle
from edgerev.value import Value

if TYPE_CHECKING:
    import numpy as np


class Verdict(NamedTuple):
    """What a guard says of a changed model.

    Attributes
    ----------
    accepted : whether to go on with it; else go back to the last one accepted
    reason : why not; empty if accepted
    figures : what was compared, by name
    """

    accepted: bool
    reason: str
    figures: dict[str, float]


class Guard(Value):
    """Accepts a changed model or not, by what it and the last accepted one answer for the same samples.

    With labels of samples that neither has learned, their accuracies are compared and nothing else. Without, a guard
    sees signs of harm only: answers that collapse into few classes (where minimising entropy ends, see SAR), confidence
    that falls, and answers that change too often at once. A change that is confident, balanced, gradual and wrong
    passes it; so does a slow walk of many small steps, unless `accepted` stays the first model.

    Parameters
    ----------
    accuracy_loss : most by which the accuracy may fall; with few samples, one of them is more than that
    confidence_loss : most by which the mean probability of the likeliest class may fall
    class_loss : most of the classes in use, as the exponential of the entropy of the mean answer, that may fall out of
        use, as a share of those before
    changed : most answers that may change, as a share of all
    """

    accuracy_loss: float = 0.0
    confidence_loss: float = 0.1
    class_loss: float = 0.3
    changed: float = 0.5

    def __post_init__(self) -> None:
        settle(self, UsageError, **dict.fromkeys(self._fields, (finite32, 0.0, 1.0)))

    def check(self, accepted: Any, candidate: Any, labels: Any = None) -> Verdict:
        """Compare what the last accepted model and the changed one answer.

        Parameters
        ----------
        accepted, candidate : ``(samples, classes)`` probabilities of the same samples, of which there is one at least
        labels : ``(samples,)`` class numbers, if they are known

        Raises
        ------
        DataError
            Shapes differ, there are no samples, or the accepted model's answers are no probabilities.
        """
        import numpy

        before, after = checked_answers(accepted), numpy.asarray(candidate, "f8")
        if before.shape != after.shape or not len(before):
            raise DataError(
                f"answers of shapes {before.shape} and {after.shape}; expected the same, of one sample at least; ask "
                "both models for the same samples"
            )
        if not (numpy.isfinite(after).all() and (after >= 0).all()):
            return Verdict(False, "an answer of the changed model is negative or not finite", {})
        if labels is None:
            return self._without_labels(before, after)
        known = numpy.asarray(labels)
        if known.shape != (len(before),) or known.dtype.kind not in "iu":
            raise DataError(
                f"labels of shape {known.shape} and type {known.dtype}; expected {len(before)} class numbers; pass one "
                "for each sample"
            )
        right = [float((values.argmax(1) == known).mean()) for values in (before, after)]
        figures = {"accuracy_before": right[0], "accuracy_after": right[1]}
        fell = right[0] - right[1] > self.accuracy_loss
        return Verdict(not fell, f"accuracy fell from {right[0]:.3f} to {right[1]:.3f}" if fell else "", figures)

    def _without_labels(self, before: np.ndarray, after: np.ndarray) -> Verdict:
        sure = [float(values.max(1).mean()) for values in (before, after)]
        classes = [exp(entropy(values.mean(0, keepdims=True))[0]) for values in (before, after)]
        return self.judge(sure, classes, float((before.argmax(1) != after.argmax(1)).mean()))

    def judge(self, sure: Sequence[float], classes: Sequence[float], changed: float) -> Verdict:
        """Compare what was found without labels.

        Parameters
        ----------
        sure : mean probability of the likeliest class, of the accepted model and of the changed one
        classes : exponential of the entropy of the mean answer, of both
        changed : share of the answers that differ
        """
        figures = {
            "confidence_before": sure[0], "confidence_after": sure[1], "classes_before": classes[0],
            "classes_after": classes[1], "changed": changed,
        }  # fmt: skip
        reason = ""
        if classes[1] < (1 - self.class_loss) * classes[0]:
            reason = f"classes in use fell from {classes[0]:.1f} to {classes[1]:.1f}"
        elif sure[0] - sure[1] > self.confidence_loss:
            reason = f"mean confidence fell from {sure[0]:.3f} to {sure[1]:.3f}"
        elif changed > self.changed:
            reason = f"{changed:.0%} of the answers changed"
        return Verdict(not reason, reason, figures)

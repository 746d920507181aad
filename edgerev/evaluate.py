"""Measure a learner on a data set."""

from __future__ import annotations

from typing import NamedTuple

from edgerev.batch import Batch
from edgerev.data import Records
from edgerev.data.feed import Feed
from edgerev.errors import DataError
from edgerev.kernels.layout import LossKind
from edgerev.learner import Learner


class Evaluation(NamedTuple):
    """How well a learner answers.

    Attributes
    ----------
    samples : how many there were
    accuracy : share of right answers; of right outputs for a binary loss; None for the mean squared error
    squared_error : mean squared error of the values; None for other losses
    """

    samples: int
    accuracy: float | None
    squared_error: float | None


def evaluate(learner: Learner, *parts: Records) -> Evaluation:
    """Measure a learner on all samples of `parts`.

    Raises
    ------
    DataError
        Columns, shape, targets or classes are not what the learner was trained on.
    """
    count = sum(map(len, parts))
    mean = sum(_add_up(learner, records) for records in parts) / count
    if learner.recipe.loss.number == LossKind.MEAN_SQUARED_ERROR:
        return Evaluation(count, None, mean)
    return Evaluation(count, mean, None)


def _add_up(learner: Learner, records: Records) -> float:
    """Return the sum over all samples of 1 for a right answer, the share of right outputs, or the squared error."""
    feed = Feed(records, learner)
    numbers = _class_numbers(records.classes, learner.classes) if records.classes is not None else []
    found, targets = learner.runtime.view("probability"), learner.runtime.view("target")
    outputs, most, count = learner.net.head.columns, learner.schedule.micro_batch, len(records)
    total = 0.0
    for first in range(0, count, most):
        n = feed.fill(range(first, min(first + most, count)))
        learner.predict_step(n)
        for sample in range(n):
            row = found[sample * outputs : (sample + 1) * outputs].tolist()
            if learner.recipe.loss.labels:
                total += learner.answer(row) == numbers[targets[sample]]
                continue
            wanted = targets[sample * outputs : (sample + 1) * outputs].tolist()
            if learner.recipe.loss.number == LossKind.BINARY_CROSS_ENTROPY:
                total += sum((value > 0.5) == (target > 0.5) for value, target in zip(row, wanted)) / outputs
            else:
                total += sum((value - target) ** 2 for value, target in zip(row, wanted)) / outputs
    return total


def _class_numbers(found: list[str], known: list[str]) -> list[int]:
    """Return the number that each class of a data set has among those that a learner was trained on."""
    if not known:
        return list(range(len(found)))
    numbers = {name: number for number, name in enumerate(known)}
    unknown = [name for name in found if name not in numbers]
    if unknown:
        raise DataError(
            f"the data has classes that the model does not know: {', '.join(unknown[:5])}; expected "
            f"only {', '.join(known[:20])}; leave these samples out, or train on them"
        )
    return [numbers[name] for name in found]


def reconstruction_error(learner: Learner, records: Records) -> float:
    """Return the largest absolute error of the state at the backbone's entry when it is rebuilt from its exit.

    It is 0 for a state on a grid. Measured on the first samples of `records`, one micro-batch at most.
    """
    runtime, batch = learner.runtime, Batch(learner.runtime, learner.net, learner.recipe)
    n = Feed(records, learner).fill(range(min(learner.schedule.micro_batch, len(records))), targets=False)
    runtime.run("encode", n)
    before = [state * step for state, step in batch.halves(True, n)]
    runtime.run("forward", n)
    runtime.run("inverse", n)
    return max(float(abs(state * step - ref).max()) for (state, step), ref in zip(batch.halves(True, n), before))

"""Gas sensors, test then train: every sample is answered before it is learned, beside models that learn less often.

In the file, the samples of batches 1 to 6 are sorted by class: whoever is told the label of the last sample knows that
of the next one nine times in ten. So a model that learns every label at once owes part of its figure to that, above all
if it forgets fast; what it owes is told by the same with each batch in a random order, and by the last label itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy

from edgerev.continual.metrics import over_seeds
from edgerev.tools.gas_data import Stream, gas_stream, plain_learner, reversible_learner, right, train

FADING = 0.999  # chosen on batches 1 to 3


def prequential_figures(data: str, *, seeds: int, width: int) -> dict[str, Any]:
    """Return accuracies by batch of models that learn at once, at the start of each batch, or never again.

    Parameters
    ----------
    data : folder of `gas_drift.npz`
    seeds : runs of what depends on chance: random orders, and weights of the net
    width : features of the net
    """
    start, stream = time.perf_counter(), gas_stream(data)
    rows = [_row("frozen", "any", [_frozen(stream)]), _row("retrained", "any", [_retrained(stream)])]
    rows.append(_row("net retrained", "any", [_net_retrained(stream, width, seed) for seed in range(seeds)]))
    for name, measure in ONLINE.items():
        rows.append(_row(name, "file", [measure(stream)]))
        rows.append(_row(name, "random", [measure(_shuffled(stream, seed)) for seed in range(seeds)]))
    return {
        "batches": stream.batches[1:], "seeds": seeds, "fading": FADING, "rows": rows,
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _row(name: str, order: str, runs: list[list[float]]) -> dict[str, Any]:
    spread = over_seeds([100 * float(numpy.mean(run)) for run in runs])
    return {
        "learner": name, "order": order, "accuracy": spread.mean, "accuracy_std": spread.deviation,
        "by_batch": (100 * numpy.mean(runs, 0)).round(1).tolist(),
    }  # fmt: skip


def _shuffled(stream: Stream, seed: int) -> Stream:
    random = numpy.random.default_rng(seed)
    return stream._replace(parts=[random.permutation(part) for part in stream.parts])


def _frozen(stream: Stream) -> list[float]:
    learner, first = plain_learner(stream.x.shape[1]), stream.parts[0]
    learner.remember_many(stream.x[first], stream.y[first])
    return [right(learner, stream, part) for part in stream.parts[1:]]


def _retrained(stream: Stream) -> list[float]:
    """Sums of all that came before are those of a model trained from scratch on it, so they are added to."""
    learner, accuracies = plain_learner(stream.x.shape[1]), []
    for number, part in enumerate(stream.parts):
        if number:
            accuracies.append(right(learner, stream, part))
        learner.remember_many(stream.x[part], stream.y[part])
    return accuracies


def _net_retrained(stream: Stream, width: int, seed: int) -> list[float]:
    accuracies = []
    for number in range(1, len(stream.parts)):
        before = numpy.concatenate(stream.parts[:number])
        learner = reversible_learner(stream.x.shape[1], width, seed=seed)
        train(learner, stream, before, numpy.random.default_rng(seed))
        learner.remember_many(stream.x[before], stream.y[before])
        accuracies.append(right(learner, stream, stream.parts[number]))
    return accuracies


def _online(stream: Stream, fading: float = 1.0) -> list[float]:
    learner, accuracies = plain_learner(stream.x.shape[1]), []
    for number, part in enumerate(stream.parts):
        correct = 0
        for place, sample in enumerate(part):
            x, label = stream.x[sample : sample + 1], stream.y[sample : sample + 1]
            if number:
                correct += int(learner.predict_many(x)[0] == label[0])
            if fading < 1 and (number or place):
                learner.fade(fading)
            learner.remember_many(x, label)
        if number:
            accuracies.append(correct / len(part))
    return accuracies


def _online_fading(stream: Stream) -> list[float]:
    return _online(stream, FADING)


def _last_label(stream: Stream) -> list[float]:
    ends = [stream.y[part[-1]] for part in stream.parts]
    return [
        float((numpy.concatenate([[end], stream.y[part[:-1]]]) == stream.y[part]).mean())
        for end, part in zip(ends, stream.parts[1:])
    ]


ONLINE: dict[str, Callable[[Stream], list[float]]] = {
    "online": _online, "online fading": _online_fading, "last label": _last_label,
}  # fmt: skip

"""Gas sensors that age: learn from all batches before one, be tested on it, for each batch after the first."""

from __future__ import annotations

import time
from typing import Any

import numpy

from edgerev import Learner
from edgerev.continual.metrics import over_seeds
from edgerev.errors import UsageError
from edgerev.numbers import TINY, finite32
from edgerev.tools.gas_data import Stream, gas_stream, plain_learner, reversible_learner, right, train

METHODS = ("prototype", "mapped", "random", "trained")


def gas_figures(
    data: str, *, method: str, width: int, seeds: int, five: bool = False, fading: float = 1.0
) -> dict[str, Any]:
    """Return the accuracy on each batch after learning from those before it, as means over seeds.

    Parameters
    ----------
    data : folder of `gas_drift.npz`
    method : "prototype" (class means under one covariance of the inputs), "mapped" (of an invertible random map of
        them), or the same of a reversible net with `width` features whose weights are "random", or "trained" on the
        stream
    width : features of the net
    seeds : how many runs
    five : whether to leave out toluene, as the paper does
    fading : how much each batch leaves of the weight of those before it
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: expected one of {', '.join(METHODS)}; change it")
    finite32("fading", fading, TINY, 1.0)
    start = time.perf_counter()
    stream = gas_stream(data, five=five)
    runs = [_run(stream, method, width, seed, fading) for seed in range(seeds)]
    means = over_seeds([100 * float(numpy.mean(accuracies)) for accuracies, _ in runs])
    learner = runs[0][1]
    return {
        "method": method, "features": learner.net.features, "seeds": seeds, "classes": 5 if five else 6,
        "fading": fading, "accuracy": means.mean, "accuracy_std": means.deviation,
        "accuracies": [100 * float(numpy.mean(accuracies)) for accuracies, _ in runs],
        "by_batch": (100 * numpy.mean([accuracies for accuracies, _ in runs], 0)).round(1).tolist(),
        "batches": stream.batches[1:], "stored_sample_bytes": 0,
        "arena_bytes": learner.plan.arena_bytes, "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _run(stream: Stream, method: str, width: int, seed: int, fading: float) -> tuple[list[float], Learner]:
    inputs = stream.x.shape[1]
    if method in ("prototype", "mapped"):
        learner = plain_learner(inputs, mapped=method == "mapped", seed=seed)
    else:
        learner = reversible_learner(inputs, width, seed=seed)
    random, accuracies = numpy.random.default_rng(seed), []
    for number, part in enumerate(stream.parts):
        if number:
            accuracies.append(right(learner, stream, part))
            if fading < 1:
                learner.fade(fading)
        if method == "trained":
            train(learner, stream, part, random)
        learner.remember_many(stream.x[part], stream.y[part])
    return accuracies, learner

"""Gas sensors under a backbone that goes on training: what becomes of the sums of features it no longer gives.

Two streams. In "batches" all classes come again in each batch, and the next one is the test. In "classes" two gases
come at a time, in an order of the seed's, and at the end half of the samples of all gases are the test; half of those
to learn are for choosing settings (`validate`), as was done for `PER_CLASS` and the strength of the map.
"""

from __future__ import annotations

import time
from typing import Any

import numpy

from edgerev import Learner
from edgerev.continual.compensation import carry_sums, recall, refresh_sums
from edgerev.continual.metrics import over_seeds, paired_difference
from edgerev.tools.gas_data import CLASSES, Stream, gas_stream, reversible_learner, right, train

STREAMS = ("batches", "classes")
WAYS = ("none", "linear", "inverse", "refresh", "frozen")
STEMS = ("never", "first", "always")  # when it is trained; after the first experience, the first block stays as well
PER_CLASS = 200
STRENGTH = 1e-3

Plan = list[tuple[numpy.ndarray, numpy.ndarray]]  # of each experience, what is learned and what is tested


def compensation_figures(data: str, *, width: int, seeds: int, validate: bool = False) -> dict[str, Any]:
    """Return accuracies of each stream, stem and way to treat sums, with the paired difference from doing nothing.

    Ways are "none"; "linear" and "inverse", see `edgerev.continual.compensation`; "refresh", which keeps all samples to
    make the sums anew, and so tells what could be had; and "frozen", where the backbone is left as it is after the
    first experience, so that there is nothing to compensate.

    Parameters
    ----------
    data : folder of `gas_drift.npz`
    width : features of the net
    seeds : how many runs
    validate : whether the test of the stream of classes is held-out training data
    """
    start, stream = time.perf_counter(), gas_stream(data)
    rows: list[dict[str, Any]] = []
    for name in STREAMS:
        for stem in STEMS:
            runs = {
                way: [100 * _run(stream, name, stem, way, width, seed, validate) for seed in range(seeds)]
                for way in WAYS
            }
            for way, found in runs.items():
                spread, difference = over_seeds(found), paired_difference(found, runs["none"])
                rows.append({
                    "stream": name, "stem_trained": stem, "sums": way, "accuracy": spread.mean,
                    "accuracy_std": spread.deviation, "difference": difference.mean,
                    "difference_std": difference.deviation,
                })  # fmt: skip
    return {
        "width": width, "seeds": seeds, "per_class": PER_CLASS, "recalled_bytes": 8 * width * PER_CLASS * CLASSES,
        "rows": rows, "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _plan(stream: Stream, name: str, seed: int, validate: bool) -> Plan:
    if name == "batches":
        return [(part, part) for part in stream.parts]
    random = numpy.random.default_rng(seed)
    order, halves = random.permutation(CLASSES), random.random((2, len(stream.y))) < 0.5
    learned, tested = (halves[0] & halves[1], halves[0] & ~halves[1]) if validate else (halves[0], ~halves[0])
    plan = []
    for first in range(0, CLASSES, 2):
        member = numpy.isin(stream.y, order[first : first + 2])
        plan.append((numpy.flatnonzero(member & learned), numpy.flatnonzero(member & tested)))
    return plan


def _run(stream: Stream, name: str, stem: str, way: str, width: int, seed: int, validate: bool) -> float:
    rates = (0.0, 1.0, 1.0, 1.0, 1.0, 1.0) if stem == "never" else ()
    learner = reversible_learner(stream.x.shape[1], width, seed=seed, rates=rates)
    random, accuracies = numpy.random.default_rng(seed), []
    plan = _plan(stream, name, seed, validate)
    for number, (learned, tested) in enumerate(plan):
        if number and name == "batches":
            accuracies.append(right(learner, stream, tested))
        if number == 0:
            train(learner, stream, learned, random)
            learner.frozen = 1 if stem == "first" else 0
        elif way != "frozen":
            _train_on(learner, stream, way, [part for part, _ in plan[:number]], learned, random)
        learner.remember_many(stream.x[learned], stream.y[learned])
    if name == "classes":
        accuracies = [right(learner, stream, tested) for _, tested in plan]
    return float(numpy.mean(accuracies))


def _train_on(
    learner: Learner, stream: Stream, way: str, earlier: list[numpy.ndarray], learned: numpy.ndarray,
    random: numpy.random.Generator,
) -> None:  # fmt: skip
    """Train on the next experience, and treat the sums of earlier ones."""
    x = stream.x[learned]
    before = learner.transform(x)
    recalled = recall(learner, PER_CLASS, seed=len(earlier)) if way == "inverse" else None
    train(learner, stream, learned, random)
    if way == "linear":
        carry_sums(learner, before, learner.transform(x), STRENGTH)
    elif recalled is not None:
        refresh_sums(learner, recalled)
    elif way == "refresh":
        learner.forget()
        for part in earlier:
            learner.remember_many(stream.x[part], stream.y[part])

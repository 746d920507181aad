"""Gas sensors that age: learn from all batches before one, be tested on it, for each batch after the first.

The data set is UCI 224 (Vergara et al. 2012, "Chemical gas sensor drift compensation using classifier ensembles"), as
`gas_drift.npz` with `x`, `y` and `batch`. Inputs are taken as ``asinh(10 x)``, standardised and clipped to +-3 by the
first batch alone; that, and the strength of the ridge, were chosen on the first three batches.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy

from edgerev import AdamW, Block, Dense, Head, Learner, Net, ReLU, RMSNorm
from edgerev.continual.metrics import over_seeds
from edgerev.continual.scenarios import by_group
from edgerev.errors import DataError, UsageError

METHODS = ("prototype", "random", "trained")
TOLUENE = 5
EPOCHS = 30


def gas_figures(data: str, *, method: str, width: int, seeds: int, five: bool = False) -> dict[str, Any]:
    """Return the accuracy on each batch after learning from those before it, as means over seeds.

    Parameters
    ----------
    data : folder of `gas_drift.npz`
    method : "prototype" (class means under one covariance, of an invertible random map of the inputs), or the same of
        a reversible net with `width` features whose weights are "random", or "trained" on the stream
    width : features of the net; the inputs' number for "prototype"
    seeds : how many runs
    five : whether to leave out toluene, as the paper does
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}: expected one of {', '.join(METHODS)}; change it")
    path = Path(data) / "gas_drift.npz"
    if not path.exists():
        raise DataError(f"{path} is missing; expected the arrays x, y and batch; pass the folder that holds it")
    start = time.perf_counter()
    with numpy.load(path) as found:
        x, y, batch = found["x"], found["y"].astype("i4"), found["batch"]
    chosen = y != TOLUENE if five else y >= 0
    x, y, batch = x[chosen], y[chosen], batch[chosen]
    first = batch == batch[0]
    x = numpy.arcsinh(10 * x)
    x = numpy.clip((x - x[first].mean(0)) / x[first].std(0), -3, 3).astype("f4")
    stream = by_group(batch.tolist(), y.tolist())
    parts = [numpy.array(experience.test) for experience in stream]
    runs = [_run(parts, x, y, method, x.shape[1] if method == "prototype" else width, seed) for seed in range(seeds)]
    means = over_seeds([100 * float(numpy.mean(accuracies)) for accuracies, _ in runs])
    learner = runs[0][1]
    return {
        "method": method, "features": learner.net.features, "seeds": seeds, "classes": 5 if five else 6,
        "accuracy": means.mean, "accuracy_std": means.deviation,
        "accuracies": [100 * float(numpy.mean(accuracies)) for accuracies, _ in runs],
        "by_batch": (100 * numpy.mean([accuracies for accuracies, _ in runs], 0)).round(1).tolist(),
        "batches": [int(batch[part[0]]) for part in parts[1:]], "stored_sample_bytes": 0,
        "arena_bytes": learner.plan.arena_bytes, "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _run(
    parts: list[numpy.ndarray], x: numpy.ndarray, y: numpy.ndarray, method: str, width: int, seed: int
) -> tuple[list[float], Learner]:
    learner = _learner(x.shape[1], width, method, seed)
    random, accuracies = numpy.random.default_rng(seed), []
    for number, part in enumerate(parts):
        if number:
            accuracies.append(float((learner.predict_many(x[part]) == y[part]).mean()))
        for _ in range(EPOCHS if method == "trained" else 0):
            order = random.permutation(part)
            learner.learn_many(x[order], y[order])
        learner.remember_many(x[part], y[part])
    return accuracies, learner


def _learner(inputs: int, width: int, method: str, seed: int) -> Learner:
    block = Block((RMSNorm(), Dense(width), ReLU(), Dense(width // 2)), repeat=2)
    net = Net((inputs,), Dense(width), () if method == "prototype" else (block,), Head(6, kind="prototype", ridge=1e-4))
    return Learner(net, optimizer=AdamW(1e-3), batch=64, seed=seed)

"""Gas sensors that age, through the daemon's HTTP interface: each sample is answered, then sent with its label.

Beside the daemon runs the same model frozen after the first batch. With `poison`, labels are wrong for a while: first
two classes are exchanged, then two in five labels are drawn at random; the guard should take the model back.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy

from edgerev.learner import Learner
from edgerev.tools.daemon_process import Connection, DaemonProcess
from edgerev.tools.gas_data import Stream, gas_stream, plain_learner

BATCH = 16
FADING = 0.999  # as in edgerev.tools.bench_prequential
EXCHANGED, RANDOM_SHARE = (0, 1), 0.4
GUARD = {"window": 64, "probation": 6}  # sensors age quickly: what is accepted is at most 768 samples old
POISON = (4000, 5000, 6000)  # from the first on classes are exchanged, from the second on labels are random


def gas_serve_figures(data: str, *, poison: bool = False, seed: int = 0) -> dict[str, Any]:
    """Return accuracies of the daemon and of the frozen model along the stream, and what the guard did.

    Parameters
    ----------
    data : folder of `gas_drift.npz`
    poison : whether labels are wrong for a while; the accuracy is by the right ones all the same
    seed : of the order within each batch of the data set, and of wrong labels

    Notes
    -----
    With poison, each batch of the data set is in random order: sorted by class, as the file is, a window has samples of
    one class alone.
    """
    stream, random = gas_stream(data), numpy.random.default_rng(seed)
    order = numpy.concatenate([random.permutation(part) if poison else part for part in stream.parts[1:]])
    order = order[: len(order) // BATCH * BATCH]
    labels = _poisoned(stream.y[order], random) if poison else stream.y[order]
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model.edgerev")
        frozen = _trained(stream, model)
        training = {"fading": FADING, "generation_samples": 256, "generation_seconds": 0}
        with DaemonProcess(folder, model, training=training, guard=GUARD) as daemon:
            right = _answer_then_learn(daemon, stream, order, labels)
            status = Connection(daemon.socket).ask("GET", "/v1/status")[1]
    before = frozen.predict_many(stream.x[order]) == stream.y[order]
    parts = numpy.split(numpy.arange(len(order)), _ends(stream, order))
    return {
        "samples": len(order), "poison": list(POISON) if poison else None,
        "rollbacks": status["rollbacks"], "drifts": status["drifts"],
        "accuracy": 100 * float(right.mean()), "frozen_accuracy": 100 * float(before.mean()),
        "rows": [
            {
                "samples": f"{part[0]} .. {part[-1]}", "accuracy": 100 * float(right[part].mean()),
                "frozen": 100 * float(before[part].mean()),
            }
            for part in (numpy.array_split(numpy.arange(len(order)), 12) if poison else parts) if len(part)
        ],
    }  # fmt: skip


def _trained(stream: Stream, path: str) -> Learner:
    """Return a model of the first batch, and save it."""
    learner = plain_learner(stream.x.shape[1], batch=BATCH)
    learner.remember_many(stream.x[stream.parts[0]], stream.y[stream.parts[0]])
    learner.save(path)
    return learner


def _poisoned(y: numpy.ndarray, random: numpy.random.Generator) -> numpy.ndarray:
    first, second, end = POISON
    wrong, (one, other) = y.copy(), EXCHANGED
    exchanged = wrong[first:second]
    exchanged[:] = numpy.select([exchanged == one, exchanged == other], [other, one], exchanged)
    drawn = wrong[second:end]
    drawn[:] = numpy.where(random.random(len(drawn)) < RANDOM_SHARE, random.integers(0, y.max() + 1, len(drawn)), drawn)
    return wrong


def _answer_then_learn(
    daemon: DaemonProcess, stream: Stream, order: numpy.ndarray, labels: numpy.ndarray
) -> numpy.ndarray:
    """Return whether each answer was right; a batch is answered once those before it were learned."""
    connection, right = Connection(daemon.socket), numpy.zeros(len(order), bool)
    for first in range(0, len(order), BATCH):
        while connection.ask("GET", "/v1/status")[1]["trained"] < first:
            pass
        chosen = order[first : first + BATCH]
        x = stream.x[chosen].tolist()
        found = connection.ask("POST", "/v1/predict", {"samples": x})[1]["predictions"]
        right[first : first + BATCH] = [one["answer"] == label for one, label in zip(found, stream.y[chosen])]
        sent = [{"x": row, "y": int(label)} for row, label in zip(x, labels[first : first + BATCH])]
        connection.ask("POST", "/v1/samples", {"samples": sent})
    return right


def _ends(stream: Stream, order: numpy.ndarray) -> numpy.ndarray:
    """Return where each batch of the data set ends in the order."""
    return numpy.cumsum([len(part) for part in stream.parts[1:]])[:-1].clip(max=len(order))

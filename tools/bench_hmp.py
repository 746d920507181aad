"""Activity recognition from a wrist accelerometer, tested on people whose data was never trained on.

The data set is HMP (UCI 283; Bruno, Mastrogiovanni, Sgorbissa 2013): `hmp.npz` with all recordings end to end. Windows
of 4 s are cut from each recording; volunteers are split into groups, and each group is tested by a net that was trained
on the others.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy

from edgerev.errors import DataError
from edgerev.learner import Learner
from edgerev.losses import CrossEntropy
from edgerev.optimizers import AdamW, RateSchedule
from edgerev.presets import preset
from edgerev.recipe import Augment

WINDOW, STEP = 128, 64


def leave_volunteers_out(
    folder: str, *, folds: int = 4, epochs: int = 12, batch: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Return accuracy over windows and over recordings (majority of its windows), each volunteer held out once.

    Parameters
    ----------
    folder : folder that holds `hmp.npz`
    folds : groups of volunteers

    Raises
    ------
    DataError
        The file is not there.
    """
    x, y, volunteer, recording, _ = load_windows(folder)
    start, right, by_recording = time.perf_counter(), 0, []
    for fold in range(folds):
        held = volunteer % folds == fold
        learner = _train(x[~held], y[~held], int(y.max()) + 1, epochs, batch, seed)
        answers = learner.predict_many(x[held])
        right += int((answers == y[held]).sum())
        for number in numpy.unique(recording[held]):
            part = recording[held] == number
            by_recording.append(numpy.bincount(answers[part]).argmax() == y[held][part][0])
    return {
        "window_accuracy": 100 * right / len(y), "recording_accuracy": 100 * float(numpy.mean(by_recording)),
        "volunteers": len(numpy.unique(volunteer)), "folds": folds, "windows": len(y), "classes": int(y.max()) + 1,
        "epochs": epochs, "parameters": learner.parameters, "arena_bytes": learner.plan.arena_bytes,
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def load_windows(folder: str) -> tuple[numpy.ndarray, ...]:
    """Return windows in g, their labels, volunteers and recordings, and the names of volunteers.

    Short recordings are repeated to one window.

    Raises
    ------
    DataError
        The file is not there.
    """
    path = Path(folder) / "hmp.npz"
    if not path.exists():
        raise DataError(f"{path} is not there; expected the HMP data set as described in {__name__}")
    with numpy.load(path) as data:
        return _windows(data)


def _windows(data: Any) -> tuple[numpy.ndarray, ...]:
    names, volunteers = numpy.unique(data["volunteer"], return_inverse=True)
    labels = numpy.unique(data["label"], return_inverse=True)[1]
    samples = data["samples"].astype("f4") * (3.0 / 63) - 1.5  # raw 0..63 is -1.5 g .. 1.5 g
    x, place = [], []
    end = numpy.cumsum(data["length"])
    for number, (first, last) in enumerate(zip(end - data["length"], end)):
        part = samples[first:last]
        if len(part) < WINDOW:
            part = numpy.resize(part, (WINDOW, 3))
        for start in range(0, len(part) - WINDOW + 1, STEP):
            x.append(part[start : start + WINDOW])
            place.append(number)
    recording = numpy.array(place)
    return numpy.stack(x), labels[recording], volunteers[recording], recording, names


def _train(x: numpy.ndarray, y: numpy.ndarray, classes: int, epochs: int, batch: int, seed: int) -> Learner:
    steps = epochs * -(-len(x) // batch)
    learner = Learner(
        preset("sensors", (WINDOW, 3), classes), optimizer=AdamW(2e-3, weight_decay=0.02), batch=batch, seed=seed,
        rate_schedule=RateSchedule("cosine", warmup=steps // 20, steps=steps), loss=CrossEntropy(smoothing=0.05),
        augment=Augment(shift=8, noise=0.05),
    )
    learner.set_standardisation(x.mean((0, 1)), 1 / x.std((0, 1)))
    random = numpy.random.default_rng(seed)
    for _ in range(epochs):
        order = random.permutation(len(x))
        learner.learn_many(x[order], y[order])
    return learner

"""A new wearer of a wrist accelerometer: accuracy before and after adapting to the first half of the recordings.

The data set is that of `edgerev.tools.bench_hmp`. For each wearer with recordings enough, the sums of a prototype head
on random features are of all other wearers; then they adapt to the first half of the wearer's recordings, of each
class, and are tested on the second. Settings were chosen on the wearers with fewer (`validate`), whom the figures leave
out.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy

from edgerev import Conv1d, Head, Learner, Net
from edgerev.continual.metrics import over_seeds, paired_difference
from edgerev.continual.scenarios import new_wearer
from edgerev.continual.unlabelled import pseudo_labels
from edgerev.errors import DataError
from edgerev.tools.bench_hmp import WINDOW, load_windows
from edgerev.tools.wearer_ways import ASKED, WAYS, Wearer

LEAST_RECORDINGS, LEAST_CLASSES = 30, 7  # of a wearer: all its recordings, and its classes with two of them
FILTERS, LENGTH = 512, 25


def wearer_figures(folder: str, *, seeds: int, validate: bool = False) -> dict[str, Any]:
    """Return accuracy over windows and over recordings for each way to adapt: means over wearers.

    Parameters
    ----------
    folder : folder that holds `hmp.npz`
    seeds : runs with random features of their own
    validate : whether to measure on the wearers that have fewer recordings

    Raises
    ------
    DataError
        The file is not there, or no wearer has recordings enough.
    """
    start = time.perf_counter()
    x, y, volunteer, recording, names = load_windows(folder)
    x = _channels(x)
    wearers = [number for number in range(len(names)) if _suits(volunteer == number, y, recording, validate)]
    if not wearers:
        raise DataError(
            f"no wearer in {folder} has {LEAST_RECORDINGS} recordings, and two of {LEAST_CLASSES} classes each; "
            "expected one at least; pass the whole data set"
        )
    found: dict[str, list[list[tuple[float, float]]]] = {way: [] for way in WAYS}  # by seed and wearer
    learner = None
    for seed in range(seeds):
        learner = _learner(int(y.max()) + 1, seed)
        for way in WAYS:
            found[way].append([])
        for wearer in wearers:
            for way, measured in _one_wearer(learner, x, y, volunteer, recording, wearer, seed).items():
                found[way][-1].append(measured)
    assert learner is not None
    return {
        "wearers": [str(names[wearer]) for wearer in wearers], "seeds": seeds, "asked_share": ASKED,
        "rows": [_row(way, numpy.array(found[way]), numpy.array(found["before"])) for way in WAYS],
        "stored_sample_bytes": 0, "arena_bytes": learner.plan.arena_bytes,
        "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip


def _row(way: str, found: numpy.ndarray, before: numpy.ndarray) -> dict[str, Any]:
    """`found` and `before` are ``(seeds, wearers, 2)``."""
    means, base = 100 * found.mean(1), 100 * before.mean(1)
    row: dict[str, Any] = {"adapted": way}
    for place, name in enumerate(("windows", "recordings")):
        spread = over_seeds(means[:, place].tolist())
        difference = paired_difference(means[:, place].tolist(), base[:, place].tolist())
        row |= {
            name: spread.mean, f"{name}_std": spread.deviation, f"{name}_gain": difference.mean,
            f"{name}_gain_std": difference.deviation,
        }  # fmt: skip
    return row | {"by_wearer": (100 * found[:, :, 0].mean(0)).round(1).tolist()}


def _suits(own: numpy.ndarray, y: numpy.ndarray, recording: numpy.ndarray, validate: bool) -> bool:
    """Return whether a wearer's recordings are enough; to validate, whether they are some, but not enough."""
    recordings, first = numpy.unique(recording[own], return_index=True)
    twice = int((numpy.bincount(y[own][first]) > 1).sum())
    enough = len(recordings) >= LEAST_RECORDINGS and twice >= LEAST_CLASSES
    return not enough and twice > 1 if validate else enough


def _channels(x: numpy.ndarray) -> numpy.ndarray:
    """Return windows with the posture, and with the movement about it."""
    return numpy.concatenate([x / 0.5, (x - x.mean(1, keepdims=True)) / 0.2], 2).astype("f4")


def _learner(classes: int, seed: int) -> Learner:
    """Random filters that are never trained, rectified, and averaged over both halves of the window."""
    head = Head(classes, kind="prototype", ridge=1e-3, pool=2, rectify=True)
    return Learner(Net((WINDOW, 6), Conv1d(FILTERS, LENGTH), (), head), batch=8, seed=seed)


def _one_wearer(
    learner: Learner, x: numpy.ndarray, y: numpy.ndarray, volunteer: numpy.ndarray, recording: numpy.ndarray,
    number: int, seed: int,
) -> dict[str, tuple[float, float]]:  # fmt: skip
    known, own = new_wearer(volunteer.tolist(), number, y.tolist(), recording.tolist())
    others, learned, tested = (numpy.array(part) for part in (known.train, own.train, own.test))
    learner.set_standardisation([0.0] * x.shape[2], [1.0] * x.shape[2])
    learner.forget()
    learner.remember_many(x[others], y[others])
    moments = x[others].mean((0, 1)), x[others].std((0, 1))
    wearer = Wearer(learner, len(others), x[learned], y[learned], recording[learned], moments, seed)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        accepted = str(Path(folder) / "others.edgerev")
        learner.save(accepted)
        for way, adapt in WAYS.items():
            adapt(wearer, accepted)
            found[way] = _measure(learner, x[tested], y[tested], recording[tested])
            learner.restore(accepted)
    return found


def _measure(learner: Learner, x: numpy.ndarray, y: numpy.ndarray, recording: numpy.ndarray) -> tuple[float, float]:
    answers = learner.predict_proba_many(x)
    voted = pseudo_labels(answers, 0.0, recording.tolist()).labels
    first = numpy.unique(recording, return_index=True)[1]
    return float((answers.argmax(1) == y).mean()), float((voted == y)[first].mean())

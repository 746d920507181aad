"""Gas sensors that age: a model that stays as it was, beside one that learns along.

    python sensor_drift.py FOLDER    the folder has gas_drift.npz: x, y, and the batch of each sample, in order of time

Both begin with the first batch. Each later sample is answered first and learned then, so that every answer counts as a
test. Earlier samples fade; none is stored.
"""

import sys
from pathlib import Path

import numpy as np

from edgerev import Dense, Head, Learner, Net
from edgerev.continual.metrics import Prequential

CHUNK = 16  # samples that are answered before they are learned


def make(inputs, classes):
    """Return class means under one covariance, in closed form, of a random map of the inputs."""
    return Learner(Net((inputs,), Dense(inputs), (), Head(classes, kind="prototype", ridge=1e-4)), batch=CHUNK)


def main(folder):
    """Print the accuracy on each batch, and return both means."""
    with np.load(Path(folder) / "gas_drift.npz") as data:
        x, y, batch = np.arcsinh(10 * data["x"]), data["y"], data["batch"]
    first = batch == batch[0]
    x = np.clip((x - x[first].mean(0)) / x[first].std(0), -3, 3).astype("f4")  # by what is known at the start

    frozen, learning = make(x.shape[1], int(y.max()) + 1), make(x.shape[1], int(y.max()) + 1)
    for learner in (frozen, learning):
        learner.remember_many(x[first], y[first])

    print("batch  frozen  learning")
    means = []
    for number in np.unique(batch[~first]):
        scores = Prequential(), Prequential()
        places = np.random.default_rng(0).permutation(np.flatnonzero(batch == number))  # the file is sorted by gas
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            for learner, score in zip((frozen, learning), scores):
                for right in learner.predict_many(x[part]) == y[part]:
                    score.add(bool(right))
            learning.fade(0.98)
            learning.remember_many(x[part], y[part])
        means.append([score.overall for score in scores])
        print(f"{number:5d}  {means[-1][0]:6.1%}  {means[-1][1]:8.1%}")
    frozen_mean, learning_mean = np.mean(means, 0)
    print(f" mean  {frozen_mean:6.1%}  {learning_mean:8.1%}")
    return frozen_mean, learning_mean


if __name__ == "__main__":
    main(sys.argv[1])

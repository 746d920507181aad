"""A process to be killed: trains a small net on what a store has, and says how far it is.

    python adaptation_child.py FILE

Ends by itself when no whole batch waits any more.
"""

import json
import os
import sys

import numpy as np

from edgerev import AdamW, Block, Dense, Dropout, Head, Learner, Net, ReLU
from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.settings import GuardTable, ServeSettings, TrainingTable
from edgerev.daemon.store import Arrival, Store

SHAPE, CLASSES, EVERY = 5, 3, 16
COUNT = 803
WRONG = range(320, 480)  # samples whose labels are exchanged
SETTINGS = ServeSettings(
    "model.edgerev", training=TrainingTable(generation_samples=EVERY, generation_seconds=0),
    guard=GuardTable(window=48, probation=2),
)  # fmt: skip


def learner(settings=SETTINGS):
    net = Net((SHAPE,), Dense(8), (Block((Dense(4), ReLU(), Dropout(0.2)), repeat=2),), Head(CLASSES))
    return Learner(net, optimizer=AdamW(1e-2), batch=4, seed=3, guard=settings.guard.on)


def adaptation(path, settings=SETTINGS):
    return Adaptation(learner(settings), Store(path, 4 * SHAPE, 4, 10_000), settings)


def arrivals(count=COUNT):
    x = np.random.default_rng(0).normal(size=(count, SHAPE)).astype("f4")
    y = x[:, :CLASSES].argmax(1).astype("i4")
    wrong = [number for number in WRONG if number < count]
    y[wrong] = (y[wrong] + 1) % CLASSES
    return [Arrival(row.tobytes(), label.tobytes()) for row, label in zip(x, y)]


def filled(path, count=COUNT):
    made = adaptation(str(path))
    made.store.put(arrivals(count))
    return made


def weights(made):
    x = np.random.default_rng(1).normal(size=(9, SHAPE)).astype("f4")
    counts = made.drifts, made.rollbacks, made.refused
    return made.learner.steps, made.learner.predict_proba_many(x).tobytes(), counts, json.dumps(made.guard.state())


def main():
    made = adaptation(sys.argv[1])
    while made.step():
        os.write(1, b"%d\n" % made.after)
    made.save()


if __name__ == "__main__":
    main()

"""A process to be killed: trains a small net on what a store has, and says how far it is.

    python adaptation_child.py FILE

Ends by itself when no whole batch waits any more.
"""

import os
import sys

from edgerev import AdamW, Block, Dense, Dropout, Head, Learner, Net, ReLU
from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.settings import GuardTable, ServeSettings, TrainingTable
from edgerev.daemon.store import Store

SHAPE, CLASSES, EVERY = 5, 3, 16
SETTINGS = ServeSettings(
    "model.edgerev", training=TrainingTable(generation_samples=EVERY, generation_seconds=0),
    guard=GuardTable(window=48, probation=2),
)  # fmt: skip


def adaptation(path, settings=SETTINGS):
    net = Net((SHAPE,), Dense(8), (Block((Dense(4), ReLU(), Dropout(0.2)), repeat=2),), Head(CLASSES))
    store = Store(path, 4 * SHAPE, 4, 10_000)
    learner = Learner(net, optimizer=AdamW(1e-2), batch=4, seed=3, guard=settings.guard.on)
    return Adaptation(learner, store, settings)


def main():
    made = adaptation(sys.argv[1])
    while made.step():
        os.write(1, b"%d\n" % made.after)
    made.save()


if __name__ == "__main__":
    main()

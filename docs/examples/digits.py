"""Handwritten digits: a deep convolutional net trained within 2 MiB, and undone to the bit.

    python digits.py FOLDER          the folder has the four files of MNIST, as `edgerev data fetch mnist` gets them

The memory is known before the first step, and would be the same with ten times as many blocks, but for their weights.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

from edgerev import AdamW, Block, Conv2d, Head, Learner, Net, RateSchedule, ReLU, RMSNorm, Squeeze

SAMPLES = 6_000  # of 60,000: one pass over a tenth, so that it is soon done


def read(path):
    """Return the array of an IDX file of bytes."""
    raw = gzip.decompress(path.read_bytes())
    sizes = [int.from_bytes(raw[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(raw[3])]
    return np.frombuffer(raw, "u1", offset=4 + 4 * len(sizes)).reshape(sizes)


def load(folder, part):
    """Return images `(n, 28, 28, 1)` of bytes, and their digits."""
    images, digits = (read(Path(folder) / f"{part}-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    return images[..., None], digits


def main(folder):
    """Train, report, and return the accuracy on the test images."""
    x, y = load(folder, "train")
    convolutions = (RMSNorm(), Conv2d(32), ReLU(), Conv2d(16))  # for halves of 16 channels, after the squeeze
    net = Net((28, 28, 1), Conv2d(8, 5), (Squeeze(), Block(F=convolutions, repeat=4)), Head(10, pool=2))
    rates = RateSchedule(kind="cosine", warmup=50, steps=SAMPLES // 16)
    learner = Learner(net, optimizer=AdamW(3e-3), rate_schedule=rates, batch=16, budget="2MiB")
    learner.set_standardisation([127.5], [1 / 127.5])  # bytes to -1 .. 1
    print(f"{learner.parameters:,d} parameters; arena {learner.plan.arena_bytes:,d} B, planned before the first step")

    for start in range(0, SAMPLES, SAMPLES // 4):
        part = slice(start, start + SAMPLES // 4)
        report = learner.learn_many(x[part], y[part])
        print(f"{part.stop:6d} samples: {report.accuracy:.1%} right, each asked before it was learned")

    tested, labels = load(folder, "t10k")
    accuracy = float((learner.predict_many(tested) == labels).mean())
    same = np.array_equal(learner.invert(learner.transform(tested[:64])), learner.encode(tested[:64]))
    print(f"{accuracy:.1%} of the test images; undone to the bit: {same}")
    return accuracy, same


if __name__ == "__main__":
    main(sys.argv[1])

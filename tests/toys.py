"""Small data sets in every format, and configurations for them."""

import gzip
import struct

import numpy as np

from edgerev.config import check_config
from edgerev.data import open_dataset
from edgerev.train import Trainer

DENSE = {
    "stem": {"layer": "dense", "channels": 16},
    "backbone": [{"F": [{"layer": "dense", "channels": 8}, {"layer": "relu"}, {"layer": "dense", "channels": 8}]}],
}
CONV = {
    "stem": {"layer": "conv2d", "channels": 4},
    "backbone": [
        {"F": [{"layer": "dropout", "rate": 0.2}, {"layer": "conv2d", "channels": 2}]}, {"squeeze": 2},
        {"F": [{"layer": "rmsnorm"}, {"layer": "conv2d", "channels": 8}]},
    ],
}  # fmt: skip
PLANNED = r"\Amemory .*\nschedule .*\n(?: .*\n)*"  # what training says before its first step

CONFIG = """
[net]
stem = { layer = "dense", channels = 16 }
backbone = [{ F = [{ layer = "dense", channels = 8 }, { layer = "relu" }, { layer = "dense", channels = 8 }] }]

[train]
epochs = 3
batch = 8

[optimizer]
kind = "adamw"
rate = 1e-2
"""


def rows(count=60, classes=3, features=4, seed=0):
    """Return rows of features around a centre for each class, and their class numbers; as many of each."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % classes
    centres = 3 * np.random.default_rng(99).normal(size=(classes, features))
    return (centres[y] + random.normal(size=(count, features))).astype("f4"), y


def images(count=60, classes=6, seed=0):
    """Return images of 8x8 bytes with a bright spot where the class says, and their class numbers."""
    random = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = random.integers(0, 60, (count, 8, 8)).astype("u1")
    for image, label in zip(x, y):
        image[1 + label : 3 + label, 7 - label : 9 - label] += 150
    return x, y


def write_csv(path, x, labels, name="label"):
    columns = [f"f{index}" for index in range(x.shape[1])]
    lines = [",".join([*columns, name])]
    lines += [",".join([*(f"{value:.6g}" for value in row), str(label)]) for row, label in zip(x, labels)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_npz(path, x, y=None):
    np.savez(path, x=x, **({} if y is None else {"y": y}))
    return path


def write_idx(folder, x, y, split="train", compress=False):
    folder.mkdir(exist_ok=True)
    for kind, array in (("images-idx3", x), ("labels-idx1", y)):
        head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
        data = head + array.astype("u1").tobytes()
        name = f"{split}-{kind}-ubyte"
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


NAMES = ("ash", "birch", "cedar")


def tree_set(folder):
    """Write rows with names of trees as train.csv and test.csv."""
    folder.mkdir(exist_ok=True)
    for part, seed in (("train", 1), ("test", 2)):
        x, y = rows(60 if part == "train" else 30, seed=seed)
        write_csv(folder / f"{part}.csv", x, [NAMES[label] for label in y])
    return folder


class Quiet:
    """A progress display that shows nothing; `made` makes one."""

    def __init__(self, total=0, title=""):
        self.total, self.title, self.seen = total, title, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, n):
        self.seen += n

    def set_postfix_str(self, text, refresh=True):
        pass


def trainer(config, data, output, progress=Quiet):
    """Return a Trainer for a configuration in plain data."""
    return Trainer(check_config(config), open_dataset(data), output and str(output), progress)

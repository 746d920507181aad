"""Initialisation trains at depth 100 without tuning: usual rates, no warm-up, no clipping, with or without norms."""

import numpy as np
import pytest

import harness
from edgerev.layers import GELU, Conv1d, Conv2d, Dense, GroupNorm, ReLU, RMSNorm, SiLU
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW
from edgerev.recipe import Recipe

BATCH, CLASSES = 16, 4
NETS = {
    "mlp": lambda depth: Net(
        (8,), Dense(32), (Block((Dense(16), ReLU(), Dense(16)), repeat=depth),), Head(CLASSES)
    ),
    "mlp norm": lambda depth: Net(
        (8,), Dense(32), (Block((RMSNorm(), Dense(16), GELU(), Dense(16)), repeat=depth),), Head(CLASSES)
    ),
    "mlp, norm last": lambda depth: Net(
        (8,), Dense(32), (Block((Dense(16), SiLU(), Dense(16), GroupNorm(1)), repeat=depth),), Head(CLASSES)
    ),
    "conv1d": lambda depth: Net(
        (16, 3), Conv1d(16, 5), (Block((Conv1d(8, 5), ReLU(), Conv1d(8, 5)), repeat=depth),), Head(CLASSES)
    ),
    "conv2d": lambda depth: Net(
        (8, 8, 1), Conv2d(4, 3),
        (Squeeze(), Block((Conv2d(8, 3), ReLU(), Conv2d(8, 3)), repeat=depth)), Head(CLASSES),
    ),
}  # fmt: skip
OPTIMIZERS = {"sgd": SGD(0.05, momentum=0.9), "adamw": AdamW()}


class Task:
    """Classes that differ in the mean of their samples."""

    def __init__(self, net, seed=0):
        self.random = np.random.default_rng(seed)
        self.centres = self.random.normal(size=(CLASSES, *net.input_shape))

    def fill(self, runtime):
        raw, target = harness.by_name(runtime, "raw"), harness.by_name(runtime, "target")
        labels = self.random.integers(0, CLASSES, BATCH)
        target[...] = labels.reshape(target.shape)
        raw[...] = (self.random.normal(size=(BATCH, *self.centres.shape[1:])) + self.centres[labels]).reshape(raw.shape)


def losses(net, optimizer, steps):
    runtime, task, found = harness.build(net, Recipe(batch=BATCH, optimizer=optimizer)), Task(net), []
    for _ in range(steps):
        task.fill(runtime)
        runtime.run("train", BATCH)
        found.append(runtime.view("report")[0])
    return found


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", NETS)
def test_a_net_of_100_blocks_learns(name, optimizer):
    """To less than half the loss of guessing in 60 steps, from a start that is not much worse than guessing."""
    found, guessing = losses(NETS[name](100), OPTIMIZERS[optimizer], 60), np.log(CLASSES)
    assert found[0] < 3 * guessing
    assert np.mean(found[-10:]) < 0.5 * guessing, found[::6]
    assert np.mean(found[-10:]) < 0.6 * found[0], found[::6]


@pytest.mark.parametrize("depth", [1, 10, 100])
@pytest.mark.parametrize("name", NETS)
def test_the_state_keeps_its_size(name, depth):
    """The variance of the state at the end is within a factor 4 of that at the start, at any depth."""
    net = NETS[name](depth)
    ratios = []
    for seed in range(2):
        runtime = harness.build(net, Recipe(batch=BATCH), seed=seed)
        Task(net, seed).fill(runtime)
        sizes = []
        for section, stage in (("encode", 0), ("forward", len(list(net.stages())) - 1)):
            runtime.run(section, BATCH)
            halves = [harness.by_name(runtime, f"state.{half}@{stage}").astype("f8") for half in (0, 1)]
            sizes.append(np.var(halves))
        ratios.append(sizes[1] / sizes[0])
    assert 1 / 4 < min(ratios) <= max(ratios) < 4, ratios

"""The gas sensor array drift data set as a stream, and the learners that its benchmarks compare.

It is UCI 224 (Vergara et al. 2012, "Chemical gas sensor drift compensation using classifier ensembles"), as
`gas_drift.npz` with `x`, `y` and `batch`. Inputs are taken as ``asinh(10 x)``, standardised and clipped to +-3 by the
first batch alone; that, and the strength of the ridge, were chosen on the first three batches.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy

from edgerev import AdamW, Block, Dense, Head, Learner, Net, ReLU, RMSNorm
from edgerev.continual.scenarios import by_group
from edgerev.errors import DataError

CLASSES, TOLUENE = 6, 5
EPOCHS = 30


class Stream(NamedTuple):
    """Samples, and the indices of each batch in the order of time.

    Attributes
    ----------
    x : ``(samples, inputs)`` float32
    y : ``(samples,)`` int32
    parts : indices of each batch
    batches : their numbers in the data set
    """

    x: numpy.ndarray
    y: numpy.ndarray
    parts: list[numpy.ndarray]
    batches: list[int]


def gas_stream(folder: str, *, five: bool = False) -> Stream:
    """Return the data of `gas_drift.npz`, prepared.

    Parameters
    ----------
    folder : where the file is
    five : whether to leave out toluene, as the paper does

    Raises
    ------
    DataError
        It is not there.
    """
    path = Path(folder) / "gas_drift.npz"
    if not path.exists():
        raise DataError(f"{path} is missing; expected the arrays x, y and batch; pass the folder that holds it")
    with numpy.load(path) as found:
        x, y, batch = found["x"], found["y"].astype("i4"), found["batch"]
    chosen = y != TOLUENE if five else y >= 0
    x, y, batch = x[chosen], y[chosen], batch[chosen]
    first = batch == batch[0]
    x = numpy.arcsinh(10 * x)
    x = numpy.clip((x - x[first].mean(0)) / x[first].std(0), -3, 3).astype("f4")
    parts = [numpy.array(experience.test) for experience in by_group(batch.tolist(), y.tolist())]
    return Stream(x, y, parts, [int(batch[part[0]]) for part in parts])


def plain_learner(inputs: int, *, mapped: bool = False, seed: int = 0, batch: int = 64) -> Learner:
    """Return class means under one covariance (Hayes and Kanan 2020) of the inputs, or of a random map of them.

    Parameters
    ----------
    inputs : how many each sample has
    mapped : whether the stem is random, and so invertible; else it is the identity, and the seed changes nothing
    """
    learner = Learner(_net(inputs, inputs + inputs % 2, ()), batch=batch, seed=seed)
    if not mapped:
        weight = numpy.frombuffer(learner.runtime.view("stem.0.weight"), "f4")
        weight[:] = numpy.eye(inputs, inputs + inputs % 2).ravel()
    return learner


def reversible_learner(inputs: int, width: int, *, seed: int, rates: tuple[float, ...] = ()) -> Learner:
    """Return a reversible net of two blocks with the same head on its features.

    Parameters
    ----------
    width : features of the net
    rates : factors on the rates of the stem, the four residual functions and the head
    """
    block = Block((RMSNorm(), Dense(width), ReLU(), Dense(width // 2)), repeat=2)
    return Learner(_net(inputs, width, (block,)), optimizer=AdamW(1e-3), batch=64, seed=seed, rates=rates)


def train(learner: Learner, stream: Stream, part: numpy.ndarray, random: numpy.random.Generator) -> None:
    """Train for `EPOCHS` passes over some samples, each in an order of its own."""
    for _ in range(EPOCHS):
        order = random.permutation(part)
        learner.learn_many(stream.x[order], stream.y[order])


def right(learner: Learner, stream: Stream, part: numpy.ndarray) -> float:
    """Return the share of right answers."""
    return float((learner.predict_many(stream.x[part]) == stream.y[part]).mean())


def _net(inputs: int, width: int, backbone: tuple[Block, ...]) -> Net:
    return Net((inputs,), Dense(width), backbone, Head(CLASSES, kind="prototype", ridge=1e-4))

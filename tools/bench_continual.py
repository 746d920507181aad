"""Continual learning: methods on streams of experiences, over several seeds."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy

from edgerev.continual.metrics import average_accuracy, forgetting, over_seeds
from edgerev.continual.scenarios import SETTINGS, Experience, permuted, rotated, split
from edgerev.data import Records, open_dataset
from edgerev.errors import DataError, UsageError
from edgerev.tools.bench_peers import check_python
from edgerev.tools.continual_base import Stream
from edgerev.tools.continual_methods import METHODS, settings_of
from edgerev.tools.continual_twin import PlainFineTuning, memory_figures
from edgerev.tools.plotting import plotter

SCENARIOS = ("split", "permuted", "rotated")
SEEN_AGAIN = 10  # experiences of all samples, permuted or rotated
HALF_TURN = 180.0
AT_THE_END = ("gdumb", "joint", "plain-joint")  # these learn all at once, so nothing is forgotten
HELD_OUT = 10_000  # last training samples, for choosing settings


def continual_figures(
    data: str, *, scenario: str, setting: str, method: str, seeds: int, validate: bool = False,
    torch: str | None = None,
) -> dict[str, Any]:
    """Return accuracy, forgetting and bytes of one method on one stream: means over seeds, with their deviation.

    Parameters
    ----------
    data : path of a data set with a training and a test part
    scenario : one of `SCENARIOS`; "-mnist" may follow, whatever the data set
    setting : "task", "domain" or "class"
    method : one of `edgerev.tools.continual_methods.METHODS`
    validate : whether to measure on the last `HELD_OUT` training samples, and to train on those before
    torch : Python of an environment with torch, in which plain twins train
    """
    scenario = scenario.removesuffix("-mnist")
    for name, value, known in (
        ("scenario", scenario, SCENARIOS), ("setting", setting, SETTINGS), ("method", method, tuple(METHODS)),
    ):
        if value not in known:
            raise UsageError(f"{name} {value!r}: expected one of {', '.join(known)}; change it")
    if scenario != "split" and setting == "class":
        raise UsageError(f"setting class: {scenario} inputs keep their classes; expected domain or task; change it")
    plain = issubclass(METHODS[method], PlainFineTuning)
    if plain:
        if torch is None:
            raise UsageError(f"method {method!r} trains in torch; expected an environment that has it; add --torch")
        check_python(torch)
    start = time.perf_counter()
    jobs = [(data, scenario, setting, method, seed, validate) for seed in range(seeds)]
    open_dataset(data)  # converted once, not by each process
    workers = min(seeds, len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(partial(_one_seed, torch=torch), jobs))
    accuracy = over_seeds([100 * average_accuracy(one["matrix"]) for one in found])
    figures = {
        "scenario": scenario, "setting": setting, "method": method, "seeds": seeds,
        "measured_on": "held-out training data" if validate else "test data",
        "accuracy": accuracy.mean, "accuracy_std": accuracy.deviation,
        "forgetting": None if method in AT_THE_END else 100 * over_seeds([forgetting(m["matrix"]) for m in found]).mean,
        "accuracies": [100 * average_accuracy(one["matrix"]) for one in found],
        "matrix": numpy.mean([one["matrix"] for one in found], 0).tolist(),
        "state_bytes": found[0]["state_bytes"], "stored_sample_bytes": found[0]["stored_sample_bytes"],
        "arena_bytes": found[0]["arena_bytes"], "seconds": round(time.perf_counter() - start, 1),
    }
    if plain:
        figures["memory"] = memory_figures(found[0]["stream"], settings_of(method) | {"torch": torch})
    return figures


def plot_matrix(figures: dict[str, Any], path: str) -> None:
    """Draw the accuracy on each experience after each one as an SVG file.

    Parameters
    ----------
    figures : what `continual_figures` returned
    path : file to write

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    matrix = 100 * numpy.array(figures["matrix"])
    count = len(matrix)
    figure = plotter()(figsize=(1.6 + 0.55 * count, 1.3 + 0.5 * count), layout="constrained")
    axis = figure.subplots()
    shown = numpy.ma.masked_where(numpy.arange(count)[None] > numpy.arange(count)[:, None], matrix)
    axis.imshow(shown, vmin=0, vmax=100, cmap="viridis")
    for row in range(count):
        for column in range(row + 1):
            value = matrix[row, column]
            color = "black" if value > 60 else "white"
            axis.text(column, row, f"{value:.1f}", ha="center", va="center", size=8, color=color)
    axis.set_xticks(range(count), range(1, count + 1))
    axis.set_yticks(range(count), range(1, count + 1))
    axis.set_xlabel("accuracy on experience, %")
    axis.set_ylabel("after experience")
    axis.set_title(
        f"{figures['scenario']}, {figures['setting']}, {figures['method']}: {figures['accuracy']:.1f} %", size=10
    )
    figure.savefig(path, format="svg")


def _one_seed(job: tuple[str, str, str, str, int, bool], torch: str | None = None) -> dict[str, Any]:
    data, scenario, setting, method, seed, validate = job
    (x, y), (test_x, test_y) = _arrays(data, validate)
    stream, experiences = _plan(scenario, setting, x.shape[1:], y, test_y, seed)
    settings = settings_of(method)
    for name, value in settings.pop(scenario, {}).items():
        settings[name] = {**settings[name], **value} if isinstance(value, dict) else value
    settings["torch"] = torch
    runner = METHODS[method](stream, settings, seed)
    matrix = []
    for experience in experiences:
        learned = numpy.array(experience.train)
        runner.learn(experience, _shown(experience, x[learned]), _targets(experience, y[learned]))
        if experience is experiences[-1]:
            runner.finish()
        if method in AT_THE_END and experience is not experiences[-1]:
            matrix.append([0.0] * len(experiences))
            continue
        matrix.append([_accuracy(runner, other, test_x, test_y, experience.task) for other in experiences])
    return {
        "matrix": matrix, "state_bytes": runner.state_bytes, "stored_sample_bytes": runner.stored_sample_bytes,
        "arena_bytes": runner.arena_bytes, "stream": runner.stream,
    }


def _plan(
    scenario: str, setting: str, shape: tuple[int, ...], y: numpy.ndarray, test_y: numpy.ndarray, seed: int
) -> tuple[Stream, list[Experience]]:
    classes = int(y.max()) + 1
    if scenario != "split":
        if scenario == "permuted":
            found = permuted(y.tolist(), test_y.tolist(), int(numpy.prod(shape)), SEEN_AGAIN, seed)
        else:
            found = rotated(y.tolist(), test_y.tolist(), shape, SEEN_AGAIN, HALF_TURN)
        return Stream(shape, setting, classes, len(found)), found
    found = split(y.tolist(), test_y.tolist(), 2, setting)
    return Stream(shape, setting, classes if setting == "class" else 2, len(found)), found


def _shown(experience: Experience, x: numpy.ndarray) -> numpy.ndarray:
    return experience.apply(x)


def _targets(experience: Experience, y: numpy.ndarray) -> numpy.ndarray:
    table = {int(label): experience.target(int(label)) for label in numpy.unique(y)}
    return numpy.array([table[int(label)] for label in y], "i4")


def _accuracy(runner: Any, other: Experience, x: numpy.ndarray, y: numpy.ndarray, done: int) -> float:
    if other.task > done:
        return 0.0  # not learned yet
    chosen = numpy.array(other.test)
    answers = runner.predict(_shown(other, x[chosen]), other.task)
    return float((answers == _targets(other, y[chosen])).mean())


def _arrays(data: str, validate: bool) -> tuple[tuple[numpy.ndarray, numpy.ndarray], ...]:
    dataset = open_dataset(data)
    if dataset.test is None:
        raise DataError(f"{data} has no test part; expected train.* and test.*; split it")
    train = _array(dataset.train)
    if validate and len(train[1]) <= HELD_OUT:
        raise UsageError(
            f"{data} has {len(train[1])} training samples; expected more than the {HELD_OUT} that are held out; leave "
            "out --validate"
        )
    if not validate:
        return train, _array(dataset.test)
    return tuple((part[0][chosen], part[1][chosen]) for part, chosen in (
        (train, slice(None, -HELD_OUT)), (train, slice(-HELD_OUT, None)),
    ))  # fmt: skip


def _array(records: Records) -> tuple[numpy.ndarray, numpy.ndarray]:
    if records.classes is None:
        raise DataError(f"{records.name}: targets are values; expected classes; name the label column")
    x = numpy.empty((len(records), *records.shape), records.dtype)
    y = numpy.empty(len(records), "i4")
    records.read_block(0, len(records), x.data.cast("B"))
    records.read_targets(0, len(records), y.data.cast("B"))
    scale = 255 if records.dtype == "uint8" else 1
    return x.astype("f4") / numpy.float32(scale), y

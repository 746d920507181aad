"""Memory and time of training steps that onnxruntime runs, against depth; each in a process of its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from edgerev.errors import UsageError
from edgerev.presets import REFERENCE, preset
from edgerev.tools.bench_ort_training import training_row
from edgerev.tools.child import measured_alone
from edgerev.tools.memory import peak_rss_bytes, reset_peak_rss, rss_bytes
from edgerev.tools.plotting import plotter


def onnx_figures(
    kind: str, *, depths: Sequence[int] = (8, 64), batch: int = 16, steps: int = 3, threads: int = 1,
    training: str | None = None,
) -> dict[str, Any]:
    """Return memory and time of a `train-step` graph by depth.

    Parameters
    ----------
    kind : "mlp", "har" or "vis"
    depths : numbers of blocks
    steps : steps of each, of which the first is not timed
    training : Python of an environment with onnxruntime-training, or None to leave that out

    Returns
    -------
    dict
        `rows`, a list with `depth`, `parameter_bytes`, `file_bytes`, and what `step_memory` returns, and for
        onnxruntime-training what `training_row` does; `rise`, by how much the growth rises from the first depth to the
        last, as a multiple of the parameters' rise; `training_rise` and `own_rise` likewise.
    """
    if kind not in REFERENCE:
        raise UsageError(f"preset {kind!r}: expected a kind of reference net without its depth: {', '.join(REFERENCE)}")
    if len(depths) < 2 or min(depths) < 1:
        raise UsageError(f"depths {list(depths)}: expected two or more numbers that are at least 1; add some")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for depth in depths:
            path = os.path.join(folder, "step.onnx")
            written = measured_alone("edgerev.tools.bench_onnx:write_step", name=f"{kind}{depth}", path=path)
            figures = measured_alone(
                "edgerev.tools.bench_onnx:step_memory", path=path, batch=batch, steps=steps, threads=threads
            )
            rows.append({"depth": depth, **written, **figures})
            if training:
                rows[-1] |= training_row(f"{kind}{depth}", training, batch=batch, steps=steps, threads=threads)
    rises = {f"{prefix}rise": _rise(rows, f"{prefix}growth_bytes") for prefix in ("", "training_", "own_")}
    return {"preset": kind, "batch": batch, "steps": steps, "threads": threads, "rows": rows, **rises}


def _rise(rows: list[dict[str, Any]], key: str) -> float | None:
    """Return by how much a figure rises, as a multiple of the parameters' rise."""
    first, last = rows[0], rows[-1]
    more = last["parameter_bytes"] - first["parameter_bytes"]
    return (last[key] - first[key]) / more if more and key in first else None


def write_step(name: str, path: str) -> dict[str, int]:
    """Write the `train-step` graph of a preset, and return its size and that of its parameters.

    Parameters
    ----------
    name : a net by name
    path : file to write
    """
    from edgerev.deploy.onnx.export import export
    from edgerev.learner import Learner
    from edgerev.optimizers import SGD

    learner = Learner(preset(name), batch=1, optimizer=SGD(1e-3))
    return {"parameter_bytes": 4 * learner.parameters, "file_bytes": export(learner, path, "train-step")}


def step_memory(path: str, batch: int, steps: int, threads: int) -> dict[str, Any]:
    """Run steps, and return what the process came to hold.

    Parameters
    ----------
    path : a `train-step` graph, or the folder of an `ort-training` export
    batch, steps : samples of a step, and how many steps

    Returns
    -------
    dict
        `load_bytes`, resident memory from before the graph is loaded to before the first step; `growth_bytes`, from
        there to the peak of the steps; `step_ms`, the median.
    """
    import numpy as np

    from edgerev.deploy.ort import TrainStep, need_runtime
    from edgerev.deploy.ort_training import TrainingModule

    need_runtime()
    before = rss_bytes()
    driver = (TrainingModule if os.path.isdir(path) else TrainStep)(path, threads=threads)
    net, random = driver.metadata["net"], np.random.default_rng(0)
    x = random.normal(size=(batch, *net["input_shape"])).astype("f4")
    y = random.integers(0, net["head"]["outputs"], batch)
    reset_peak_rss()
    ready, taken = rss_bytes(), []
    for _ in range(steps):
        start = time.perf_counter()
        driver.step(x, y)
        taken.append(time.perf_counter() - start)
    return {
        "load_bytes": ready - before, "growth_bytes": peak_rss_bytes() - ready,
        "step_ms": 1e3 * median(taken[1:] or taken),
    }  # fmt: skip


def plot_onnx(figures: dict[str, Any], path: str) -> None:
    """Draw the memory against depth, as an SVG file.

    Parameters
    ----------
    figures : what `onnx_figures` returned
    path : file to write

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    rows, figure = figures["rows"], plotter()(figsize=(5, 3.6), layout="constrained")
    axis, depths = figure.subplots(), [row["depth"] for row in rows]
    for name, label in (
        ("growth_bytes", "growth while training"), ("load_bytes", "graph and parameters"),
        ("parameter_bytes", "parameters alone"), ("training_growth_bytes", "growth in onnxruntime-training"),
        ("own_growth_bytes", "with its own gradient graph"),
    ):
        if name not in rows[0]:
            continue
        axis.plot(depths, [row[name] / 2**20 for row in rows], marker="o", label=label)
    axis.set_xlabel("blocks")
    axis.set_ylabel("resident memory, MiB")
    axis.set_ylim(bottom=0)
    axis.legend()
    figure.suptitle(f"{figures['preset']} in onnxruntime, batch {figures['batch']}")
    figure.savefig(path, format="svg")

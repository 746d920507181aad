"""Time and memory against depth and batch, reversible beside stored, all taking turns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median
from typing import Any

from edgerev.errors import UsageError
from edgerev.presets import REFERENCE
from edgerev.tools.bench_step import step_learner
from edgerev.tools.plotting import plotter
from edgerev.tools.timing import alternate, check_rounds

SCHEDULES = ("reversible", "stored")


def depth_figures(
    kind: str, *, depths: Sequence[int] = (16, 256), batches: Sequence[int] = (16, 64), batch: int = 16,
    threads: int = 1, rounds: int = 9, seconds: float = 0.3,
) -> dict[str, Any]:
    """Return step time and memory of nets of one kind by depth, and time per sample by batch at the first depth.

    Parameters
    ----------
    kind : "mlp", "har" or "vis"
    depths : numbers of blocks, each under both schedules at batch `batch`
    batches : samples of a step, reversible
    rounds, seconds : bursts of each, and how long each lasts; the median counts

    Returns
    -------
    dict
        `depths`, a list with `depth`, `step_ms`, `stored_ms`, `time_ratio` (reversible by stored), `block_us` (the
        reversible step's time by depth) and `arena_bytes`, `stored_arena_bytes`, `activation_bytes`,
        `stored_activation_bytes`; `batches`, a list with `batch`, `step_ms`, `sample_us`; `block_spread` and
        `sample_spread`, the largest by the smallest less 1.
    """
    check_rounds(rounds, seconds)
    if kind not in REFERENCE:
        raise UsageError(f"preset {kind!r}: expected a kind of reference net without its depth: {', '.join(REFERENCE)}")
    if not depths or min(depths) < 1 or min(batches, default=1) < 1:
        raise UsageError(f"depths {list(depths)}, batches {list(batches)}: expected numbers that are at least 1")
    by_depth = _by_depth(kind, depths, batch, threads, rounds, seconds)
    by_batch = _by_batch(f"{kind}{depths[0]}", batches, threads, rounds, seconds)
    return {
        "preset": kind, "batch": batch, "threads": threads, "rounds": rounds, "seconds": seconds, "depths": by_depth,
        "block_spread": _spread([row["block_us"] for row in by_depth]), "batches": by_batch,
        "sample_spread": _spread([row["sample_us"] for row in by_batch]),
    }  # fmt: skip


def _by_depth(
    kind: str, depths: Sequence[int], batch: int, threads: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    learners = [
        step_learner(f"{kind}{depth}", batch=batch, threads=threads, schedule=schedule)
        for depth in depths for schedule in SCHEDULES
    ]  # fmt: skip
    taken = alternate([partial(learner.step, batch) for learner in learners], rounds, seconds)
    step_ms = [median(times) * 1e3 for times in taken]
    rows = []
    for index, depth in enumerate(depths):
        (reversible, stored), (own, other) = learners[2 * index : 2 * index + 2], step_ms[2 * index : 2 * index + 2]
        rows.append({
            "depth": depth, "step_ms": own, "stored_ms": other, "time_ratio": own / other,
            "block_us": own / depth * 1e3,
            "arena_bytes": reversible.plan.arena_bytes, "stored_arena_bytes": stored.plan.arena_bytes,
            "activation_bytes": reversible.plan.activation_bytes,
            "stored_activation_bytes": stored.plan.activation_bytes,
        })  # fmt: skip
    return rows


def _by_batch(
    name: str, batches: Sequence[int], threads: int, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    learners = [step_learner(name, batch=batch, threads=threads) for batch in batches]
    calls = [lambda learner=learner, n=n: learner.step(n) for learner, n in zip(learners, batches)]
    step_ms = [median(times) * 1e3 for times in alternate(calls, rounds, seconds)]
    return [
        {"batch": batch, "step_ms": time, "sample_us": time / batch * 1e3} for batch, time in zip(batches, step_ms)
    ]


def _spread(values: Sequence[float]) -> float | None:
    return max(values) / min(values) - 1 if values else None


def plot_depth(figures: dict[str, Any], path: str) -> None:
    """Draw time and arena against depth, both schedules, as an SVG file.

    Parameters
    ----------
    figures : what `depth_figures` returned
    path : file to write

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    rows, figure = figures["depths"], plotter()(figsize=(9, 3.6), layout="constrained")
    depths = [row["depth"] for row in rows]
    time, memory = figure.subplots(1, 2)
    for axis, names, unit, label in (
        (time, ("step_ms", "stored_ms"), 1, "ms a step"),
        (memory, ("arena_bytes", "stored_arena_bytes"), 2**20, "arena, MiB"),
    ):
        for name, schedule in zip(names, SCHEDULES):
            axis.plot(depths, [row[name] / unit for row in rows], marker="o", label=schedule)
        axis.set_xlabel("blocks")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.suptitle(f"{figures['preset']}, batch {figures['batch']}")
    figure.savefig(path, format="svg")

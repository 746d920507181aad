"""Memory against time over the schedules of a net: predicted, measured, and which of them no other betters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgerev.net import Net
from edgerev.recipe import Recipe
from edgerev.schedule import choose, schedules
from edgerev.tools.estimate import estimate
from edgerev.tools.plan_worker import Job, workers
from edgerev.tools.plotting import plotter
from edgerev.tools.time_model import Machine
from edgerev.tools.timing import check_rounds


def dominated(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each point whether another is as small in both numbers, and smaller in one."""
    found, fastest, before = [False] * len(points), float("inf"), (float("nan"), float("nan"))
    for place in sorted(range(len(points)), key=lambda place: points[place]):
        if points[place] != before:
            found[place], before = points[place][1] >= fastest, points[place]
            fastest = min(fastest, points[place][1])
            last = found[place]
        else:
            found[place] = last
    return found


def pareto_figures(
    net: Net, recipe: Recipe, machine: Machine, *, budget: int | None = None, data_bytes: int = 0, threads: int = 1,
    guard: bool = False, measure: bool = False, rounds: int = 5, seconds: float = 0.2,
) -> dict[str, Any]:
    """Return what each schedule of a net costs, the least memory first.

    Parameters
    ----------
    machine : what predicts
    budget : most bytes of the arena; the schedule that `choose` takes for it is marked
    data_bytes, threads, guard : see `choose`
    measure : also train, each schedule in a process of its own
    rounds, seconds : bursts of steps of each, all taking turns, and how long each lasts; the fastest counts

    Returns
    -------
    dict
        `machine`, `measured` (whether the machine was), `batch`, `threads`, `budget` and `rows`: a list with
        `schedule`, `stored`, `micro_batch`, `chunk`, `arena_bytes`, `predicted_rss_bytes`, `predicted_ms`,
        `dominated`, `chosen`, and where it was measured `measured_arena_bytes`, `measured_rss_bytes`, `measured_ms`.

    Raises
    ------
    BudgetError
        No schedule fits the budget.
    """
    check_rounds(rounds, seconds)
    options: dict[str, Any] = {"data_bytes": data_bytes, "threads": threads, "guard": guard}
    chosen = None if budget is None else choose(net, recipe, budget=budget, **options).schedule
    tried = dict.fromkeys([*schedules(net, recipe, **options), *([chosen] if chosen else [])])
    rows: list[dict[str, Any]] = []
    for schedule in tried:
        choice = choose(net, recipe, schedule=schedule, **options)
        cost = estimate(machine, choice, recipe.batch, threads)
        rows.append({
            "schedule": schedule.name(net.depth), "stored": schedule.stored, "micro_batch": schedule.micro_batch,
            "chunk": schedule.chunk, "arena_bytes": choice.plan.arena_bytes,
            "predicted_rss_bytes": cost.peak_rss_bytes, "predicted_ms": cost.step_ms, "chosen": schedule == chosen,
        })  # fmt: skip
    for row, beaten in zip(rows, dominated([(row["arena_bytes"], row["predicted_ms"]) for row in rows])):
        row["dominated"] = beaten
    if measure:
        jobs = [Job(net, recipe, schedule, data_bytes, threads, guard) for schedule in tried]
        for row, figures in zip(rows, _measured(jobs, rounds, seconds)):
            row |= figures
    return {
        "machine": machine.name, "measured": machine.measured, "batch": recipe.batch, "threads": threads,
        "budget": budget, "rows": sorted(rows, key=lambda row: (row["arena_bytes"], row["predicted_ms"])),
    }  # fmt: skip


def _measured(jobs: list[Job], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Return the fastest of each job's bursts, and its bytes."""
    with workers(jobs) as running:
        answers = [[worker.ask(seconds) for worker in running] for _ in range(rounds)]
    return [
        {
            "measured_ms": min(answer["step_ms"] for answer in turns),
            "measured_rss_bytes": turns[-1]["peak_rss_bytes"], "measured_arena_bytes": turns[-1]["arena_bytes"],
        }
        for turns in zip(*answers)
    ]  # fmt: skip


def plot_pareto(figures: dict[str, Any], title: str, path: str) -> None:
    """Draw time against memory, predicted and measured, as an SVG file.

    Parameters
    ----------
    figures : what `pareto_figures` returned
    title : heading
    path : file to write

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    rows = figures["rows"]
    figure = plotter()(figsize=(8, 4.6), layout="constrained")
    axis = figure.subplots()
    unit, scale = ("MiB", 1 << 20) if rows[-1]["arena_bytes"] >= 4 << 20 else ("KiB", 1 << 10)

    def points(kept: list[dict[str, Any]], time: str) -> tuple[list[float], list[float]]:
        return [row["arena_bytes"] / scale for row in kept], [row[time] for row in kept]

    best = [row for row in rows if not row["dominated"]]
    axis.plot(*points(best, "predicted_ms"), color="#0072B2", marker="o", label="predicted")
    for kept, time, style in (
        ([row for row in rows if row["dominated"]], "predicted_ms",
         {"color": "#0072B2", "marker": "o", "facecolors": "none", "label": "predicted, dominated"}),
        ([row for row in rows if "measured_ms" in row], "measured_ms",
         {"color": "#D55E00", "marker": "x", "label": "measured"}),
        ([row for row in rows if row["chosen"]], "predicted_ms",
         {"color": "#000000", "marker": "o", "facecolors": "none", "s": 160, "label": "chosen under the budget"}),
    ):  # fmt: skip
        if kept:
            axis.scatter(*points(kept, time), zorder=3, **style)
    labels = {_short(row): row for row in reversed(best)}  # of several that reverse all, the smallest
    for label, row in labels.items():
        place = row["arena_bytes"] / scale, row["predicted_ms"]
        axis.annotate(label, place, (-4, -17), textcoords="offset points", fontsize="small")
    if figures["budget"] is not None:
        axis.axvline(figures["budget"] / scale, color="#777777", linestyle="--", label="budget")
    axis.set_xlabel(f"arena, {unit}")
    axis.set_ylabel("ms a step")
    axis.set_xlim(0, 1.12 * max(row["arena_bytes"] for row in rows) / scale)
    axis.set_ylim(0, 1.15 * max(max(row["predicted_ms"], row.get("measured_ms", 0.0)) for row in rows))
    axis.legend(fontsize="small")
    axis.set_title(title)
    figure.savefig(path, format="svg")


def _short(row: dict[str, Any]) -> str:
    """Return a schedule in two words."""
    return f"{row['stored']} stored" if row["stored"] else "reversible"

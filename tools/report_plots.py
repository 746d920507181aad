"""The plots of the benchmark report, each an SVG of its own."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from edgerev.tools.plotting import plotter

COLOURS = ("#0b6e75", "#b3541e", "#5b4b9a", "#7a7a7a")  # told apart by lightness as well
MARKERS = ("o", "s", "^", "D")
MIB = 2**20


def _drawn(draw: Callable[[Any], None], size: tuple[float, float] = (7, 3.4)) -> str:
    """Return the SVG of a figure with one axis, without the lines that make it a file of its own."""
    figure = plotter()(figsize=size, layout="constrained")
    figure.patch.set_alpha(0)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    draw(axis)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]


def _lines(axis: Any, x: Sequence[float], rows: dict[str, Sequence[float]]) -> None:
    for (name, values), colour, marker in zip(rows.items(), COLOURS, MARKERS):
        axis.plot(x, values, color=colour, marker=marker, label=name)
    axis.legend(frameon=False)


def memory(figures: dict[str, Any]) -> list[str]:
    """Draw arena and activations against depth."""
    rows = figures["rows"]
    depths = [row["blocks"] for row in rows]

    def draw(axis: Any) -> None:
        _lines(axis, depths, {
            "arena, reversible": [row["reversible_arena_bytes"] / MIB for row in rows],
            "arena, stored": [row["stored_arena_bytes"] / MIB for row in rows],
            "activations, reversible": [row["reversible_activation_bytes"] / MIB for row in rows],
            "activations, stored": [row["stored_activation_bytes"] / MIB for row in rows],
        })  # fmt: skip
        axis.set(xscale="log", yscale="log", xlabel="coupling blocks", ylabel="MiB")
        axis.set_xticks(depths, map(str, depths))
        axis.minorticks_off()

    return [_drawn(draw)]


def depth(figures: dict[str, Any]) -> list[str]:
    """Draw the step's time against depth, and the time per sample against the batch."""
    rows, batches = figures["depths"], figures["batches"]

    def by_depth(axis: Any) -> None:
        _lines(axis, [row["depth"] for row in rows], {
            "reversible": [row["step_ms"] for row in rows], "stored": [row["stored_ms"] for row in rows],
        })  # fmt: skip
        axis.set(xlabel="coupling blocks", ylabel="ms a step", ylim=(0, None))

    def by_batch(axis: Any) -> None:
        _lines(axis, [row["batch"] for row in batches], {"reversible": [row["sample_us"] for row in batches]})
        axis.set(xscale="log", xlabel="samples of a step", ylabel="µs a sample", ylim=(0, None))
        axis.set_xticks([row["batch"] for row in batches], [str(row["batch"]) for row in batches])
        axis.minorticks_off()

    return [_drawn(by_depth), _drawn(by_batch)]


def peers(figures: dict[str, Any]) -> list[str]:
    """Draw the steps of all frameworks side by side."""
    rows = figures["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["step_ms"]))

    def draw(axis: Any) -> None:
        for place, (name, colour) in enumerate(zip(names, COLOURS)):
            values = [row["step_ms"].get(name, float("nan")) for row in rows]
            axis.bar([number + 0.27 * place for number in range(len(rows))], values, 0.25, color=colour, label=name)
        labels = [f"{row['net']}, {row['batch']}" for row in rows]
        axis.set_xticks([number + 0.27 for number in range(len(rows))], labels)
        axis.set(yscale="log", ylabel="ms a step")
        axis.legend(frameon=False)

    return [_drawn(draw)] if rows else []


def gas(figures: dict[str, Any]) -> list[str]:
    """Draw the accuracy of each learner by batch."""
    chosen = [row for row in figures["rows"] if row["order"] in ("any", "random")]

    def draw(axis: Any) -> None:
        _lines(axis, figures["batches"], {row["learner"]: row["by_batch"] for row in chosen[:4]})
        axis.set(xlabel="batch", ylabel="% right", ylim=(0, 101))

    return [_drawn(draw)]


def serve(figures: dict[str, Any]) -> list[str]:
    """Draw the daemon's memory over time."""
    values = [value / MIB for value in figures["rss_bytes_over_time"]]

    def draw(axis: Any) -> None:
        axis.plot(range(1, len(values) + 1), values, color=COLOURS[0])
        axis.axhline(figures["arena_bytes"] / MIB, color=COLOURS[1], linestyle="--", label="arena")
        axis.set(xlabel="seconds", ylabel="resident, MiB", ylim=(0, None))
        axis.legend(frameon=False)

    return [_drawn(draw)]


def split(figures: dict[str, Any]) -> list[str]:
    """Draw the accuracy matrix."""
    matrix = [[value if value is not None else float("nan") for value in row] for row in figures["matrix"]]

    def draw(axis: Any) -> None:
        for experience in range(len(matrix)):
            later = range(experience, len(matrix))
            axis.plot(
                [after + 1 for after in later], [100 * matrix[after][experience] for after in later],
                marker="o", label=f"experience {experience + 1}",
            )  # fmt: skip
        axis.set(xlabel="after experience", ylabel="% right", xticks=range(1, len(matrix) + 1))
        axis.legend(frameon=False, fontsize="small")

    return [_drawn(draw)]


PLOTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "memory": memory, "time": depth, "peers": peers, "gas": gas, "serve": serve, "split": split,
}  # fmt: skip

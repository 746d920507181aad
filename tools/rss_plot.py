"""Memory over time, and what it consisted of when it was largest, drawn."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from edgerev.tools.plotting import plotter
from edgerev.tools.rss_result import KINDS, SHOWN_SHARE, RssResult, by_kind
from edgerev.units import format_bytes

MIB = 1 << 20
MOST_BANDS = 5
WIDTH, HEIGHT = 10, 3.6  # inches, of one measurement
COLUMN = 0.05  # width of the column of kinds, as a share of the curve's
COLOURS = {
    "arena": "#D55E00", "heap": "#56B4E9", "stack": "#009E73", "anonymous": "#0072B2", "shared": "#CC79A7",
    "file": "#BBBBBB", "others": "#555555",
}  # fmt: skip


def plot_rss(results: Sequence[RssResult], path: str) -> None:
    """Draw RSS, PSS and swap against time with a band for each large process, as an SVG file.

    A column beside it shows of what kind the memory is at the largest sample whose mappings were read.

    Parameters
    ----------
    results : one measurement, or several to be drawn below each other on equal scales
    path : file to write

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    figure_class = plotter()
    from matplotlib.lines import Line2D

    figure = figure_class(figsize=(WIDTH, HEIGHT * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 2, sharex="col", sharey=True, squeeze=False, width_ratios=[1, COLUMN])
    for (curve, column), result in zip(axes, results):
        _draw_curve(curve, result)
        column.set_axis_off()
        handles = curve.get_legend_handles_labels()[0]
        if result.at_peak:
            gap = Line2D([], [], linestyle="none", label=" ")
            handles += [gap, _mark(curve, result.at_peak), *_draw_column(column, _kinds(result.at_peak))]
        column.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    axes[0][0].set_ylim(bottom=0)  # of all, and so once all are drawn: it holds the other end where it is
    axes[0][0].set_xlim(left=0)
    axes[-1][0].set_xlabel("seconds")
    figure.savefig(path, format="svg")


def _draw_curve(axis: Any, result: RssResult) -> None:
    """Draw memory over time: as steps, for each sample holds until the next is taken."""
    line = result.timeline
    seconds, total = line["seconds"], [size / MIB for size in line["rss_bytes"]]
    steps = {"linewidth": 1, "drawstyle": "steps-post"}
    names, bands = _bands(result, total)
    if len(names) > 1:
        axis.stackplot(seconds, *bands, labels=names, alpha=0.35, linewidth=0, step="post")
    else:
        axis.fill_between(seconds, total, alpha=0.2, linewidth=0, step="post")
    axis.plot(seconds, total, color="black", **steps, label="RSS")
    pss = [(second, size / MIB) for second, size in zip(seconds, line["pss_bytes"]) if size is not None]
    if pss:
        # dear to read, and so read more rarely: the last reading may lie long before the end
        dots = {"linewidth": 0.7, "linestyle": ":", "marker": "o", "markersize": 2.5}
        axis.plot(*zip(*pss), color="tab:red", **dots, label="PSS, at the dots")
    if any(line["swap_bytes"]):
        axis.plot(seconds, [size / MIB for size in line["swap_bytes"]], color="tab:purple", **steps, label="swap")
    if result.limit_bytes is not None:
        axis.axhline(result.limit_bytes / MIB, color="tab:gray", linestyle=":", label="limit")
    axis.set_title(_title(result), fontsize="medium", loc="left")
    axis.set_ylabel("MiB")


def _bands(result: RssResult, total: list[float]) -> tuple[list[str], list[list[float]]]:
    """Return names and MiB of the largest processes over time, and what is left."""
    columns = result.timeline["process_rss_bytes"][:MOST_BANDS]
    names = [f"{process['name']} ({process['pid']})" for process in result.largest[:MOST_BANDS]]
    bands = [[size / MIB for size in column] for column in columns]
    rest = [max(0.0, whole - sum(parts)) for whole, *parts in zip(total, *bands)]
    if result.processes > len(names):
        names, bands = [*names, "others"], [*bands, rest]
    return names, bands


def _mark(axis: Any, at_peak: dict[str, Any]) -> Any:
    """Mark the sample that the column is of, and return what a legend names."""
    seconds, size = at_peak["seconds"], at_peak["rss_bytes"]
    name = f"at {seconds:.2f} s, {format_bytes(size)}:"
    return axis.plot(seconds, size / MIB, color="black", linestyle="none", marker="v", markersize=5, label=name)[0]


def _draw_column(axis: Any, kinds: dict[str, int]) -> list[Any]:
    """Draw the bytes of each kind of memory on top of each other, the first uppermost; return what a legend names."""
    from matplotlib.patches import Patch

    top, handles = sum(kinds.values()), []
    for kind, size in kinds.items():
        top -= size
        # an edge of the same colour, so that what is thinner than a line is seen as well
        axis.bar(0, size / MIB, bottom=top / MIB, color=COLOURS[kind], edgecolor=COLOURS[kind], linewidth=0.7)
        handles.append(Patch(color=COLOURS[kind], label=f"{KINDS[kind]}  {format_bytes(size)}"))
    return handles


def _kinds(at_peak: dict[str, Any]) -> dict[str, int]:
    """Return the resident bytes of each kind, in the order of `KINDS`; what is small, but the arena, as others."""
    found = {kind: sizes["rss_bytes"] for kind, sizes in by_kind(at_peak).items()}
    least = SHOWN_SHARE * sum(found.values())
    named = {kind: size for kind, size in found.items() if kind == "arena" or (size >= least and kind != "others")}
    rest = sum(found.values()) - sum(named.values())
    return named | ({"others": rest} if rest else {})


def _title(result: RssResult) -> str:
    words = shlex.join(result.command)
    return f"{words if len(words) <= 60 else words[:57] + '...'}: peak {result.peak_tree_rss_bytes / MIB:.1f} MiB"

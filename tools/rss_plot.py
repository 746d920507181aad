"""Memory over time, drawn."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from edgerev.tools.plotting import plotter
from edgerev.tools.rss_result import RssResult

MIB = 1 << 20
MOST_BANDS = 5
WIDTH, HEIGHT = 8, 3.4  # inches, of one measurement


def plot_rss(results: Sequence[RssResult], path: str) -> None:
    """Draw RSS, PSS and swap against time with a band for each large process, as an SVG file.

    Parameters
    ----------
    results : one measurement, or several to be drawn below each other on equal scales
    path : file to write

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    figure = plotter()(figsize=(WIDTH, HEIGHT * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, result in zip(axes, results):
        _draw(axis, result)
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, format="svg")


def _draw(axis: Any, result: RssResult) -> None:
    line = result.timeline
    seconds, total = line["seconds"], [size / MIB for size in line["rss_bytes"]]
    names, bands = _bands(result, total)
    if len(names) > 1:
        axis.stackplot(seconds, *bands, labels=names, alpha=0.35, linewidth=0)
    else:
        axis.fill_between(seconds, total, alpha=0.2, linewidth=0)
    axis.plot(seconds, total, color="black", linewidth=1, label="RSS")
    pss = [(second, size / MIB) for second, size in zip(seconds, line["pss_bytes"]) if size is not None]
    if pss:
        # dear to read, and so read more rarely: the last reading may lie long before the end
        dots = {"linewidth": 0.7, "linestyle": ":", "marker": "o", "markersize": 2.5}
        axis.plot(*zip(*pss), color="tab:red", **dots, label="PSS, at the dots")
    if any(line["swap_bytes"]):
        axis.plot(seconds, [size / MIB for size in line["swap_bytes"]], color="tab:purple", linewidth=1, label="swap")
    if result.limit_bytes is not None:
        axis.axhline(result.limit_bytes / MIB, color="tab:gray", linestyle=":", label="limit")
    axis.set_title(_title(result), fontsize="medium", loc="left")
    axis.set_ylabel("MiB")
    axis.set_ylim(bottom=0)
    axis.set_xlim(left=0)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)


def _bands(result: RssResult, total: list[float]) -> tuple[list[str], list[list[float]]]:
    """Return names and MiB of the largest processes over time, and what is left."""
    columns = result.timeline["process_rss_bytes"][:MOST_BANDS]
    names = [f"{process['name']} ({process['pid']})" for process in result.largest[:MOST_BANDS]]
    bands = [[size / MIB for size in column] for column in columns]
    rest = [max(0.0, whole - sum(parts)) for whole, *parts in zip(total, *bands)]
    if result.processes > len(names):
        names, bands = [*names, "others"], [*bands, rest]
    return names, bands


def _title(result: RssResult) -> str:
    words = shlex.join(result.command)
    return f"{words if len(words) <= 60 else words[:57] + '...'}: peak {result.peak_tree_rss_bytes / MIB:.1f} MiB"

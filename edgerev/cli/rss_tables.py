"""The memory of one command, or of two beside each other, for people."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import Any

from edgerev.tools.rss_result import KINDS, SHOWN_SHARE, RssResult, by_kind
from edgerev.units import format_bytes

BYTES = {
    "peak_rss_bytes": "peak RSS, largest process",
    "peak_tree_rss_bytes": "peak RSS, all processes",
    "peak_tree_pss_bytes": "peak PSS, all processes",
    "peak_tree_swap_bytes": "peak swap",
    "peak_cgroup_bytes": "peak of the control group",
}
TIMES = {"seconds": "time", "cpu_seconds": "processor time"}
MOST_LETTERS = 36


def to_text(result: RssResult) -> str:
    """Render one measurement: its figures, and what the processes consisted of at their peak."""
    rows = [(name, format_bytes(size)) for key, name in BYTES.items() if (size := getattr(result, key))]
    running = f" ({result.left_running} left running)" if result.left_running else ""
    rows.append(("processes", f"{result.processes}{running}"))
    rows += [(name, f"{took:.3f} s") for key, name in TIMES.items() if (took := getattr(result, key)) is not None]
    rows.append(("measuring took", f"{result.watcher_cpu_seconds:.3f} s of a processor, {result.samples} samples"))
    rows.append(("process" if result.attached_pid else "command", f"{shlex.join(result.command)}: {_ended(result)}"))
    if result.limit_bytes is not None:
        verdict = "kept" if result.within_limit else "EXCEEDED"
        rows.append(("limit", f"{format_bytes(result.limit_bytes)}: {verdict}"))
    rows += [("note", note) for note in result.notes]
    lines = [f"{name:<26} {value}" for name, value in rows]
    if result.at_peak:
        lines += ["", *_mappings(result.at_peak)]
    if len(result.largest) > 1:
        lines += ["", "largest processes"]
        lines += [f"  {format_bytes(row['peak_rss_bytes']):>9}  {row['name']} ({row['pid']})" for row in result.largest]
    return "\n".join(lines)


def _ended(result: RssResult) -> str:
    if result.attached_pid:
        return f"process {result.attached_pid}"
    return f"killed by {result.signal}" if result.signal else f"exit code {result.exit_code}"


def _mappings(at_peak: dict[str, Any]) -> list[str]:
    """Return a line for each kind of memory, and below it one for each of its largest parts."""
    heading = f"at {at_peak['seconds']:.2f} s, {format_bytes(at_peak['rss_bytes'])} in all"
    lines = [f"{heading:<40} {'RSS':>9} {'PSS':>9} {'swap':>9}"]
    for kind, sizes in by_kind(at_peak).items():
        lines.append(_sizes(f"  {KINDS[kind]}", sizes))
        if kind in ("file", "shared", "anonymous"):
            lines += [
                _sizes(f"    {os.path.basename(row['name'])[:MOST_LETTERS]}", row)
                for row in at_peak["mappings"]
                if row["kind"] == kind != row["name"] and row["rss_bytes"] >= SHOWN_SHARE * at_peak["rss_bytes"]
            ]
    return lines


def _sizes(name: str, sizes: dict[str, Any]) -> str:
    cells = (format_bytes(sizes[key]) for key in ("rss_bytes", "pss_bytes", "swap_bytes"))
    return f"{name:<40} " + " ".join(f"{cell:>9}" for cell in cells)


def compare(results: Sequence[RssResult]) -> list[dict[str, Any]]:
    """Return the figures of two measurements with what they differ by.

    Parameters
    ----------
    results : both; the differences are the second's less the first's, the ratios the second's by the first's

    Returns
    -------
    list of dict
        `figure`, `values`, `difference` and `ratio`, None where one of them is not known.
    """
    rows = []
    for key in (*BYTES, *TIMES, "processes"):
        rows.append(_compared(key, [getattr(result, key) for result in results]))
    kinds = [by_kind(result.at_peak) if result.at_peak else None for result in results]
    for kind in KINDS:
        if all(sums is not None for sums in kinds) and any(kind in (sums or {}) for sums in kinds):
            values = [(sums or {}).get(kind, {}).get("rss_bytes", 0) for sums in kinds]
            rows.append(_compared(f"{kind}_rss_bytes", values))
    return rows


def _compared(figure: str, values: list[Any]) -> dict[str, Any]:
    first, second = values
    known = first is not None and second is not None
    return {
        "figure": figure, "values": values, "difference": second - first if known else None,
        "ratio": second / first if known and first else None,
    }  # fmt: skip


def comparison_text(results: Sequence[RssResult]) -> str:
    """Render two measurements side by side."""
    names = {**BYTES, **TIMES, **{f"{kind}_rss_bytes": f"  {name}" for kind, name in KINDS.items()}}
    lines = [f"{letter}: {shlex.join(result.command)}: {_ended(result)}" for letter, result in zip("AB", results)]
    for letter, result in zip("AB", results):
        lines += [f"{letter}: note: {note}" for note in result.notes]
        if not result.within_limit:
            lines.append(f"{letter}: limit of {format_bytes(result.limit_bytes or 0)} EXCEEDED")
    lines += ["", f"{'':<26} {'A':>10} {'B':>10} {'B - A':>11} {'B / A':>7}"]
    for row in compare(results):
        if any(row["values"]):
            show = _formatter(row["figure"])
            cells = [*map(show, row["values"]), show(row["difference"], "+")]
            ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
            name = names.get(row["figure"], row["figure"])
            lines.append(f"{name:<26} {cells[0]:>10} {cells[1]:>10} {cells[2]:>11} {ratio:>7}")
    return "\n".join(lines)


def _formatter(figure: str) -> Any:
    def show(value: Any, sign: str = "") -> str:
        if value is None:
            return "-"
        if figure.endswith("_bytes"):
            return (sign if value >= 0 else "") + format_bytes(value)
        return format(value, f"{sign}.3f" if figure.endswith("seconds") else f"{sign}d") + (
            " s" if figure.endswith("seconds") else ""
        )

    return show

"""How well the model did: points for a chart, and marks between them, from what the store keeps of each window."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgerev.daemon.adaptation import Adaptation

POINTS = 480  # that a chart gets; of more, every second, third, ... is left
LINES = 5000
LEAST = 64  # samples in a window that is not over, before it counts


class History:
    """Tells how well the model answered samples before they were learned.

    A point is unix time, number of the sample, loss, accuracy, and the accepted model's accuracy or None; a mark is
    unix time, number of the sample, kind, message.

    Parameters
    ----------
    adaptation : what trains
    """

    def __init__(self, adaptation: Adaptation) -> None:
        self._adaptation = adaptation
        before = points_and_marks(adaptation.notes(LINES))["points"]
        self._before = before[-1] if before else None  # the start

    def last_window(self) -> list[Any] | None:
        """Return the point of the last window that is over; None before there is one."""
        line = self._adaptation.last_window
        return self._before if line is None else _point(line)

    def latest(self) -> list[Any] | None:
        """Return the newest point: of the window at hand as far as it is, or of the last one."""
        guard, table = self._adaptation.guard, self._adaptation.settings.guard
        window = guard.window
        if window.known < min(LEAST, table.window) or not guard.answered:
            return self.last_window()
        sums = window.loss, window.right, window.usual if table.on else None
        shares = (None if value is None else value / window.known for value in sums)
        return [guard.answered, self._adaptation.after, *shares]

    def to_dict(self) -> dict[str, list]:
        """Return the points of windows that are over, and marks, the oldest first."""
        return points_and_marks(self._adaptation.notes(LINES))


def points_and_marks(lines: Sequence[str]) -> dict[str, list]:
    """Return points and marks as `History` has them.

    Parameters
    ----------
    lines : what the store keeps, the oldest first
    """
    points, marks = [], []
    for line in map(json.loads, lines):
        if line["kind"] == "window":
            points.append(_point(line))
        else:
            marks.append([line["time"], line["sample"], line["kind"], line["message"]])
    step = -(-len(points) // POINTS) or 1
    return {"points": points[(len(points) - 1) % step :: step], "marks": marks}


def _point(line: Mapping[str, Any]) -> list[Any]:
    return [line[name] for name in ("time", "sample", "loss", "accuracy", "accepted_accuracy")]

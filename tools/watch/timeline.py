"""Memory over time in a record of bounded size, which keeps every maximum."""

from __future__ import annotations

MOST_POINTS = 400
MOST_PARTS = 8
FIRST_WIDTH = 0.0005  # seconds of one point; doubled whenever there are too many


class Point:
    """The largest sum that was seen in a span of time, when it was seen, and what else was the most there.

    Parameters
    ----------
    seconds : float
        When the sum of resident sizes was at its largest.
    rss, pss, swap : int, int or None, int
        Largest sums in bytes, `pss` only where it was read.
    parts : dict
        Resident bytes of the largest processes at that moment, by their number.
    """

    __slots__ = ("parts", "pss", "rss", "seconds", "swap")

    def __init__(self, seconds: float, rss: int, pss: int | None, swap: int, parts: dict[int, int]) -> None:
        self.seconds, self.rss, self.pss, self.swap = seconds, rss, pss, swap
        if len(parts) > MOST_PARTS:
            parts = dict(sorted(parts.items(), key=lambda item: -item[1])[:MOST_PARTS])
        self.parts = parts

    def absorb(self, other: Point) -> None:
        """Take the maxima of another point."""
        if other.rss > self.rss:
            self.seconds, self.rss, self.parts = other.seconds, other.rss, other.parts
        self.swap = max(self.swap, other.swap)
        self.pss = other.pss if self.pss is None else max(self.pss, other.pss or 0)


class Timeline:
    """Points in the order of time.

    Parameters
    ----------
    most : int
        How many points are kept.
    """

    def __init__(self, most: int = MOST_POINTS) -> None:
        self.points: list[Point] = []
        self._most = most
        self._width = FIRST_WIDTH

    def add(self, point: Point) -> None:
        """Add a point that is later than all before."""
        self._append(self.points, point)
        while len(self.points) > self._most:
            self._width *= 2
            wider: list[Point] = []
            for old in self.points:
                self._append(wider, old)
            self.points = wider

    def _append(self, points: list[Point], point: Point) -> None:
        if points and int(points[-1].seconds / self._width) == int(point.seconds / self._width):
            points[-1].absorb(point)
        else:
            points.append(point)

    def columns(self, numbers: list[int]) -> dict[str, list]:
        """Return the points as columns.

        Parameters
        ----------
        numbers : list of int
            Processes to show by themselves.

        Returns
        -------
        dict
            `seconds`, `rss_bytes`, `pss_bytes` (None where it was not read), `swap_bytes`, and
            `process_rss_bytes`, a column for each of the processes.
        """
        return {
            "seconds": [round(point.seconds, 4) for point in self.points],
            "rss_bytes": [point.rss for point in self.points],
            "pss_bytes": [point.pss for point in self.points],
            "swap_bytes": [point.swap for point in self.points],
            "process_rss_bytes": [[point.parts.get(number, 0) for point in self.points] for number in numbers],
        }

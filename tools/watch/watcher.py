"""Follow a process tree: what is common, and the tree of a process that runs already."""

from __future__ import annotations

import signal
import time

from .figures import Figures
from .mappings import breakdown
from .procfs import descendants, read_start, read_status

FIRST_INTERVAL = 0.001  # seconds; doubled until it reaches the interval asked for
NEAR_PEAK = 0.95
QUIET = 10  # times the interval at most, while nothing changes


class Watcher:
    """What watching a command and watching a running process have in common.

    Parameters
    ----------
    main : int
        Process at the top of the tree.
    interval : float
        Least seconds between samples.
    """

    traced = False

    def __init__(self, main: int, interval: float) -> None:
        self.main = main
        self.figures = Figures()
        self.notes: list[str] = []
        self._interval = interval
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    def watch(self) -> None:
        """Sample and answer events until there is nothing to watch any more."""
        pause = min(self._interval, FIRST_INTERVAL)
        due = pause
        while not self.is_over():
            event = signal.sigtimedwait(self.awaited(), max(0.0, due - self.seconds))
            if event is not None:
                self.answer(event.si_signo)
                due = max(min(due, self.seconds + self._interval), self.figures.cheap.ready_at())
            if self.seconds >= due:
                self.sample()
                pause = min(self._interval * (QUIET if self.figures.is_quiet else 1), 2 * pause)
                due = max(self.seconds + pause, self.figures.cheap.ready_at())

    def is_over(self) -> bool:
        """Tell whether to stop watching."""
        raise NotImplementedError

    def awaited(self) -> set[signal.Signals]:
        """Return the signals that are worth waking up for."""
        raise NotImplementedError

    def answer(self, number: int) -> None:
        """React to one of them; a wait that a stop cut short tells of signal 0."""
        raise NotImplementedError

    def members(self) -> list[int]:
        """Return the processes of the tree at this moment."""
        raise NotImplementedError

    def sample(self) -> None:
        """Read the whole tree once."""
        with self.figures.cheap:
            seconds, members = self.seconds, self.members()
            for pid in members:
                self.figures.appeared(pid, seconds)
            for pid in self.figures.live.keys() - set(members):
                self.figures.ended(pid)
            self.figures.sample(seconds)

    def note(self, text: str) -> None:
        """Remember what a reader of the figures must know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def result(self) -> dict[str, object]:
        """Return the figures, after the last sample."""
        figures, largest = self.figures, self.figures.processes()
        if figures.pss_hidden:
            self.note("the kernel hides the mappings of some processes: there is no PSS where they ran")
        at_peak = None
        if figures.snapshot is not None:
            seconds, texts = figures.snapshot
            mappings = breakdown(texts)
            total = sum(row["rss_bytes"] for row in mappings)
            at_peak = {"seconds": round(seconds, 4), "rss_bytes": total, "mappings": mappings}
            if total < NEAR_PEAK * figures.peak_tree_rss:
                self.note("the peak was short, or of many processes: PSS and mappings are those of less memory")
        return {
            "seconds": self.seconds,
            "peak_rss_bytes": figures.peak_rss,
            "peak_tree_rss_bytes": figures.peak_tree_rss,
            "peak_tree_pss_bytes": figures.peak_pss,
            "peak_tree_swap_bytes": figures.peak_swap,
            "processes": figures.count,
            "left_running": len([pid for pid in figures.live if "VmRSS" in read_status(pid)]),
            "method": "trace" if self.traced else "sample",
            "samples": figures.samples,
            "largest": [process.to_dict() for process in largest],
            "at_peak": at_peak,
            "timeline": figures.timeline.columns([process.number for process in largest]),
            "notes": self.notes,
        }


class ProcessWatcher(Watcher):
    """Follows a process that runs already, and its children, also when they are orphaned.

    Parameters
    ----------
    main : int
        The process.
    interval : float
        Least seconds between samples.
    seconds : float or None
        When to stop at the latest; SIGTERM stops it too.
    """

    def __init__(self, main: int, interval: float, seconds: float | None) -> None:
        super().__init__(main, interval)
        self._most_seconds, self._stopped = seconds, False
        self._beginnings = {main: read_start(main)}

    def is_over(self) -> bool:
        late = self._most_seconds is not None and self.seconds >= self._most_seconds
        return self._stopped or late or not self._lives(self.main)

    def awaited(self) -> set[signal.Signals]:
        return {signal.SIGTERM, signal.SIGHUP}

    def answer(self, number: int) -> None:
        self._stopped = number in self.awaited()

    def members(self) -> list[int]:
        found = descendants(list(filter(self._lives, self._beginnings)))
        self._beginnings = {pid: self._beginnings.get(pid) or read_start(pid) for pid in found}
        return found

    def _lives(self, pid: int) -> bool:
        """Tell whether a number is still that of the same process."""
        began = self._beginnings.get(pid)
        return began is not None and read_start(pid) == began

"""High-water marks of a process tree, and what it consisted of when it was largest."""

from __future__ import annotations

import time

from .procfs import Row, read_file, read_name, read_pss, read_status, shares_memory
from .timeline import Point, Timeline

MOST_PROCESSES = 8  # named in the figures
MOST_DETAILED = 32  # processes whose mappings are read
GROWTH, SETTLED_GROWTH = 1.15, 1.002  # of the sum, after which mappings are read anew; the second once it is quiet
UNSETTLED_PART = 0.3  # of the time for mappings that is given ahead
QUIET_CHANGE = 0.01  # of the sum
REGULAR_PSS = 3000  # times what reading PSS takes, until it is read again without a new maximum


class Budget:
    """Processor time that some kind of work may take.

    Parameters
    ----------
    share : float
        Of the time.
    ahead : float
        Seconds more than that.
    besides : Budget, optional
        Of other work that is done meanwhile.
    """

    def __init__(self, share: float, ahead: float, besides: Budget | None = None) -> None:
        self.spent = self.last = 0.0
        self._share, self._ahead, self._besides = share, ahead, besides
        self._since = 0.0

    def ready_at(self, part: float = 1.0) -> float:
        """Return the time, in seconds since the beginning, at which as much as last may be spent again.

        Parameters
        ----------
        part : float
            Of what is given ahead; what matters less leaves some of it to what matters more.
        """
        return (self.spent + self.last - part * self._ahead) / self._share

    def _now(self) -> float:
        return time.process_time() - (self._besides.spent if self._besides else 0.0)

    def __enter__(self) -> Budget:
        self._since = self._now()
        return self

    def __exit__(self, *exception: object) -> None:
        self.last = self._now() - self._since
        self.spent += self.last


class Process:
    """One process of the tree; its number counts those that were seen, since the kernel's may come again."""

    __slots__ = ("began", "ended", "name", "number", "peak", "pid", "rss")

    def __init__(self, number: int, pid: int, began: float) -> None:
        self.number, self.pid, self.began, self.ended = number, pid, began, began
        self.name = ""
        self.peak = 0
        self.rss: int | None = None

    def see(self, row: Row, seconds: float) -> None:
        """Take its memory at this moment into account."""
        self.ended = seconds
        self.rss = row.get("VmRSS", 0)
        self.peak = max(self.peak, row.get("VmHWM", 0))
        self.name = self.name or read_name(self.pid)

    def to_dict(self) -> dict[str, object]:
        """Return what is told of it."""
        return {
            "pid": self.pid, "name": self.name, "peak_rss_bytes": self.peak,
            "began_seconds": round(self.began, 4), "ended_seconds": round(self.ended, 4),
        }  # fmt: skip


class Figures:
    """What the samples of one tree add up to."""

    def __init__(self) -> None:
        self.live: dict[int, Process] = {}
        self.count = 0
        self.peak_rss = self.peak_tree_rss = self.peak_swap = 0
        self.peak_pss: int | None = None
        self.pss_hidden = False
        self.samples = 0
        self.is_quiet = False
        self.timeline = Timeline()
        self.snapshot: tuple[float, list[bytes]] | None = None
        self._largest: list[Process] = []
        self._rss_at_snapshot = self._last_total = self._last_peak = self._last_count = 0
        self._pss_due = 0.0
        self._dear = Budget(0.002, 0.06)  # for PSS and mappings the kernel walks page tables, which is slow
        self.cheap = Budget(0.004, 0.02, besides=self._dear)

    def appeared(self, pid: int, seconds: float) -> None:
        """Begin to count a process."""
        if pid not in self.live:
            self.live[pid] = Process(self.count, pid, seconds)
            self.count += 1

    def ended(self, pid: int) -> None:
        """Count a process no more."""
        process = self.live.pop(pid, None)
        if process is not None:
            self._largest = self._ranked(process)

    def _ranked(self, *more: Process) -> list[Process]:
        return sorted([*self._largest, *more], key=lambda process: -process.peak)[:MOST_PROCESSES]

    def exiting(self, pid: int, seconds: float) -> None:
        """Read a process that the kernel holds at its end; and the others, if this may be a maximum of their sum."""
        process, row = self.live.get(pid), read_status(pid)
        self.peak_rss = max(self.peak_rss, row.get("VmHWM", 0))
        if process is None:
            return  # a thread that is not the first of its process
        process.see(row, seconds)
        known = [other.rss for other in self.live.values() if other.rss is not None]
        may_be_most = len(known) < len(self.live) or sum(known) > self.peak_tree_rss
        if may_be_most and seconds >= self.cheap.ready_at():
            with self.cheap:
                self.sample(seconds, last_chance=True)

    def sample(self, seconds: float, last_chance: bool = False) -> None:
        """Read all processes of the tree at (nearly) one moment.

        Parameters
        ----------
        seconds : float
            Since the beginning.
        last_chance : bool
            Whether one of them is at its end: then what is dear is read at a new maximum in any case.
        """
        rows = {pid: row for pid in self.live if "VmRSS" in (row := read_status(pid))}
        for pid, row in rows.items():
            self.live[pid].see(row, seconds)
            self.peak_rss = max(self.peak_rss, row["VmHWM"])
        alone = [pid for pid, row in rows.items() if not shares_memory(row, rows.get(row["PPid"], {}))]
        total = sum(rows[pid]["VmRSS"] for pid in alone)
        swap = sum(rows[pid].get("VmSwap", 0) for pid in alone)
        self._note_change(total)
        self.samples += 1
        self.peak_tree_rss, self.peak_swap = max(self.peak_tree_rss, total), max(self.peak_swap, swap)
        pss = self._read_dear(alone, total, seconds, last_chance)
        parts = {self.live[pid].number: rows[pid]["VmRSS"] for pid in alone}
        self.timeline.add(Point(seconds, total, pss, swap, parts))

    def _note_change(self, total: int) -> None:
        """Tell whether the same processes are about as large as before, and no peak was passed in between."""
        moved = max(abs(total - self._last_total), self.peak_rss - self._last_peak)
        self.is_quiet = moved <= QUIET_CHANGE * total and self.count == self._last_count
        self._last_total, self._last_peak, self._last_count = total, self.peak_rss, self.count

    def _read_dear(self, pids: list[int], total: int, seconds: float, last_chance: bool) -> int | None:
        """Return the sum of PSS if it is read: with the mappings at a new maximum, or now and then."""
        settled = last_chance or self.is_quiet
        grown = total > (SETTLED_GROWTH if settled else GROWTH) * self._rss_at_snapshot
        affordable = seconds >= self._dear.ready_at(1 if settled else UNSETTLED_PART)
        if not ((grown and last_chance) or (affordable and (grown or seconds >= self._pss_due))):
            return None
        with self._dear:
            parts = [read_pss(pid) for pid in pids]  # not summed from the mappings, which the kernel rounds
            if grown:
                self._take_snapshot(pids, total, seconds)
        self._pss_due = seconds + REGULAR_PSS * self._dear.last
        known = [part for part in parts if part is not None]
        if len(known) < len(pids):
            unknown = [pid for pid, part in zip(pids, parts) if part is None]
            self.pss_hidden = self.pss_hidden or any("VmRSS" in read_status(pid) for pid in unknown)
            return None
        self.peak_pss = max(self.peak_pss or 0, sum(known))
        return sum(known)

    def _take_snapshot(self, pids: list[int], total: int, seconds: float) -> None:
        """Keep the mappings as the kernel writes them; only the last are read."""
        largest = sorted(pids, key=lambda pid: -(self.live[pid].rss or 0))[:MOST_DETAILED]
        texts = [text for pid in largest if (text := read_file(f"/proc/{pid}/smaps"))]
        if texts:
            self.snapshot = seconds, texts
            self._rss_at_snapshot = total

    def processes(self) -> list[Process]:
        """Return the largest processes, largest first."""
        return self._ranked(*self.live.values())

"""Follow a command from its exec to its exit, told by the kernel of every process below it."""

from __future__ import annotations

import os
import signal
import time

from . import ptrace
from .procfs import KIB, descendants, read_name, read_status
from .watcher import Watcher

FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
TRACERS = {"gdb", "gdbserver", "lldb", "lldb-server", "ltrace", "proot", "rr", "strace"}
TRACING_SHARE, TRACING_AHEAD_SECONDS = 0.01, 0.1  # of the time, and before; a child takes some 0.3 ms
FLOOR_SLACK_BYTES = 1024 * KIB
SETUID = 0o6000


class CommandWatcher(Watcher):
    """Follows one command from its exec to its exit.

    Parameters
    ----------
    main : int
        Process that waits at the gate and will exec the command.
    errors : int
        Pipe that is closed when `main` has become the command; not blocking.
    interval : float
        Least seconds between samples.
    floor : int
        Bytes of `ru_maxrss` that the command may have inherited from this program.
    trace : bool
        Whether to try tracing before sampling alone.
    """

    def __init__(self, main: int, errors: int, interval: float, floor: int, trace: bool) -> None:
        super().__init__(main, interval)
        self.status: int | None = None
        self.executed = False
        self.cpu_seconds = 0.0
        self._errors, self._floor, self._maxrss, self._was_seen_late = errors, floor, 0, False
        self._spent = 0.0  # seconds of a processor, on events
        self._threads: set[int] = set()  # all that are traced
        self._released: set[int] = set()  # of them, those to let go of
        self._kernel = ptrace.Kernel()
        self.traced = trace and self._kernel.ptrace(ptrace.SEIZE, main, ptrace.OPTIONS)
        if trace and not self.traced:
            self.note("tracing is refused here: figures are sampled, and short peaks may be missing")
        if not self.traced:
            self._kernel.adopt_orphans()  # they stay below this process, and are seen

    def is_over(self) -> bool:
        return self.status is not None

    def awaited(self) -> set[signal.Signals]:
        return {signal.SIGCHLD, *FORWARDED}

    def answer(self, number: int) -> None:
        if number in FORWARDED:
            os.kill(self.main, number)
        self._drain()

    def members(self) -> list[int]:
        if self.traced:
            return list(self.figures.live)
        if not self._has_executed():
            return []
        traced = [pid for pid in self.figures.live if pid in self._threads]
        return list(dict.fromkeys([*descendants([os.getpid()])[1:], *traced]))

    def _has_executed(self) -> bool:
        if not self.executed:
            try:
                self.executed = os.read(self._errors, 1) == b""
            except BlockingIOError:
                return False
        return self.executed

    def result(self) -> dict[str, object]:
        """Return the figures, settled with what the kernel reported at the end of each process."""
        peak, found = self.figures.peak_rss, super().result()
        if self._maxrss > self._floor or not (self.traced or self._was_seen_late) or peak == 0:
            peak = max(peak, self._maxrss)
            if self._maxrss <= self._floor:
                self.note("the command ended before it could be read: its peak is an upper bound, of this program")
        peaks = {"peak_rss_bytes": peak, "peak_tree_rss_bytes": max(peak, self.figures.peak_tree_rss)}
        return {**found, **peaks, "status": self.status, "cpu_seconds": self.cpu_seconds}

    def _drain(self) -> None:
        before = time.process_time()
        while self.status is None:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | ptrace.WALL)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                self._stopped(pid, os.WSTOPSIG(status), status >> 16)
            else:
                self._ended(pid, status, usage.ru_maxrss * KIB)
                self.cpu_seconds = usage.ru_utime + usage.ru_stime  # the command's, which is the last
        self._spent += time.process_time() - before

    def _ended(self, pid: int, status: int, maxrss: int) -> None:
        self._maxrss = max(self._maxrss, maxrss)
        self._threads.discard(pid)
        if pid == self.main:
            self.status = status
            process = self.figures.live.get(pid)  # what it was after its last sample is not known
            self._was_seen_late = process is not None and 2 * process.ended > self.seconds + process.began
        self.figures.ended(pid)

    def _stopped(self, pid: int, number: int, event: int) -> None:
        if pid == self.main and not self.executed:
            self.executed = event == ptrace.EVENT_EXEC
            if self.executed:
                self._appeared(pid)
        elif pid not in self._threads:
            self._appeared(pid)
        if event in ptrace.EVENTS_CHILD and (child := self._kernel.event_message(pid)) not in self._threads:
            self._appeared(child)  # its own first stop may come after the command has ended
        elif event == ptrace.EVENT_EXEC:
            self._execed(pid)
        elif event == ptrace.EVENT_EXIT and self.executed:
            self.figures.exiting(pid, self.seconds)
        self._go_on(pid, number, event)

    def _appeared(self, pid: int) -> None:
        self._threads.add(pid)
        if read_status(pid).get("Tgid") == pid:
            self.figures.appeared(pid, self.seconds)

    def _execed(self, pid: int) -> None:
        """Recognise a debugger, which could trace nothing itself, and a program that lost its privileges."""
        name = read_name(pid)
        if pid in self.figures.live:
            self.figures.live[pid].name = name
        if name in TRACERS:
            self.note(f"{name} traces by itself: it and what it runs are sampled, and short peaks may be missing")
            self._released.add(pid)
        elif os.geteuid() != 0 and is_setuid(f"/proc/{pid}/exe"):
            self.note(f"{name} is set-user-id, and has no privileges while it is traced; use --no-trace")

    def _go_on(self, pid: int, number: int, event: int) -> None:
        """Let a stopped process run, traced or not any more."""
        if event == ptrace.EVENT_STOP and number in STOP_SIGNALS:
            self._kernel.ptrace(ptrace.LISTEN, pid)  # stays stopped, as job control wants
            return
        if self._spent > TRACING_AHEAD_SECONDS + TRACING_SHARE * self.seconds and event != ptrace.EVENT_EXIT:
            self.note("tracing so many short processes would slow them: from then on they are sampled, not all counted")
            self._released.add(pid)
        request = ptrace.DETACH if pid in self._released else ptrace.CONT
        self._kernel.ptrace(request, pid, 0 if event else number)
        if request == ptrace.DETACH:
            self._released.remove(pid)
            self._threads.discard(pid)
            if self.traced:
                self.traced = False
                self._kernel.adopt_orphans()

def is_setuid(path: str) -> bool:
    """Tell whether a program runs as another user or group than the one who starts it."""
    try:
        return bool(os.stat(path).st_mode & SETUID)
    except OSError:
        return False

"""Run one command and watch the memory of its process tree; started as a program by `edgerev.tools.rss`.

`ru_maxrss` cannot be trusted for this: at exec the kernel keeps the high-water mark of the address space that is left
behind, so a child of a large parent reports the parent's size. `VmHWM` in ``/proc/<pid>/status`` belongs to the
address space that exec creates, but it is gone when the process is. So every process of the tree is traced
(`PTRACE_SEIZE`) and stops for some microseconds as it exits, which is when its final `VmHWM` is read. Between events
the tree is sampled, for the sum over processes that live at the same time.

Where tracing is refused (hardened kernels, some containers, emulators), the figures are the sampled `VmHWM` and the
`ru_maxrss` that wait4 reports. The second is right too if it exceeds what the command can have inherited from this
program, which is small because it is a fresh interpreter with few imports. That is why it is a program of its own,
and why it imports nothing from edgerev.

What it does badly: a process that grows, shrinks and replaces itself by exec between two samples shows only in
`ru_maxrss`; the kernel counts pages in batches, so figures may be off by some 128 KiB for each core; a set-user-id
program loses its privileges while traced; a debugger cannot be measured, since a process has one tracer.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from typing import Any, NoReturn

PTRACE_CONT, PTRACE_GETEVENTMSG, PTRACE_SEIZE, PTRACE_LISTEN = 7, 0x4201, 0x4206, 0x4208
OPTIONS = 0x02 | 0x04 | 0x08 | 0x10 | 0x40  # report fork, vfork, clone, exec and exit; descendants are traced alike
EVENTS_CHILD, EVENT_EXEC, EVENT_EXIT, EVENT_STOP = (1, 2, 3), 4, 6, 128  # the first are fork, vfork and clone
STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
WALL = 0x40000000  # __WALL: wait for threads too
PR_SET_CHILD_SUBREAPER = 36

# A terminal sends these to the command as well, which decides; the watcher goes on until the command ends.
IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

STATUS_KEYS = (b"Tgid", b"PPid", b"VmSize", b"VmHWM", b"VmRSS")
KIB = 1024
SHARED_SLACK_BYTES = 128 * KIB
FLOOR_SLACK_BYTES = 1024 * KIB
FIRST_INTERVAL = 0.001  # seconds; doubled until it reaches the interval asked for


def read_status(pid: int | str) -> dict[str, int]:
    """Read the identity and memory of a process from ``/proc/<pid>/status``.

    Parameters
    ----------
    pid : int or str
        Number of a process or thread, or "self".

    Returns
    -------
    dict
        `Tgid`, `PPid`, and in bytes `VmSize`, `VmHWM` and `VmRSS`; empty if the process is gone, without the last
        three if it has no memory any more.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    row = {}
    for line in lines:
        key, _, value = line.partition(b":")
        if key in STATUS_KEYS:
            number = int(value.split()[0])
            row[key.decode()] = number * KIB if key.startswith(b"Vm") else number
    return row


def read_pss(pid: int) -> int | None:
    """Return the proportional set size of a process in bytes, or None if it cannot be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * KIB
    except OSError:
        pass
    return None


def descendants(pid: int) -> list[int]:
    """Return `pid` and the processes below it, as the kernel lists them at this moment."""
    found = [pid]
    for parent in found:
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    found.extend(int(child) for child in file.read().split())
        except OSError:
            continue
    return found


def shares_memory(row: dict[str, int], parent: dict[str, int]) -> bool:
    """Tell whether a process still uses its parent's pages: between vfork (or fork) and exec.

    Counting such a process would count the parent twice.
    """
    return (
        bool(parent)
        and row["VmSize"] == parent.get("VmSize")
        and abs(row["VmRSS"] - parent["VmRSS"]) <= SHARED_SLACK_BYTES
    )


class Figures:
    """High-water marks of a process tree."""

    def __init__(self) -> None:
        self.peak_rss = 0
        self.peak_tree_rss = 0
        self.peak_tree_pss: int | None = None
        self._rss_at_pss = 0

    def see(self, row: dict[str, int]) -> None:
        """Take the high-water mark of one process into account."""
        self.peak_rss = max(self.peak_rss, row.get("VmHWM", 0))

    def sample(self, pids: list[int]) -> None:
        """Read all processes of the tree at (nearly) one moment."""
        rows = {pid: row for pid in pids if "VmRSS" in (row := read_status(pid))}
        total = 0
        for row in rows.values():
            self.see(row)
            if not shares_memory(row, rows.get(row["PPid"], {})):
                total += row["VmRSS"]
        self.peak_tree_rss = max(self.peak_tree_rss, total)
        # The kernel walks the page tables for PSS, which is slow: only where a new maximum may be.
        if total > 1.01 * self._rss_at_pss:
            self._rss_at_pss = total
            parts = [read_pss(pid) for pid in rows]
            known = [part for part in parts if part is not None]
            if known and len(known) == len(parts):
                self.peak_tree_pss = max(self.peak_tree_pss or 0, sum(known))


def load_libc() -> Any:
    """Return the C library, or None in a Python without ctypes."""
    try:
        import ctypes
    except ImportError:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    return libc


class Watcher:
    """Follows one command from its exec to its exit.

    Parameters
    ----------
    main : int
        Process that waits at the gate and will exec the command.
    errors : int
        Pipe that is closed when `main` has become the command; not blocking.
    floor : int
        Bytes of `ru_maxrss` that the command may have inherited from this program.
    trace : bool
        Whether to try tracing before sampling alone.
    """

    def __init__(self, main: int, errors: int, floor: int, trace: bool) -> None:
        self.main = main
        self.errors = errors
        self.floor = floor
        self.maxrss = 0
        self.figures = Figures()
        self.status: int | None = None
        self.executed = False
        self.threads: set[int] = set()
        self.live: set[int] = set()
        self.processes = {main}
        self._libc = load_libc()
        self.traced = trace and self._ptrace(PTRACE_SEIZE, main, OPTIONS)
        if not self.traced and self._libc is not None:
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans stay below this process, and are seen

    def _ptrace(self, request: int, pid: int, data: int) -> bool:
        return self._libc is not None and self._libc.ptrace(request, pid, None, data) == 0

    def _new_child(self, parent: int) -> int:
        from ctypes import byref, c_ulong, c_void_p, cast

        number = c_ulong()
        self._ptrace(PTRACE_GETEVENTMSG, parent, cast(byref(number), c_void_p).value or 0)
        return number.value

    def watch(self, interval: float) -> None:
        """Sample and answer events until the command has ended."""
        awaited = {signal.SIGCHLD, *FORWARDED}
        pause = min(interval, FIRST_INTERVAL)
        due = time.monotonic() + pause
        while self.status is None:
            event = signal.sigtimedwait(awaited, max(0.0, due - time.monotonic()))
            if event is not None and event.si_signo in FORWARDED:  # a wait that a stop cut short tells of signal 0
                os.kill(self.main, event.si_signo)
            self._drain()
            start = time.monotonic()
            if start >= due:
                self.sample()
                end = time.monotonic()
                pause = min(interval, 2 * pause)
                due = end + max(pause, 9 * (end - start))  # a tenth of the time at most

    def sample(self) -> None:
        """Read the whole tree once."""
        if not self.traced and self._has_executed():
            self.live = set(descendants(os.getpid())[1:])
            self.processes.update(self.live)
        self.figures.sample(sorted(self.live))

    def _has_executed(self) -> bool:
        if not self.executed:
            try:
                self.executed = os.read(self.errors, 1) == b""
            except BlockingIOError:
                return False
        return self.executed

    def result(self) -> dict[str, object]:
        """Return the figures, settled with what the kernel reported at the end of each process."""
        peak = self.figures.peak_rss
        if self.maxrss > self.floor or peak == 0:  # with nothing better, an upper bound
            peak = max(peak, self.maxrss)
        return {
            "peak_rss_bytes": peak,
            "peak_tree_rss_bytes": max(peak, self.figures.peak_tree_rss),
            "peak_tree_pss_bytes": self.figures.peak_tree_pss,
            "processes": len(self.processes),
            "left_running": len(self.live),
            "method": "trace" if self.traced else "sample",
        }

    def _drain(self) -> None:
        while self.status is None:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG | WALL)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if os.WIFSTOPPED(status):
                self._stopped(pid, os.WSTOPSIG(status), status >> 16)
            else:
                self._ended(pid, status, usage.ru_maxrss * KIB)

    def _ended(self, pid: int, status: int, maxrss: int) -> None:
        self.threads.discard(pid)
        self.live.discard(pid)
        self.maxrss = max(self.maxrss, maxrss)
        if pid == self.main:
            self.status = status

    def _stopped(self, pid: int, number: int, event: int) -> None:
        if pid == self.main and not self.executed:
            self.executed = event == EVENT_EXEC
            if self.executed:
                self._appeared(pid)
        elif pid not in self.threads:
            self._appeared(pid)
        if event in EVENTS_CHILD and (child := self._new_child(pid)) not in self.threads:
            self._appeared(child)  # its own first stop may come after the command has ended
        if event == EVENT_EXIT and self.executed:
            row = read_status(pid)
            self.figures.see(row)
            if pid in self.live:
                self.figures.sample(sorted(self.live))
        if event == EVENT_STOP and number in STOP_SIGNALS:
            self._ptrace(PTRACE_LISTEN, pid, 0)  # stays stopped, as job control wants
        else:
            self._ptrace(PTRACE_CONT, pid, 0 if event else number)

    def _appeared(self, pid: int) -> None:
        self.threads.add(pid)
        if read_status(pid).get("Tgid") == pid:
            self.live.add(pid)
            self.processes.add(pid)


def exec_command(command: list[str], gate: int, errors: int, mask: Iterable[int], kept: Iterable[int]) -> NoReturn:
    """Wait for the gate to open and become the command; on failure write the errno to `errors` and exit."""
    for number in (*IGNORED, signal.SIGPIPE, signal.SIGXFSZ):
        if number not in kept:
            signal.signal(number, signal.SIG_DFL)
    os.read(gate, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        os.write(errors, str(error.errno or 0).encode())
    finally:
        os._exit(127)


def run(command: list[str], interval: float, trace: bool) -> dict[str, object]:
    """Run the command and return its figures, or its errno if it could not be started.

    Parameters
    ----------
    command : list of str
        Program, looked up in PATH, and its arguments.
    interval : float
        Seconds between samples.
    trace : bool
        Whether to try tracing.
    """
    kept = {number for number in IGNORED if signal.getsignal(number) == signal.SIG_IGN}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *FORWARDED})
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    gate, opener = os.pipe()
    errors, reporter = os.pipe()
    floor = read_status("self").get("VmHWM", 0) + FLOOR_SLACK_BYTES
    main = os.fork()
    if main == 0:
        exec_command(command, gate, reporter, mask, kept)
    os.close(reporter)
    os.set_blocking(errors, False)
    watcher = Watcher(main, errors, floor, trace)
    start = time.monotonic()
    os.write(opener, b".")
    watcher.watch(interval)
    seconds = time.monotonic() - start
    failure = os.read(errors, 16)
    if failure:
        return {"errno": int(failure)}
    watcher.sample()
    return {"status": watcher.status, "seconds": seconds, **watcher.result()}


def main() -> None:
    """Read ``result_fd interval trace command...`` from the arguments and write the figures as JSON to the first."""
    result_fd, interval, trace = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "1"
    os.set_inheritable(result_fd, False)
    figures = run(sys.argv[4:], interval, trace)
    import json  # late, to keep this process small while the command is forked from it

    os.write(result_fd, json.dumps(figures).encode())


if __name__ == "__main__":
    main()

"""Run one command, or find one process, and watch the memory of its tree; started by `edgerev.tools.rss`.

`ru_maxrss` cannot be trusted for this: at exec the kernel keeps the high-water mark of the address space that is left
behind, so a child of a large parent reports the parent's size. `VmHWM` in ``/proc/<pid>/status`` belongs to the
address space that exec creates, but it is gone when the process is. So every process of a command's tree is traced
(`PTRACE_SEIZE`) and stops for some microseconds as it exits, which is when its final `VmHWM` is read. Between events
the tree is sampled, for the sum over processes that live at the same time.

Where tracing is refused (hardened kernels, some containers, emulators), the figures are the sampled `VmHWM` and the
`ru_maxrss` that wait4 reports. The second is right too if it exceeds what the command can have inherited from this
program, which is small because it is a fresh interpreter with few imports. A process that runs already is only
sampled: its own parent waits for it, and nobody's program should stop for this.

What it does badly: a process that grows, shrinks and replaces itself by exec between two samples shows only in
`ru_maxrss`; kernels from 6.2 to 6.15 count pages in batches, so figures may be off by some 128 KiB for each core; a
set-user-id program loses its privileges while traced by a user; a debugger that `command.TRACERS` does not name
cannot run, since a process has one tracer. The mappings at the peak are those of the largest sample that could be
afforded, at a time that is told.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from .command import FLOOR_SLACK_BYTES, FORWARDED, CommandWatcher, is_setuid
from .procfs import read_status
from .watcher import ProcessWatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NoReturn

# A terminal sends these to the command as well, which decides; the watcher goes on until the command ends.
IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


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


def watch_command(command: list[str], interval: float, trace: bool) -> dict[str, object]:
    """Run the command and return its figures, or its errno if it could not be started.

    Parameters
    ----------
    command : list of str
        Program, looked up in PATH, and its arguments.
    interval : float
        Least seconds between samples.
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
    privileged = os.geteuid() != 0 and is_setuid(find_program(command[0]))
    watcher = CommandWatcher(main, errors, interval, floor, trace and not privileged)
    if privileged:
        watcher.note(f"{command[0]} is set-user-id: figures are sampled, since tracing would take its privileges")
    os.write(opener, b".")
    watcher.watch()
    failure = os.read(errors, 16)
    if failure:
        return {"errno": int(failure)}
    watcher.sample()
    return watcher.result()


def find_program(name: str) -> str:
    """Return the file that a name stands for, as exec finds it; the name itself if there is none."""
    places = [os.path.join(folder, name) for folder in os.get_exec_path()] if "/" not in name else []
    return next((place for place in places if os.access(place, os.X_OK)), name)


def watch_process(pid: int, interval: float, seconds: float | None) -> dict[str, object]:
    """Follow a process and return its figures, or none of them if it has no memory.

    Parameters
    ----------
    pid : int
        Number of the process.
    interval : float
        Least seconds between samples.
    seconds : float or None
        When to stop at the latest.
    """
    if "VmRSS" not in read_status(pid):
        return {"missing": True}
    watcher = ProcessWatcher(pid, interval, seconds)
    watcher.sample()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watcher.watch()
    return watcher.result()


def main(arguments: list[str]) -> None:
    """Write the figures as JSON to a file descriptor.

    Parameters
    ----------
    arguments : list of str
        ``result_fd interval command trace|sample COMMAND...``, or ``result_fd interval process PID SECONDS|-``.
    """
    result_fd, interval, what, how, *rest = arguments
    os.set_inheritable(int(result_fd), False)
    if what == "command":
        figures = watch_command(rest, float(interval), how == "trace")
    else:
        figures = watch_process(int(how), float(interval), None if rest[0] == "-" else float(rest[0]))
    figures["watcher_cpu_seconds"] = time.process_time()
    import json  # late, to keep this process small while the command is forked from it

    try:
        with open(int(result_fd), "w") as file:
            json.dump(figures, file)
    except BrokenPipeError:  # whoever asked is gone
        sys.exit(1)

"""Peak memory of a command and its children, never inherited from whoever asks.

The work is done by `edgerev.tools.process_tree`, in a fresh interpreter: see there how, and what it does badly.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from edgerev.errors import EdgerevError, UsageError
from edgerev.units import format_bytes

LIMIT_EXIT_CODE = 3


class CommandError(UsageError):
    """The command to measure could not be started; exits as a shell would."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class RssResult:
    """What a command and its children used.

    Attributes
    ----------
    command : list of str
        The command as given.
    exit_code : int
        Its own exit code, or 128 plus the number of the signal that ended it.
    signal : str or None
        Name of that signal.
    seconds : float
        Wall time from exec to exit.
    peak_rss_bytes : int
        Largest resident size of any single process.
    peak_tree_rss_bytes : int
        Largest sum over processes alive at the same time, as sampled; pages shared by several count several times.
    peak_tree_pss_bytes : int or None
        The same with shared pages counted once, sampled at maxima only; None where the kernel hides it.
    processes : int
        How many processes were seen.
    left_running : int
        How many were still running when the command ended; counted up to then.
    method : str
        "trace" if every process was stopped and read as it exited; "sample" if short peaks may be missed.
    limit_bytes : int or None
        Most bytes that `peak_tree_rss_bytes` should reach.
    """

    command: list[str]
    exit_code: int
    signal: str | None
    seconds: float
    peak_rss_bytes: int
    peak_tree_rss_bytes: int
    peak_tree_pss_bytes: int | None
    processes: int
    left_running: int
    method: str
    limit_bytes: int | None = None

    @property
    def within_limit(self) -> bool:
        """Whether the whole tree stayed within the limit, if there is one."""
        return self.limit_bytes is None or self.peak_tree_rss_bytes <= self.limit_bytes

    def to_json(self) -> str:
        """Render as one JSON object."""
        return json.dumps(asdict(self) | {"within_limit": self.within_limit}, indent=2)

    def to_text(self) -> str:
        """Render for a terminal."""
        ended = f"killed by {self.signal}" if self.signal else f"exit code {self.exit_code}"
        rows = [("peak RSS, largest process", format_bytes(self.peak_rss_bytes))]
        rows.append(("peak RSS, all processes", format_bytes(self.peak_tree_rss_bytes)))
        if self.peak_tree_pss_bytes is not None:
            rows.append(("peak PSS, all processes", format_bytes(self.peak_tree_pss_bytes)))
        running = f" ({self.left_running} left running)" if self.left_running else ""
        rows.append(("processes", f"{self.processes}{running}"))
        rows.append(("time", f"{self.seconds:.3f} s"))
        rows.append(("command", f"{shlex.join(self.command)}: {ended}"))
        if self.limit_bytes is not None:
            verdict = "kept" if self.within_limit else "PASSED"
            rows.append(("limit", f"{format_bytes(self.limit_bytes)}: {verdict}"))
        if self.method == "sample":
            rows.append(("note", "processes were not traced: figures are sampled, short peaks may be missing"))
        return "\n".join(f"{name:<26} {value}" for name, value in rows)


def measure(
    command: Sequence[str],
    *,
    limit_bytes: int | None = None,
    interval_seconds: float = 0.02,
    trace: bool = True,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    cwd: str | Path | None = None,
    env: dict[str, str] | None = None,
    forward_signals: bool = False,
) -> RssResult:
    """Run a command to its end and return the peak memory of its process tree.

    Parameters
    ----------
    command : sequence of str
        Program, looked up in PATH, and its arguments.
    limit_bytes : int, optional
        Limit to compare with; the command is not stopped when it passes it.
    interval_seconds : float
        Time between samples of the whole tree. Peaks of single processes do not depend on it when tracing works.
    trace : bool
        False to sample only, as for commands that are debuggers themselves.
    stdout, stderr : int or file, optional
        Where the command's output goes, as for `subprocess.Popen`, but not PIPE; inherited by default.
    cwd : str or Path, optional
        Folder to run in.
    env : dict, optional
        Environment to run with.
    forward_signals : bool
        Hand SIGTERM and SIGHUP on to the command, and outlive an interrupt from the keyboard, which the terminal
        sends to the command as well. For programs that are about this measurement alone.

    Raises
    ------
    CommandError
        If the command does not exist or cannot be executed.
    """
    if not command:
        raise UsageError("no command to measure: give one, as in `edgerev rss -- python train.py`")
    receiver, sender = os.pipe()
    helper = Path(__file__).with_name("process_tree.py")
    arguments = [str(sender), repr(interval_seconds), str(int(trace)), *command]
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(helper), *arguments],
            pass_fds=[sender], stdout=stdout, stderr=stderr, cwd=cwd, env=env,
        )  # fmt: skip
    except BaseException:
        os.close(receiver)
        raise
    finally:
        os.close(sender)
    with open(receiver, "rb") as pipe, _watched(process, forward_signals):
        answer = pipe.read()
        process.wait()
    if not answer:
        raise EdgerevError(
            f"the measurement of {command[0]!r} ended early (exit code {process.returncode}); run it again, or with "
            f"--no-trace if {command[0]!r} traces or kills other processes"
        )
    return _result(list(command), json.loads(answer), limit_bytes)


def _result(command: list[str], figures: dict, limit_bytes: int | None) -> RssResult:
    if "errno" in figures:
        reason = os.strerror(figures["errno"])
        missing = figures["errno"] == 2
        hint = "check its spelling and PATH" if missing else "check that it is a program and may be executed"
        raise CommandError(f"cannot run {command[0]!r}: {reason}; {hint}", 127 if missing else 126)
    code = os.waitstatus_to_exitcode(figures.pop("status"))
    name = signal.Signals(-code).name if code < 0 else None
    return RssResult(
        command=command, exit_code=128 - code if code < 0 else code, signal=name, limit_bytes=limit_bytes, **figures
    )


@contextmanager
def _watched(process: subprocess.Popen, forward: bool) -> Iterator[None]:
    """Hand signals on to the helper, and leave no command behind when the caller is interrupted."""
    forward = forward and threading.current_thread() is threading.main_thread()
    handlers = {}
    try:
        if forward:
            for number in (signal.SIGTERM, signal.SIGHUP):
                handlers[number] = signal.signal(number, lambda number, _: process.send_signal(number))
            handlers[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: None)
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for number, handler in handlers.items():
            signal.signal(number, handler)

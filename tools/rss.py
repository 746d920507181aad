"""Peak memory of a command or a running process with its children, never inherited from whoever asks.

The work is done by `edgerev.tools.watch`, in a fresh interpreter: see there (`main`) how, and what it does badly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from edgerev.errors import EdgerevError, UsageError
from edgerev.tools.cgroup import CgroupPeak
from edgerev.tools.rss_result import RssResult

LIMIT_EXIT_CODE = 3
INTERVAL_SECONDS = 0.02
START = "import sys; sys.path.append(sys.argv[1]); from tools.watch.main import main; main(sys.argv[2:])"


class CommandError(UsageError):
    """The command to measure could not be started; exits as a shell would."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def measure(
    command: Sequence[str],
    *,
    limit_bytes: int | None = None,
    interval_seconds: float = INTERVAL_SECONDS,
    trace: bool = True,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    cwd: str | Path | None = None,
    env: dict[str, str] | None = None,
    forward_signals: bool = False,
) -> RssResult:
    """Run a command to its end and return the memory of its process tree.

    Parameters
    ----------
    command : sequence of str
        Program, looked up in PATH, and its arguments.
    limit_bytes : int, optional
        Limit to compare with; the command is not stopped when it passes it.
    interval_seconds : float
        Least time between samples of the whole tree; where a sample takes long, they are fewer. Peaks of single
        processes do not depend on it when tracing works.
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
    words = ["command", "trace" if trace else "sample", *command]
    handlers: dict[int, int | None] = {}
    if forward_signals:
        handlers = {signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGHUP, signal.SIGINT: None}
    with CgroupPeak() as group:
        figures = _watch(words, interval_seconds, handlers, stdout=stdout, stderr=stderr, cwd=cwd, env=env)
    if figures is None:
        raise EdgerevError(
            f"the measurement of {command[0]!r} ended early; run it again, or with --no-trace if {command[0]!r} traces "
            "or kills other processes"
        )
    if "errno" in figures:
        reason, missing = os.strerror(figures["errno"]), figures["errno"] == 2
        hint = "check its spelling and PATH" if missing else "check that it is a program and may be executed"
        raise CommandError(f"cannot run {command[0]!r}: {reason}; {hint}", 127 if missing else 126)
    code = os.waitstatus_to_exitcode(figures.pop("status"))
    return RssResult(
        command=list(command),
        exit_code=128 - code if code < 0 else code,
        signal=signal.Signals(-code).name if code < 0 else None,
        attached_pid=None,
        peak_cgroup_bytes=group.bytes,
        limit_bytes=limit_bytes,
        **figures,
    )


def attach(
    pid: int,
    *,
    seconds: float | None = None,
    limit_bytes: int | None = None,
    interval_seconds: float = INTERVAL_SECONDS,
    forward_signals: bool = False,
) -> RssResult:
    """Follow a running process and those below it until it ends, and return their memory.

    It is only sampled, so it is neither stopped nor slowed; `peak_rss_bytes` counts from its own beginning.

    Parameters
    ----------
    pid : int
        Number of the process.
    seconds : float, optional
        When to stop following, if it has not ended by then.
    limit_bytes, interval_seconds : see `measure`
    forward_signals : bool
        Stop following at SIGINT, SIGTERM and SIGHUP, and return what was measured up to then.

    Raises
    ------
    UsageError
        There is no such process, or it has no memory of its own.
    """
    command = _command_of(pid)
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if forward_signals else ()
    words = ["process", str(pid), "-" if seconds is None else repr(seconds)]
    figures = _watch(words, interval_seconds, dict.fromkeys(numbers, signal.SIGTERM))
    if figures is None:
        raise EdgerevError(f"following process {pid} ended early; run it again")
    if "missing" in figures:
        raise UsageError(f"there is no process {pid} with memory of its own; `ps -e` lists those that run")
    return RssResult(
        command=command, exit_code=None, signal=None, attached_pid=pid, cpu_seconds=None, peak_cgroup_bytes=None,
        limit_bytes=limit_bytes, **figures,
    )  # fmt: skip


def _command_of(pid: int) -> list[str]:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).rstrip("\0").split("\0")
    except OSError:
        return []


def _watch(
    words: list[str], interval_seconds: float, handlers: dict[int, int | None], **options: Any
) -> dict[str, Any] | None:
    """Start the watcher and return what it writes, or None if it ends without a word.

    Parameters
    ----------
    words : its arguments
    handlers : signals that the watcher is to get when they come here, by what it gets; None for nothing
    options : of `subprocess.Popen`
    """
    receiver, sender = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", START, str(Path(__file__).parents[1])]
    try:
        command += [str(sender), repr(interval_seconds), *words]
        process = subprocess.Popen(command, pass_fds=[sender], **options)
    except BaseException:
        os.close(receiver)
        raise
    finally:
        os.close(sender)
    with open(receiver, "rb") as pipe, _watched(process, handlers):
        answer = pipe.read()
        process.wait()
    return json.loads(answer) if answer else None


@contextmanager
def _watched(process: subprocess.Popen, handlers: dict[int, int | None]) -> Iterator[None]:
    """Hand signals on to the watcher, and leave no command behind when the caller is interrupted."""
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number, handed_on in handlers.items():
                before[number] = signal.signal(number, _hand_on(process, handed_on))
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _hand_on(process: subprocess.Popen, number: int | None) -> Any:
    return lambda *_: None if number is None else process.send_signal(number)

"""What ``/proc`` tells about the memory of processes and their children."""

from __future__ import annotations

import os

KIB = 1024
STATUS_NUMBERS = (b"Tgid", b"PPid", b"VmSize", b"VmHWM", b"VmRSS", b"VmSwap")
SHARED_SLACK_BYTES = 128 * KIB
PIECE_BYTES = 1 << 16

Row = dict[str, int]


def read_file(path: str) -> bytes | None:
    """Return the content of a file below ``/proc``, or None if it, or its process, is gone or hidden."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pieces = [os.read(fd, PIECE_BYTES)]
        while pieces[-1]:
            pieces.append(os.read(fd, PIECE_BYTES))
        return b"".join(pieces)
    except OSError:
        return None
    finally:
        os.close(fd)


def read_status(pid: int | str) -> Row:
    """Read the identity and memory of a process from ``/proc/<pid>/status``.

    Parameters
    ----------
    pid : int or str
        Number of a process or thread, or "self".

    Returns
    -------
    dict
        `Tgid`, `PPid`, and in bytes `VmSize`, `VmHWM`, `VmRSS` and `VmSwap`; empty if the process is gone, without
        the last four if it has no memory any more, without `VmSwap` if the kernel cannot swap.
    """
    text = read_file(f"/proc/{pid}/status") or b""
    row = {}
    for key in STATUS_NUMBERS:
        place = text.find(b"\n%b:" % key)
        if place >= 0:
            number = int(text[place + len(key) + 2 : text.index(b"\n", place + 1)].split()[0])
            row[key.decode()] = number * KIB if key.startswith(b"Vm") else number
    return row


def read_name(pid: int) -> str:
    """Return the name of a process, 15 bytes of its program's at most, or "?" if it is gone."""
    return (read_file(f"/proc/{pid}/comm") or b"?").decode(errors="replace").rstrip("\n")


def read_start(pid: int) -> bytes | None:
    """Return when a process began, which tells it from a later one of the same number; None if it has ended."""
    text = read_file(f"/proc/{pid}/stat")
    fields = text.rpartition(b")")[2].split() if text else [b"X"]  # the name, in parentheses, may hold anything
    return None if fields[0] in (b"Z", b"X") else fields[19]


def read_pss(pid: int) -> int | None:
    """Return the proportional set size of a process in bytes, or None if it cannot be read."""
    text = read_file(f"/proc/{pid}/smaps_rollup") or b""
    place = text.find(b"\nPss:")
    return int(text[place + 5 :].split(None, 1)[0]) * KIB if place >= 0 else None


def descendants(pids: list[int]) -> list[int]:
    """Return processes and all that are below them, as the kernel lists them at this moment."""
    found = dict.fromkeys(pids)
    waiting = list(found)
    for parent in waiting:
        for child in _children(parent):
            if child not in found:
                found[child] = None
                waiting.append(child)
    return waiting


def _children(parent: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{parent}/task")
    except OSError:
        return []
    lists = [read_file(f"/proc/{parent}/task/{thread}/children") for thread in threads]
    return [int(child) for text in lists if text for child in text.split()]


def shares_memory(row: Row, parent: Row) -> bool:
    """Tell whether a process still uses its parent's pages: between vfork (or fork) and exec.

    Counting such a process would count the parent twice.
    """
    return (
        bool(parent)
        and row["VmSize"] == parent.get("VmSize")
        and abs(row["VmRSS"] - parent["VmRSS"]) <= SHARED_SLACK_BYTES
    )

"""Reading facts about this machine from ``/proc``, ``/sys`` and the environment, with the standard library alone.

A training process imports this, and `pathlib` costs it 0.6 MB: so paths are names here.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from edgerev.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

Name = str | os.PathLike[str]

PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0
ARENA_NAME = b"edgerev arena"


def read_text(path: Name) -> str | None:
    """Return the stripped text of a file, or None if it cannot be read.

    Parameters
    ----------
    path : str or os.PathLike
        A small file, as below ``/proc``.
    """
    try:
        with open(path, errors="replace") as file:
            return file.read().replace("\0", "").strip()
    except OSError:
        return None


def read_number(path: Name) -> int | None:
    """Return the integer in a file, or None if there is none.

    Parameters
    ----------
    path : str or os.PathLike
        A small file, as below ``/sys``.
    """
    text = read_text(path)
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def read_fields(path: Name) -> dict[str, str]:
    """Return the first value of each ``key: value`` line of a file; empty if it cannot be read.

    Parameters
    ----------
    path : str or os.PathLike
        A file such as ``/proc/cpuinfo``.
    """
    fields: dict[str, str] = {}
    for line in (read_text(path) or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    return fields


def parse_cores(text: str) -> int:
    """Count the cores in a list such as ``0-3,6``.

    Parameters
    ----------
    text : str
        A list as the kernel writes it.
    """
    ranges = [part.partition("-") for part in text.split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def cgroup_folders(root: Name) -> list[str]:
    """Return the folders of this process's control group (version 2), from its own up to the root group.

    Parameters
    ----------
    root : str or os.PathLike
        Where ``proc`` and ``sys`` lie.
    """
    mount = os.path.join(root, "sys/fs/cgroup")
    for line in (read_text(os.path.join(root, "proc/self/cgroup")) or "").splitlines():
        if line.startswith("0::"):
            own = os.path.normpath(os.path.join(mount, line[3:].lstrip("/")))
            folders = [own]
            while folders[-1].startswith(mount + "/"):
                folders.append(os.path.dirname(folders[-1]))
            return [folder for folder in folders if folder == mount or folder.startswith(mount + "/")]
    return []


class Memory(NamedTuple):
    """Memory of this machine, in bytes; `limit_bytes` is the control group's, or None."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None


def read_memory(root: Name = "/") -> Memory | None:
    """Return the memory that is left without swapping, here and in the control group; None if it is not known.

    Parameters
    ----------
    root : str or os.PathLike
        Where ``proc`` and ``sys`` lie.
    """
    info = read_fields(os.path.join(root, "proc/meminfo"))
    if "MemTotal" not in info:
        return None
    total = int(info["MemTotal"].split()[0]) << 10
    available = int(info.get("MemAvailable", info["MemTotal"]).split()[0]) << 10
    limit = None
    for folder in cgroup_folders(root):
        most = read_number(os.path.join(folder, "memory.max"))
        if most is not None:
            limit = min(limit or most, most)
            used = (read_number(os.path.join(folder, "memory.current")) or 0) - _file_cache(folder)
            available = min(available, max(0, most - max(0, used)))
    return Memory(total, available, limit)


def _file_cache(folder: str) -> int:
    """Return the bytes of files that a control group keeps in memory, which it gives up when asked for memory."""
    rows = (line.split() for line in (read_text(os.path.join(folder, "memory.stat")) or "").splitlines())
    return sum(int(row[1]) for row in rows if row[0] in ("active_file", "inactive_file"))


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for things that can be made again: converted data, compiled kernels.

    Parameters
    ----------
    environ : mapping
        Environment; `XDG_CACHE_HOME` and `HOME` count, in this order.

    Raises
    ------
    UsageError
        There is no home folder.
    """
    from pathlib import Path

    base = environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path(environ.get("HOME") or Path.home()) / ".cache") / "edgerev"
    except RuntimeError as error:
        raise UsageError(
            "no home folder to keep kernels and converted data in; expected one; set XDG_CACHE_HOME to a folder"
        ) from error


def release_freed() -> None:
    """Give freed memory back to the system: the GNU C library keeps megabytes of it; others have no such call."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def mark_arena(memory: mmap.mmap, address: int) -> None:
    """Let tools tell the arena from other memory: by a mark, and by a name where the kernel keeps names.

    The mark keeps the arena out of core dumps, where gigabytes of it would fill a device's disk.

    Parameters
    ----------
    memory : mmap.mmap
        The arena.
    address : int
        Where it begins.
    """
    with contextlib.suppress(OSError):  # a kernel, or an emulator, without it
        memory.madvise(mmap.MADV_DONTDUMP)
    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p]
    prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, len(memory), ARENA_NAME)  # most kernels say no

"""What the memory of processes is made of: ``/proc/<pid>/smaps``, summed by kind and name."""

from __future__ import annotations

import re

from .procfs import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_ROWS = 24
ARENA_NAME = b"[anon:edgerev arena]"
ARENA_FLAGS = {b"rd", b"wr", b"mr", b"mw", b"me", b"ac", b"dd", b"sd", b"nh", b"hg"}
KERNELS = re.compile(rb"/edgerev/kernels/libraries/|/libllvmlite\.so")  # of a wheel, or what compiles them here
DELETED = b" (deleted)"

HEADER = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ (\S{4}) [0-9a-f]+ \S+ (\d+) *(.*)$", re.MULTILINE)
NUMBERS = re.compile(rb"^(Rss|Pss|Swap): +(\d+) kB$", re.MULTILINE)
FLAGS = re.compile(rb"^VmFlags: (.*)$", re.MULTILINE)


def classify(permissions: bytes, inode: bytes, name: bytes, flags: set[bytes], has_kernels: bool) -> tuple[str, str]:
    """Return kind and name of a mapping.

    An arena has a name where the kernel knows names (5.17, if configured). Elsewhere it is told by its mark: memory
    that is kept out of core dumps, and not locked, in a process that has edgerev's kernels.

    Parameters
    ----------
    permissions, inode, name : bytes
        Fields of the mapping's first line.
    flags : set of bytes
        Its `VmFlags`.
    has_kernels : bool
        Whether the process has edgerev's kernels loaded.
    """
    if name == ARENA_NAME or (not name and has_kernels and b"dd" in flags and b"wr" in flags and flags <= ARENA_FLAGS):
        return "arena", "edgerev arena"
    if name == b"[heap]":
        return "heap", "heap"
    if name.startswith((b"[stack", b"[anon:stack", b"[anon: glibc: pthread stack")):
        return "stack", "stacks"
    if name.startswith(b"[anon"):
        return "anonymous", name.strip(b"[]").partition(b":")[2].strip().decode(errors="replace")
    if name.startswith(b"["):
        return "others", name.decode(errors="replace")
    if not name:
        return "anonymous", "anonymous"
    text = name.removesuffix(DELETED).decode(errors="replace")
    if inode == b"0" or text.startswith(("/dev/shm/", "/memfd:", "/SYSV", "/dev/zero")) or permissions.endswith(b"s"):
        return "shared", text
    return "file", text


def add_mappings(smaps: bytes, sums: dict[tuple[str, str], list[int]]) -> None:
    """Add the mappings of one process to sums of RSS, PSS and swap in bytes.

    Parameters
    ----------
    smaps : bytes
        Content of the file.
    sums : dict
        By kind and name; written in place.
    """
    has_kernels = KERNELS.search(smaps) is not None
    headers = list(HEADER.finditer(smaps))
    ends = [header.start() for header in headers[1:]] + [len(smaps)]
    for header, end in zip(headers, ends):
        numbers = {key: int(value) * KIB for key, value in NUMBERS.findall(smaps, header.end(), end)}
        sizes = [numbers.get(key, 0) for key in (b"Rss", b"Pss", b"Swap")]
        if any(sizes):
            shown = FLAGS.search(smaps, header.end(), end)
            permissions, inode, name = header.groups()
            kind = classify(permissions, inode, name, set(shown[1].split()) if shown else set(), has_kernels)
            row = sums.setdefault(kind, [0, 0, 0])
            row[:] = map(sum, zip(row, sizes))


def breakdown(texts: list[bytes]) -> list[dict[str, Any]]:
    """Return what processes consist of, largest share first; of many, the smaller of a kind are in one row.

    Parameters
    ----------
    texts : list of bytes
        ``/proc/<pid>/smaps`` of each.
    """
    sums: dict[tuple[str, str], list[int]] = {}
    for text in texts:
        add_mappings(text, sums)
    ordered = sorted(sums.items(), key=lambda item: (-item[1][1] - item[1][2], item[0]))
    rows = dict(ordered[:MOST_ROWS])
    for (kind, _), sizes in ordered[MOST_ROWS:]:
        row = rows.setdefault((kind, "smaller ones"), [0, 0, 0])
        row[:] = map(sum, zip(row, sizes))
    return [
        {"kind": kind, "name": name, "rss_bytes": rss, "pss_bytes": pss, "swap_bytes": swap}
        for (kind, name), (rss, pss, swap) in rows.items()
    ]

"""The high-water mark that the kernel keeps for a control group (version 2)."""

from __future__ import annotations

import os
from types import TracebackType

from edgerev.machine import Name, cgroup_folders


class CgroupPeak:
    """What the memory of this process's control group reaches while a `with` block runs.

    Since Linux 6.12 a file of the mark that is held open can be set back; before, the mark is that of the group's
    whole life, and tells of this block only if it rose.

    Parameters
    ----------
    root : str or os.PathLike
        Where ``proc`` and ``sys`` lie.
    """

    def __init__(self, root: Name = "/") -> None:
        self.bytes: int | None = None
        folders = cgroup_folders(root)
        self._path = os.path.join(folders[0], "memory.peak") if folders else ""
        self._fd: int | None = None
        self._before: int | None = None

    def __enter__(self) -> CgroupPeak:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            os.write(self._fd, b"\n")
            self._before = -1
        except OSError:
            self._open_unchanged()
        return self

    def _open_unchanged(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = None
        self._before = self._read()

    def _read(self) -> int | None:
        try:
            text = os.pread(self._fd, 64, 0).strip() if self._fd is not None else b""
        except OSError:
            return None
        return int(text) if text.isdigit() else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        after = self._read()
        if after is not None and self._before is not None and after > self._before:
            self.bytes = after
        if self._fd is not None:
            os.close(self._fd)

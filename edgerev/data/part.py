"""A file that is being fetched: what of it has come, and from where, so that it can go on after an interruption.

The bytes lie in NAME.part, and in NAME.part.json the address they came from. Nothing has the final name before it is
whole and verified.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import NamedTuple

from edgerev.data.known import RemoteFile
from edgerev.errors import DataError
from edgerev.files import fsync_folder, open_exclusive, unlink_own, write_all, write_whole

BLOCK_BYTES = 1 << 16


class Origin(NamedTuple):
    """Where a part came from.

    Attributes
    ----------
    url : the address; empty if it is not known
    validator : ETag or time of change that the server gave, for If-Range; empty if none
    total_bytes : size of the whole file as the server says; None if it does not
    """

    url: str = ""
    validator: str = ""
    total_bytes: int | None = None


class Part:
    """What has come of one file, locked against other processes until it is closed.

    Parameters
    ----------
    target : Path
        The final name.

    Attributes
    ----------
    size : bytes that have come
    origin : where from

    Raises
    ------
    DataError
        Another process is fetching this file.
    OSError
        It cannot be written.
    """

    def __init__(self, target: Path) -> None:
        self.target, self.path = target, f"{target}.part"
        self._note = f"{target}.part.json"
        try:
            self._fd = open_exclusive(self.path, wait=False, keep=True)
        except BlockingIOError as error:
            raise DataError(
                f"{self.path} is in use; expected no other process that fetches this file; wait for it"
            ) from error
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        self.origin = self._read_note()
        if not self.origin.url:
            self.clear()

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *error: object) -> None:
        if not self.size:
            self._drop_note()
            unlink_own(self._fd, self.path)
        os.close(self._fd)

    def has_all(self, url: str) -> bool:
        """Return whether all that the server at an address has is there, as far as it told."""
        return self.origin.url == url and self.size == self.origin.total_bytes

    def begin(self, origin: Origin) -> None:
        """Drop what is there, and note where the new bytes come from, before the first of them."""
        self.clear()
        write_whole(self._note, [json.dumps(origin._asdict()).encode()])
        self.origin = origin

    def clear(self) -> None:
        """Drop what is there."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self.size, self.origin = 0, Origin()

    def write(self, block: bytes) -> None:
        """Append bytes."""
        write_all(self._fd, memoryview(block))
        self.size += len(block)

    def finish(self) -> None:
        """Give the file its final name, to last."""
        os.fsync(self._fd)
        os.replace(self.path, self.target)
        fsync_folder(os.path.dirname(self.path) or ".")
        self._drop_note()

    def _drop_note(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._note)

    def _read_note(self) -> Origin:
        """Return what was noted; nothing if that is damaged, for then the bytes are of no use either."""
        try:
            origin = Origin(**json.loads(Path(self._note).read_bytes()))
        except (OSError, ValueError, TypeError):
            return Origin()
        total = origin.total_bytes
        fits = isinstance(origin.url, str) and isinstance(origin.validator, str) and isinstance(total, int | None)
        return origin if fits and self.size <= (self.size if total is None else total) else Origin()


def content_problem(path: str | os.PathLike[str], file: RemoteFile, packed: bool) -> str:
    """Return what is wrong with the content of a file, or nothing if it is the right one.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    file : RemoteFile
        What it should be.
    packed : bool
        Whether to unpack it; no more than its size is unpacked, whatever is in it.

    Raises
    ------
    OSError
        It cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with gzip.open(path) if packed else open(path, "rb") as content:
            while block := content.read(BLOCK_BYTES):
                size += len(block)
                if size > file.content_bytes:
                    return f"holds more than {file.content_bytes:,d} B"
                digest.update(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return f"is no whole gzip file ({error})"
    if digest.hexdigest() != file.sha256:
        return f"has {size:,d} B of sha256 {digest.hexdigest()}, not {file.content_bytes:,d} B of {file.sha256}"
    return ""

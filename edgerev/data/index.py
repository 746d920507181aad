"""A choice of records as a file of their places, 4 bytes each, and the descriptors that records are read through."""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable

from edgerev.errors import DataError
from edgerev.files import read_at, write_all

CHUNK = 16384
MAX_PLACES = 1 << 32


class SharedFile:
    """A descriptor for reading, shared by a set and its subsets and closed with the last of them.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    DataError
        If it cannot be opened.
    """

    def __init__(self, path: str):
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot open {path} ({error}); expected a file of records; check the path") from error
        weakref.finalize(self, os.close, self.fd)


class Index:
    """Places of records, in a file without a name that is gone when this object is.

    Parameters
    ----------
    folder : str
        Where the file lies.
    places : iterable of int
        0 to 2^32 - 1; consumed in blocks.

    Raises
    ------
    DataError
        If the file cannot be written.
    """

    def __init__(self, folder: str, places: Iterable[int]):
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                self.fd = os.dup(file.fileno())
            weakref.finalize(self, os.close, self.fd)
            self.count = self._write(places)
        except OSError as error:
            raise DataError(
                f"cannot write an index file in {folder} ({error}); it needs 4 bytes per sample chosen; free some "
                "space, or pass folder= with one that can be written"
            ) from error

    def __getitem__(self, position: int) -> int:
        """Give the place at a position, 0 to count - 1, unchecked."""
        place = array("I", [0])
        read_at(self.fd, memoryview(place), position * place.itemsize)
        return place[0]

    def _write(self, places: Iterable[int]) -> int:
        count = 0
        chunk = array("I")
        for place in places:
            chunk.append(place)
            if len(chunk) == CHUNK:
                write_all(self.fd, memoryview(chunk).cast("B"))
                count += len(chunk)
                chunk = array("I")
        if chunk:
            write_all(self.fd, memoryview(chunk).cast("B"))
        return count + len(chunk)

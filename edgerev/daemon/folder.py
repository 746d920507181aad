"""The daemon's door for files: a folder that is looked at every few seconds.

Looking is a `scandir` every few seconds rather than inotify: it works over NFS, misses nothing that came while the
daemon was away, and costs one system call for a folder that is empty. A file is taken in or refused as a whole: every
row is checked before the first is taken in. How many rows were taken in is written in the transaction that takes them
in, beside a checksum of the file, so a power cut in the middle of it neither loses nor repeats a row.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from edgerev.daemon.intake import Intake, Part
from edgerev.daemon.rows import read_rows
from edgerev.daemon.service import Service
from edgerev.daemon.settings import FolderTable
from edgerev.errors import DataError, StoreError, UsageError
from edgerev.files import fsync_folder, write_whole

KINDS = (".csv", ".npz")
NOTE = "folder "  # before the name of a file
MOST_ROWS, MOST_VALUES = 256, 1 << 15  # in one transaction
AGAIN_SECONDS = 60.0  # after which a file that could not be read or moved is tried again
READ_BYTES = 1 << 16
Face = tuple[int, int, int]  # inode, size and time of a file


class Folder:
    """Takes in the files of a folder, in the order of their names.

    Raises
    ------
    UsageError
        There is no such folder.
    """

    def __init__(self, service: Service, table: FolderTable) -> None:
        if not os.path.isdir(table.path):
            raise UsageError(f"serve.folder.path {table.path!r}: expected a folder; make it, or name another")
        self._service, self._table = service, table
        fitting = min(MOST_ROWS, MOST_VALUES // service.values.elements, service.store.most_samples // 2)
        self._rows_at_once = max(1, fitting)
        self._stopping = threading.Event()
        self._intake = Intake(service, "folder", self._stopping)
        self._seen: dict[str, Face] = {}
        self._later: dict[str, float] = {}  # when to try a file again
        self._problem = ""
        self._forget_done()
        self._thread = threading.Thread(target=self._run, name="folder")

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a file that is half taken in is gone on with at the next start."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._table.seconds):
            self._look()

    def _forget_done(self) -> None:
        """Drop the notes on files that were moved just before the power went: others may come by their names."""
        there = {NOTE + _storable(name) for name in os.listdir(self._table.path)}
        for note, text in self._service.store.notes(NOTE).items():
            _, done, total = text.split()
            if done == total and note not in there:
                self._service.store.put([], {note: ""})

    def _path(self, *names: str) -> str:
        return os.path.join(self._table.path, *names)

    # -- looking ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        try:
            found = dict(self._files())
        except OSError as error:
            if str(error) != self._problem:
                self._tell("folder_unreadable", logging.WARNING, message=str(error))
            self._problem = str(error)
            return
        self._problem = ""
        now = time.monotonic()
        self._later = {name: when for name, when in self._later.items() if name in found and when > now}
        for name in sorted(found):
            if found[name] == self._seen.get(name) and name not in self._later and not self._stopping.is_set():
                self._handle(name)
        self._seen = found

    def _files(self) -> Iterator[tuple[str, Face]]:
        with os.scandir(self._table.path) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".")  # a writer's, not finished
                if not hidden and entry.name.endswith(KINDS) and entry.is_file(follow_symlinks=False):
                    yield entry.name, _face(entry)

    def _handle(self, name: str) -> None:
        try:
            rows = self._take_in(name)
            if rows is not None:
                self._put_away(name, "done" if self._table.taken == "move" else "")
                self._tell("file_taken", file=name, rows=rows)
        except DataError as error:
            self._refuse(name, str(error))
        except (OSError, StoreError) as error:
            self._try_later(name, error)

    def _try_later(self, name: str, error: Exception) -> None:
        self._later[name] = time.monotonic() + AGAIN_SECONDS
        self._tell("file_waits", logging.WARNING, file=name, message=str(error))

    def _tell(self, kind: str, level: int = logging.INFO, **facts: Any) -> None:
        self._service.events.tell(kind, level, door="folder", **facts)

    # -- one file ---------------------------------------------------------------------------------------------

    def _take_in(self, name: str) -> int | None:
        """Take in what was not before; return the number of rows, or None if the door closes before the end."""
        face, note = _face(self._path(name)), NOTE + _storable(name)
        mark = f"{_checksum(self._path(name)):08x}-{face[1]}"
        known, *counts = self._service.store.notes(note).get(note, "").split() or [""]
        done, total = map(int, counts) if known == mark else (0, self._verify(name))
        rows = islice(self._rows(name), done, None)
        while batch := [sample for _, sample in islice(rows, self._rows_at_once)]:
            done += len(batch)
            found = next(self._intake.take([Part(batch, {note: f"{mark} {done} {total}"})]), None)
            if found is None:
                return None
            if not isinstance(found, list):
                raise found
        if _face(self._path(name)) != face:
            raise DataError("was written while it was read; expected a whole file; rename it into the folder")
        return total

    def _rows(self, name: str) -> Iterator[tuple[str, dict]]:
        service = self._service
        most_line, classes = service.settings.request_bytes, service.learner.classes
        return read_rows(self._path(name), service.values.elements, self._table.label, classes, most_line)

    def _verify(self, name: str) -> int:
        """Check every row; return how many there are, or of those before the door closes."""
        total = 0
        for where, sample in self._rows(name):
            try:
                self._service.values.arrivals([sample])
            except DataError as error:
                raise DataError(f"{where}: {error}") from error
            total += 1
            if self._stopping.is_set():
                break
        return total

    def _refuse(self, name: str, reason: str) -> None:
        try:
            self._put_away(name, "refused", reason)
        except (OSError, StoreError) as error:
            self._try_later(name, error)
        self._tell("file_refused", logging.WARNING, file=name, message=reason)

    def _put_away(self, name: str, folder: str, reason: str = "") -> None:
        """Move a file to a folder in this one, with the reason beside it, or delete it."""
        if folder:
            os.makedirs(self._path(folder), exist_ok=True)
            target = self._free(folder, name)
            if reason:
                write_whole(target + ".txt", [f"{name}: {reason}\n".encode(errors="replace")])
            os.rename(self._path(name), target)
            fsync_folder(self._path(folder))
        else:
            os.unlink(self._path(name))
        fsync_folder(self._table.path)
        self._service.store.put([], {NOTE + _storable(name): ""})

    def _free(self, folder: str, name: str) -> str:
        """Return a path that is not taken: nothing is overwritten."""
        path, number = self._path(folder, name), 1
        while os.path.exists(path):
            number += 1
            stem, kind = os.path.splitext(name)
            path = self._path(folder, f"{stem}-{number}{kind}")
        return path


def _face(file: Any) -> Face:
    found = os.stat(file, follow_symlinks=False) if isinstance(file, str) else file.stat(follow_symlinks=False)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _checksum(path: str) -> int:
    total = 0
    with open(path, "rb") as file:
        while data := file.read(READ_BYTES):
            total = zlib.crc32(data, total)
    return total


def _storable(name: str) -> str:
    """Return a name as UTF-8 can hold it; file systems know others."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")

"""What the daemon's file keeps of the model: its generations, piece by piece, and the history."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from edgerev.daemon.database import Database
from edgerev.daemon.schema import PARTS, STATE
from edgerev.errors import StoreError

PART_BYTES = 1 << 16  # of a generation in one row: no model is in memory twice
HISTORY_KEPT = 5_000
_PART = "SELECT data FROM {} WHERE generation = ? AND part = ?"


class Generations:
    """The part of a store that is about the model."""

    path: str
    _db: Database
    _lock: threading.RLock

    @property
    def trained(self) -> int:
        """Number of the last sample that the newest generation was trained on; 0 before the first."""
        with self._lock, self._db.telling("read"):
            return self._db.one("SELECT coalesce(max(trained), 0) FROM generations")

    def generations(self) -> list[int]:
        """Return the numbers of the generations that are kept, the newest first."""
        with self._lock, self._db.telling("read"):
            return [number for (number,) in self._db.execute("SELECT number FROM generations ORDER BY number DESC")]

    def state(self, number: int) -> str:
        """Return what was written beside a generation; "" if there is none of this number."""
        found = self._find(_PART.format(_table(number)), number, STATE)
        return bytes(found or b"").decode(errors="replace")

    def generation(self, number: int) -> Iterator[bytes]:
        """Yield the bytes of a generation, piece by piece.

        Raises
        ------
        StoreError
            There is no such generation, or not all of it.
        """
        size = self._find("SELECT bytes FROM generations WHERE number = ?", number)
        part, rest = 0, -1 if size is None else size
        while rest > 0:
            data = self._find(_PART.format(_table(number)), number, part)
            if not isinstance(data, bytes):
                break
            part, rest = part + 1, rest - len(data)
            yield data
        if rest:
            raise StoreError(f"{self.path}: generation {number} is not whole; expected another; load the one before")

    def _find(self, query: str, *values: int) -> Any:
        """Return what a query finds, or None; the lock is not held while somebody works on it."""
        with self._lock, self._db.telling("read"):
            row = self._db.execute(query, *values).fetchone()
        return row and row[0]

    def _write_generation(self, trained: int, parts: Iterable[bytes | memoryview], state: str) -> int:
        """Write a generation, within a transaction; return its number."""
        cursor = self._db.execute("INSERT INTO generations(trained, bytes) VALUES (?, 0)", trained)
        number, size = cursor.lastrowid or 0, 0
        insert = f"INSERT INTO {_table(number)} VALUES (?, ?, ?, ?)"
        self._db.execute(insert, number, STATE, trained, state.encode())
        for part, data in enumerate(_pieces(parts)):
            self._db.execute(insert, number, part, trained, data)
            size += len(data)
        self._db.execute("UPDATE generations SET bytes = ? WHERE number = ?", size, number)
        return number

    def _drop_generations(self, keep: set[int]) -> None:
        """Delete all generations but these."""
        for number in set(self.generations()) - keep:
            self._db.execute(f"DELETE FROM {_table(number)} WHERE generation = ?", number)
            self._db.execute("DELETE FROM generations WHERE number = ?", number)

    def _add_history(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._db.execute("INSERT INTO history(text) VALUES (?)", line)
        newest = self._db.one("SELECT coalesce(max(id), 0) FROM history")
        self._db.execute("DELETE FROM history WHERE id <= ?", newest - HISTORY_KEPT)

    def history(self, count: int) -> list[str]:
        """Return the newest lines of the history, at most `count`, the oldest first."""
        with self._lock, self._db.telling("read"):
            rows = self._db.execute("SELECT text FROM history ORDER BY id DESC LIMIT ?", count).fetchall()
        return [text for (text,) in reversed(rows)]


def _table(generation: int) -> str:
    return PARTS[generation % 2]


def _pieces(parts: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield the bytes of all parts in pieces of one size."""
    joined = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), PART_BYTES):
            joined += view[start : start + PART_BYTES]
            while len(joined) >= PART_BYTES:
                yield bytes(joined[:PART_BYTES])
                del joined[:PART_BYTES]
    if joined:
        yield bytes(joined)

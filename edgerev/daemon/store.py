"""What the daemon keeps in one SQLite file: samples that wait, how far training is, and the model's generations.

A sample is acknowledged when `put` returns: then its transaction is on the disk (WAL, ``synchronous=FULL``). Calls that
arrive while one commits share the next commit, so that many small requests cost few syncs. `advance` writes a new
generation of the model and deletes the samples that it was trained on, in one transaction: after a power cut there is
either the old model with these samples, or the new one without them, so each is trained on exactly once. Batches are
runs of consecutive numbers, so training that is repeated is the same to the bit.

Deleted samples are overwritten (``secure_delete``) and the log is truncated after each generation; what a flash memory
keeps of old blocks beneath the file system is out of reach.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from edgerev.errors import DataError, QueueFullError, StoreError, UsageError
from edgerev.numbers import INT32_MAX, whole

SCHEMA = 2
PART_BYTES = 1 << 16  # of a generation in one row: no model is in memory twice
KEYS_KEPT = 100_000  # newest names of samples that are known as duplicates
GENERATIONS_KEPT = 2
HISTORY_KEPT = 5_000
_TABLES = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE waiting(id INTEGER PRIMARY KEY AUTOINCREMENT, arrived INTEGER NOT NULL, x BLOB NOT NULL);
CREATE TABLE ready(number INTEGER PRIMARY KEY AUTOINCREMENT, x BLOB NOT NULL, y BLOB NOT NULL, known INTEGER NOT NULL);
CREATE TABLE keys(key TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE generations(
    number INTEGER PRIMARY KEY AUTOINCREMENT, trained INTEGER NOT NULL, bytes INTEGER NOT NULL, state TEXT NOT NULL
);
CREATE TABLE parts(generation INTEGER, part INTEGER, data BLOB NOT NULL, PRIMARY KEY(generation, part)) WITHOUT ROWID;
CREATE TABLE history(id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL);
"""


class Arrival(NamedTuple):
    """A sample on its way in.

    Attributes
    ----------
    x : its values, in bytes
    y : its target, in bytes, or None for a label that comes later
    key : the sender's name for it, or None; a second sample of one name is not taken in
    """

    x: bytes
    y: bytes | None = None
    key: str | None = None


class Sample(NamedTuple):
    """A sample that is ready to be learned.

    Attributes
    ----------
    number : its place among all that ever were
    x, y : see `Arrival`
    known : whether the target came from outside; else it is the model's own answer
    """

    number: int
    x: bytes
    y: bytes
    known: bool = True


class _Request:
    """Samples of one call, and what became of them."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.arrivals = arrivals
        self.ids: list[int] | None = None
        self.error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.ids is not None or self.error is not None


class Store:
    """The daemon's file; may be used by several threads.

    Parameters
    ----------
    path : the file; made if it is not there
    x_bytes, y_bytes : of one sample and of one target
    most_samples : samples that may wait, with and without label, before more are refused

    Raises
    ------
    StoreError
        The file is damaged, of another version, for other samples, or cannot be opened.
    """

    def __init__(self, path: str, x_bytes: int, y_bytes: int, most_samples: int) -> None:
        self.path, self.most_samples = path, whole("most_samples", most_samples, 1, INT32_MAX)
        self._sizes = x_bytes, y_bytes
        self._lock, self._arriving = threading.RLock(), threading.Lock()
        self._requests: list[_Request] = []
        self.commits = 0
        with self._telling("open"):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
            self._set_up({"schema": SCHEMA, "x_bytes": x_bytes, "y_bytes": y_bytes})
            self._count = sum(self._one(f"SELECT count(*) FROM {table}") for table in ("waiting", "ready"))
        os.chmod(path, 0o600)

    def _set_up(self, facts: dict[str, int]) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "temp_store=MEMORY"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        if not self._one("SELECT count(*) FROM sqlite_master"):
            with self._transaction():
                for statement in filter(str.strip, _TABLES.split(";")):
                    self._db.execute(statement)
                self._db.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        found = dict(self._db.execute("SELECT name, value FROM facts"))
        if found != facts:
            raise StoreError(
                f"{self.path} was made for {found}; expected {facts}, those of this model; name another file, or go "
                "back to the model that it belongs to"
            )

    # -- samples in -------------------------------------------------------------------------------------------

    def put(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Take samples in, all or none, and return their ids once they are on the disk.

        A sample whose key is known already has the id of the first one, and is not taken in again.

        Raises
        ------
        DataError
            A sample or target has another size.
        QueueFullError
            There is no room for all of them.
        StoreError
            The file cannot be written.
        """
        for arrival in arrivals:
            self._check_sizes(arrival.x, arrival.y)
        request = _Request(arrivals)
        with self._arriving:
            self._requests.append(request)
        with self._lock:  # whoever gets it commits for all that have arrived meanwhile
            if not request.done:
                self._take_in()
        if request.error is not None:
            raise request.error
        assert request.ids is not None
        return request.ids

    def _check_sizes(self, x: bytes | None, y: bytes | None) -> None:
        for name, value, size in (("sample", x, self._sizes[0]), ("target", y, self._sizes[1])):
            if value is not None and len(value) != size:
                raise DataError(f"a {name} of {len(value)} bytes; expected {size}, as the model takes it; convert it")

    def _take_in(self) -> None:
        with self._arriving:
            requests, self._requests = self._requests, []
        taken: list[tuple[_Request, list[int]]] = []
        before = self._count
        try:
            with self._transaction():
                for request in requests:
                    if self._count + len(request.arrivals) > self.most_samples:
                        request.error = QueueFullError(
                            f"{self._count} of {self.most_samples} samples wait already; expected room for "
                            f"{len(request.arrivals)} more; send them again later"
                        )
                    else:
                        taken.append((request, [self._insert(arrival) for arrival in request.arrivals]))
                newest = self._one("SELECT coalesce(max(id), 0) FROM keys")
                self._db.execute("DELETE FROM keys WHERE id <= ?", (newest - KEYS_KEPT,))
        except Exception as error:
            self._count = before
            for request in requests:
                request.error = request.error or error
            return
        for request, ids in taken:
            request.ids = ids

    def _insert(self, arrival: Arrival) -> int:
        if arrival.key is not None:
            known = self._db.execute("SELECT id FROM keys WHERE key = ?", (arrival.key,)).fetchone()
            if known:
                return known[0]
        cursor = self._db.execute("INSERT INTO waiting(arrived, x) VALUES (?, ?)", (int(time.time()), arrival.x))
        number = cursor.lastrowid or 0
        self._count += 1
        if arrival.key is not None:
            self._db.execute("INSERT INTO keys VALUES (?, ?)", (arrival.key, number))
        if arrival.y is not None:
            self._move(number, arrival.y)
        return number

    def label(self, labels: Iterable[tuple[int, bytes]], known: bool = True) -> list[int]:
        """Give waiting samples their targets, by id; return the ids that no sample waits under.

        Parameters
        ----------
        known : whether the targets come from outside; else they are the model's own answers

        Raises
        ------
        DataError
            A target has another size; no label was taken.
        StoreError
            The file cannot be written.
        """
        pairs = list(labels)
        for _, y in pairs:
            self._check_sizes(None, y)
        with self._lock, self._transaction():
            return [number for number, y in pairs if not self._move(number, y, known)]

    def _move(self, number: int, y: bytes, known: bool = True) -> bool:
        moved = self._db.execute(
            "INSERT INTO ready(x, y, known) SELECT x, ?, ? FROM waiting WHERE id = ?", (y, known, number)
        ).rowcount
        self._db.execute("DELETE FROM waiting WHERE id = ?", (number,))
        return moved > 0

    def overdue(self, before: int, count: int) -> list[tuple[int, bytes]]:
        """Return id and values of samples that `expire` would delete, the oldest first, at most `count`."""
        with self._lock, self._telling("read"):
            rows = self._db.execute("SELECT id, x FROM waiting WHERE arrived < ? ORDER BY id LIMIT ?", (before, count))
            return rows.fetchall()

    def forget(self, numbers: Iterable[int]) -> None:
        """Delete waiting samples by id, those that still wait."""
        with self._lock, self._transaction():
            rows = ((number,) for number in numbers)
            self._count -= self._db.executemany("DELETE FROM waiting WHERE id = ?", rows).rowcount

    def expire(self, before: int) -> int:
        """Delete samples that arrived before a time (seconds since 1970) and have no label yet; return how many."""
        with self._lock, self._transaction():
            gone = self._db.execute("DELETE FROM waiting WHERE arrived < ?", (before,)).rowcount
        self._count -= gone
        return gone

    # -- training ---------------------------------------------------------------------------------------------

    def ready(self, after: int, count: int) -> list[Sample]:
        """Return the next labelled samples after a number, in order, at most `count`."""
        with self._lock, self._telling("read"):
            rows = self._db.execute(
                "SELECT number, x, y, known FROM ready WHERE number > ? ORDER BY number LIMIT ?", (after, count)
            )
            return [Sample(*row) for row in rows]

    def advance(
        self, trained: int, parts: Iterable[bytes | memoryview], *,
        state: str = "", keep: Sequence[int] = (), history: Iterable[str] = (),
    ) -> int:
        """Write a generation of the model and delete the samples up to number `trained`; return its own number.

        Parameters
        ----------
        parts : the bytes of the model
        state : what else belongs to it
        keep : generations that stay besides the newest two
        history : lines to add to the history

        Raises
        ------
        UsageError
            The newest generation was trained on later samples.
        StoreError
            The file cannot be written; generations and samples are as they were.
        """
        with self._lock:
            if trained < self.trained:
                raise UsageError(f"trained up to sample {trained}; expected {self.trained} or later; load the newest")
            with self._transaction():
                row = "INSERT INTO generations(trained, bytes, state) VALUES (?, 0, ?)"
                cursor = self._db.execute(row, (trained, state))
                number, size = cursor.lastrowid or 0, 0
                for part, data in enumerate(_pieces(parts)):
                    self._db.execute("INSERT INTO parts VALUES (?, ?, ?)", (number, part, data))
                    size += len(data)
                self._db.execute("UPDATE generations SET bytes = ? WHERE number = ?", (size, number))
                gone = self._db.execute("DELETE FROM ready WHERE number <= ?", (trained,)).rowcount
                self._drop_generations({*keep, *range(number - GENERATIONS_KEPT + 1, number + 1)})
                self._add_history(history)
            self._count -= gone
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return number

    def _drop_generations(self, keep: set[int]) -> None:
        """Delete all generations but these."""
        gone = [row for row in self._db.execute("SELECT number FROM generations") if row[0] not in keep]
        self._db.executemany("DELETE FROM parts WHERE generation = ?", gone)
        self._db.executemany("DELETE FROM generations WHERE number = ?", gone)

    def _add_history(self, lines: Iterable[str]) -> None:
        self._db.executemany("INSERT INTO history(text) VALUES (?)", ((line,) for line in lines))
        newest = self._one("SELECT coalesce(max(id), 0) FROM history")
        self._db.execute("DELETE FROM history WHERE id <= ?", (newest - HISTORY_KEPT,))

    def history(self, count: int) -> list[str]:
        """Return the newest lines of the history, at most `count`, the oldest first."""
        with self._lock, self._telling("read"):
            rows = self._db.execute("SELECT text FROM history ORDER BY id DESC LIMIT ?", (count,)).fetchall()
        return [text for (text,) in reversed(rows)]

    @property
    def trained(self) -> int:
        """Number of the last sample that the newest generation was trained on; 0 before the first."""
        with self._lock, self._telling("read"):
            return self._one("SELECT coalesce(max(trained), 0) FROM generations")

    def generations(self) -> list[int]:
        """Return the numbers of the generations that are kept, the newest first."""
        with self._lock, self._telling("read"):
            return [number for (number,) in self._db.execute("SELECT number FROM generations ORDER BY number DESC")]

    def state(self, number: int) -> str:
        """Return what was written beside a generation; "" if there is none of this number."""
        with self._lock, self._telling("read"):
            found = self._db.execute("SELECT state FROM generations WHERE number = ?", (number,)).fetchone()
        return found[0] if found else ""

    def generation(self, number: int) -> Iterator[bytes]:
        """Yield the bytes of a generation, piece by piece.

        Raises
        ------
        StoreError
            There is no such generation, or not all of it.
        """
        with self._lock, self._telling("read"):
            size = self._one(f"SELECT coalesce(max(bytes), -1) FROM generations WHERE number = {int(number)}")
            rows = self._db.execute("SELECT data FROM parts WHERE generation = ? ORDER BY part", (number,))
            for (data,) in rows:
                size -= len(data)
                yield data
        if size:
            raise StoreError(f"{self.path}: generation {number} is not whole; expected another; load the one before")

    def __len__(self) -> int:
        """Samples that wait, with and without label."""
        return self._count

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # -- the file ---------------------------------------------------------------------------------------------

    def _one(self, query: str) -> int:
        return self._db.execute(query).fetchone()[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._telling("write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self.commits += 1

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"cannot {what} {self.path} ({error}); expected a whole SQLite file with room to grow; free some "
                "space, or move the file away and start from the last exported model"
            ) from error


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

"""What the daemon keeps in one SQLite file: samples that wait, how far training is, and the model's generations.

A sample is acknowledged when `put` returns: then its transaction is on the disk (WAL, ``synchronous=FULL``). Calls that
arrive while one commits share the next commit, so that many small requests cost few syncs. `advance` writes a new
generation of the model and deletes the samples that it was trained on, in one transaction: after a power cut there is
either the old model with these samples, or the new one without them, so each is trained on exactly once. Batches are
runs of consecutive numbers, so training that is repeated is the same to the bit.

Deleted samples are overwritten (``secure_delete``) and the log is truncated after each generation; what a flash memory
keeps of old blocks beneath the file system is out of reach.

Ids and numbers are never used again: the newest ones are in the rows that have them, or, once these are deleted, in
``facts`` and ``generations``, so that counting costs no page of its own in each commit. Samples grow old while the
store is open, by a clock that nobody sets: a device without one boots in 1970 and jumps by decades later.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

from edgerev.daemon.database import SALVAGED, Database, Writes, hold, make
from edgerev.daemon.generations import Generations
from edgerev.daemon.schema import SCHEMA, TABLES, Arrival, Sample
from edgerev.errors import DamagedError, DataError, QueueFullError, StoreError, UsageError
from edgerev.numbers import INT32_MAX, whole

if TYPE_CHECKING:
    from edgerev.daemon.salvage import Salvaged

KEYS_KEPT = 100_000  # newest names of samples that are known as duplicates
KEY_BYTES = 200
GENERATIONS_KEPT = 2
REMEMBER_SECONDS = 600  # between two times that the age of waiting samples is written, if nothing else is


class _Request:
    """Samples of one call, and what became of them."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self.arrivals = arrivals
        self.ids: list[int] | None = None
        self.error: BaseException | None = None
        self.woken = threading.Event()  # when it is done, or is to commit

    @property
    def done(self) -> bool:
        return self.ids is not None or self.error is not None


class Store(Generations):
    """The daemon's file; may be used by several threads of one process.

    Parameters
    ----------
    path : the file; made if it is not there, and anew, with what can still be read, if it is damaged
    x_bytes, y_bytes : of one sample and of one target
    most_samples : samples that may wait, with and without label, before more are refused

    Attributes
    ----------
    salvaged : what became of a damaged file, or None

    Raises
    ------
    StoreError
        The file is of another version, for other samples, of another process, or cannot be opened.
    """

    def __init__(self, path: str, x_bytes: int, y_bytes: int, most_samples: int) -> None:
        self.path, self.most_samples = path, whole("most_samples", most_samples, 1, INT32_MAX)
        self._sizes = x_bytes, y_bytes
        self._facts = {"schema": SCHEMA, "x_bytes": x_bytes, "y_bytes": y_bytes}
        self._lock, self._arriving = threading.RLock(), threading.Lock()
        self._requests: list[_Request] = []
        self._committing = False  # whether somebody commits what arrives, or is about to
        self.salvaged: Salvaged | None = None
        self._held = hold(path)
        try:
            self._open()
        except BaseException:
            os.close(self._held)
            raise

    def _open(self) -> None:
        if os.path.exists(self.path + SALVAGED):  # the power went while a damaged file was moved aside
            from edgerev.daemon.salvage import put_in_place

            put_in_place(self.path)
        try:
            self._read()
        except DamagedError as error:
            self._salvage(str(error))

    def _read(self) -> None:
        if not os.path.exists(self.path):
            make(self.path, TABLES, self._facts)
        self._db = Database(self.path, TABLES, self._facts)
        try:
            self._look()
        except BaseException:
            self._db.close()
            raise

    def _look(self) -> None:
        """Find out how many samples there are, and which are the newest."""
        with self._db.telling("read"):
            one = self._db.one
            self._count = one("SELECT count(*) FROM waiting") + one("SELECT count(*) FROM ready")
            ids = [one(f"SELECT coalesce(max(id), 0) FROM {table}") for table in ("waiting", "ready", "keys")]
            self._id = max(*ids, self._fact("newest_id"))
            self._number = one("SELECT coalesce(max(number), 0) FROM ready") or self.trained
            self._seconds = max(one("SELECT coalesce(max(arrived), 0) FROM waiting"), self._fact("seconds"))
            self._opened = monotonic()
            if one("SELECT count(*) FROM ready WHERE number <= ?", self.trained):
                raise sqlite3.DatabaseError("samples wait that were trained on")
            for table, column, size in zip(("waiting", "ready", "ready"), "xxy", (self._sizes[0], *self._sizes)):
                misfit = f"SELECT count(*) FROM {table} WHERE typeof({column}) != 'blob' OR length({column}) != ?"
                if one(misfit, size):
                    raise sqlite3.DatabaseError("samples have not the size that they had")

    def _salvage(self, reason: str) -> None:
        from edgerev.daemon.salvage import salvage

        self.salvaged = salvage(self.path, self._facts, reason)
        self._read()

    def mend(self, reason: str) -> bool:
        """Salvage the file, unless a generation in it is whole; return whether it was done.

        Parameters
        ----------
        reason : why no generation could be used
        """
        from edgerev.daemon.salvage import is_whole

        with self._lock:
            if any(is_whole(self.generation(number), self.state(number)) for number in self.generations()):
                return False
            self._db.close()
            self._salvage(reason)
        return True

    # -- samples in -------------------------------------------------------------------------------------------

    def put(self, arrivals: Sequence[Arrival]) -> list[int]:
        """Take samples in, all or none, and return their ids once they are on the disk.

        A sample whose key is known already has the id of the first one, and is not taken in again.

        Raises
        ------
        DataError
            A sample or target has another size, or a key is too long or no text.
        QueueFullError
            There is no room for all of them.
        StoreError
            The file cannot be written.
        """
        for arrival in arrivals:
            self._check_sizes(arrival.x, arrival.y)
            _check_key(arrival.key)
        request = _Request(arrivals)
        with self._arriving:
            self._requests.append(request)
            waits, self._committing = self._committing, True
        if waits:  # not for the lock: whoever has it next would have to sync before this one learned that it is done
            request.woken.wait()
        if not request.done:
            self._commit_arrivals()
        if request.error is not None:
            raise request.error
        assert request.ids is not None
        return request.ids

    def _check_sizes(self, x: bytes | None, y: bytes | None) -> None:
        for name, value, size in (("sample", x, self._sizes[0]), ("target", y, self._sizes[1])):
            if value is not None and len(value) != size:
                raise DataError(f"a {name} of {len(value)} bytes; expected {size}, as the model takes it; convert it")

    def _commit_arrivals(self) -> None:
        """Commit all that has arrived meanwhile, and let one of those that arrive until that is done commit next."""
        with self._lock:
            with self._arriving:
                requests, self._requests = self._requests, []
            try:
                self._take_in(requests)
            except BaseException as error:
                for request in requests:
                    request.error = request.error or error
        with self._arriving:
            self._committing = bool(self._requests)
            for request in (*requests, *self._requests[:1]):
                request.woken.set()

    def _take_in(self, requests: Sequence[_Request]) -> None:
        taken: list[tuple[_Request, list[int]]] = []
        with self._changing():
            for request in requests:
                if self._count + len(request.arrivals) > self.most_samples:
                    request.error = QueueFullError(
                        f"{self._count} of {self.most_samples} samples wait already; expected room for "
                        f"{len(request.arrivals)} more; send them again later"
                    )
                else:
                    taken.append((request, [self._insert(arrival) for arrival in request.arrivals]))
            newest = self._db.one("SELECT coalesce(max(id), 0) FROM keys")
            self._db.execute("DELETE FROM keys WHERE id <= ?", newest - KEYS_KEPT)
        for request, ids in taken:
            request.ids = ids

    def _insert(self, arrival: Arrival) -> int:
        if arrival.key is not None:
            known = self._db.execute("SELECT id FROM keys WHERE key = ?", arrival.key).fetchone()
            if known:
                return known[0]
        self._id += 1
        self._count += 1
        if arrival.key is not None:
            self._db.execute("INSERT INTO keys VALUES (?, ?)", self._id, arrival.key)
        if arrival.y is None:
            self._db.execute("INSERT INTO waiting VALUES (?, ?, ?)", self._id, self._now(), arrival.x)
        else:
            self._number += 1
            row = self._number, self._id, arrival.x, arrival.y
            self._db.execute("INSERT INTO ready VALUES (?, ?, ?, ?, 1)", *row)
        return self._id

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
        with self._changing():
            return [number for number, y in pairs if not self._move(number, y, known)]

    def _move(self, number: int, y: bytes, known: bool) -> bool:
        if not 0 < number <= self._id:  # SQLite has no numbers of any size
            return False
        move = "INSERT INTO ready SELECT ?, id, x, ?, ? FROM waiting WHERE id = ?"
        if not self._db.execute(move, self._number + 1, y, known, number).rowcount:
            return False
        self._number += 1
        self._db.execute("DELETE FROM waiting WHERE id = ?", number)
        return True

    def overdue(self, seconds: int, count: int) -> list[tuple[int, bytes]]:
        """Return id and values of samples that `expire` would delete, the oldest first, at most `count`."""
        with self._lock, self._db.telling("read"):
            oldest = "SELECT * FROM waiting ORDER BY id LIMIT ?"  # which arrived in this order
            query = f"SELECT id, x FROM ({oldest}) WHERE arrived <= ? ORDER BY id"
            return self._db.execute(query, count, self._now() - seconds).fetchall()

    def forget(self, numbers: Iterable[int]) -> None:
        """Delete waiting samples by id, those that still wait."""
        with self._changing():
            for number in numbers:
                self._count -= self._db.execute("DELETE FROM waiting WHERE id = ?", number).rowcount
            self._remember()

    def expire(self, seconds: int) -> int:
        """Delete samples that have waited so long for a label while the store was open; return how many.

        Raises
        ------
        StoreError
            The file cannot be read or written.
        """
        with self._lock:
            with self._db.telling("read"):
                oldest = self._db.execute("SELECT arrived FROM waiting ORDER BY id LIMIT 1").fetchone()
            if oldest is None:
                return 0
            last = self._now() - seconds
            if oldest[0] > last and self._now() < self._seconds + REMEMBER_SECONDS:
                return 0
            with self._changing():
                gone = self._db.execute("DELETE FROM waiting WHERE arrived <= ?", last).rowcount
                self._count -= gone
                self._remember()
            return gone

    def _now(self) -> int:
        """Return for how many seconds the store has been open, in sum."""
        return self._seconds + int(monotonic() - self._opened)

    # -- training ---------------------------------------------------------------------------------------------

    def ready(self, after: int, count: int) -> list[Sample]:
        """Return the next labelled samples after a number, in order, at most `count`."""
        with self._lock, self._db.telling("read"):
            query = "SELECT number, x, y, known FROM ready WHERE number > ? ORDER BY number LIMIT ?"
            samples = [Sample(*row) for row in self._db.execute(query, after, count)]
            if any((len(one.x), len(one.y)) != self._sizes for one in samples):
                raise sqlite3.DatabaseError("samples have not the size that they had")
            return samples

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
            with self._changing():
                number = self._write_generation(trained, parts, state)
                self._count -= self._db.execute("DELETE FROM ready WHERE number <= ?", trained).rowcount
                self._number = max(self._number, trained)
                self._drop_generations({*keep, *range(number - GENERATIONS_KEPT + 1, number + 1)})
                self._add_history(history)
                self._remember()
            self._db.tidy()
            return number

    # -- the file ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Samples that wait, with and without label."""
        return self._count

    @property
    def writes(self) -> Writes:
        """What was written since the store was opened."""
        return self._db.writes

    @property
    def problem(self) -> str:
        """What went wrong with the file when it was used last, or ""."""
        return self._db.problem

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            with suppress(StoreError), self._changing():
                self._remember()
            self._db.close()
            if self._held >= 0:
                os.close(self._held)
            self._held = -1

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Do all of what is inside in one transaction, or nothing; what is counted goes back with it."""
        with self._lock:
            before = self._count, self._id, self._number
            try:
                with self._db.transaction():
                    yield
            except BaseException:
                self._count, self._id, self._number = before
                raise

    def _fact(self, name: str) -> int:
        return self._db.one("SELECT coalesce(max(value), 0) FROM facts WHERE name = ?", name)

    def _remember(self) -> None:
        """Write what rows that are deleted do not say any more."""
        now = self._now()
        self._opened += now - self._seconds  # not the time now, or parts of seconds would be lost each time
        self._seconds = now
        for name, value in (("newest_id", self._id), ("seconds", self._seconds)):
            self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", name, value)


def _check_key(key: str | None) -> None:
    try:
        size = len((key or "").encode())
    except UnicodeEncodeError as error:
        raise DataError(f"key {key!r} is no text ({error}); expected one of whole characters; change it") from error
    if size > KEY_BYTES:
        raise DataError(f"a key of {size} bytes in UTF-8; expected at most {KEY_BYTES}; send a shorter one")

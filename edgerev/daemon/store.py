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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

from edgerev.daemon.database import SALVAGED, Database, Writes, hold, make
from edgerev.daemon.generations import Generations
from edgerev.daemon.schema import SCHEMA, TABLES, Arrival, Sample, check_key, check_sizes, no_room
from edgerev.errors import DamagedError, StoreError, UsageError
from edgerev.numbers import INT32_MAX, whole

if TYPE_CHECKING:
    from edgerev.daemon.salvage import Salvaged

KEYS_KEPT = 100_000  # newest names of samples that are known as duplicates
GENERATIONS_KEPT = 2
REMEMBER_SECONDS = 600  # between two times that the age of waiting samples is written, if nothing else is


class _Request:
    """Samples of one call, and what became of them."""

    def __init__(self, arrivals: Sequence[Arrival], notes: Mapping[str, str]) -> None:
        self.arrivals, self.notes = arrivals, notes
        self.ids: list[int] | None = None
        self.error: BaseException | None = None
        self.woken = threading.Event()  # when it is done, or is to commit


class Store(Generations):
    """The daemon's file; may be used by several threads of one process.

    Parameters
    ----------
    path : the file; made if it is not there, and anew, with what can still be read, if it is damaged
    x_bytes, y_bytes : of one sample and of one target
    most_samples : samples that may be kept, see `len`, before more are refused

    Attributes
    ----------
    salvaged : what became of a damaged file, or None
    unlabelled : samples that wait for a label
    newest : number of the newest sample that has one

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
            self.unlabelled, self._labelled = (one(f"SELECT count(*) FROM {table}") for table in ("waiting", "ready"))
            ids = [one(f"SELECT coalesce(max(id), 0) FROM {table}") for table in ("waiting", "ready", "keys")]
            self._id = max(*ids, self._fact("newest_id"))
            self.newest = one("SELECT coalesce(max(number), 0) FROM ready") or self.trained
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

    def put(self, arrivals: Sequence[Arrival], notes: Mapping[str, str] | None = None) -> list[int]:
        """Take samples in, all or none, and return their ids once they are on the disk.

        A sample whose key is known already has the id of the first one, and is not taken in again.

        Parameters
        ----------
        notes : by name, written if the samples are: how far the sender's file or session came; "" deletes one

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
            check_sizes(self._sizes, arrival.x, arrival.y)
            check_key(arrival.key)
        request = _Request(arrivals, notes or {})
        with self._arriving:
            self._requests.append(request)
            waits, self._committing = self._committing, True
        if waits:  # not for the lock: whoever has it next would have to sync before this one learned that it is done
            request.woken.wait()
        if request.ids is None and request.error is None:
            self._commit_arrivals()
        if request.error is not None:
            raise request.error
        assert request.ids is not None
        return request.ids

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
                room = self.most_samples - len(self)
                if len(request.arrivals) > room:
                    request.error = no_room(len(request.arrivals), room, self.most_samples)
                else:
                    taken.append((request, [self._insert(arrival) for arrival in request.arrivals]))
                    for note in request.notes.items():
                        self._db.execute("INSERT OR REPLACE INTO notes(name, value) VALUES (?, ?)", *note)
            self._db.execute("DELETE FROM notes WHERE value = ''")
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
        if arrival.key is not None:
            self._db.execute("INSERT INTO keys VALUES (?, ?)", self._id, arrival.key)
        if arrival.y is None:
            self.unlabelled += 1
            self._db.execute("INSERT INTO waiting VALUES (?, ?, ?)", self._id, self._now(), arrival.x)
        else:
            self.newest += 1
            self._labelled += 1
            row = self.newest, self._id, arrival.x, arrival.y
            self._db.execute("INSERT INTO ready VALUES (?, ?, ?, ?, 1)", *row)
        return self._id

    def notes(self, prefix: str) -> dict[str, str]:
        """Return the notes whose names begin with a prefix."""
        with self._lock, self._db.telling("read"):
            query = "SELECT name, value FROM notes WHERE substr(name, 1, ?) = ?"
            return dict(self._db.execute(query, len(prefix), prefix))

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
            check_sizes(self._sizes, None, y)
        with self._changing():
            return [number for number, y in pairs if not self._move(number, y, known)]

    def _move(self, number: int, y: bytes, known: bool) -> bool:
        if not 0 < number <= self._id:  # SQLite has no numbers of any size
            return False
        move = "INSERT INTO ready SELECT ?, id, x, ?, ? FROM waiting WHERE id = ?"
        if not self._db.execute(move, self.newest + 1, y, known, number).rowcount:
            return False
        self.newest += 1
        self._labelled += 1
        self.unlabelled -= 1
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
                self.unlabelled -= self._db.execute("DELETE FROM waiting WHERE id = ?", number).rowcount
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
                self.unlabelled -= gone
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
                self._labelled -= self._db.execute("DELETE FROM ready WHERE number <= ?", trained).rowcount
                self.newest = max(self.newest, trained)
                self._drop_generations({*keep, *range(number - GENERATIONS_KEPT + 1, number + 1)})
                self._add_history(history)
                self._remember()
            self._db.tidy()
            return number

    def __len__(self) -> int:
        """Samples that are kept: without label, to be learned, and learned since the newest generation."""
        return self.unlabelled + self._labelled

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
            before = self.unlabelled, self._labelled, self._id, self.newest
            try:
                with self._db.transaction():
                    yield
            except BaseException:
                self.unlabelled, self._labelled, self._id, self.newest = before
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

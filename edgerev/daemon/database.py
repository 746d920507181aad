"""An SQLite file of one process: locked, synced at each commit, its writes counted, its errors told.

The log (WAL) is written back and emptied by `tidy` alone, not by SQLite at its own times, so that all writes are known
and what was deleted does not stay in it.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple

from edgerev.errors import DamagedError, StoreError
from edgerev.files import fsync_folder, open_exclusive

_HEAD_BYTES, _FRAME_BYTES = 32, 24  # of the log, and of a page in it
OURS = 0x65647276  # "edrv", SQLite's application_id: says whose file it is even if its tables are lost
SALVAGED = ".salvaged"  # what a file's name has besides while what was salvaged from it is put in its place
NEW = ".new"  # ... while it is made
PAGE_BYTES = 2048  # smaller ones let less be written for single samples, more for generations
LOG_BYTES = 4 << 20  # of the log at which it is written back, whatever happens
_FACTS = {"schema": "tables of version", "x_bytes": "bytes of a sample:", "y_bytes": "bytes of a label:"}
_PRAGMAS = (
    "locking_mode=EXCLUSIVE",  # no index of the log in a mapped file, which would be written to flash now and then
    f"page_size={PAGE_BYTES}", "journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0", "secure_delete=ON",
    "temp_store=MEMORY",
)  # fmt: skip


class Writes(NamedTuple):
    """What was written since the file was opened.

    Attributes
    ----------
    commits : transactions that changed something
    syncs : times that the disk was told to make it last
    """

    commits: int = 0
    syncs: int = 0


def written_bytes() -> int | None:
    """Return what the kernel has had to write for this process, in whole pages; None where it does not count."""
    try:
        with open("/proc/self/io", "rb") as file:
            return int(file.read().partition(b"\nwrite_bytes:")[2].split()[0])
    except (OSError, IndexError):
        return None


def hold(path: str) -> int:
    """Lock a file against other processes, until the descriptor returned is closed or the process dies.

    Raises
    ------
    StoreError
        Another process has it, or the file that is locked in its place cannot be made.
    """
    try:
        return open_exclusive(path + "-lock", wait=False, keep=True)
    except BlockingIOError as error:
        raise StoreError(f"another process serves from {path}; expected none; end it, or name another file") from error
    except OSError as error:
        raise StoreError(
            f"cannot open {path} ({error}); expected a folder that may be written to; make it, or look after its owner"
        ) from error


def make(path: str, tables: str, facts: Mapping[str, int]) -> None:
    """Make a file, all of it or nothing: one that is empty was damaged; see `Database`."""
    remove(path + NEW)
    Database(path + NEW, tables, facts).close()
    os.replace(path + NEW, path)
    fsync_folder(os.path.dirname(os.path.abspath(path)))


def remove(path: str) -> None:
    """Delete a database and what SQLite keeps beside it, as far as it is there."""
    for beside in ("", "-wal", "-journal", "-shm"):
        with suppress(FileNotFoundError):
            os.unlink(path + beside)


def lost_commits(path: str) -> int:
    """Return how many commits are in the log of a file that is being read behind what SQLite takes for its end.

    It takes a frame whose checksum is wrong for one that a power cut has torn, and says nothing of those behind it.

    References
    ----------
    https://www.sqlite.org/walformat.html, sections 1.3 and 2.1
    """
    try:
        with open(path + "-shm", "rb", buffering=0) as index, open(path + "-wal", "rb") as log:
            valid = int.from_bytes(index.read(20)[16:], sys.byteorder)  # frames
            head = log.read(_HEAD_BYTES)
            size, salts = int.from_bytes(head[8:12], "big") + _FRAME_BYTES, head[16:24]
            found = 0
            for place in range(_HEAD_BYTES + valid * size, os.fstat(log.fileno()).st_size, size):
                log.seek(place)
                frame = log.read(_FRAME_BYTES)
                found += frame[8:16] == salts and any(frame[4:8])  # the last one of a commit has the size of the file
            return found
    except FileNotFoundError:
        return 0


class Database:
    """One connection, for one thread at a time, of the process that holds the file.

    Parameters
    ----------
    path : the file; made if it is not there
    tables : statements that make the tables of a new one; one of them is ``facts``, of names and numbers
    facts : what it is for

    Attributes
    ----------
    problem : the last error, or "" once something was written again; that of a damaged page stays
    damaged : whether a damaged page was read
    writes : what was written

    Raises
    ------
    DamagedError
        What is in the file is no whole database.
    StoreError
        It is a database of something else, or cannot be opened or written.
    """

    def __init__(self, path: str, tables: str, facts: Mapping[str, int]) -> None:
        self.path, self.problem, self.damaged, self.writes = path, "", False, Writes()
        with self.telling("open"):
            new = not os.path.exists(path)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite's own could be read by all
            statements = [text.strip() for text in tables.split(";") if text.strip()]
            checked = new or self._check_unchanged(statements, facts)
            try:
                self._connect("rw")
                if new:
                    self._make(statements, facts)
                elif not checked:
                    self._check(statements, facts)
            except BaseException:
                self._db.close()
                raise

    def _connect(self, mode: str) -> sqlite3.Connection:
        place = os.path.abspath(self.path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        place = f"file:{place}?mode={mode}"
        self._db = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False, timeout=0)
        self._db.text_factory = readable
        for pragma in _PRAGMAS if mode == "rw" else ():
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        return self._db

    def _make(self, tables: Sequence[str], facts: Mapping[str, int]) -> None:
        with self.transaction():
            for statement in tables:
                self._db.execute(statement)
            self._db.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            self._db.execute(f"PRAGMA application_id={OURS}")
            self._db.execute(f"PRAGMA user_version={_sum(facts)}")

    def _check_unchanged(self, tables: Sequence[str], facts: Mapping[str, int]) -> bool:
        """Check the file without writing its log back when it is closed; return False if the disk is too full."""
        try:
            with closing(self._connect("ro")):
                self._check(tables, facts)
                lost = lost_commits(self.path)
                if lost > 1:  # one may have been under way when the power went
                    raise sqlite3.DatabaseError(f"its log is damaged before the last {lost} commits")
        except sqlite3.OperationalError:  # without an exclusive lock, the index of the log needs a file
            return False
        finally:
            with suppress(FileNotFoundError):
                os.unlink(self.path + "-shm")
        return True

    def _check(self, tables: Sequence[str], facts: Mapping[str, int]) -> None:
        if not os.path.getsize(self.path):
            raise sqlite3.DatabaseError("it is empty")
        problem = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(problem)
        self._check_identity(tables, facts)

    def _check_identity(self, tables: Sequence[str], facts: Mapping[str, int]) -> None:
        try:
            rows = self._db.execute("SELECT name, value FROM facts")
            found = {name: value for name, value in rows if name in facts and isinstance(value, int)}
        except sqlite3.OperationalError as error:
            if self.one("PRAGMA application_id") == OURS:
                raise sqlite3.DatabaseError(str(error)) from error
            raise StoreError(f"{self.path} holds other tables; expected a store; name another file") from error
        if found != facts and _sum(found) == self.one("PRAGMA user_version"):
            differences = [
                f"{_FACTS.get(name, name)} {found.get(name)}, not {value}"
                for name, value in facts.items() if found.get(name) != value
            ]  # fmt: skip
            raise StoreError(
                f"{self.path} was made for another model or version: {', '.join(differences)}; expected a store of "
                "this one; name another store, or the model that this one was made with"
            )
        there = {sql for (sql,) in self._db.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
        if found != facts or there != set(tables):
            raise sqlite3.DatabaseError("its tables are not as they were made")

    def execute(self, query: str, *values: Any) -> sqlite3.Cursor:
        """Run a statement; within `telling` or `transaction`."""
        return self._db.execute(query, values)

    def one(self, query: str, *values: Any) -> int:
        """Return the number that a query finds."""
        (found,) = self._db.execute(query, values).fetchone()
        if not isinstance(found, int):
            raise sqlite3.DatabaseError(f"{str(found)[:40]!r} is there instead of a number")
        return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Do all of what is inside or nothing; on the disk at its end.

        Raises
        ------
        StoreError
            It could not be written; nothing has changed.
        """
        with self.telling("write"):
            changes, logged = self._db.total_changes, self._logged()
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        if self._db.total_changes > changes:
            self.problem = self.problem if self.damaged else ""
            self._count(1, 1 + (logged == 0))  # the head of an empty log is synced before
            if self._logged() > LOG_BYTES:
                self.tidy()

    def tidy(self) -> None:
        """Write the log back and empty it; if that cannot be done now, another time."""
        if not self._logged():
            return
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            self.problem = f"cannot empty the log of {self.path} ({error}); it grows until there is room; free some"
        else:
            self._count(0, 2)

    def _logged(self) -> int:
        try:
            return os.stat(self.path + "-wal").st_size
        except FileNotFoundError:
            return 0

    def _count(self, commits: int, syncs: int) -> None:
        first = self.writes.syncs == 0  # with which SQLite syncs the folder, too
        self.writes = Writes(self.writes.commits + commits, self.writes.syncs + syncs + first)

    @contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        found: StoreError
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"cannot {what} {self.path} ({error}); expected an open file; start the daemon") from error
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # SQLite's messages may quote what is damaged
            # the subclasses of DatabaseError are for other troubles than damage
            if type(error) is sqlite3.DatabaseError or isinstance(error, UnicodeDecodeError):
                self.damaged, found = True, DamagedError(
                    f"cannot {what} {self.path}, which is damaged ({error}); expected a whole SQLite file; start the "
                    "daemon again: it goes on with what can still be read"
                )
            else:
                found = StoreError(
                    f"cannot {what} {self.path} ({error}); expected a file of ours with room to grow; free some space, "
                    "or look after the disk and the file's owner"
                )
            self.problem = str(found)
            raise found from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def readable(text: bytes) -> str:
    """Return a text whatever is in it: a damaged one is found out by what it says."""
    return text.decode(errors="replace")


def _sum(facts: Mapping[str, int]) -> int:
    """Return a number of 31 bits that tells damaged facts from those of another model."""
    total = 0
    for name in sorted(facts):
        total = (total * 1_000_003 + facts[name]) % (1 << 31)
    return total

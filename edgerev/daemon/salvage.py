"""A damaged file of the store: moved aside, and what can still be read of it put into a new one.

The newest generation of the model whose checksum is right is kept, with the samples that it was not trained on. SQLite
finds no damage inside a sample: what can be checked of one is its size and its place. The new file is made whole under
another name first, so that a power cut at any moment leaves the damaged file or the new one.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any, NamedTuple

from edgerev.checkpoint_reader import verified
from edgerev.daemon.database import NEW, PAGE_BYTES, SALVAGED, Database, lost_commits, readable, remove
from edgerev.daemon.schema import PARTS, STATE, TABLES
from edgerev.errors import CheckpointError, StoreError
from edgerev.files import file_in_memory, fsync_folder, write_all

DAMAGED_KEPT = 2  # files that were moved aside
NEW_IDS = 1 << 32  # ids left out, for a late label must not hit a newer sample than that which was lost
MOST = 1 << 53  # ids and numbers beyond are damage
_COPY = ".copy"
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)  # texts, also those of SQLite's messages, may be damaged


class Salvaged(NamedTuple):
    """What became of a damaged file.

    Attributes
    ----------
    reason : what was wrong with it
    moved_to : where it is now
    generation : the newest one of the model that was whole, or None: it starts from its file
    ready, waiting, keys : rows that were kept: samples with and without label, known names of samples
    lost : tables that could not be read to their end, generations that were not whole, and the log if it has commits
        behind one that is damaged
    """

    reason: str
    moved_to: str
    generation: int | None
    ready: int
    waiting: int
    keys: int
    lost: tuple[str, ...]

    def __str__(self) -> str:
        model = "the model of the settings" if self.generation is None else f"generation {self.generation} of the model"
        lost = ", ".join(self.lost)
        return (
            f"{self.reason}; it is {self.moved_to} now; the daemon goes on with {model}, {self.ready} samples with "
            f"label, {self.waiting} without, and {self.keys} known names; "
            + (f"what was not whole: {lost}; look after the disk" if lost else "nothing was lost")
        )


def salvage(path: str, facts: Mapping[str, int], reason: str) -> Salvaged:
    """Put a new file in the place of a damaged one, which nobody has open.

    Parameters
    ----------
    facts : see `Database`
    reason : why

    Raises
    ------
    StoreError
        There is no room for a copy, or files cannot be moved; the damaged file is as it was.
    """
    try:
        remove(path + NEW)
        with closing(Database(path + NEW, TABLES, facts)) as new:
            first = _first_page(path + NEW, new)
            kept = _refill(new, path, first, facts)
        os.replace(path + NEW, path + SALVAGED)
        return Salvaged(reason, put_in_place(path), *kept)
    except (OSError, sqlite3.Error, StoreError) as error:
        remove(path + NEW)
        raise StoreError(
            f"{path} is damaged ({reason}), and what can be read of it cannot be put into a new file ({error}); "
            "expected room for two copies; free some space"
        ) from error
    finally:
        remove(path + _COPY)


def put_in_place(path: str) -> str:
    """Move a damaged file aside and what was salvaged into its place; return the damaged file's new name.

    Done again after a power cut, it does what was left to do.
    """
    folder, name = os.path.split(os.path.abspath(path))
    begin = name + ".damaged-"
    numbers = sorted(int(rest) for rest in (one.removeprefix(begin) for one in os.listdir(folder)) if rest.isdigit())
    if os.path.exists(path):
        numbers.append(numbers[-1] + 1 if numbers else 1)
        for beside in ("-wal", "-journal", ""):
            with suppress(FileNotFoundError):
                os.rename(path + beside, f"{path}.damaged-{numbers[-1]}{beside}")
        fsync_folder(folder)  # or the old log might be there beside the new file
    os.replace(path + SALVAGED, path)
    fsync_folder(folder)
    for number in numbers[:-DAMAGED_KEPT]:
        remove(f"{path}.damaged-{number}")
    return f"{path}.damaged-{numbers[-1]}"


def is_whole(pieces: Iterable[bytes], state: str | bytes) -> bool:
    """Return whether the pieces of a generation are a checkpoint to the last bit, and its state can be read."""
    with file_in_memory() as (fd, path):
        try:
            json.loads(state or "0")
            for piece in pieces:
                write_all(fd, memoryview(piece))
            with verified(path):
                return True
        except (StoreError, CheckpointError, sqlite3.Error, ValueError):
            return False


def _refill(new: Database, path: str, first: bytes, facts: Mapping[str, int]) -> tuple[Any, ...]:
    """Put what can be read into a new file: with the log, unless a generation is whole only without it."""
    for last, with_log in enumerate((True, False, True)):
        _copy(path, first, with_log)
        with closing(sqlite3.connect(path + _COPY, isolation_level=None)) as old:
            old.text_factory = readable
            whole, lost = _whole_generations(old)
            if not whole and lost and last < 2:
                continue
            lost += ["log"] * (lost_commits(path + _COPY) > 1)
            with new.transaction():
                for generation in whole:
                    _take_over(old, new, generation)
                known = {**_facts(old), **facts}
                checks = _checks(whole[0].trained if whole else 0, known)
                counts = {table: _keep(old, new, table, check, lost) for table, check in checks.items()}
                ids = [new.one(f"SELECT coalesce(max(id), 0) FROM {table}") for table in ("ready", "waiting", "keys")]
                known["newest_id"] = max(*ids, known["newest_id"]) + NEW_IDS
                for fact in known.items():
                    new.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", *fact)
        number = whole[0].number if whole else None
        return number, counts["ready"], counts["waiting"], counts["keys"], tuple(lost)
    raise AssertionError


def _take_over(old: sqlite3.Connection, new: Database, found: _Generation) -> None:
    """Copy a generation that is whole."""
    size, table = 0, PARTS[found.number % 2]
    _insert(new, table, (found.number, STATE, found.trained, _state(old, found.number)))
    for part, data in enumerate(_parts(old, found.number)):
        _insert(new, table, (found.number, part, found.trained, data))
        size += len(data)
    _insert(new, "generations", (found.number, found.trained, size))


def _copy(path: str, first: bytes, with_log: bool) -> None:
    """Copy a damaged file, with a whole first page: it says what tables there are, which is known."""
    remove(path + _COPY)
    for beside in ("", "-wal") if with_log else ("",):
        if os.path.exists(path + beside):
            with open(path + beside, "rb") as source, open(path + _COPY + beside, "wb") as target:
                while piece := source.read(1 << 16):
                    target.write(piece)
    with open(path + _COPY, "r+b") as file:
        pages = max(1, os.fstat(file.fileno()).st_size // PAGE_BYTES)
        file.write(first[:28] + pages.to_bytes(4, "big") + first[32:])


def _first_page(path: str, new: Database) -> bytes:
    new.tidy()
    with open(path, "rb") as file:
        return file.read(PAGE_BYTES)


class _Generation(NamedTuple):
    number: int
    trained: int


def _whole_generations(old: sqlite3.Connection) -> tuple[list[_Generation], list[str]]:
    """Return the generations that are whole, the newest first, and what was lost."""
    lost: list[str] = []
    whole = []
    for found in _generations(old, lost):
        if is_whole(_parts(old, found.number), _state(old, found.number)):
            whole.append(found)
        else:
            lost.append(f"generation {found.number}")
    return whole, lost


def _generations(old: sqlite3.Connection, lost: list[str]) -> list[_Generation]:
    """Return those that their own table or the parts know of, the newest first."""
    found: dict[int, _Generation] = {}
    queries = {table: f"SELECT DISTINCT generation, trained FROM {table}" for table in PARTS}
    for table, query in {**queries, "generations": "SELECT number, trained FROM generations"}.items():
        try:
            found |= {row[0]: _Generation(*row) for row in old.execute(query) if _numbers(*row)}
        except UNREADABLE:
            lost.append(table)
    return sorted(found.values(), reverse=True)


def _parts(old: sqlite3.Connection, number: int) -> Iterator[bytes]:
    query = f"SELECT data FROM {PARTS[number % 2]} WHERE generation = ? AND part >= 0 ORDER BY part"
    for (data,) in old.execute(query, (number,)):
        yield data if isinstance(data, bytes) else b""


def _state(old: sqlite3.Connection, number: int) -> bytes:
    query = f"SELECT data FROM {PARTS[number % 2]} WHERE generation = ? AND part = ?"
    try:
        (state,) = old.execute(query, (number, STATE)).fetchone()
    except (*UNREADABLE, TypeError):
        return b"lost"
    return state if isinstance(state, bytes) else b"lost"


def _facts(old: sqlite3.Connection) -> dict[str, int]:
    found = {"newest_id": 0, "seconds": 0}
    with suppress(*UNREADABLE):
        for name, value in old.execute("SELECT name, value FROM facts"):
            if name in found and _numbers(value):
                found[name] = value
    return found


def _checks(trained: int, facts: Mapping[str, int]) -> dict[str, Callable[[Any], Any]]:
    """Return for each table a function that gives a row as it may be kept, or None."""
    x_bytes, y_bytes, now = facts["x_bytes"], facts["y_bytes"], facts["seconds"]

    def ready(row: Any) -> Any:
        number, name, x, y, known = row
        good = _numbers(number, name) and number > trained and known in (0, 1)
        return row if good and _blob(x, x_bytes) and _blob(y, y_bytes) else None

    def waiting(row: Any) -> Any:
        name, arrived, x = row
        return (name, min(arrived, now), x) if _numbers(name, arrived) and _blob(x, x_bytes) else None

    def named(row: Any) -> Any:
        return row if _numbers(row[0]) and isinstance(row[1], str) else None

    def noted(row: Any) -> Any:
        return row if named(row) is not None and isinstance(row[2], str) else None

    return {"ready": ready, "waiting": waiting, "keys": named, "notes": noted, "history": named}


def _numbers(*values: Any) -> bool:
    return all(isinstance(value, int) and 0 <= value <= MOST for value in values)


def _blob(value: Any, size: int) -> bool:
    return isinstance(value, bytes) and len(value) == size


def _keep(old: sqlite3.Connection, new: Database, table: str, check: Callable[[Any], Any], lost: list[str]) -> int:
    """Copy the rows of a table that can be read; return how many."""
    kept, whole = 0, True
    for row in _rows(old, table, lost):
        good = check(row)
        whole = whole and good is not None
        kept += good is not None and _insert(new, table, good)
    if not whole and table not in lost:
        lost.append(table)
    return kept


def _rows(old: sqlite3.Connection, table: str, lost: list[str]) -> Iterator[Any]:
    """Yield the rows before a page that cannot be read, and from the other end those behind it."""
    last = -1
    try:
        for row in old.execute(f"SELECT * FROM {table} ORDER BY rowid"):
            yield row
            last = row[0]
    except UNREADABLE:
        lost.append(table)
        with suppress(*UNREADABLE):
            for row in old.execute(f"SELECT * FROM {table} ORDER BY rowid DESC"):
                if row[0] <= last:
                    return
                yield row


def _insert(new: Database, table: str, row: Sequence[Any]) -> int:
    return new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(row))})", *row).rowcount

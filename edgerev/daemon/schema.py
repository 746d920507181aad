"""The tables of the daemon's file, and what goes into them and comes out.

Generations are in two tables by turns, and what they were trained on is with them: no page that is damaged takes two.
"""

from __future__ import annotations

from typing import NamedTuple

from edgerev.errors import DataError, QueueFullError

SCHEMA = 2
PARTS = "parts0", "parts1"  # by the number of the generation
KEY_BYTES = 200
STATE = -1  # the part that is what else belongs to a generation
TABLES = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE waiting(id INTEGER PRIMARY KEY, arrived INTEGER NOT NULL, x BLOB NOT NULL);
CREATE TABLE ready(number INTEGER PRIMARY KEY, id INTEGER NOT NULL, x BLOB NOT NULL, y BLOB NOT NULL,
    known INTEGER NOT NULL);
CREATE TABLE keys(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE generations(number INTEGER PRIMARY KEY AUTOINCREMENT, trained INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE parts0(generation INTEGER, part INTEGER, trained INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY(generation, part)) WITHOUT ROWID;
CREATE TABLE parts1(generation INTEGER, part INTEGER, trained INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY(generation, part)) WITHOUT ROWID;
CREATE TABLE notes(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, value TEXT NOT NULL);
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


def check_sizes(sizes: tuple[int, int], x: bytes | None, y: bytes | None) -> None:
    """Refuse a sample or a target of another size, by a DataError."""
    for name, value, size in (("sample", x, sizes[0]), ("target", y, sizes[1])):
        if value is not None and len(value) != size:
            raise DataError(f"a {name} of {len(value)} bytes; expected {size}, as the model takes it; convert it")


def check_key(key: str | None) -> None:
    """Refuse a key that is too long or no text, by a DataError."""
    try:
        size = len((key or "").encode())
    except UnicodeEncodeError as error:
        raise DataError(f"key {key!r} is no text ({error}); expected one of whole characters; change it") from error
    if size > KEY_BYTES:
        raise DataError(f"a key of {size} bytes in UTF-8; expected at most {KEY_BYTES}; send a shorter one")


def no_room(count: int, room: int, most: int) -> QueueFullError:
    """Return the error for samples that there is no room for."""
    return QueueFullError(
        f"asked for room for {count}, and there is room for {max(0, room)} of serve.most_samples {most}; training and "
        "saving make room; send them again later"
    )

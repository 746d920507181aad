"""The tables of the daemon's file, and what goes into them and comes out.

Generations are in two tables by turns, and what they were trained on is with them: no page that is damaged takes two.
"""

from __future__ import annotations

from typing import NamedTuple

SCHEMA = 2
PARTS = "parts0", "parts1"  # by the number of the generation
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

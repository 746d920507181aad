"""The daemon's log: events and what libraries say, a line each on standard error.

For people at a terminal, else JSON; for journald, which keeps the time itself, with the priority in front. Samples'
values are never in it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

MOST_ALIKE = 10  # lines of one kind in a minute
MINUTE = 60.0
MOST_KINDS = 100  # that are told apart
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))


def set_up(level: int = logging.INFO) -> None:
    """Let everything that is logged from now on go to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(_style(sys.stderr)))
    handler.addFilter(Seldom())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.raiseExceptions = False  # a reader that is gone must not fill the log with that


def _style(stream: TextIO) -> str:
    if os.environ.get("JOURNAL_STREAM") == "{0.st_dev}:{0.st_ino}".format(os.fstat(stream.fileno())):
        return "journal"
    return "terminal" if stream.isatty() else "json"


class Lines(logging.Formatter):
    """Writes a record as one line.

    Parameters
    ----------
    style : "terminal", "json" or "journal"
    """

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style

    def format(self, record: logging.LogRecord) -> str:
        facts = dict(getattr(record, "facts", {}))
        event = record.getMessage() if record.name == "edgerev.daemon" else record.name
        if record.name != "edgerev.daemon":
            facts["message"] = record.getMessage()
        if record.exc_info:
            facts["trace"] = self.formatException(record.exc_info)
        if getattr(record, "left_out", 0):
            facts["left_out"] = record.left_out  # type: ignore[attr-defined]  # alike, in the minute before
        if self.style == "terminal":
            return _for_people(record, event, facts)
        line = {"level": record.levelname.lower(), "event": event, **facts}
        if self.style == "journal":
            priority = next(number for least, number in _PRIORITIES if record.levelno >= least)
            return f"<{priority}>{json.dumps(line, default=str)}"
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03}Z"
        return json.dumps({"time": moment, **line}, default=str)


def _for_people(record: logging.LogRecord, event: str, facts: dict) -> str:
    message, trace = facts.pop("message", ""), facts.pop("trace", "")
    level = "" if record.levelno == logging.INFO else f" {record.levelname.lower()}"
    rest = ", ".join(f"{name} {value}" for name, value in facts.items())
    line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))}{level} {event}"
    return line + (f": {message}" if message else "") + (f" ({rest})" if rest else "") + (f"\n{trace}" if trace else "")


class Seldom(logging.Filter):
    """Lets few records of a kind through in a minute; the first one of the next minute says how many it did not.

    Parameters
    ----------
    clock : returns seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock, self._counts, self._start = clock, dict[tuple[str, str], int](), clock()
        self._before: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if self._clock() - self._start >= MINUTE:
            self._before, self._counts, self._start = self._counts, {}, self._clock()
        kind = (record.name, record.msg if isinstance(record.msg, str) else type(record.msg).__name__)
        if kind not in self._counts and len(self._counts) >= MOST_KINDS:
            kind = ("", "")
        self._counts[kind] = self._counts.get(kind, 0) + 1
        record.left_out = max(0, self._before.pop(kind, 0) - MOST_ALIKE)
        return self._counts[kind] <= MOST_ALIKE

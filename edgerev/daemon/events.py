"""What happens in the daemon: told once, written to the log, and passed on to whoever listens."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import Any, NamedTuple

LOG = logging.getLogger("edgerev.daemon")
MOST_BEHIND = 100  # events that a listener may be behind before it loses the oldest


class Event(NamedTuple):
    """Something that happened.

    Attributes
    ----------
    number : its place among all of this process
    kind : a word, as "rollback"
    facts : what can be said of it, as JSON has it
    time : seconds since 1970
    """

    number: int
    kind: str
    facts: dict[str, Any]
    time: float


class Listener:
    """Takes the events from its making on; a slow one loses the oldest.

    Attributes
    ----------
    closed : whether none will come any more
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST_BEHIND)
        self._came = threading.Condition()
        self.closed = False

    def put(self, event: Event) -> None:
        """Pass an event on."""
        with self._came:
            self._events.append(event)
            self._came.notify()

    def close(self) -> None:
        """Let `get` return None at once from here on."""
        with self._came:
            self.closed = True
            self._came.notify_all()

    def get(self, seconds: float) -> Event | None:
        """Return the next event, or None if there is none for so long."""
        with self._came:
            self._came.wait_for(lambda: self._events or self.closed, seconds)
            return self._events.popleft() if self._events else None


class Events:
    """Tells what happens; for any number of threads.

    Attributes
    ----------
    recent : the newest events, for a page that is opened later
    counts : of events, by kind
    """

    def __init__(self) -> None:
        self._lock, self._listeners = threading.Lock(), list[Listener]()
        self._count, self._closed = 0, False
        self.recent: deque[Event] = deque(maxlen=50)
        self.counts: dict[str, int] = {}

    def tell(self, kind: str, level: int = logging.INFO, **facts: Any) -> None:
        """Log an event, and pass it on.

        Parameters
        ----------
        level : of `logging`; from WARNING on something should be done about it
        facts : by name; `message` is for people
        """
        LOG.log(level, kind, extra={"facts": facts})
        with self._lock:
            self._count += 1
            self.counts[kind] = self.counts.get(kind, 0) + 1
            event = Event(self._count, kind, facts, time.time())
            self.recent.append(event)
            for listener in self._listeners:
                listener.put(event)

    def listen(self) -> Listener:
        """Return a new listener; give it back to `leave`."""
        listener = Listener()
        with self._lock:
            self._listeners.append(listener)
            listener.closed = self._closed
        return listener

    def leave(self, listener: Listener) -> None:
        """Pass nothing on to a listener any more."""
        with self._lock:
            self._listeners.remove(listener)
        listener.close()

    def close(self) -> None:
        """Let every listener go, also those to come."""
        with self._lock:
            self._closed = True
            for listener in self._listeners:
                listener.close()

"""Server-sent events: what happens, and each second how the daemon is, to those who watch."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from edgerev.daemon.events import Event, Listener
from edgerev.daemon.facts import describe
from edgerev.daemon.service import Service

MOST = 4  # each holds a thread of the server
STATUS_SECONDS = 1.0


class Streams:
    """Lets a few watch at a time.

    Parameters
    ----------
    service : what is watched
    """

    def __init__(self, service: Service) -> None:
        self.service, self._lock = service, threading.Lock()
        self._open: set[Stream] = set()
        self._closed = False

    def open(self) -> Stream | None:
        """Return a stream of events, the recent ones first; None if as many are open as may."""
        with self._lock:
            if len(self._open) >= MOST or self._closed:
                return None
            stream = Stream(self)
            self._open.add(stream)
            return stream

    def leave(self, stream: Stream) -> None:
        """Make room for another stream."""
        with self._lock:
            self._open.discard(stream)

    def close(self) -> None:
        """End all streams."""
        with self._lock:
            self._closed = True
            for stream in self._open:
                stream.listener.close()


class Stream:
    """One stream, as a WSGI server wants it: an iterator that is closed even if it was never asked for anything.

    Attributes
    ----------
    listener : to the service's events; the stream ends when it is closed
    """

    def __init__(self, streams: Streams) -> None:
        self._streams, events = streams, streams.service.events
        self.listener = events.listen()
        self._parts = _parts(streams.service, self.listener, [*events.recent])

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._parts)

    def close(self) -> None:
        """End it; the server calls this."""
        self._streams.service.events.leave(self.listener)
        self._streams.leave(self)


def _parts(service: Service, listener: Listener, recent: list[Event]) -> Iterator[bytes]:
    newest = 0
    yield b"retry: 2000\n\n"
    for event in recent:
        yield _told(event)
        newest = event.number
    while not listener.closed:
        yield _part("status", describe(service))
        deadline = time.monotonic() + STATUS_SECONDS
        while came := listener.get(max(deadline - time.monotonic(), 0)):
            if came.number > newest:  # it may be among the recent ones
                yield _told(came)


def _told(event: Event) -> bytes:
    facts = {"kind": event.kind, "time": round(event.time, 1), **event.facts}
    return f"id: {event.number}\n".encode() + _part("event", facts)


def _part(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()

"""The server beneath the HTTP door: waitress, with what it lets through bounded in number, size and time.

Waitress reads requests in one thread, whole, and hands them to others, so slow clients hold no thread. What is added:
requests are refused by their headers, before a body is taken in; a request has to be there, and an answer gone, in a
given time, however busy the client looks; where too many are connected, the one that waited longest makes room; errors
are JSON. Nothing is spilled to temporary files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import socket
import time
from collections import deque
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import ErrorTask
from waitress.utilities import Error

from edgerev.daemon.access import Access, Refusal, load_token
from edgerev.daemon.http import Application
from edgerev.daemon.listening import listen
from edgerev.daemon.service import Service
from edgerev.daemon.settings import ServeSettings
from edgerev.daemon.streams import MOST as STREAMS

THREADS = 4  # that answer; as many again as may watch are kept for streams
CONNECTIONS = 64
BODIES = 8  # most bytes of bodies on their way in, over the most bytes of one
HEADER_BYTES = 16 << 10
LAST_ROUNDS = 20  # of a tenth of a second, in which clients may fetch the end of their answers
NEVER = 1 << 40  # bytes after which waitress writes to a temporary file; seconds, by a clock that may jump, to a close
_WORDS = {401: "Unauthorized", 403: "Forbidden", 503: "Service Unavailable"}


class _RefusedError(Error):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.code, self.reason, self.headers = refusal.code, _WORDS[refusal.code], refusal.headers


class _Complaint(ErrorTask):
    """Answers with an error in JSON."""

    def execute(self) -> None:
        error = self.request.error
        message = f"{error.body}; expected a request within the limits that docs/daemon.md names; change it"
        body = json.dumps({"error": error.body if isinstance(error, _RefusedError) else message}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff")]
        self.response_headers += error.headers if isinstance(error, _RefusedError) else ()
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(b"" if self.request.command == "HEAD" else body)


class _Parser(HTTPRequestParser):
    """Refuses a request once its headers are there."""

    command = ""
    error: Error | None

    def __init__(self, adj: Any, channel: _Channel) -> None:
        super().__init__(adj)
        self._channel = channel

    def received(self, data: bytes) -> int:
        before = self.headers_finished
        consumed = super().received(data)
        if self.headers_finished and not before and not self.empty and self.error is None:
            refusal = self._channel.refusal(self)
            self.error = None if refusal is None else _RefusedError(refusal)
        if self.error is None:
            return consumed
        self.completed, self.expect_continue, self._channel.owing = True, False, True
        return len(data)

    @property
    def announced(self) -> int:
        """Bytes of the body: of one that comes in chunks, as many as may."""
        return self.adj.max_request_body_size if self.chunked else self.content_length


class _Channel(HTTPChannel):
    """A connection.

    Parameters
    ----------
    seconds : in which a request has to be there, and an answer gone

    Attributes
    ----------
    owing : whether something that was refused may still be on its way in
    """

    error_task_class = _Complaint

    def __init__(
        self, access: Access, seconds: float, server: Any, sock: socket.socket, addr: Any, adj: Any, map: Any = None
    ) -> None:
        self._access, self._seconds, self._since = access, seconds, time.monotonic()
        self.owing = self._draining = False
        self.parser_class = lambda adj: _Parser(adj, self)
        super().__init__(server, sock, addr, adj, map=map)
        channels = server.active_channels.values()
        idle = [one for one in channels if one is not self and not one.requests]
        if len(channels) > CONNECTIONS and idle:
            min(idle, key=lambda one: one._since).drop()

    def refusal(self, request: _Parser) -> Refusal | None:
        """Return why a request whose headers are there is refused, or None."""
        found = self._access.refusal(request.path.rstrip("/") or "/", request.headers, str(self.addr[0]))
        if found is None and request.announced:
            channels = list(self.server.active_channels.values())
            requests = [one for channel in channels for one in (channel.request, *channel.requests)]
            coming = sum(one.announced for one in requests if one is not None)
            if coming > BODIES * self.adj.max_request_body_size:
                return Refusal(503, "too many bodies are on their way in; send it again later", (("Retry-After", "1"),))
        return found

    # -- time: since a request began to come in, or the client took something of an answer ------------------------

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self._since = time.monotonic()
        return super().received(data)

    def send(self, data: bytes, do_close: bool = True) -> int:
        sent = super().send(data, do_close)
        if sent:
            self._since = time.monotonic()
        return sent

    def readable(self) -> bool:
        waits_for_client = not self.requests or self.total_outbufs_len
        if waits_for_client and time.monotonic() - self._since > self._seconds:
            self.drop()
        return self._draining or super().readable()

    def drop(self) -> None:
        """Let the server close the connection in its next round, also if the client reads nothing."""
        self.will_close, self.owing = True, False
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    # -- closing: a connection that is closed with bytes unread is reset, and the client may lose its answer ------

    def handle_close(self) -> None:
        if self.owing and self.connected:
            self.owing, self.will_close, self._draining = False, False, True
            with contextlib.suppress(OSError):
                return self.socket.shutdown(socket.SHUT_WR)
        return super().handle_close()

    def handle_read(self) -> None:
        if self._draining:
            self.recv(self.adj.recv_bytes)  # closes at the end
        else:
            super().handle_read()


class Server:
    """Listens where the settings say, and lets the application answer.

    Parameters
    ----------
    service : what the door is for
    settings : where to listen, who may ask, and how much

    Attributes
    ----------
    loop : members of waitress's loop, by their descriptor
    waiting : requests that no thread took up yet

    Raises
    ------
    UsageError
        The address cannot be listened on.
    ConfigError
        The file with the token cannot be used.
    """

    def __init__(self, service: Service, settings: ServeSettings) -> None:
        access = Access(load_token(settings.token_file) if settings.token_file else "", service.events)
        self.application = Application(service, access.denied.to_dict)
        self.loop: dict[int, Any] = {}
        self._path = settings.listen.removeprefix("unix:") if settings.host == "unix" else ""
        Adjustments.listen = []  # its default is not used here, but looked up, with tables of 0.5 MB
        self._server = create_server(
            self.application, self.loop, sockets=[listen(settings)], threads=THREADS + STREAMS, ident="edgerev",
            connection_limit=2 * CONNECTIONS, max_request_body_size=settings.request_bytes + 1,
            max_request_header_size=HEADER_BYTES, inbuf_overflow=NEVER, outbuf_overflow=NEVER, channel_timeout=NEVER,
            log_socket_errors=False,
        )  # fmt: skip
        self._server.channel_class = functools.partial(_Channel, access, settings.request_seconds)
        self.waiting: deque[Any] = self._server.task_dispatcher.queue
        logging.getLogger("waitress").setLevel(logging.WARNING)  # each page that is closed is a client gone
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # calls may wait for a commit

    @property
    def port(self) -> int | None:
        """TCP port that is listened on, also where 0 was asked for; None for a Unix socket."""
        return None if self._path else int(self._server.effective_port)

    def run(self) -> None:
        """Answer until a handler of a signal, or a member of the loop, raises SystemExit; finish requests at hand."""
        try:
            while True:
                self._round(1.0)
        except SystemExit:
            pass
        finally:
            self._close()

    def _round(self, seconds: float) -> None:
        wasyncore.loop(seconds, use_poll=True, map=self.loop, count=1)

    def _close(self) -> None:
        self.application.streams.close()
        self._server.accepting = False
        self._server.task_dispatcher.shutdown()
        for _ in range(LAST_ROUNDS):
            if not any(channel.total_outbufs_len for channel in self._server.active_channels.values()):
                break
            self._round(0.1)
        wasyncore.close_all(self.loop, ignore_all=True)
        if self._path:
            os.unlink(self._path)

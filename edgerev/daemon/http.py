"""The daemon's door for HTTP: what each route takes and answers, as a WSGI application."""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from edgerev.daemon.facts import describe
from edgerev.daemon.metrics import Durations, render
from edgerev.daemon.service import Service
from edgerev.daemon.store import Arrival
from edgerev.daemon.streams import Streams
from edgerev.errors import DataError, EdgerevError, QueueFullError, StoreError

JSON, NPZ, METRICS = "application/json", "application/x-npz", "text/plain; version=0.0.4; charset=utf-8"
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"), "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"), "/icon.svg": ("icon.svg", "image/svg+xml"),
}  # fmt: skip
_FOLDER = os.path.join(os.path.dirname(__file__), "page")
_WORDS = {
    200: "OK", 202: "Accepted", 204: "No Content", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    415: "Unsupported Media Type", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
_POLICY = (  # nothing from elsewhere, nothing inline, in no frame
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-cache"),
    ("Cross-Origin-Resource-Policy", "same-origin"), ("Content-Security-Policy", _POLICY),
]  # fmt: skip


class Answer(NamedTuple):
    """An answer: a dict, which becomes JSON, or bytes, or what yields them and can be closed."""

    code: int
    body: Any = None
    kind: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Application:
    """Answers requests for a service; see docs/daemon.md for what goes in and out.

    Who may ask, and how much, is decided before, see `server`.

    Parameters
    ----------
    service : asked for everything
    denied : counts of requests that never came here, for the metrics

    Attributes
    ----------
    streams : of events, to those who watch
    """

    def __init__(self, service: Service, denied: Callable[[], Mapping[str, int]]) -> None:
        self.service, self._denied = service, denied
        self.streams, self._durations = Streams(service), Durations()
        self._reading = threading.Lock()  # one body is taken apart at a time: that takes 30 times its bytes
        self._routes: dict[str, tuple[str, Callable[[dict[str, Any]], Answer]]] = {
            "/v1/samples": ("POST", self._samples), "/v1/labels": ("POST", self._labels),
            "/v1/predict": ("POST", self._predict), "/v1/control": ("POST", self._control),
            "/v1/status": ("GET", self._status), "/v1/history": ("GET", self._history),
            "/v1/events": ("GET", self._events), "/v1/openapi.json": ("GET", self._description),
            "/v1/model": ("GET", self._model), "/metrics": ("GET", self._metrics),
            **dict.fromkeys(PAGE, ("GET", self._page)),
        }  # fmt: skip

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        began, path, method = time.monotonic(), environ["PATH_INFO"].rstrip("/") or "/", environ["REQUEST_METHOD"]
        answer = self._answer(environ, path, method)
        headers = [("Content-Type", answer.kind), *answer.headers, *_HEADERS]
        start = f"{answer.code} {_WORDS[answer.code]}"
        if answer.code == 204:
            start_response(start, headers[1:])
            return []
        if not isinstance(answer.body, (bytes, dict)):  # a stream, or a file, which the server closes
            start_response(start, headers)
            if method == "HEAD":
                answer.body.close()
            return [] if method == "HEAD" else answer.body
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        start_response(start, [*headers, ("Content-Length", str(len(body)))])
        if path in self._routes:
            self._durations.add(path, time.monotonic() - began)
        return [] if method == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any], path: str, method: str) -> Answer:
        if path not in self._routes:
            return _problem(404, f"there is no {path[:200]}; expected one of {', '.join(self._routes)}")
        expected, handle = self._routes[path]
        allowed = (("Allow", "GET, HEAD, OPTIONS" if expected == "GET" else "POST, OPTIONS"),)
        if method == "OPTIONS":
            return Answer(204, headers=allowed)
        if method != expected and (method, expected) != ("HEAD", "GET"):
            return _problem(405, f"{method} {path}: expected {expected}", *allowed)
        if expected == "POST" and _kind(environ) not in (JSON, NPZ)[: 1 + (path in ("/v1/samples", "/v1/predict"))]:
            return _problem(415, f"Content-Type {_kind(environ)[:80]!r}: expected {JSON}; with curl: --json @file")
        try:
            return handle(environ | {"PATH_INFO": path})
        except DataError as error:
            return _problem(400, str(error))
        except QueueFullError as error:
            return _problem(429, str(error), ("Retry-After", str(max(1, math.ceil(error.seconds)))))
        except StoreError as error:
            return _problem(503, str(error), ("Retry-After", "60"))
        except EdgerevError as error:
            return _problem(500, str(error))
        except Exception as error:  # a defect of ours: the daemon stays, and says so
            logging.getLogger("edgerev.daemon").exception("cannot answer %s %s", method, path)
            self.service.events.tell("defect", logging.ERROR, message=f"{method} {path}: {error!r}")
            return _problem(500, f"{type(error).__name__}; this is a defect of the daemon, its log says more")

    # -- what requests ask for --------------------------------------------------------------------------------

    def _samples(self, environ: dict[str, Any]) -> Answer:
        with self._reading:
            arrivals = self._arrivals(environ)
        return Answer(202, {"ids": self.service.put(arrivals)})

    def _arrivals(self, environ: dict[str, Any]) -> list[Arrival]:
        if _kind(environ) == NPZ:
            return self.service.values.arrivals_of_arrays(_read(environ))
        samples = _list(_body(environ), "samples")
        with self.service.counting(len(samples)):
            return self.service.values.arrivals(samples)

    def _labels(self, environ: dict[str, Any]) -> Answer:
        with self._reading:
            pairs = self.service.values.labels(_list(_body(environ), "labels"))
        return Answer(200, {"unknown": self.service.put_labels(pairs)})

    def _predict(self, environ: dict[str, Any]) -> Answer:
        with self._reading:
            joined = self._rows(environ)
        return Answer(200, {"predictions": self.service.answer(joined)})

    def _rows(self, environ: dict[str, Any]) -> array:
        if _kind(environ) == NPZ:
            return self.service.values.rows_of_arrays(_read(environ))
        return self.service.values.rows(_list(_body(environ), "samples"))

    def _control(self, environ: dict[str, Any]) -> Answer:
        verbs = self.service.controls
        with self._reading:
            body = _body(environ)
        if not isinstance(body, dict) or body.keys() != {"do"} or body["do"] not in [*verbs]:
            raise DataError(f"expected an object with do, one of {', '.join(verbs)}; change the body")
        verbs[body["do"]]()
        return self._status(environ)

    def _status(self, _: dict[str, Any]) -> Answer:
        return Answer(200, describe(self.service))

    def _history(self, _: dict[str, Any]) -> Answer:
        return Answer(200, self.service.history.to_dict())

    def _events(self, _: dict[str, Any]) -> Answer:
        stream = self.streams.open()
        if stream is None:
            return _problem(503, "as many watch as may; close another page", ("Retry-After", "10"))
        return Answer(200, stream, "text/event-stream")

    def _description(self, _: dict[str, Any]) -> Answer:
        from edgerev.daemon.openapi import description

        return Answer(200, description(self.service.values, self.service.store.most_samples, [*self.service.controls]))

    def _model(self, environ: dict[str, Any]) -> Answer:
        """Send a checkpoint of the model as it is now; it is in memory until it is sent."""
        file = open(os.memfd_create("edgerev-model"), "w+b")  # noqa: SIM115
        try:
            self.service.export_into(file.fileno())
        except BaseException:
            file.close()
            raise
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        length = ("Content-Length", str(size))
        return Answer(200, environ["wsgi.file_wrapper"](file), "application/octet-stream", (length,))

    def _metrics(self, _: dict[str, Any]) -> Answer:
        text = render(describe(self.service), self._durations, self._denied())
        return Answer(200, text.encode(), METRICS)

    def _page(self, environ: dict[str, Any]) -> Answer:
        name, kind = PAGE[environ["PATH_INFO"]]
        with open(os.path.join(_FOLDER, name), "rb") as file:
            return Answer(200, file.read(), kind)


def _problem(code: int, message: str, *headers: tuple[str, str]) -> Answer:
    return Answer(code, {"error": message}, headers=headers)


def _kind(environ: dict[str, Any]) -> str:
    return environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()


def _read(environ: dict[str, Any]) -> bytes:
    return environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))


def _body(environ: dict[str, Any]) -> Any:
    try:
        return json.loads(_read(environ), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON ({str(error)[:200]}); expected an object; send one") from error


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _list(body: Any, name: str) -> list:
    if not isinstance(body, dict) or body.keys() != {name} or not isinstance(body[name], list):
        raise DataError(f"expected an object with one list, {name}; change the body")
    return body[name]

"""The daemon's door for HTTP: JSON in, JSON out, as a WSGI application."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from edgerev.daemon.service import Service
from edgerev.errors import DataError, EdgerevError, QueueFullError, StoreError

_WORDS = {
    200: "OK", 202: "Accepted", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip


class Application:
    """Answers requests for a service; see docs/daemon.md for what goes in and out."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._routes: dict[str, tuple[str, Callable[[Any], tuple[int, Any]]]] = {
            "/v1/samples": ("POST", self._samples), "/v1/labels": ("POST", self._labels),
            "/v1/predict": ("POST", self._predict), "/v1/status": ("GET", self._status),
            "/v1/control": ("POST", self._control),
        }  # fmt: skip

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("GET", "/v1/model"):
            return self._model(environ, start_response)
        code, answer = self._answer(environ)
        body = json.dumps(answer).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        headers += [("Retry-After", "1")] if code == 429 else []
        start_response(f"{code} {_WORDS[code]}", headers)
        return [body]

    def _model(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Send a checkpoint of the model as it is now; the file is in memory until it is sent."""
        file = open(os.memfd_create("edgerev-model"), "w+b")  # noqa: SIM115  # the server closes it
        try:
            self.service.export_into(file.fileno())
        except EdgerevError as error:
            file.close()
            start_response(f"500 {_WORDS[500]}", [("Content-Type", "application/json")])
            return [json.dumps({"error": str(error)}).encode()]
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
        return environ["wsgi.file_wrapper"](file)

    def _answer(self, environ: dict[str, Any]) -> tuple[int, Any]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path not in self._routes:
            return 404, {"error": f"there is no {path}; expected one of {', '.join(self._routes)}"}
        expected, handle = self._routes[path]
        if method != expected:
            return 405, {"error": f"{method} {path}: expected {expected}"}
        try:
            return handle(_body(environ) if expected == "POST" else None)
        except DataError as error:
            return 400, {"error": str(error)}
        except QueueFullError as error:
            return 429, {"error": str(error)}
        except StoreError as error:
            return 503, {"error": str(error)}
        except EdgerevError as error:
            return 500, {"error": str(error)}

    def _samples(self, body: Any) -> tuple[int, Any]:
        return 202, {"ids": self.service.take(_list(body, "samples"))}

    def _labels(self, body: Any) -> tuple[int, Any]:
        return 200, {"unknown": self.service.label(_list(body, "labels"))}

    def _predict(self, body: Any) -> tuple[int, Any]:
        return 200, {"predictions": self.service.predict(_list(body, "samples"))}

    def _control(self, body: Any) -> tuple[int, Any]:
        controls = {"pause": self.service.pause, "resume": self.service.resume, "save": self.service.save}
        if not isinstance(body, dict) or body.keys() != {"do"} or body["do"] not in controls:
            raise DataError(f"expected an object with do, one of {', '.join(controls)}; change the body")
        controls[body["do"]]()
        return 200, self.service.status()

    def _status(self, _: Any) -> tuple[int, Any]:
        return 200, self.service.status()


def _body(environ: dict[str, Any]) -> Any:
    text = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON ({str(error)[:200]}); expected an object; send one") from error


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _list(body: Any, name: str) -> list:
    if not isinstance(body, dict) or body.keys() != {name} or not isinstance(body[name], list):
        raise DataError(f"expected an object with one list, {name}; change the body")
    return body[name]

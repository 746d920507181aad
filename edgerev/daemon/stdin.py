"""The daemon's door for standard input: a line of JSON in, a line of JSON out, in the same order."""

from __future__ import annotations

import json
import os
import select
import threading
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from edgerev.daemon.intake import Intake, Part, read_json
from edgerev.daemon.service import Service
from edgerev.errors import DataError, EdgerevError, StoreError

READ_BYTES = 1 << 16  # what is there at once, up to so much, shares a commit


class StandardInput:
    """Reads samples, labels and questions from one descriptor, and answers on another.

    Parameters
    ----------
    end : ends the daemon after the end of the input; None to go on
    source, target : descriptors
    """

    def __init__(
        self, service: Service, end: Callable[[], None] | None, source: int = 0, target: int = 1
    ) -> None:
        self._service, self._end = service, end
        self._source, self._target = source, target
        self._stopping, self._bell = threading.Event(), os.pipe()
        self._intake = Intake(service, "stdin", self._stopping)
        self._thread = threading.Thread(target=self._run, name="stdin")
        self._acts: dict[str, Callable[[Any], dict[str, Any]]] = {"predict": self._predict, "id": self._label}

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more; what was read but not acknowledged is not taken in."""
        self._stopping.set()
        os.write(self._bell[1], b"!")
        if self._thread.is_alive():
            self._thread.join()
        for end in self._bell:
            os.close(end)

    def _run(self) -> None:
        try:
            for lines in self._lines():
                for answer in self._answers(lines):
                    self._write(json.dumps(answer).encode() + b"\n")
        except OSError as error:  # whoever reads the answers is gone
            self._service.events.tell("input_broken", door="stdin", message=str(error))
        if self._stopping.is_set():
            return
        self._service.events.tell("input_ended", door="stdin")
        if self._end is not None:
            self._service.settle()
            self._end()

    # -- lines ------------------------------------------------------------------------------------------------

    def _lines(self) -> Iterator[list[bytes | None]]:
        """Yield lines that are there at once; None for one that is too long."""
        most, rest, skipping = self._service.settings.request_bytes, b"", False
        while self._waits([self._source], []):
            data = os.read(self._source, READ_BYTES)
            *lines, rest = (rest + (data or b"\n")).split(b"\n")  # the last line needs no end
            found: list[bytes | None] = [None if len(line) > most else line for line in lines]
            if skipping and found:
                found[0], skipping = None, False
            if len(rest) > most:
                rest, skipping = b"", True
            yield [line for line in found if line is None or line.strip()]
            if not data:
                return

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), select.PIPE_BUF):
            if self._waits([], [self._target]):
                os.write(self._target, data[start : start + select.PIPE_BUF])  # does not block: it has room for that

    def _waits(self, sources: list[int], targets: list[int]) -> bool:
        """Wait until a descriptor can be used; return False where the door closes before."""
        select.select([*sources, self._bell[0]], targets, [])
        return not self._stopping.is_set()

    # -- answers ----------------------------------------------------------------------------------------------

    def _answers(self, lines: list[bytes | None]) -> Iterator[dict[str, Any]]:
        """Yield an answer to each line; samples in a row are taken in together."""
        for kind, run in groupby(map(self._read, lines), key=lambda found: found[0]):
            bodies = [body for _, body in run]
            if kind == "x":
                for found in self._intake.take([Part([body], {}) for body in bodies]):
                    yield _told(found) if isinstance(found, EdgerevError) else {"id": found[0]}
            else:
                for body in bodies:
                    yield self._act(kind, body)

    def _read(self, line: bytes | None) -> tuple[str, Any]:
        if line is None:
            most = self._service.settings.request_bytes
            return "", DataError(f"a line of over {most} bytes, request_bytes; expected a shorter one; divide it")
        try:
            body = read_json(line)
        except DataError as error:
            return "", error
        known = isinstance(body, dict) and next((name for name in ("x", *self._acts) if name in body), "")
        return known or "", body

    def _act(self, kind: str, body: Any) -> dict[str, Any]:
        try:
            if kind in self._acts:
                return self._acts[kind](body)
            raise body if isinstance(body, DataError) else DataError("expected an object with x, id or predict")
        except EdgerevError as error:
            return _told(error)

    def _predict(self, body: Any) -> dict[str, Any]:
        if body.keys() != {"predict"}:
            raise DataError("expected an object with predict, a sample, alone; change it")
        return self._service.predict([body["predict"]])[0]

    def _label(self, body: Any) -> dict[str, Any]:
        unknown = self._intake.patiently(lambda: self._service.label([body]))
        if unknown is None:
            raise StoreError("the daemon ends; the label was not taken in; send it again")
        if unknown:
            raise DataError(f"no sample waits under id {body['id']}; expected one whose label has not come; check it")
        return {"id": body["id"]}


def _told(error: EdgerevError) -> dict[str, str]:
    return {"error": str(error)[:2000]}

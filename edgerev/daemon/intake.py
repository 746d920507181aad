"""What the doors besides HTTP share: reading JSON, taking in what came together, and waiting where there is no room."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from edgerev.daemon.service import Service
from edgerev.errors import DataError, EdgerevError, QueueFullError, StoreError

SHORTEST_WAIT, LONGEST_WAIT = 0.1, 10.0  # seconds between two tries to take something in
Result = TypeVar("Result")


class Part(NamedTuple):
    """Samples that came in one piece, and are taken in as one; `notes` is what `Store.put` writes with them."""

    samples: list
    notes: dict[str, str]


class Intake:
    """Brings what came through a door to the service; used by one thread of the door.

    Parameters
    ----------
    door : its name, for what is told
    stopping : set when the door closes: nothing is waited for then
    """

    def __init__(self, service: Service, door: str, stopping: threading.Event) -> None:
        self._service, self._door, self._stopping = service, door, stopping

    def take(self, parts: Sequence[Part]) -> Iterator[list[int] | EdgerevError]:
        """Take parts in, in their order; yield the ids of each, or why it was refused, once that is sure.

        All go into one transaction if all fit, else into as few as it takes. Ends early where the door closes.
        """
        if self._stopping.is_set():
            return
        try:
            ids = iter(self._put(parts))
        except (DataError, QueueFullError, StoreError) as error:
            if len(parts) > 1:
                middle = len(parts) // 2
                yield from self.take(parts[:middle])
                yield from self.take(parts[middle:])
            elif isinstance(error, DataError):
                yield error
            else:
                alone = self.patiently(partial(self._put, parts))
                yield from () if alone is None else (alone,)
        else:
            for part in parts:
                yield list(islice(ids, len(part.samples)))

    def _put(self, parts: Sequence[Part]) -> list[int]:
        most = self._service.store.most_samples // 2  # so many fit at last, see ServeSettings
        longest = max((len(part.samples) for part in parts), default=0)
        if longest > most:
            raise DataError(f"{longest} samples in one piece; expected at most {most}, half of most_samples; divide it")
        notes = {name: value for part in parts for name, value in part.notes.items()}
        return self._service.take([sample for part in parts for sample in part.samples], notes)

    def patiently(self, act: Callable[[], Result]) -> Result | None:
        """Do something once there is room, and the disk can be written; return None if the door closes before."""
        wait, problem = SHORTEST_WAIT, ""
        while True:
            try:
                result = act()
            except (QueueFullError, StoreError) as error:
                if not problem:
                    problem = str(error)
                    self._service.events.tell("door_waits", logging.WARNING, door=self._door, message=problem)
                if self._stopping.wait(wait):
                    return None
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                if problem:
                    self._service.events.tell("door_goes_on", door=self._door)
                return result


def read_json(text: bytes | bytearray | str) -> Any:
    """Return what JSON text says.

    Raises
    ------
    DataError
        It is not JSON; NaN and infinities are not.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({str(error)[:200]}); expected an object; send one") from error


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def one_or_more(body: Any, name: str) -> list:
    """Return the list under `name`, or a list of the body itself, which is then one of what else would be there.

    Raises
    ------
    DataError
        The body is not an object, or has more than the list.
    """
    if not isinstance(body, dict):
        raise DataError(f"{body!r:.200}: expected an object; send one")
    if name not in body:
        return [body]
    if body.keys() != {name} or not isinstance(body[name], list):
        raise DataError(f"expected an object with one list, {name}, or one of what is in it; change it")
    return body[name]

"""One caller at a time: an arena is the only memory of what works in it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from edgerev.errors import UsageError

Verb = TypeVar("Verb", bound=Callable[..., Any])


def exclusive(verb: Verb) -> Verb:
    """Let a method run only while no other thread runs one of its object, which has an `RLock` called `_turn`.

    It does not wait: two threads that take turns by chance would train on each other's batches in no certain order.
    """

    @functools.wraps(verb)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        if not self._turn.acquire(blocking=False):
            raise UsageError(
                f"{verb.__name__} was called while another thread uses this {type(self).__name__}; expected one caller "
                "at a time, for all share one arena; use a lock of your own, or an object for each thread"
            )
        try:
            return verb(self, *arguments, **options)
        finally:
            self._turn.release()

    return call  # type: ignore[return-value]

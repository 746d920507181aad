"""Whose turn it is to use the learner, which has one arena."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class Turn:
    """A lock that goes to those who wait for it in their order: no prediction waits for two steps of training."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            own = threading.Lock()
            own.acquire()
            self._waiting.append(own)
        own.acquire()  # until the one before hands over

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

"""What the samples in the store wait for, and how much room there is for others.

Only a generation of the model, with which the samples that it learned are deleted, or the end of a sample's wait for
its label makes room.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.pace import Rate
from edgerev.daemon.store import Store
from edgerev.errors import QueueFullError

RESERVE = 16  # the last of so many parts of `most_samples` is for calls that come together
MOST_SECONDS = 60.0  # after which somebody whose samples were refused may ask again, at the latest


class Room:
    """The room in a store.

    Parameters
    ----------
    store : that has it
    adaptation : that makes room in it
    rate : of learning
    waits_for : returns why training does not go on, or ""
    """

    def __init__(self, store: Store, adaptation: Adaptation, rate: Rate, waits_for: Callable[[], str]) -> None:
        self._store, self._adaptation, self._rate, self._waits_for = store, adaptation, rate, waits_for

    def taken(self) -> dict[str, int]:
        """Return the samples in the store by what they wait for: training, a label, the next generation."""
        after, saved = self._adaptation.after, self._adaptation.saved
        return {
            "to_learn": max(0, self._store.newest - after), "unlabelled": self._store.unlabelled,
            "unsaved": max(0, after - saved),  # neither is below 0, but training goes on meanwhile
        }  # fmt: skip

    def need(self, count: int) -> None:
        """Refuse samples a little before the store is full.

        Raises
        ------
        QueueFullError
            There is no room; `seconds` is the time that training takes to make it.
        """
        kept, most = len(self._store), self._store.most_samples
        room = most - most // RESERVE - kept
        if count <= room or not kept:
            return
        reason, rate = self._waits_for(), self._rate.per_second
        seconds = min((count - room) / rate, MOST_SECONDS) if rate and not reason else MOST_SECONDS
        taken = self.taken()
        raise QueueFullError(
            f"asked for room for {count}, and there is room for {max(0, room)}: of serve.most_samples {most}, "
            f"{taken['to_learn']} are to be learned, {taken['unlabelled']} have no label, {taken['unsaved']} are "
            f"learned and not saved yet, and {most // RESERVE} are left for requests that come together; training and "
            f"saving make room{f', but training waits: {reason}' if reason else ''}; send them again in "
            f"{math.ceil(seconds)} s",
            seconds,
        )

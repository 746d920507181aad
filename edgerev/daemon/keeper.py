"""Between the learner and the store: generations of the model, written from the one and read back into it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from edgerev.accepted import Accepted
from edgerev.daemon.generations import PART_BYTES
from edgerev.daemon.store import Store
from edgerev.files import file_in_memory
from edgerev.learner import Learner


class Keeper:
    """Writes and reads generations of a learner, and answers with the accepted one.

    Parameters
    ----------
    turn : held while the learner is used, not while the disk is
    accepted : the place of the accepted model, or None without a guard
    """

    def __init__(
        self, learner: Learner, store: Store, turn: AbstractContextManager, accepted: Accepted | None
    ) -> None:
        self._learner, self._store, self._turn = learner, store, turn
        self.accepted = accepted

    def write(self, trained: int, state: str, keep: Sequence[int], history: Iterable[str]) -> int:
        """Write the model as it is now; see `Store.advance`, which also says what is raised.

        Raises
        ------
        CheckpointError
            The model is not whole or not finite.
        """
        with file_in_memory() as (fd, _):
            with self._turn:
                if self._learner.remembers:
                    self._learner.settle()  # or the accepted model could not be read from it without its sums
                self._learner.save_into(fd)
            os.lseek(fd, 0, os.SEEK_SET)
            pieces = iter(lambda: os.read(fd, PART_BYTES), b"")
            return self._store.advance(trained, pieces, state=state, keep=keep, history=history)

    def restore(self, number: int) -> None:
        """Read a generation into the learner, which is then the accepted one as well, if there is a place for it.

        Raises
        ------
        CheckpointError, StoreError
            It cannot be read.
        """
        with self._file(number) as path, self._turn:
            self._learner.restore(path)
            if self.accepted is not None:
                self.accepted.accept()

    def load_accepted(self, number: int) -> None:
        """Read a generation into the place of the accepted model; see `restore`."""
        if self.accepted is not None:
            with self._file(number) as path:
                self.accepted.load(path)

    @contextmanager
    def _file(self, number: int) -> Iterator[str]:
        with file_in_memory() as (fd, path):
            for piece in self._store.generation(number):
                os.write(fd, piece)
            yield path

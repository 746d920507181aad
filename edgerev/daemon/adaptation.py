"""Training from the store: batches of consecutive samples, and a generation of the model every so often."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from edgerev.daemon.store import PART_BYTES, Store
from edgerev.errors import CheckpointError, StoreError
from edgerev.learner import Learner, Report
from edgerev.numbers import INT32_MAX, whole


class Adaptation:
    """Trains a learner on what the store has, so that a power cut at any moment changes nothing in the end.

    Only whole batches are learned: the batch that a sample belongs to then follows from its number, and what is done
    again after a power cut is done on the same batches.

    Parameters
    ----------
    learner : of float32 samples and class numbers; the newest generation is loaded into it, if there is one
    store : with samples of the learner's size
    generation_samples : at least so many samples are between two generations: each writes the whole model
    turn : held while the learner is used; not while a generation is written to the disk

    Raises
    ------
    StoreError
        No generation that is kept can be loaded.
    """

    def __init__(
        self, learner: Learner, store: Store, generation_samples: int = 1024,
        turn: AbstractContextManager = nullcontext(),  # noqa: B008  # it has no state
    ) -> None:
        self.learner, self.store, self._turn = learner, store, turn
        self.generation_samples = whole("generation_samples", generation_samples, 1, INT32_MAX)
        self.problems: list[str] = []
        self._load()
        self.after = self.saved = store.trained

    def _load(self) -> None:
        numbers = self.store.generations()
        for number in numbers:
            try:
                with _file_in_memory() as (fd, path):
                    for piece in self.store.generation(number):
                        os.write(fd, piece)
                    self.learner.restore(path)
                return
            except (CheckpointError, StoreError) as error:
                self.problems.append(f"generation {number} cannot be used: {error}")
        if numbers:
            raise StoreError(
                f"{self.store.path} has no generation that can be used ({'; '.join(self.problems)}); expected one; "
                "start anew from an exported model, in another file"
            )

    def step(self) -> Report | None:
        """Learn the next batch, and write a generation where one is due; return None while no whole batch waits.

        Raises
        ------
        DataError, NumericError
            See `Learner.learn_many`: the batch was not learned.
        StoreError
            The file cannot be read or written.
        """
        batch = self.learner.recipe.batch
        samples = self.store.ready(self.after, batch)
        if len(samples) < batch:
            return None
        x = memoryview(b"".join(sample.x for sample in samples)).cast("f")
        with self._turn:
            report = self.learner.learn_many(x, array("i", b"".join(sample.y for sample in samples)))
        self.after = samples[-1].number
        if self.after - self.saved >= self.generation_samples:
            self.save()
        return report

    def save(self) -> int:
        """Write a generation now, with which its samples are deleted; return its number.

        Raises
        ------
        CheckpointError
            The model is not whole or not finite.
        StoreError
            The file cannot be written.
        """
        with _file_in_memory() as (fd, _):
            with self._turn:
                self.learner.save_into(fd)
            os.lseek(fd, 0, os.SEEK_SET)
            number = self.store.advance(self.after, iter(lambda: os.read(fd, PART_BYTES), b""))
        self.saved = self.after
        return number


@contextmanager
def _file_in_memory() -> Iterator[tuple[int, str]]:
    """Give a descriptor and a path of a file that never touches the disk: flash wears out."""
    fd = os.memfd_create("edgerev-generation")
    try:
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)

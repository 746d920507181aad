"""Training from the store: batches of consecutive samples, generations of the model, and the way back from a bad one.

All that is decided here follows from the samples, their order and the settings, and what it takes is written with each
generation. So whatever a power cut undoes is done again in the same way.
"""

from __future__ import annotations

import json
import logging
import os
import time
from array import array
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from edgerev.accepted import Accepted
from edgerev.daemon.drift import DriftDetector
from edgerev.daemon.events import Events
from edgerev.daemon.guard import Decision, WindowGuard
from edgerev.daemon.settings import ServeSettings
from edgerev.daemon.store import PART_BYTES, Sample, Store
from edgerev.errors import CheckpointError, DataError, NumericError, StoreError
from edgerev.learner import Learner

THIS = 0  # stands for the generation that it is written in


class Adaptation:
    """Trains a learner on what the store has, so that a power cut at any moment changes nothing in the end.

    Only whole batches are learned: the batch that a sample belongs to then follows from its number. A batch that cannot
    be learned is left out, and the model is as if it had never come.

    Parameters
    ----------
    learner : of float32 samples and class numbers, with bytes for a guard if the settings have one; the newest
        generation is loaded into it, if there is one
    store : with samples of the learner's size
    settings : of the daemon
    turn : held while the learner is used; not while a generation is written to the disk
    events : where it tells what happens

    Attributes
    ----------
    after : number of the last sample that was learned, or left out
    saved : the same of the newest generation
    problems : what was wrong with generations
    last_window : what was noted of it, since the start
    drifts, rollbacks, refused : how often each came, batches for the last

    Raises
    ------
    StoreError
        No generation that is kept can be loaded.
    """

    def __init__(
        self, learner: Learner, store: Store, settings: ServeSettings,
        turn: AbstractContextManager = nullcontext(),  # noqa: B008  # it has no state
        events: Events | None = None,
    ) -> None:
        self.learner, self.store, self.settings = learner, store, settings
        self._turn, self._events = turn, events or Events()
        self.problems: list[str] = []
        self.drifts = self.rollbacks = self.refused = 0
        self._refusing: set[int] = set()  # first samples of batches that could not be learned
        self._history: list[str] = []
        self.last_window: dict[str, Any] | None = None
        self._learning_left = 0
        self.detector = DriftDetector(len(learner.runtime.view("input.mean")))
        self.guard = WindowGuard(learner.net.head.outputs, settings.guard)
        self._accepted = Accepted(learner) if settings.guard.on else None
        self._accepted_number = self._candidate_number = THIS
        self.after = self.saved = store.trained
        self._saved_at = time.monotonic()
        if store.generations():
            self._load()
        else:
            self.save()

    # -- generations ------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Take the newest generation that is whole, and what belongs to it."""
        for number in self.store.generations():
            try:
                self._restore(number)
                self._take(json.loads(self.store.state(number)), number)
            except (CheckpointError, StoreError, ValueError, LookupError) as error:
                self._tell_problem(f"generation {number} cannot be used: {error}")
                continue
            self.after = self.saved = self.store.trained
            self._load_accepted(number)
            return
        raise StoreError(
            f"{self.store.path} has no generation that can be used ({'; '.join(self.problems)}); expected one; "
            "start anew from an exported model, in another file"
        )

    def _restore(self, number: int) -> None:
        with _file_in_memory() as (fd, path):
            for piece in self.store.generation(number):
                os.write(fd, piece)
            with self._turn:
                self.learner.restore(path)

    def _load_accepted(self, number: int) -> None:
        """Take the accepted model from its generation while generation `number`, which is in place, waits."""
        if self._accepted is None:
            return
        try:
            if self._accepted_number != number:
                self._restore(self._accepted_number)
        except (CheckpointError, StoreError) as error:
            self._tell_problem(f"generation {self._accepted_number} cannot be gone back to: {error}")
            self._accepted_number = number
        with self._turn:
            self._accepted.accept()
        if self._accepted_number != number:
            self._restore(number)

    def _take(self, state: Any, number: int) -> None:
        self.guard.restore(state["guard"])
        self.detector.restore(state["detector"])
        self.drifts, self.rollbacks, self.refused, self._learning_left = state["counts"]
        self._accepted_number, self._candidate_number = (one or number for one in state["kept"])

    def _state(self) -> str:
        return json.dumps({
            "guard": self.guard.state(), "detector": self.detector.state(),
            "counts": [self.drifts, self.rollbacks, self.refused, self._learning_left],
            "kept": [self._accepted_number, self._candidate_number],
        })  # fmt: skip

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
            number = self.store.advance(
                self.after, iter(lambda: os.read(fd, PART_BYTES), b""), state=self._state(),
                keep=(self._accepted_number, self._candidate_number), history=self._history,
            )  # fmt: skip
        self.saved, self._saved_at = self.after, time.monotonic()
        self._history, self._refusing = [], set()
        self._accepted_number, self._candidate_number = (
            one or number for one in (self._accepted_number, self._candidate_number)
        )
        return number

    def _due(self) -> bool:
        training = self.settings.training
        if self.after - self.saved < training.generation_samples:
            return False
        waited = time.monotonic() - self._saved_at >= training.generation_seconds
        return waited or 2 * len(self.store) >= self.store.most_samples

    # -- learning ---------------------------------------------------------------------------------------------

    def step(self) -> int:
        """Learn the next batch, and write a generation where one is due; return its samples, 0 while none is whole.

        Raises
        ------
        StoreError
            The file cannot be read or written.
        """
        batch = self.learner.recipe.batch
        samples = self.store.ready(self.after, batch)
        if len(samples) < batch:
            return 0
        if samples[0].number not in self._refusing:
            try:
                self._learn(samples)
            except (DataError, NumericError) as error:
                self._refuse(samples, error)
                return batch
        self.after = samples[-1].number
        try:
            if self.guard.full:
                self._end_window()
            if self._due():
                self.save()
        except CheckpointError as error:
            self.go_back(f"the model could not be kept: {error}")
        return batch

    def _refuse(self, samples: list[Sample], error: Exception) -> None:
        """Go back to the newest generation; what was learned since is learned again, all but these samples."""
        refusing = {*self._refusing, samples[0].number}
        self._events.tell(
            "refused batch", logging.WARNING, first=samples[0].number, last=samples[-1].number,
            message=f"a batch was left out: {error}",
        )  # fmt: skip
        self._history = []
        self._load()
        self._refusing = refusing
        self.refused += len(refusing)

    def _learn(self, samples: list[Sample]) -> None:
        x = array("f", b"".join(sample.x for sample in samples))
        y = array("i", b"".join(sample.y for sample in samples))
        if not self._blank:
            self._watch(samples, x, y)
        if self.settings.training.after_drift and self._learning_left <= 0 and not self._blank:
            return
        self._learning_left -= len(samples)
        with self._turn:
            if self.learner.net.head.closed_form:
                if self.settings.training.fading < 1 and self.learner.remembers:
                    self.learner.fade(self.settings.training.fading ** len(samples))
                self.learner.remember_many(memoryview(x), y)
            else:
                self.learner.learn_many(memoryview(x), y)

    @property
    def _blank(self) -> bool:
        """Whether there are no answers yet: a head in closed form without samples."""
        return self.learner.net.head.closed_form and not self.learner.remembers

    def _watch(self, samples: list[Sample], x: array, y: array) -> None:
        """Let guard and detector see what is answered before it is learned."""
        with self._turn:
            candidate = self.learner.predict_proba_many(memoryview(x))
        accepted = candidate
        if self._accepted is not None:
            with self._turn, self._accepted.in_place():
                accepted = self.learner.predict_proba_many(memoryview(x))
        classes, worse = len(candidate) // len(samples), False
        for place, (sample, label) in enumerate(zip(samples, y)):
            row = slice(classes * place, classes * (place + 1))
            self.guard.window.add(accepted[row], candidate[row], label, sample.known)
            if sample.known:
                worse |= self.detector.add_answer(1 - min(candidate[row][label], 1.0))
        changed = self.detector.add_inputs(x, len(samples))
        for what, found in (("answers", worse), ("inputs", changed)):
            if found:
                self._tell_drift(what, samples[-1].number)

    def _tell_drift(self, what: str, number: int) -> None:
        self.drifts += 1
        self._learning_left = self.settings.training.drift_samples
        self._events.tell("drift", of=what, sample=number, message=f"the {what} have changed")
        self._note("drift", number, message=f"{what} changed")

    # -- accepting and going back -----------------------------------------------------------------------------

    def _end_window(self) -> None:
        window = self.guard.window
        if window.known:
            self._note(
                "window", self.after, loss=window.loss / window.known, accuracy=window.right / window.known,
                accepted_accuracy=window.usual / window.known if self._accepted is not None else None,
            )  # fmt: skip
        decision = self.guard.decide()
        if self._accepted is None or self._blank:
            return
        if decision is Decision.GO_BACK:
            self.go_back(self.guard.reason)
        elif decision is Decision.ACCEPT:
            self._accepted_number, self._candidate_number = self._candidate_number, THIS
            self._load_accepted(self.save())

    def go_back(self, reason: str) -> None:
        """Let the accepted model take the place of the present one; what was learned since is lost.

        Without a guard, or where the accepted model cannot be read, that is the newest generation that can.

        Raises
        ------
        StoreError
            The file cannot be read or written.
        """
        for number in (*[self._accepted_number] * (self._accepted is not None), *self.store.generations()):
            try:
                self._restore(number)
                break
            except CheckpointError as error:
                self._tell_problem(f"generation {number} cannot be gone back to: {error}")
        self.rollbacks += 1
        self.guard.begin_window()
        self._accepted_number = self._candidate_number = THIS
        self._events.tell("rollback", logging.WARNING, sample=self.after, message=f"went back: {reason}")
        self._note("rollback", self.after, message=reason)
        self.save()
        if self._accepted is not None:
            with self._turn:
                self._accepted.accept()

    # -- what there is to say ---------------------------------------------------------------------------------

    def notes(self, count: int) -> list[str]:
        """Return the newest lines of the history, at most `count`, the oldest first; also those not written yet."""
        return (self.store.history(count) + self._history)[-count:]

    def _note(self, kind: str, number: int, **figures: Any) -> None:
        line = {"kind": kind, "sample": number, "time": round(time.time(), 1), **figures}
        self._history.append(json.dumps(line))
        if kind == "window":
            self.last_window = line

    def _tell_problem(self, text: str) -> None:
        self.problems.append(text)
        self._events.tell("damage", logging.ERROR, message=text)


@contextmanager
def _file_in_memory() -> Iterator[tuple[int, str]]:
    """Give a descriptor and a path of a file that never touches the disk: flash wears out."""
    fd = os.memfd_create("edgerev-generation")
    try:
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)

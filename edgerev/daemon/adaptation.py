"""Training from the store: batches of consecutive samples, generations of the model, and the way back from a bad one.

All that is decided here follows from the samples, their order and the settings, and what it takes is written with each
generation. So whatever a power cut undoes is done again in the same way.
"""

from __future__ import annotations

import json
import logging
import time
from array import array
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from edgerev.accepted import Accepted
from edgerev.daemon.drift import DriftDetector
from edgerev.daemon.events import Events
from edgerev.daemon.guard import Decision, WindowGuard
from edgerev.daemon.keeper import Keeper
from edgerev.daemon.settings import ServeSettings
from edgerev.daemon.store import Sample, Store
from edgerev.errors import AnotherModelError, CheckpointError, DataError, NumericError, StoreError, UsageError
from edgerev.learner import Learner
from edgerev.numbers import BELOW_ONE, TINY

THIS = 0  # stands for the generation that it is written in
NONE = -1  # for the accepted one, as long as the model has no answers yet


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
    problems : the newest ones that generations had
    last_window : what was noted of it, since the start
    drifts, rollbacks, refused : how often each came, batches for the last
    generation : the one that was written or loaded last
    begun_from : generation that it went on from at the start; 0 if it began with the learner as it was

    Raises
    ------
    UsageError
        The settings do not fit the model.
    StoreError
        No generation that is kept can be loaded.
    AnotherModelError
        They are those of another model.
    """

    def __init__(
        self, learner: Learner, store: Store, settings: ServeSettings,
        turn: AbstractContextManager = nullcontext(),  # noqa: B008  # it has no state
        events: Events | None = None,
    ) -> None:
        check_model(learner, settings)
        self.learner, self.store, self.settings = learner, store, settings
        self._turn, self._events = turn, events or Events()
        self._keeper = Keeper(learner, store, turn, Accepted(learner) if settings.guard.on else None)
        self.problems: deque[str] = deque(maxlen=20)
        self.drifts = self.rollbacks = self.refused = 0
        self._refused_in_a_row = 0  # samples
        self._refusing: set[int] = set()  # first samples of batches that could not be learned
        self._history: list[str] = []
        self.last_window: dict[str, Any] | None = None
        self._learning_left = 0
        self.detector = DriftDetector(len(learner.runtime.view("input.mean")))
        self.guard = WindowGuard(learner.net.head.outputs, settings.guard)
        self._accepted_number = NONE if self._blank else THIS
        self._candidate_number = self.generation = THIS
        self._accepting = False  # whether a decision to accept is to be carried out yet
        self._changed = False  # whether the model is another than the newest generation
        self.after = self.saved = store.trained
        self._saved_at = time.monotonic()
        self.begun_from = self._load() if store.generations() else 0
        if not self.begun_from:
            self.save()

    def configure(self, settings: ServeSettings) -> None:
        """Go on with other settings, but for whether there is a guard."""
        self.settings, self.guard.table = settings, settings.guard

    # -- generations ------------------------------------------------------------------------------------------

    def _load(self) -> int:
        """Take the newest generation that is whole, and what belongs to it; return its number."""
        for number in self.store.generations():
            try:
                self._keeper.restore(number)
                self._take(json.loads(self.store.state(number)), number)
            except AnotherModelError:
                raise
            except (CheckpointError, StoreError, ValueError, LookupError, TypeError) as error:
                self._tell_problem(f"generation {number} cannot be used: {error}")
                continue
            self.after = self.saved = self.store.trained
            self.generation, self._changed = number, False
            if self._accepted_number not in (NONE, number):
                self._load_accepted(number)
            return number
        raise StoreError(
            f"{self.store.path} has no generation that can be used ({'; '.join(self.problems)}); expected one; "
            "start anew from an exported model, in another file"
        )

    def _load_accepted(self, instead: int) -> None:
        """Read the accepted model from its generation; if that cannot be, take the present one for it."""
        try:
            self._keeper.load_accepted(self._accepted_number)
        except (CheckpointError, StoreError) as error:
            self._tell_problem(f"generation {self._accepted_number} cannot be gone back to: {error}")
            self._accepted_number = instead

    def _take(self, state: Any, number: int) -> None:
        self.guard.restore(state["guard"])
        self.detector.restore(state["detector"])
        self.drifts, self.rollbacks, self.refused, self._refused_in_a_row, self._learning_left = state["counts"]
        self._accepted_number, self._candidate_number = (one or number for one in state["kept"])
        self._accepting = False

    def _state(self, kept: tuple[int, int]) -> str:
        counts = [self.drifts, self.rollbacks, self.refused, self._refused_in_a_row, self._learning_left]
        return json.dumps({
            "guard": self.guard.state(), "detector": self.detector.state(), "counts": counts, "kept": kept,
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
        guarded = self.settings.guard.on
        return self._save((self._accepted_number, self._candidate_number) if guarded else (THIS, THIS))

    def _save(self, kept: tuple[int, int]) -> int:
        number = self._keeper.write(self.after, self._state(kept), (*kept, self.generation), self._history)
        self.saved, self._saved_at = self.after, time.monotonic()
        self.generation, self._changed = number, False
        self._history, self._refusing = [], {first for first in self._refusing if first > self.after}
        self._accepted_number, self._candidate_number = (one or number for one in kept)
        return number

    def _due(self) -> bool:
        """Return whether a generation is to be written now: flash wears out, but samples wait until it is."""
        learned, training, most = self.after - self.saved, self.settings.training, self.store.most_samples
        if len(self.store) >= 0.9 * most and learned >= min(training.generation_samples, most / 20):
            return True
        if not self._changed or learned < training.generation_samples:
            return False
        return time.monotonic() - self._saved_at >= training.generation_seconds or 2 * len(self.store) >= most

    # -- learning ---------------------------------------------------------------------------------------------

    def step(self) -> int:
        """Learn the next batch, and write a generation where one is due; return its samples, 0 while none is whole.

        Raises
        ------
        StoreError
            The file cannot be read or written.
        """
        if self._accepting:  # the disk was full
            self._accept()
        batch = self.learner.recipe.batch
        samples = self.store.ready(self.after, batch)
        if len(samples) < batch:
            return 0
        again = samples[0].number in self._refusing
        if again:
            self._count_refused(len(samples))
        elif not self._learn(samples):
            return batch
        self.after = samples[-1].number
        try:
            if self.guard.full:
                self._end_window()
            if again or self._due():
                self.save()
        except CheckpointError as error:
            self.go_back(f"the model could not be kept: {error}")
        return batch

    def _learn(self, samples: list[Sample]) -> bool:
        """Learn a batch, or leave it out; return False if the position is that of the newest generation again."""
        x = array("f", b"".join(sample.x for sample in samples))
        y = array("i", b"".join(sample.y for sample in samples))
        try:
            if not 0 <= min(y) <= max(y) < self.learner.net.head.outputs:  # of damage: what came in was checked
                raise DataError("a label is out of range; expected those that were taken in; look after the disk")
            if not self._blank:
                self._watch(samples, x, y)
        except (DataError, NumericError) as error:
            self._refuse(samples, error)
            return True
        accepted = self._accepted_number != NONE or not self.settings.guard.on
        if self.settings.training.after_drift and self._learning_left <= 0 and accepted:
            return True
        try:
            self._train(x, y)
        except (DataError, NumericError) as error:
            self._refuse(samples, error)
            if self.learner.whole and not self.learner.net.head.closed_form:
                return True
            refusing = {*self._refusing, samples[0].number}
            self._history = []
            self._load()
            self._refusing = refusing
            return False
        self._changed, self._refused_in_a_row = True, 0
        self._learning_left -= len(samples)
        return True

    def _train(self, x: array, y: array) -> None:
        with self._turn:
            if not self.learner.net.head.closed_form:
                self.learner.learn_many(memoryview(x), y)
                return
            fading = self.settings.training.fading ** len(y)
            if fading <= BELOW_ONE and self.learner.remembers:
                self.learner.fade(max(fading, TINY))
            self.learner.remember_many(memoryview(x), y)

    def _refuse(self, samples: list[Sample], error: Exception) -> None:
        self._events.tell(
            "refused batch", logging.WARNING, first=samples[0].number, last=samples[-1].number,
            message=f"a batch was left out: {error}",
        )  # fmt: skip
        self._count_refused(len(samples))

    def _count_refused(self, samples: int) -> None:
        self.refused += 1
        self._refused_in_a_row += samples
        if self._refused_in_a_row >= self.settings.guard.window and self._accepted_number != NONE:
            self._refused_in_a_row = 0
            self.go_back("no batch could be learned any more")

    @property
    def _blank(self) -> bool:
        """Whether there are no answers yet: a head in closed form without samples."""
        return self.learner.net.head.closed_form and not self.learner.remembers

    def _watch(self, samples: list[Sample], x: array, y: array) -> None:
        """Let guard and detector see what is answered before it is learned."""
        accepted, candidate = self._answers(x)
        self.guard.answered = round(time.time(), 1)
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

    def _answers(self, x: array) -> tuple[array, array]:
        """Return what the accepted model and the present one answer; go back if only the accepted one can."""
        accepted = self._keeper.accepted if self._accepted_number != NONE else None
        try:
            candidate = self._predict(x)
        except NumericError as error:
            if accepted is None:
                raise
            with self._turn, accepted.in_place():
                self.learner.predict_proba_many(memoryview(x))
            self.go_back(f"it has no answers any more: {error}")
            candidate = self._predict(x)
        if accepted is None:
            return candidate, candidate
        with self._turn, accepted.in_place():
            return self.learner.predict_proba_many(memoryview(x)), candidate

    def _predict(self, x: array) -> array:
        with self._turn:
            return self.learner.predict_proba_many(memoryview(x))

    def _tell_drift(self, what: str, number: int) -> None:
        self.drifts += 1
        self._learning_left = self.settings.training.drift_samples
        self._events.tell("drift", of=what, sample=number, message=f"the {what} have changed")
        self._note("drift", number, message=f"{what} changed")

    # -- accepting and going back -----------------------------------------------------------------------------

    def _end_window(self) -> None:
        window, guarded = self.guard.window, self._keeper.accepted is not None
        if window.known:
            self._note(
                "window", self.after, loss=window.loss / window.known, accuracy=window.right / window.known,
                accepted_accuracy=window.usual / window.known if guarded else None,
            )  # fmt: skip
        decision = self.guard.decide()
        if not guarded:
            return
        if self._accepted_number == NONE or decision is Decision.ACCEPT:
            self._accepting = True
            self._accept()
        elif decision is Decision.GO_BACK:
            self.go_back(self.guard.reason)

    def _accept(self) -> None:
        """Let the candidate be the accepted model, and the present one the next candidate."""
        first = self._accepted_number == NONE
        number = self._save((THIS if first else self._candidate_number, THIS))
        self._accepting = False
        self._load_accepted(number)

    def go_back(self, reason: str) -> None:
        """Let the accepted model take the place of the present one; what was learned since is lost.

        If it cannot be read, that is the candidate or the oldest generation that can; if there is none, all stays.

        Raises
        ------
        StoreError
            The file cannot be written.
        """
        if self._accepted_number == NONE:
            self._tell_problem("there is no model to go back to yet: what was accepted has no answers")
            return
        kept = [self._accepted_number, self._candidate_number] if self.settings.guard.on else []
        for number in dict.fromkeys([*kept, *reversed(self.store.generations())]):
            try:
                self._keeper.restore(number)
                break
            except (CheckpointError, StoreError) as error:
                self._tell_problem(f"generation {number} cannot be gone back to: {error}")
        else:
            return
        self.rollbacks += 1
        self.guard.begin_anew()
        self._changed = True
        self._events.tell("rollback", logging.WARNING, sample=self.after, message=f"went back: {reason}")
        self._note("rollback", self.after, message=reason)
        self._save((THIS, THIS))

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


def check_model(learner: Learner, settings: ServeSettings) -> None:
    """Refuse settings that the model cannot be trained with.

    Raises
    ------
    UsageError
        The message names the setting.
    """
    head, batch = learner.net.head, learner.recipe.batch
    if head.tasks > 1:
        raise UsageError(f"the model has {head.tasks} tasks; expected one, for no sample tells its own; take another")
    if settings.most_samples < 2 * batch:
        raise UsageError(
            f"serve.most_samples {settings.most_samples}: expected at least two batches, {2 * batch}; raise it"
        )
    if not head.closed_form or head.sums == "float64":
        return
    if settings.training.fading < 1:
        raise UsageError(
            f"serve.training.fading {settings.training.fading}: expected 1, for the model's sums of whole numbers "
            "cannot fade; leave it out"
        )
    if not learner.calibrated:
        raise UsageError("the model's whole features have no range yet; expected one; calibrate it, and save it again")

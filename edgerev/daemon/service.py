"""The daemon without its doors: takes samples and labels, answers, and trains in a thread of its own."""

from __future__ import annotations

import logging
import math
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.database import written_bytes
from edgerev.daemon.events import Events
from edgerev.daemon.gate import Gate
from edgerev.daemon.history import History
from edgerev.daemon.metrics import SAMPLES, Counts
from edgerev.daemon.pace import Pace, Rate
from edgerev.daemon.room import Room
from edgerev.daemon.sensors import resident
from edgerev.daemon.settings import ServeSettings, merge
from edgerev.daemon.store import Arrival, Store
from edgerev.daemon.turn import Turn
from edgerev.daemon.values import Values
from edgerev.errors import AnotherModelError, DataError, EdgerevError, NumericError, StoreError, UsageError
from edgerev.learner import Learner

LOOK_SECONDS = 1.0  # between two looks at what may let training go on, or wait
ANSWERS_KEPT = 20


class Service:
    """A model, its store, and the thread that trains; every door asks it.

    Attributes
    ----------
    events : what happens
    gate : whether training may run
    values : turns what doors are told into bytes
    history : how well the model did
    rate : of learning
    room : for samples
    counts : of samples and answers since the start
    answers : the newest: unix time, class, its probability
    problem : what keeps training from going on, or ""; samples are still taken in, and predictions answered
    """

    def __init__(self, settings: ServeSettings) -> None:
        learner = Learner.load(settings.model, threads=settings.threads, guard=settings.guard.on)
        if not learner.recipe.loss.labels:
            raise UsageError(f"{settings.model} answers with values; expected classes; train it with cross_entropy")
        self.settings, self.learner = settings, learner
        self.values = Values(learner, settings.request_bytes)
        self.store = Store(settings.store, 4 * self.values.elements, 4, settings.most_samples)
        self.events, self.turn, self.problem = Events(), Turn(), ""
        self.adaptation = self._adaptation()
        self.gate = Gate(settings, learner.recipe.batch, self._labelled, self.events.tell)
        self.history, self.rate, self.counts = History(self.adaptation), Rate(), Counts((*SAMPLES, "predictions"))
        self.room = Room(self.store, self.adaptation, self.rate, lambda: self.problem or self.gate.waits_for)
        self.pace = Pace(settings.limits.samples_per_second)
        self.answers: deque[list[Any]] = deque(maxlen=ANSWERS_KEPT)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._round, self._rounds = 0, threading.Condition()  # of training until nothing is left to learn
        self._working = threading.RLock()  # held by whoever changes the model or writes it
        self._busy_since = 0.0  # when the step at hand began; 0 between two
        self._spent = 0.0  # seconds of a core that the training thread took, and the gate knows of
        self._thread = threading.Thread(target=self._train, name="training")

    def _adaptation(self) -> Adaptation:
        """Load the newest generation that is whole; if there is none, begin again from the model of the settings."""
        given = self.learner, self.store, self.settings, self.turn, self.events
        try:
            made = Adaptation(*given)
        except StoreError as error:
            if not self.store.mend(str(error)):
                raise
            made = Adaptation(*given)
        except AnotherModelError as error:
            raise StoreError(
                f"{self.store.path} belongs to another model than {self.settings.model}: {error.differences}; expected "
                "the same net, optimizer and loss; name another store, or the model that this one was made with"
            ) from error
        if self.store.salvaged is not None:
            facts = self.store.salvaged._asdict()
            self.events.tell("salvaged", logging.ERROR, message=str(self.store.salvaged), **facts)
        return made

    def start(self) -> None:
        """Begin to train."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the step at hand, write a generation, and close the store."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self.problem:
            try:
                self.save()
            except StoreError as error:  # the samples are in the store still, and are learned again
                self.events.tell("trouble", logging.ERROR, message=str(error))
        self.events.close()
        self.store.close()

    def _train(self) -> None:
        told = ""
        while not self._stopping.is_set():
            self._wake.clear()  # before looking: what arrives from here on is seen in the next round
            try:
                self._expire(self.settings.label_seconds)
                while not self._stopping.is_set() and not self.gate.reason() and self._rested() and self._step():
                    pass
                self.problem = ""
            except Exception as error:  # such as a full disk; nothing is lost, so it is tried again
                if str(error) != self.problem:
                    self.problem = str(error)
                    self.events.tell("trouble", logging.ERROR, message=self.problem)
                    if not isinstance(error, EdgerevError):
                        logging.getLogger("edgerev.daemon").exception("training met what was not foreseen")
            if told != self.store.problem:
                told = self.store.problem
                level = logging.ERROR if told else logging.INFO
                self.events.tell("store", level, message=told or f"{self.store.path} can be written again")
            with self._rounds:
                self._round += 1
                self._rounds.notify_all()
            self._wake.wait(min(LOOK_SECONDS, self.gate.rest() or LOOK_SECONDS))

    def settle(self) -> None:
        """Return when what was taken in so far is learned, or training has to wait for something else."""
        with self._rounds:
            goal = self._round + 2  # the round at hand may have looked before
            while self._round < goal and not self._stopping.is_set() and self._thread.is_alive():
                self._wake.set()
                self._rounds.wait(LOOK_SECONDS)

    def _expire(self, seconds: int) -> None:
        """Let samples go whose labels did not come in time; those that the model is sure of are learned, if wanted."""
        if self.settings.training.unlabelled == "pseudo":
            while not self._stopping.is_set() and (
                overdue := self.store.overdue(seconds, self.learner.recipe.batch)
            ):
                self.store.label(self._sure(overdue), known=False)
                self.store.forget([number for number, _ in overdue])
        self.counts.add("expired", self.store.expire(seconds))

    def _sure(self, samples: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return the ids of those samples whose answer is sure enough to be learned, with it as the target."""
        x = array("f", b"".join(x for _, x in samples))
        try:
            with self.turn:
                rows = _rows(self.learner.predict_proba_many(memoryview(x)), len(samples))
        except (DataError, NumericError) as error:
            self.events.tell("no answers", logging.WARNING, message=f"samples without label were let go: {error}")
            return []
        return [
            (number, array("i", [row.index(max(row))]).tobytes())
            for (number, _), row in zip(samples, rows) if max(row) >= self.settings.training.confidence
        ]  # fmt: skip

    def _step(self) -> bool:
        """Learn the next batch; return whether there was one."""
        self._busy_since = time.monotonic()
        try:
            with self._working:
                before, count = self.adaptation.after, self.adaptation.step()
        finally:
            self._busy_since = 0.0
        learned = count if self.adaptation.after > before else 0  # else it went back
        self.counts.add("trained", learned)
        if learned:
            self.rate.add(learned)
        return count > 0

    def _rested(self) -> bool:
        """Wait for what the share of the processor asks for, up to a second; return whether it was enough."""
        spent = time.thread_time()
        self.gate.worked(self.settings.threads * (spent - self._spent))
        self._spent = spent
        rest = self.gate.rest()
        self._stopping.wait(min(rest, LOOK_SECONDS))
        return not rest or not self.gate.rest()

    def _labelled(self, count: int) -> bool:
        """Return whether so many labelled samples wait: their numbers follow each other."""
        return bool(self.store.ready(self.adaptation.after + count - 1, 1))

    def training_seconds(self) -> float:
        """Return how long the step at hand takes already; 0 between two, infinity if the thread has died."""
        since = self._busy_since
        if self._thread.ident and not self._thread.is_alive() and not self._stopping.is_set():
            return math.inf
        return time.monotonic() - since if since else 0.0

    # -- controls ---------------------------------------------------------------------------------------------

    @property
    def controls(self) -> dict[str, Callable[[], None]]:
        """What somebody may ask training to do, by name."""
        found = {"pause": self.pause, "resume": self.resume, "save": self.save}
        return found | {"rollback": self.rollback} if self.settings.guard.on else found

    def pause(self) -> None:
        """Let training wait until `resume`."""
        self.gate.paused = True
        self.gate.reason()  # so that the status says so at once
        self.events.tell("paused")

    def resume(self) -> None:
        """Let training go on."""
        self.gate.paused = False
        self.gate.reason()
        self.events.tell("resumed")
        self._wake.set()

    def configure(self, settings: ServeSettings) -> list[str]:
        """Take over what can change while it runs; return the keys of what changed and cannot."""
        self.settings, left = merge(self.settings, settings)
        self.gate.settings, self.store.most_samples = self.settings, self.settings.most_samples
        self.pace = Pace(self.settings.limits.samples_per_second)
        self.adaptation.configure(self.settings)
        self._wake.set()
        return left

    def save(self) -> None:
        """Write a generation, unless the newest one is of now."""
        with self._working:
            if self.adaptation.after != self.adaptation.saved:
                self.adaptation.save()

    def rollback(self) -> None:
        """Go back to the last accepted model.

        Raises
        ------
        UsageError
            There is no guard, so none is kept.
        StoreError
            It cannot be read or written.
        """
        if not self.settings.guard.on:
            raise UsageError("there is no accepted model to go back to; expected a guard; set serve.guard.on = true")
        with self._working:
            self.adaptation.go_back("asked for")

    def export_into(self, fd: int) -> None:
        """Write the model as it is now to an empty file, as a checkpoint."""
        with self._working, self.turn:
            self.learner.save_into(fd)

    # -- requests ---------------------------------------------------------------------------------------------

    def take(self, samples: Sequence[Any], notes: Mapping[str, str] | None = None) -> list[int]:
        """Take samples in; return their ids once they are durable.

        Parameters
        ----------
        samples : each a dict with `x`, and at will `y` and `key`
        notes : see `Store.put`

        Raises
        ------
        DataError, QueueFullError, StoreError
            None was taken in.
        """
        with self.counting(len(samples)):
            arrivals = self.values.arrivals(samples)
        return self.put(arrivals, notes)

    def put(self, arrivals: Sequence[Arrival], notes: Mapping[str, str] | None = None) -> list[int]:
        """Take samples in that `values` made; see `take`."""
        count = len(arrivals)
        with self.counting(count):
            if count > self.store.most_samples:
                raise DataError(f"{count} samples at once; expected at most {self.store.most_samples}; send fewer")
            self.pace.spend(count)
            self.room.need(count)
            ids = self.store.put(arrivals, notes)
        self.counts.add("accepted", count)
        self._wake.set()
        return ids

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """Count samples as refused if an error refuses them within."""
        try:
            yield
        except EdgerevError:
            self.counts.add("refused", samples)
            raise

    def label(self, labels: Sequence[Any]) -> list[int]:
        """Give samples their labels; return the ids that no sample waits under.

        Parameters
        ----------
        labels : each a dict with `id` and `y`
        """
        return self.put_labels(self.values.labels(labels))

    def put_labels(self, pairs: Sequence[tuple[int, bytes]]) -> list[int]:
        """Give samples their labels that `values` made; see `label`."""
        unknown = self.store.label(pairs)
        self.counts.add("labelled", len(pairs) - len(unknown))
        self._wake.set()
        return unknown

    def predict(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Return `answer` and `probabilities` for each sample, a list of numbers."""
        return self.answer(self.values.rows(samples))

    def answer(self, joined: array) -> list[dict[str, Any]]:
        """Return `answer` and `probabilities` for each sample.

        Parameters
        ----------
        joined : float32 numbers of all samples, one after another, as `values` makes them

        Raises
        ------
        DataError
            The state leaves its range: the numbers are too large for the model.
        """
        self.gate.predicted()
        count = len(joined) // self.values.elements
        if not count:
            return []
        try:
            with self.turn:
                found = self.learner.predict_proba_many(memoryview(joined))
        except NumericError as error:
            raise DataError(f"{error}; expected numbers as the model was trained on; change the samples") from error
        answers, now = [], round(time.time(), 1)
        for row in _rows(found, count):
            sure = max(row)
            name = self.values.name(row.index(sure))
            answers.append({"answer": name, "probabilities": row.tolist()})
            self.answers.append([now, name, sure])
        self.counts.add("predictions", count)
        return answers

    def status(self) -> dict[str, Any]:
        """Return what the daemon is doing, in numbers."""
        writes = self.store.writes
        return {
            "steps": self.learner.steps, "batch": self.learner.recipe.batch, **self.room.taken(),
            "most_samples": self.store.most_samples,
            "trained": self.adaptation.after, "saved": self.adaptation.saved, "generation": self.adaptation.generation,
            "commits": writes.commits, "syncs": writes.syncs, "written_bytes": written_bytes(),
            "store_problem": self.store.problem,
            "drifts": self.adaptation.drifts, "rollbacks": self.adaptation.rollbacks,
            "refused_batches": self.adaptation.refused, "usual_accuracy": self.adaptation.guard.usual_accuracy,
            "guard_bytes": self.learner.plan.guard_bytes, "arena_bytes": self.learner.plan.arena_bytes,
            "problem": self.problem, "problems": list(self.adaptation.problems), "waits_for": self.gate.waits_for,
            "counts": self.counts.to_dict(), **resident()._asdict(),
        }  # fmt: skip

    def summary(self) -> str:
        """Return what the daemon is doing, in a line."""
        reason = self.problem or self.gate.waits_for
        rest = f"; training waits: {reason}" if reason else ""
        to_learn, _, unsaved = self.room.taken().values()
        return f"{self.learner.steps} steps, {to_learn} samples to learn, {unsaved} not saved yet{rest}"

    def beginning(self) -> str:
        """Return what the model was at the start, in half a sentence."""
        store, model, number = self.settings.store, self.settings.model, self.adaptation.begun_from
        if not number:
            return f"beginning with {model}; {store} keeps the model from now on"
        return (
            f"going on from generation {number} of {store} (trained {self.adaptation.after:,} samples); "
            f"{model} was taken only at the first start"
        )


def _rows(values: array, count: int) -> list[array]:
    columns = len(values) // count
    return [values[first : first + columns] for first in range(0, len(values), columns)]

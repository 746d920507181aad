"""The daemon without its doors: takes samples and labels, answers, and trains in a thread of its own."""

from __future__ import annotations

import logging
import math
import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.database import written_bytes
from edgerev.daemon.events import Events
from edgerev.daemon.gate import Gate
from edgerev.daemon.settings import ServeSettings
from edgerev.daemon.store import Arrival, Store
from edgerev.daemon.turn import Turn
from edgerev.errors import DataError, NumericError, StoreError, UsageError
from edgerev.learner import Learner
from edgerev.numbers import FLOAT32_MAX

LOOK_SECONDS = 1.0  # between two looks at what may let training go on, or wait


class Service:
    """A model, its store, and the thread that trains; every door asks it.

    Attributes
    ----------
    events : what happens
    gate : whether training may run
    problem : what keeps training from going on, or ""; samples are still taken in, and predictions answered
    """

    def __init__(self, settings: ServeSettings) -> None:
        learner = Learner.load(settings.model, threads=settings.threads, guard=settings.guard.on)
        if not learner.recipe.loss.labels:
            raise UsageError(f"{settings.model} answers with values; expected classes; train it with cross_entropy")
        self.settings, self.learner = settings, learner
        self.elements = math.prod(learner.sample_shape)
        self.store = Store(settings.store, 4 * self.elements, 4, settings.most_samples)
        self.events, self.gate = Events(), Gate(settings)
        self.turn, self.problem = Turn(), ""
        self.adaptation = self._adaptation()
        self._classes = {name: number for number, name in enumerate(learner.classes)}
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._working = threading.RLock()  # held by whoever changes the model or writes it
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
                while not self._stopping.is_set() and not self.gate.reason() and self._step():
                    pass
                self.problem = ""
            except Exception as error:  # such as a full disk; nothing is lost, so it is tried again
                if str(error) != self.problem:
                    self.problem = str(error)
                    self.events.tell("trouble", logging.ERROR, message=self.problem)
            if told != self.store.problem:
                told = self.store.problem
                level = logging.ERROR if told else logging.INFO
                self.events.tell("store", level, message=told or f"{self.store.path} can be written again")
            self._wake.wait(LOOK_SECONDS)

    def _expire(self, seconds: int) -> None:
        """Let samples go whose labels did not come in time; those that the model is sure of are learned, if wanted."""
        if self.settings.training.unlabelled == "pseudo":
            while not self._stopping.is_set() and (
                overdue := self.store.overdue(seconds, self.learner.recipe.batch)
            ):
                self.store.label(self._sure(overdue), known=False)
                self.store.forget([number for number, _ in overdue])
        self.store.expire(seconds)

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
        with self._working:
            return self.adaptation.step() > 0

    # -- controls ---------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Let training wait until `resume`."""
        self.gate.paused = True
        self.events.tell("paused")

    def resume(self) -> None:
        """Let training go on."""
        self.gate.paused = False
        self.events.tell("resumed")
        self._wake.set()

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

    def export(self, path: str) -> None:
        """Write the model as it is now to a checkpoint."""
        with self._working, self.turn:
            self.learner.save(path)

    # -- requests ---------------------------------------------------------------------------------------------

    def take(self, samples: Sequence[Any]) -> list[int]:
        """Take samples in; return their ids once they are durable.

        Parameters
        ----------
        samples : each a dict with `x`, and at will `y` and `key`

        Raises
        ------
        DataError, QueueFullError, StoreError
            None was taken in.
        """
        arrivals = []
        for place, sample in enumerate(samples):
            if not isinstance(sample, dict) or not {"x"} <= sample.keys() <= {"x", "y", "key"}:
                raise DataError(f"sample {place}: expected an object with x, and at will y and key; change it")
            key = sample.get("key")
            if key is not None and not isinstance(key, str):
                raise DataError(f"sample {place}: key {key!r}: expected a text; change it")
            label = self._label(place, sample["y"]) if sample.get("y") is not None else None
            arrivals.append(Arrival(self._values(place, sample["x"]).tobytes(), label, key))
        ids = self.store.put(arrivals)
        self._wake.set()
        return ids

    def label(self, labels: Sequence[Any]) -> list[int]:
        """Give samples their labels; return the ids that no sample waits under.

        Parameters
        ----------
        labels : each a dict with `id` and `y`
        """
        pairs = []
        for place, label in enumerate(labels):
            if not isinstance(label, dict) or label.keys() != {"id", "y"} or type(label["id"]) is not int:
                raise DataError(f"label {place}: expected an object with id, a whole number, and y; change it")
            pairs.append((label["id"], self._label(place, label["y"])))
        unknown = self.store.label(pairs)
        self._wake.set()
        return unknown

    def predict(self, samples: Sequence[Any]) -> list[dict[str, Any]]:
        """Return `answer` and `probabilities` for each sample."""
        joined = array("f")
        for place, sample in enumerate(samples):
            joined.extend(self._values(place, sample))
        if not samples:
            return []
        with self.turn:
            found = self.learner.predict_proba_many(memoryview(joined))
        return [
            {"answer": self._name(row.index(max(row))), "probabilities": row.tolist()}
            for row in _rows(found, len(samples))
        ]

    def status(self) -> dict[str, Any]:
        """Return what the daemon is doing, in numbers."""
        writes = self.store.writes
        return {
            "steps": self.learner.steps, "waiting": len(self.store), "most_samples": self.store.most_samples,
            "trained": self.adaptation.after, "saved": self.adaptation.saved,
            "commits": writes.commits, "syncs": writes.syncs, "written_bytes": written_bytes(),
            "store_problem": self.store.problem,
            "drifts": self.adaptation.drifts, "rollbacks": self.adaptation.rollbacks,
            "refused_batches": self.adaptation.refused, "usual_accuracy": self.adaptation.guard.usual_accuracy,
            "guard_bytes": self.learner.plan.guard_bytes, "arena_bytes": self.learner.plan.arena_bytes,
            "problem": self.problem, "problems": list(self.adaptation.problems),
        }  # fmt: skip

    # -- values -----------------------------------------------------------------------------------------------

    def _values(self, place: int, x: Any) -> array:
        try:
            values = array("f", _flat(x))
        except (TypeError, OverflowError) as error:
            raise DataError(f"sample {place}: {error}; expected numbers, nested as you like; change it") from error
        if len(values) != self.elements or not all(-FLOAT32_MAX <= value <= FLOAT32_MAX for value in values):
            raise DataError(
                f"sample {place} has {len(values)} values; expected {self.elements} finite ones, of shape "
                f"{self.learner.sample_shape}, channels last; change it"
            )
        return values

    def _label(self, place: int, y: Any) -> bytes:
        number = self._classes.get(y) if self._classes and isinstance(y, str) else y
        if type(number) is not int or not 0 <= number < self.learner.net.head.outputs:
            known = f"one of {', '.join(self._classes)}" if self._classes else "a class number"
            raise DataError(f"label {y!r} at {place}: expected {known}; change it")
        return array("i", [number]).tobytes()

    def _name(self, number: int) -> str | int:
        return self.learner.classes[number] if number < len(self.learner.classes) else number


def _rows(values: array, count: int) -> list[array]:
    columns = len(values) // count
    return [values[first : first + columns] for first in range(0, len(values), columns)]


def _flat(x: Any) -> Iterator[float]:
    if isinstance(x, list):
        for part in x:
            yield from _flat(part)
    elif isinstance(x, (int, float)) and not isinstance(x, bool):
        yield x
    else:
        raise TypeError(f"{x!r} is not a number")

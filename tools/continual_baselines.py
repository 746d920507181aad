"""Baselines that are not part of the library: they store samples, or a copy of the model."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy

from edgerev import MeanSquaredError
from edgerev.contents import KeptTensors
from edgerev.continual.scenarios import Experience
from edgerev.continual.sizes import model_bytes, state_bytes
from edgerev.tools.continual_gradient import Gradient


class Memory(Gradient):
    """Baseline: a memory of samples, by reservoir sampling; learned from along with new ones, or at the end (GDumb)."""

    def setup(self) -> None:
        super().setup()
        self.kept: list[tuple[numpy.ndarray, int, int]] = []
        self.seen, self.counts = 0, Counter[tuple[int, int]]()  # by task and target, if greedy

    @property
    def stored_sample_bytes(self) -> int:
        return sum(x.size + 2 for x, _, _ in self.kept)  # as bytes, with label and task

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        flat, greedy = x.reshape(len(x), -1), self.settings["method"] == "gdumb"
        if not greedy:
            for _ in range(self.settings["epochs"]):
                order, size = self.random.permutation(len(x)), self.settings["batch"] // 2
                for first in range(0, len(x), size):
                    self._step(flat, y, order[first : first + size], experience.task)
        for sample, target in zip(flat, y):
            self._keep(sample, int(target), experience.task, greedy)

    def _step(self, flat: numpy.ndarray, y: numpy.ndarray, chosen: numpy.ndarray, task: int) -> None:
        self._select(task)
        if self.stream.setting == "task" or not self.kept:
            self.learner.learn_many(flat[chosen], y[chosen])
        if not self.kept:
            return
        picked = [self.kept[i] for i in self.random.integers(0, len(self.kept), len(chosen))]
        old_x, old_y = numpy.stack([x for x, _, _ in picked]), numpy.array([y for _, y, _ in picked])
        if self.stream.setting != "task":
            self.learner.learn_many(numpy.concatenate([flat[chosen], old_x]), numpy.append(y[chosen], old_y))
            return
        tasks = numpy.array([task for _, _, task in picked])
        for old in numpy.unique(tasks):
            self._select(int(old))
            self.learner.learn_many(old_x[tasks == old], old_y[tasks == old])

    def _keep(self, x: numpy.ndarray, y: int, task: int, greedy: bool) -> None:
        most, self.seen = self.settings["stored"], self.seen + 1
        if len(self.kept) < most:
            self.kept.append((x, y, task))
            self.counts[task, y] += 1
            return
        if greedy:
            if self.counts[task, y] < max(self.counts.values()):
                labels = [(t, c) for _, c, t in self.kept]
                largest = max(set(labels), key=lambda label: self.counts[label])
                self.kept[labels.index(largest)] = (x, y, task)
                self.counts[largest] -= 1
                self.counts[task, y] += 1
            return
        place = int(self.random.integers(self.seen))
        if place < most:
            self.kept[place] = (x, y, task)

    def finish(self) -> None:
        if self.settings["method"] != "gdumb":
            return
        x, y, tasks = (numpy.array(part) for part in zip(*self.kept))
        for _ in range(self.settings["epochs"]):
            for task in numpy.unique(tasks) if self.stream.setting == "task" else [None]:
                part = tasks == task if task is not None else tasks >= 0
                self._select(int(task) if task is not None else 0)
                order = self.random.permutation(int(part.sum()))
                self.learner.learn_many(x[part][order], y[part][order])


class Joint(Gradient):
    """Baseline: all data at once."""

    def setup(self) -> None:
        super().setup()
        self.parts: list[tuple[int, numpy.ndarray, numpy.ndarray]] = []

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        self.parts.append((experience.task, x.reshape(len(x), -1), y))

    @property
    def stored_sample_bytes(self) -> int:
        return sum(x.size for _, x, _ in self.parts)

    def finish(self) -> None:
        if self.stream.setting != "task":
            x, y = (numpy.concatenate(part) for part in list(zip(*self.parts))[1:])
            self._epochs(x, y, self.settings["epochs"])
            return
        for _ in range(self.settings["epochs"]):
            for task, x, y in self.parts:
                self._select(task)
                self._epochs(x, y, 1)


class Distilled(Gradient):
    """Baseline: learning without forgetting: a copy of the old model says what to go on answering on new samples.

    The loss is the new targets' cross-entropy by 1 / experiences so far, and for the rest ``temperature ** 2`` times
    the cross-entropy of the softened answers with those of the copy: a mean over the heads of earlier tasks; in the
    class setting over all classes so far, the new ones with a target of 0 (van de Ven and Tolias). A squared error
    carries its gradient g: that of the mean of (z - target)^2 over m outputs is g where the target is z - m g / 2.

    References
    ----------
    Li and Hoiem 2016, "Learning without forgetting", eq. 2 to 4; van de Ven, Tolias 2019, "Three scenarios for
    continual learning", appendix A.
    """

    def setup(self) -> None:
        self.learner, self.old = self._made(loss=MeanSquaredError()), self._made(loss=MeanSquaredError())
        self.known: list[list[int]] = []  # outputs that the old model has learned, by heads

    @property
    def state_bytes(self) -> int:
        return state_bytes(self.learner) + model_bytes(self.old)

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        for (*_, old), (*_, new) in zip(KeptTensors(self.old.runtime), KeptTensors(self.learner.runtime)):
            old[:] = new
        flat, size, outputs = x.reshape(len(x), -1), self.settings["batch"], self._outputs(experience)
        share, first_output = 1 / (experience.task + 1), self._first(experience.task)
        for _ in range(self.settings["epochs"]):
            order = self.random.permutation(len(x))
            for first in range(0, len(x), size):
                chosen = order[first : first + size]
                z, old = (one.predict_proba_many(flat[chosen]) for one in (self.learner, self.old))
                slope = share * _slope(z, numpy.eye(z.shape[1], dtype="f4")[first_output + y[chosen]], outputs)
                slope += (1 - share) * self._distillation(z, old, outputs)
                self.learner.learn_many(flat[chosen], z - z.shape[1] / 2 * slope)
        self.known = [*self.known, outputs] if self.stream.setting == "task" else [outputs]

    def _distillation(self, z: numpy.ndarray, old: numpy.ndarray, outputs: list[int]) -> numpy.ndarray:
        """Return the gradient of the part of the loss that holds softened answers where they were."""
        total, heat = numpy.zeros_like(z), self.settings["temperature"]
        for head in self.known:
            target = numpy.zeros_like(z)
            target[:, head] = _softmax(old[:, head] / heat)
            learned = head if self.stream.setting == "task" else outputs
            total += heat / len(self.known) * _slope(z / heat, target, learned)
        return total

    def _first(self, task: int) -> int:
        return task * self.stream.outputs if self.stream.setting == "task" else 0

    def _outputs(self, experience: Experience) -> list[int]:
        """Return the outputs that an experience's samples may have: in the class setting all that were seen so far."""
        if self.stream.setting == "class":
            return sorted({*experience.classes, *itertools.chain(*self.known)})
        first = self._first(experience.task)
        return list(range(first, first + self.stream.outputs))

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        outputs = numpy.array(self.known[task if self.stream.setting == "task" else 0])
        values = self.learner.predict_proba_many(x.reshape(len(x), -1))
        return outputs[values[:, outputs].argmax(1)] - self._first(task)


def _slope(z: numpy.ndarray, target: numpy.ndarray, outputs: list[int]) -> numpy.ndarray:
    """Return the gradient of the cross-entropy of some outputs."""
    slope = numpy.zeros_like(z)
    slope[:, outputs] = _softmax(z[:, outputs]) - target[:, outputs]
    return slope


def _softmax(z: numpy.ndarray) -> numpy.ndarray:
    shares = numpy.exp(z - z.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)

"""Baselines that are not part of the library: they store samples, or a copy of the model."""

from __future__ import annotations

import numpy

from edgerev.continual.scenarios import Experience
from edgerev.tools.continual_gradient import Gradient


class Memory(Gradient):
    """Baseline: a memory of samples, by reservoir sampling; learned from along with new ones, or at the end (GDumb)."""

    def setup(self) -> None:
        super().setup()
        self.kept: list[tuple[numpy.ndarray, int, int]] = []
        self.seen = 0

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
            return
        if greedy:
            labels = [(t, c) for _, c, t in self.kept]
            counts = {label: labels.count(label) for label in set(labels)}
            largest = max(counts, key=lambda label: counts[label])
            if counts.get((task, y), 0) < counts[largest]:
                self.kept[labels.index(largest)] = (x, y, task)
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

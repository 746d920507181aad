"""Methods that go on training one net by gradient, with or without consolidation."""

from __future__ import annotations

from typing import Any

import numpy

from edgerev import EWC, AdamW, Block, Dense, Head, Learner, Net, ReLU, SynapticIntelligence
from edgerev.continual.scenarios import Experience
from edgerev.tools.continual_base import Method


class Gradient(Method):
    """A reversible net of dense layers that goes on learning, with or without consolidation."""

    def setup(self) -> None:
        self.learner = self._made()

    def _made(self, **options: Any) -> Learner:
        """Return a new learner; `options` go to it."""
        stream, settings = self.stream, self.settings
        tasks = stream.experiences if stream.setting == "task" else 1
        size, half = int(numpy.prod(stream.shape)), settings.get("width", 400) // 2
        blocks = Block((ReLU(), Dense(half)), repeat=settings.get("blocks", 1))
        net = Net((size,), Dense(2 * half), (blocks,), Head(stream.outputs, rectify=True, tasks=tasks))
        return Learner(
            net, optimizer=AdamW(settings["rate"], weight_decay=0.0), batch=settings["batch"], seed=self.seed,
            consolidation=self._consolidation(), **options,
        )

    def _consolidation(self) -> SynapticIntelligence | EWC | None:
        settings = self.settings
        if settings["method"] == "si":
            return SynapticIntelligence(settings["strength"][self.stream.setting], settings["damping"])
        return EWC(settings["strength"][self.stream.setting]) if settings["method"] == "ewc" else None

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        self._select(experience.task)
        flat = x.reshape(len(x), -1)
        self._epochs(flat, y, self.settings["epochs"])
        if self.settings["method"] == "si":
            self.learner.consolidate()
        elif self.settings["method"] == "ewc":
            chosen = self.random.choice(len(x), min(len(x), self.settings["samples"]), replace=False)
            self.learner.consolidate(flat[chosen], self._drawn(flat[chosen]))

    def _drawn(self, x: numpy.ndarray) -> numpy.ndarray:
        """Return a target for each sample, drawn from the probabilities that the model gives it."""
        first = (self.learner.task or 0) * self.stream.outputs
        sums = self.learner.predict_proba_many(x)[:, first : first + self.stream.outputs].cumsum(1)
        return (sums < self.random.uniform(0, sums[:, -1:], (len(x), 1))).sum(1)

    def _select(self, task: int) -> None:
        if self.stream.setting == "task":
            self.learner.task = task

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        self._select(task)
        return self.learner.predict_many(x.reshape(len(x), -1))

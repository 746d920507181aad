"""What every method of `edgerev bench continual` is: it sees one experience after another, and answers."""

from __future__ import annotations

from typing import Any

import numpy

from edgerev import Learner
from edgerev.continual.scenarios import Experience
from edgerev.continual.sizes import state_bytes


class Stream:
    """What a method knows of the stream before it starts.

    Parameters
    ----------
    shape : of one sample
    setting : "task", "domain" or "class"
    outputs : targets of one experience; of all in the class-incremental setting
    experiences : how many there are
    """

    def __init__(self, shape: tuple[int, ...], setting: str, outputs: int, experiences: int) -> None:
        self.shape, self.setting, self.outputs, self.experiences = shape, setting, outputs, experiences


class Method:
    """Base: a learner, and how it goes through experiences."""

    learner: Learner

    def __init__(self, stream: Stream, settings: dict[str, Any], seed: int) -> None:
        self.stream, self.settings, self.seed = stream, settings, seed
        self.random = numpy.random.default_rng(seed)
        self.setup()

    def setup(self) -> None:
        """Make the learner."""
        raise NotImplementedError

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        """Learn from all samples of one experience."""
        raise NotImplementedError

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        """Return a target for each sample; `task` is looked at only in the task-incremental setting."""
        raise NotImplementedError

    def finish(self) -> None:
        """Do what is left at the end of the stream."""

    @property
    def state_bytes(self) -> int:
        """Bytes kept for learning and remembering, besides samples."""
        return state_bytes(self.learner)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the one allocation that training takes."""
        return self.learner.plan.arena_bytes

    @property
    def stored_sample_bytes(self) -> int:
        """Bytes of stored samples."""
        return 0

    def _epochs(self, x: numpy.ndarray, y: numpy.ndarray, epochs: int) -> None:
        for _ in range(epochs):
            order = self.random.permutation(len(x))
            self.learner.learn_many(x[order], y[order])

"""A closed form for each task on the same random features; the task is told, or found by what the inputs look like."""

from __future__ import annotations

import numpy

from edgerev import Dense, Head, Learner, Net
from edgerev.continual.scenarios import Experience
from edgerev.continual.tasks import InputStatistics
from edgerev.tools.continual_base import Method


class TaskRidge(Method):
    """Ridge regression for one task after another; the sums are let go at the end of each."""

    def setup(self) -> None:
        stream, settings = self.stream, self.settings
        size, tasks = int(numpy.prod(stream.shape)), stream.experiences
        head = Head(
            stream.outputs, kind="ridge", tasks=tasks, ridge=settings["ridge"], sums=settings["sums"], rectify=True
        )
        self.learner = Learner(Net((size,), Dense(settings["features"]), (), head), batch=64, seed=self.seed)
        self.inputs = InputStatistics(tasks, size)

    @property
    def state_bytes(self) -> int:
        return super().state_bytes + self.inputs.nbytes

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        flat = x.reshape(len(x), -1)
        if experience.task == 0:
            self.learner.set_standardisation(*([value] * flat.shape[1] for value in (flat.mean(), 1 / flat.std())))
            if self.settings["sums"] != "float64":
                self.learner.calibrate(flat)
        self.inputs.add(experience.task, flat)
        self.learner.task = experience.task
        self.learner.remember_many(flat, y)
        self.learner.release()

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        flat = x.reshape(len(x), -1)
        tasks = numpy.full(len(x), task) if self.stream.setting == "task" else self.inputs.likeliest(flat)
        answers = numpy.empty(len(x), "i8")
        for number in numpy.unique(tasks):
            self.learner.task = int(number)
            answers[tasks == number] = self.learner.predict_many(flat[tasks == number])
        return answers

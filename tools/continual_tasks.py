"""Answers of each task's own; which task it is, is told, or found by what the inputs look like."""

from __future__ import annotations

import numpy

from edgerev import AdamW, Adapter, Block, Dense, Head, Learner, Net, ReLU
from edgerev.continual.scenarios import Experience
from edgerev.continual.tasks import InputStatistics
from edgerev.tools.continual_base import Method


class OwnAnswers(Method):
    """Base: answers for each task."""

    def setup(self) -> None:
        self.inputs = InputStatistics(self.stream.experiences, int(numpy.prod(self.stream.shape)))

    @property
    def state_bytes(self) -> int:
        return super().state_bytes + self.inputs.nbytes

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        flat = x.reshape(len(x), -1)
        self.inputs.add(experience.task, flat)
        self.learner.task = experience.task
        self.learn_task(flat, y)

    def learn_task(self, flat: numpy.ndarray, y: numpy.ndarray) -> None:
        """Learn from all samples of the task at hand."""
        raise NotImplementedError

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        flat = x.reshape(len(x), -1)
        tasks = numpy.full(len(x), task) if self.stream.setting == "task" else self.inputs.likeliest(flat)
        answers = numpy.empty(len(x), "i8")
        for number in numpy.unique(tasks):
            self.learner.task = int(number)
            answers[tasks == number] = self.learner.predict_many(flat[tasks == number])
        return answers


class TaskRidge(OwnAnswers):
    """Ridge regression on random features for one task after another; its sums are let go at the end of each."""

    def setup(self) -> None:
        super().setup()
        stream, settings = self.stream, self.settings
        head = Head(
            stream.outputs, kind="ridge", tasks=stream.experiences, ridge=settings["ridge"], sums=settings["sums"],
            rectify=True,
        )
        net = Net((int(numpy.prod(stream.shape)),), Dense(settings["features"]), (), head)
        self.learner = Learner(net, batch=64, seed=self.seed)

    def learn_task(self, flat: numpy.ndarray, y: numpy.ndarray) -> None:
        if self.learner.task == 0:
            self.learner.set_standardisation(*([value] * flat.shape[1] for value in (flat.mean(), 1 / flat.std())))
            self.learner.calibrate(flat)
        self.learner.remember_many(flat, y)
        self.learner.release()


class TaskAdapters(OwnAnswers):
    """A reversible net that is trained on the first task; later ones train adapters and answers of their own."""

    def setup(self) -> None:
        super().setup()
        stream, settings = self.stream, self.settings
        half = settings["width"] // 2
        block = Block((ReLU(), Dense(half), Adapter(settings["rank"])))
        net = Net(
            (int(numpy.prod(stream.shape)),), Dense(2 * half), (block,),
            Head(stream.outputs, rectify=True, tasks=stream.experiences),
        )
        self.learner = Learner(
            net, optimizer=AdamW(settings["rate"], weight_decay=0.0), batch=settings["batch"], seed=self.seed
        )

    def learn_task(self, flat: numpy.ndarray, y: numpy.ndarray) -> None:
        self.learner.adapters_only = self.learner.task != 0
        self._epochs(flat, y, self.settings["epochs"])

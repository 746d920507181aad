"""The methods that `edgerev bench continual` compares: edgerev's own, and baselines that are not part of the library.

A method sees one experience after another as arrays, and answers with targets.
"""

from __future__ import annotations

from typing import Any

import numpy

from edgerev import (
    EWC,
    AdamW,
    Block,
    Conv2d,
    Dense,
    Head,
    Learner,
    Net,
    RateSchedule,
    ReLU,
    Squeeze,
    SynapticIntelligence,
)
from edgerev.continual.scenarios import Experience
from edgerev.continual.sizes import state_bytes
from edgerev.layers import Layer
from edgerev.recipe import Augment


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
    def stored_sample_bytes(self) -> int:
        """Bytes of stored samples."""
        return 0

    def _epochs(self, x: numpy.ndarray, y: numpy.ndarray, epochs: int) -> None:
        for _ in range(epochs):
            order = self.random.permutation(len(x))
            self.learner.learn_many(x[order], y[order])


class ClosedForm(Method):
    """A backbone that is kept after the first experience, and ridge regression from sums of whole features.

    Columns are those of (experience, target): in the domain-incremental setting the experience is inferred with the
    answer, in the task-incremental one the others are left out.
    """

    def setup(self) -> None:
        stream, settings = self.stream, self.settings
        self.columns = stream.outputs * (1 if stream.setting == "class" else stream.experiences)
        height, width, channels = stream.shape
        stem, backbone, expansion = self._layers(settings)
        kind = {"kind": "ridge", "ridge": settings.get("ridge", 1e-4), "sums": "int32", "pool": settings.get("pool", 4)}
        head = Head(max(self.columns, 8), rectify=True, expansion=expansion, **kind)
        net = Net((height - 4, width - 4, channels), stem, backbone, head)
        self.learner = Learner(
            net, optimizer=AdamW(settings.get("rate", 1e-3)), batch=settings.get("batch", 64), seed=self.seed,
            rate_schedule=RateSchedule("cosine", 20, settings.get("steps", 1000)), augment=Augment(crop=2),
        )

    def _layers(self, settings: dict[str, Any]) -> tuple[Layer, tuple, tuple[Layer, ...]]:
        if settings["method"] == "random-stem":
            return Conv2d(settings.get("channels", 52), 5), (), ()
        if settings["method"] == "random-layers":
            return Conv2d(settings["stem"], 5), (), (ReLU(), Conv2d(settings["channels"], 5), ReLU())
        stem, wide = settings.get("stem", 8), settings.get("channels", 48)
        block = Block((ReLU(), Conv2d(2 * stem, 3)))
        return Conv2d(stem, 5), (Squeeze(), block), (ReLU(), Conv2d(wide, 3), ReLU())

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        if experience.task == 0:
            self.learner.set_standardisation([x.mean()], [1 / x.std()])
            if self.settings["trained"]:
                turns = [numpy.rot90(x, turn, (1, 2)) for turn in range(4)]
                labels = [4 * (y % 2) + turn for turn in range(4)]
                self._epochs(numpy.concatenate(turns), numpy.concatenate(labels), self.settings["epochs"])
            self.learner.calibrate(x)
        first = 0 if self.stream.setting == "class" else experience.task * self.stream.outputs
        self.learner.remember_many(x, first + y)

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        scores = self.learner.predict_proba_many(x)[:, : self.columns]
        if self.stream.setting == "task":
            scores = scores[:, task * self.stream.outputs : (task + 1) * self.stream.outputs]
        return scores.argmax(1) % self.stream.outputs


class Gradient(Method):
    """A reversible net of dense layers that goes on learning, with or without consolidation."""

    def setup(self) -> None:
        stream, settings = self.stream, self.settings
        tasks = stream.experiences if stream.setting == "task" else 1
        size, half = int(numpy.prod(stream.shape)), settings.get("width", 400) // 2
        net = Net(
            (size,), Dense(2 * half), (Block((ReLU(), Dense(half))),), Head(stream.outputs, rectify=True, tasks=tasks)
        )
        self.learner = Learner(
            net, optimizer=AdamW(settings["rate"], weight_decay=0.0), batch=settings["batch"], seed=self.seed,
            consolidation=self._consolidation(),
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
            self.learner.consolidate(flat[chosen], y[chosen])

    def _select(self, task: int) -> None:
        if self.stream.setting == "task":
            self.learner.task = task

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        self._select(task)
        return self.learner.predict_many(x.reshape(len(x), -1))


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


METHODS: dict[str, type[Method]] = {
    "ridge": ClosedForm, "ridge-random": ClosedForm, "random-stem": ClosedForm, "random-layers": ClosedForm,
    "fine-tuning": Gradient, "si": Gradient, "ewc": Gradient, "replay": Memory, "gdumb": Memory, "joint": Joint,
}

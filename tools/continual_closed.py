"""Methods that answer in closed form, from sums over samples."""

from __future__ import annotations

from typing import Any

import numpy

from edgerev import AdamW, Block, Conv2d, Head, Learner, Net, RateSchedule, ReLU, Squeeze
from edgerev.continual.scenarios import Experience
from edgerev.layers import Layer
from edgerev.recipe import Augment
from edgerev.tools.continual_base import Method


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

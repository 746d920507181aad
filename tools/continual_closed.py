"""Methods that answer in closed form, from sums over samples."""

from __future__ import annotations

from typing import Any

import numpy

from edgerev import AdamW, Block, Conv2d, Head, Learner, Net, RateSchedule, ReLU, Squeeze
from edgerev.continual.glyphs import Glyphs
from edgerev.continual.scenarios import Experience
from edgerev.continual.sizes import state_bytes
from edgerev.errors import UsageError
from edgerev.layers import Layer
from edgerev.recipe import Augment
from edgerev.tools.continual_base import Method

CROP = 2  # pixels at each side that the net does not see, unless an image is shifted
STEPS_AT_ONCE = 10  # of training, from one call
RANGED = 3000  # glyphs from which the range of features is taken, besides the first experience
SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))  # of an image whose answers are averaged


class ClosedForm(Method):
    """A backbone that is kept after the first experience, and ridge regression from sums of whole features.

    Where it is trained, it is on glyphs made up from the first experience, with a head of its own that is let go before
    the first sum. Columns are those of (experience, target): in the domain-incremental setting the experience is
    inferred with the answer, in the task-incremental one the others are left out.
    """

    def setup(self) -> None:
        stream, settings = self.stream, self.settings
        self.columns = stream.outputs * (1 if stream.setting == "class" else stream.experiences)
        self._pretext_bytes = 0
        if len(stream.shape) != 3:
            raise UsageError(
                f"method {settings['method']!r} takes images of shape (height, width, channels), not samples of shape "
                f"{stream.shape}; expected task-ridge, or one that trains by gradient; change it"
            )
        height, width, channels = stream.shape
        stem, backbone, expansion = self._layers(settings)
        head = Head(
            self.columns, kind="ridge", ridge=settings.get("ridge", 1e-4), sums="int32", pool=settings["pool"],
            rectify=True, expansion=expansion,
        )
        net = Net((height - 2 * CROP, width - 2 * CROP, channels), stem, backbone, head)
        self.learner = Learner(net, batch=64, seed=self.seed, augment=Augment(crop=CROP))

    def _layers(self, settings: dict[str, Any]) -> tuple[Layer, tuple, tuple[Layer, ...]]:
        stem, wide = settings["stem"], settings.get("channels", 0)
        if settings["method"] == "random-stem":
            return Conv2d(stem, 5), (), ()
        if settings["method"] == "random-layers":
            return Conv2d(stem, 5), (), (ReLU(), Conv2d(wide, 5), ReLU())
        block = Block((ReLU(), Conv2d(2 * stem, 3)))
        return Conv2d(stem, 5), (Squeeze(), block), (ReLU(), Conv2d(wide, 3), ReLU())

    def learn(self, experience: Experience, x: numpy.ndarray, y: numpy.ndarray) -> None:
        if experience.task == 0:
            self.learner.set_standardisation([x.mean()], [1 / x.std()])
            if "glyphs" in self.settings:
                glyphs = Glyphs(x, self.settings["glyphs"], self.seed)
                if self.settings["trained"]:
                    self._train(glyphs)
                self.learner.calibrate(glyphs.draw(RANGED)[0])  # strokes of classes to come are in other places
            self.learner.calibrate(x)
        first = 0 if self.stream.setting == "class" else experience.task * self.stream.outputs
        self.learner.remember_many(x, first + y)

    def _train(self, glyphs: Glyphs) -> None:
        """Train the backbone to tell glyphs apart."""
        settings = self.settings
        head = Head(settings["glyphs"], pool=settings["pool"], rectify=True)
        trainee = Learner(
            self.learner.net.replace(head=head), optimizer=AdamW(settings["rate"]), batch=settings["batch"],
            seed=self.seed, rate_schedule=RateSchedule("cosine", 20, settings["steps"]), augment=Augment(crop=CROP),
        )
        trainee.take_backbone(self.learner)
        for done in range(0, settings["steps"], STEPS_AT_ONCE):
            trainee.learn_many(*glyphs.draw(min(STEPS_AT_ONCE, settings["steps"] - done) * settings["batch"]))
        self.learner.take_backbone(trainee)
        heads = sum(trainee.runtime.view(f"head.0.{name}").nbytes for name in ("weight", "bias"))
        self._pretext_bytes = state_bytes(trainee) + heads

    @property
    def state_bytes(self) -> int:
        """Bytes kept for learning and remembering: those of training glyphs, or of sums, which come after it."""
        return max(super().state_bytes, self._pretext_bytes)

    def scores(self, x: numpy.ndarray) -> numpy.ndarray:
        """Return a score of each sample for each column."""
        shifts = SHIFTS if self.settings.get("shifts") else SHIFTS[:1]
        scores = [self.learner.predict_proba_many(numpy.roll(x, shift, (1, 2))) for shift in shifts]
        return numpy.sum(scores, 0)

    def predict(self, x: numpy.ndarray, task: int) -> numpy.ndarray:
        scores = self.scores(x)
        if self.stream.setting == "task":
            scores = scores[:, task * self.stream.outputs : (task + 1) * self.stream.outputs]
        return scores.argmax(1) % self.stream.outputs

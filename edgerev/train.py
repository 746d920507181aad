"""Train from files: read, plan, learn, measure, save, resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from edgerev.checkpoint import rehearse
from edgerev.checkpoint_reader import verified
from edgerev.config import Config
from edgerev.contents import KeptTensors, stored_sample_bytes
from edgerev.continual.metrics import backward_transfer, forgetting
from edgerev.continual.scenarios import split
from edgerev.data import Dataset, Permutation, Records
from edgerev.data.feed import Feed, check_meaning, staging_bytes
from edgerev.data.standardise import statistics
from edgerev.errors import CheckpointError, ConfigError, DataError, NetError, NumericError, StoppedError, UsageError
from edgerev.evaluate import evaluate, reconstruction_error
from edgerev.kernels import library
from edgerev.kernels.layout import R_CORRECT, R_LOSS, LossKind
from edgerev.learner import Learner
from edgerev.net import Net
from edgerev.position import Inputs
from edgerev.program import Region
from edgerev.tools.memory import peak_rss_bytes, rss_bytes


class Progress(Protocol):
    """What shows how far training is (tqdm has these)."""

    def update(self, n: int) -> object:
        """Go on by `n` samples."""

    def set_postfix_str(self, text: str, *, refresh: bool = ...) -> object:
        """Show figures beside the bar."""


ProgressMaker = Callable[[int, str], AbstractContextManager[Progress]]


class Split(NamedTuple):
    """Training and test part of a data set or an experience, and what the test part is (see `TrainingReport`)."""

    train: Records
    test: Records
    measured_on: str


@dataclass
class TrainingReport:
    """Figures of one training run.

    Attributes
    ----------
    accuracy, squared_error : on the test data at the end; see `Evaluation`
    loss : mean training loss of the last epoch
    measured_on : what accuracy was measured on: "test" (its own part), "held-out", or "training" samples
    accuracy_after : accuracy on the classes seen so far, after each experience
    matrix : accuracy on each experience's test data (columns) after each experience (rows)
    step_ms : mean time of a training step in milliseconds
    reconstruction_error : largest absolute error of the rebuilt state, for a float32 state; None where it is exact
    stored_sample_bytes : bytes in the checkpoint, by its own table, of tensors that could hold samples
    ready_rss_bytes : resident set after imports and compilation, before the arena was there
    """

    samples: int
    parameters: int
    schedule: str
    arena_bytes: int
    activation_bytes: int
    regions: dict[str, int]
    ready_rss_bytes: int
    measured_on: str
    loss: float = 0.0
    accuracy: float | None = None
    squared_error: float | None = None
    accuracy_after: list[float] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    forgetting: float = 0.0
    backward_transfer: float = 0.0
    steps: int = 0
    step_ms: float = 0.0
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    reconstruction_error: float | None = None
    stored_sample_bytes: int = 0
    state_bytes: int = 0


class Trainer:
    """One training run from files.

    Parameters
    ----------
    config : what to train and how
    dataset : the data; without a test part, `data.holdout` of the training part is held out
    output : path of the checkpoint, or None to keep none
    progress : makes a progress display from a number of samples and a title
    """

    def __init__(self, config: Config, dataset: Dataset, output: str | None, progress: ProgressMaker) -> None:
        self.config, self.output, self.progress = config, output, progress
        self.split = _split(dataset, config)
        train = self.split.train
        outputs = train.outputs
        if train.classes is not None and len(train.classes) < 2:
            raise DataError(
                f"{train.name} has one class, {train.classes[0]}; expected at least two to tell apart; check the label "
                "column, or name it in a list if its values are to be learned"
            )
        if config.net.outputs is not None and config.net.outputs < outputs:
            raise ConfigError(
                f"net.outputs is {config.net.outputs}, but the data has {outputs} classes or values; expected at least "
                "as many; leave the key out, or raise it"
            )
        batch, epochs = config.train.batch, config.train.epochs
        self.stream = self._stream()
        steps = sum(
            -(-len(experience.train) // batch) * epochs
            for index, experience in enumerate(self.stream) if self._rate_factor(index)
        )
        recipe = config.make_recipe(steps)
        library.load()  # so that what a wheel or the compiler takes is not counted as training's
        self._ready_rss_bytes = rss_bytes()
        self.learner = Learner(
            _make_net(config, train), optimizer=recipe.optimizer, loss=recipe.loss, batch=batch,
            rate_schedule=recipe.rate_schedule, clip=recipe.clip, augment=recipe.augment, atomic=recipe.atomic,
            budget=config.train.budget, schedule=config.train.schedule,
            threads=config.train.threads, seed=config.train.seed, data_bytes=staging_bytes(train, batch),
        )
        if train.classes is not None:
            self.learner.classes = list(train.classes)
        self.learner.inputs = Inputs(train.columns, train.dtype, config.data.label, dataset.digest)
        if config.data.standardise != "none":
            # of the first experience: those to come are not known yet
            self.learner.set_standardisation(*statistics(self.stream[0].train, per=config.data.standardise))
        sizes = [[len(experience.train), len(experience.test)] for experience in self.stream]
        self.learner.move_to(stream=sizes)
        self.report = self._new_report()
        self._seconds_in_steps = 0.0
        self._filled = 0  # samples in the arena's input
        self._asked = False  # to stop

    def _stream(self) -> list[Split]:
        """Return the experiences in their order."""
        train, test, measured_on = self.split
        if self.config.continual is None:
            return [self.split]
        if train.classes is None:
            raise DataError(f"{train.name}: targets are values; a class-incremental stream needs classes")
        per_experience = self.config.continual.classes_per_experience
        try:
            plan = split(
                train.labels(), test.labels(), per_experience, "class", classes=train.classes, strict=False
            )
        except DataError as error:
            raise DataError(f"{train.name}: {error}") from error
        return [Split(train.pick(part.train), test.pick(part.test), measured_on) for part in plan]

    def _rate_factor(self, index: int) -> float:
        """Return the factor on the learning rate in an experience; at 0 the backbone is left as it is."""
        return 1.0 if index == 0 or self.config.continual is None else self.config.continual.later_rate

    def _new_report(self) -> TrainingReport:
        learner = self.learner
        return TrainingReport(
            samples=len(self.split.train), parameters=learner.parameters,
            schedule=learner.schedule.name(learner.net.depth),
            arena_bytes=learner.plan.arena_bytes, activation_bytes=learner.plan.activation_bytes,
            regions={region.value: size for region, (_, size) in learner.plan.regions.items()},
            ready_rss_bytes=self._ready_rss_bytes,
            state_bytes=learner.plan.regions[Region.CONSOLIDATION][1], measured_on=self.split.measured_on,
        )

    def resume(self, path: str | None = None) -> None:
        """Go on from a checkpoint: that at the output path, or another such as its previous generation.

        Raises
        ------
        CheckpointError
            It is damaged, or not of this configuration and data.
        """
        path = path or self.output
        if path is None:
            raise UsageError("nothing to resume from: no output path was given")
        classes, seed, stream = self.learner.classes, self.learner.seed, self.learner.position.stream
        digest = self.learner.inputs.digest
        self.learner.restore(path)
        self.report.loss = self.learner.position.loss
        check_meaning(self.split.train, self.learner.inputs)
        for what, there, here in (
            ("seed", self.learner.seed, seed), ("classes", self.learner.classes, classes),
            ("training and test samples", self.learner.position.stream, stream),
            ("records of digest", self.learner.inputs.digest, digest),
        ):
            if there != here:
                raise CheckpointError(
                    f"{path} was trained with {what} {there}, not {here}; expected the same, for the order of samples "
                    "and the part held out depend on it; go back to what it was made with, or start anew in another "
                    "file"
                )

    @property
    def finished(self) -> bool:
        """Whether every experience was learned already, so that `run` only measures."""
        return self.learner.position.experience >= len(self.stream)

    def stop(self) -> None:
        """Let `run` end after the step at hand, with a checkpoint; may be called by a signal's handler."""
        self._asked = True

    def run(self) -> TrainingReport:
        """Train to the end and return the figures.

        Raises
        ------
        CheckpointError
            The output cannot be written: found before the first step where it can be.
        NumericError
            Training diverged; the checkpoint is the last good one.
        StoppedError
            `stop` was called.
        """
        start = time.perf_counter()
        first_step, done = self.learner.steps, self.learner.position.experience
        if self.output is not None and not self.finished:
            rehearse(self.output, KeptTensors(self.learner.runtime))
        for index in range(done, len(self.stream)):
            self._learn(index)
            self._measure(index)
            self._save(experience=index + 1, epoch=0, sample=0)
        if done == len(self.stream):
            self._measure(len(self.stream) - 1)
        report = self.report
        if self.learner.net.state == "float32":
            report.reconstruction_error = reconstruction_error(self.learner, self.split.test)
        report.stored_sample_bytes = self._stored_sample_bytes()
        report.seconds = time.perf_counter() - start
        report.steps = self.learner.steps
        steps = self.learner.steps - first_step
        report.step_ms = 1e3 * self._seconds_in_steps / steps if steps else 0.0
        # each reading may be some pages off: the kernel adds up what its processors count for themselves
        report.peak_rss_bytes = max(peak_rss_bytes(), self._ready_rss_bytes)
        return report

    def _stored_sample_bytes(self) -> int:
        """Count by the table of the checkpoint, or of what would be in it."""
        program = self.learner.runtime.program
        if self.output is None:
            kept = KeptTensors(self.learner.runtime)
            return stored_sample_bytes(program, ((name, view.nbytes) for name, _, _, view in kept))
        with verified(self.output) as whole:
            return stored_sample_bytes(program, ((name, entry.nbytes) for name, entry in whole.entries()))

    # -- one experience ---------------------------------------------------------------------------------------

    def _learn(self, index: int) -> None:
        experience, position = self.stream[index], self.learner.position
        factor = self._rate_factor(index)
        epochs = self.config.train.epochs if factor else 0
        self.learner.rate_factor = factor
        feed = Feed(experience.train, self.learner)
        title = f"experience {index + 1}/{len(self.stream)}" if len(self.stream) > 1 else "training"
        with self.progress(len(experience.train) * max(epochs, 1), title) as shown:
            shown.update(position.epoch * len(experience.train) + position.sample)
            for epoch in range(position.epoch, epochs):
                self._epoch(index, epoch, feed, shown)
                self._save(epoch=epoch + 1, sample=0)
            if self.learner.net.head.closed_form:
                self._remember(index, feed, shown, counted=epochs > 0)

    def _remember(self, index: int, feed: Feed, shown: Progress, *, counted: bool) -> None:
        """Take an experience into the sums of a head in closed form; the first gives whole features their range."""
        samples = range(len(feed.records))
        if index == 0 and self.learner.net.head.sums != "float64":
            for n in self._batches(feed, samples):
                self._end_if_asked()
                self.learner.calibrate_step(n)
        for n in self._batches(feed, samples):
            self._end_if_asked()  # without saving: what is summed up so far would be summed up again
            self.learner.remember_step(n)
            shown.update(0 if counted else n)

    def _epoch(self, index: int, epoch: int, feed: Feed, shown: Progress) -> None:
        count, batch = len(feed.records), self.config.train.batch
        order = Permutation(count, self.config.train.seed, index << 32 | epoch)  # whatever `epochs` is
        report = self.learner.runtime.view("report")
        start = self.learner.position.sample
        loss, correct = self.learner.position.loss if start else 0.0, 0.0
        for first in range(start, count, batch):
            n = self._filled = feed.fill(order[i] for i in range(first, min(first + batch, count)))
            before = time.perf_counter()
            self.learner.step(n)
            self._seconds_in_steps += time.perf_counter() - before
            seen, correct = first + n, correct + n * report[R_CORRECT]
            loss += (report[R_LOSS] - loss) * n / seen
            shown.update(n)
            every = self.config.train.checkpoint_steps
            self.learner.move_to(sample=seen, loss=loss)
            if self._asked or (every and self.learner.steps % every == 0):
                self._save()
            self._end_if_asked()
            if self.learner.steps % 10 == 0:
                figures = f"loss {loss:.4f}"
                if self.learner.recipe.loss.number != LossKind.MEAN_SQUARED_ERROR:
                    figures += f", accuracy {100 * correct / (seen - start):.2f} %"
                shown.set_postfix_str(figures, refresh=False)
        self.report.loss = loss

    def _end_if_asked(self) -> None:
        if self._asked:
            raise StoppedError(f"stopped after step {self.learner.steps}")

    def _save(self, **position: float) -> None:
        self.learner.move_to(**position)
        if self.output is not None:
            self._check_answers(self.output)
            self.learner.save(self.output)

    def _check_answers(self, output: str) -> None:
        """Refuse to replace a good checkpoint by a model that fails for the samples that lie in the arena's input."""
        n = min(self._filled, self.learner.schedule.micro_batch)
        last = "forward" if self.learner.net.head.closed_form else "read_out"  # its sums may not be there yet
        try:
            if n:
                self.learner.runtime.run("encode", n, until=last)
        except NumericError as error:
            way = f"{output} is as it was: lower the learning rate or clip gradients, and resume from it"
            if not os.path.exists(output):
                way = "there is no earlier one: lower the learning rate or clip gradients, and start anew"
            raise NumericError(
                f"{output} was not written, for the model diverged: {error}. Expected one that answers; {way}",
                error.status, error.row,
            ) from error

    # -- measuring --------------------------------------------------------------------------------------------

    def _measure(self, index: int) -> None:
        """Measure accuracy on every experience seen so far, and on all of them together."""
        results = [evaluate(self.learner, experience.test) for experience in self.stream[: index + 1]]
        sizes = [result.samples for result in results]
        report = self.report
        if results[0].squared_error is not None:
            report.squared_error = results[0].squared_error  # values come in one experience
            return
        row = [result.accuracy for result in results if result.accuracy is not None]
        matrix = [*self.learner.position.matrix[:index], row]
        self.learner.move_to(matrix=matrix)
        report.matrix = [list(row) for row in matrix]
        report.accuracy_after = [_mean(row, sizes) for row in matrix]
        report.accuracy = report.accuracy_after[-1]
        if len(report.matrix) == len(self.stream):
            report.forgetting = forgetting(report.matrix)
            report.backward_transfer = backward_transfer(report.matrix)

    def _batches(self, feed: Feed, indices: range) -> Iterator[int]:
        most = self.learner.schedule.micro_batch
        for first in range(0, len(indices), most):
            self._filled = feed.fill(indices[first : first + most])
            yield self._filled


def _mean(values: Sequence[float], sizes: Sequence[int]) -> float:
    """Return the mean of figures of parts, each weighted with its size; sizes of further parts are left out."""
    return sum(value * size for value, size in zip(values, sizes)) / sum(sizes[: len(values)])


def _make_net(config: Config, train: Records) -> Net:
    try:
        return config.make_net(train.shape, train.outputs)
    except NetError as error:
        if len(train.shape) != 2:
            raise
        shape = ", ".join(map(str, train.shape))
        raise NetError(
            f"{error}. {train.name} holds arrays of floats ({shape}), which are read as signals (time, channels); if "
            f"they are images, reshape them to (samples, {shape}, 1)"
        ) from error


def _split(dataset: Dataset, config: Config) -> Split:
    """Return training and test part; the part held out is a fixed pseudo-random choice."""
    train, test = dataset.train, dataset.test
    if test is None:
        count = len(train)
        held = max(1, round(count * config.data.holdout)) if config.data.holdout else 0
        if held == 0 or held >= count:
            return Split(train, train, "training")
        order = Permutation(count, config.train.seed, 0)
        held_out = train.pick(order[i] for i in range(held))
        return Split(train.pick(order[i] for i in range(held, count)), held_out, "held-out")
    return Split(train, test, "test")

"""The learner: a net in its arena, with the verbs that users call."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from edgerev import checkpoint
from edgerev.batch import Batch, Values, argmax
from edgerev.contents import Position, check_alike, peek, to_metadata
from edgerev.errors import CheckpointError, DataError, NumericError, UsageError
from edgerev.kernels.layout import C_SEED, C_STEP, V_FACTOR
from edgerev.losses import Loss, MeanSquaredError
from edgerev.net import Net
from edgerev.optimizers import Clip, Optimizer, RateSchedule
from edgerev.program import Region
from edgerev.recipe import Augment, Recipe, Schedule
from edgerev.runtime import Runtime
from edgerev.schedule import choose

SAMPLE_FREE = (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION, Region.CONTROL)
KEPT = (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION)


class Report(NamedTuple):
    """What learning from some samples showed, measured before each batch's update.

    Attributes
    ----------
    loss : mean loss
    accuracy : share of right answers (0 for the mean squared error)
    samples : how many there were
    """

    loss: float
    accuracy: float
    samples: int


class Learner:
    """Train and use a reversible net in one fixed allocation.

    Parameters
    ----------
    net : the net
    optimizer, loss, batch, rate_schedule, clip, augment, atomic : see `Recipe`
    budget : most bytes of the arena, also as text ("8MiB"), or None; the fastest schedule that fits is taken
    schedule : "reversible" or "stored", without a budget
    threads : threads that compute together; results are the same bits for any number
    seed : seed of initial weights, dropout and augmentation
    data_bytes : bytes to set aside in the arena for samples on their way from disk

    Raises
    ------
    UsageError
        An argument is out of range, or the parts do not fit (NetError, BudgetError).
    KernelError
        There are no kernels for this machine.
    """

    def __init__(
        self, net: Net, *, optimizer: Optimizer | None = None, loss: Loss | None = None, batch: int = 16,
        rate_schedule: RateSchedule | None = None, clip: Clip | None = None, augment: Augment | None = None,
        atomic: bool = False, budget: int | str | None = None, schedule: str | Schedule = "reversible",
        threads: int = 1, seed: int = 0, data_bytes: int = 0,
    ) -> None:
        defaults = Recipe()
        recipe = Recipe(
            batch, optimizer or defaults.optimizer, rate_schedule or defaults.rate_schedule, clip,
            loss or defaults.loss, augment or defaults.augment, atomic,
        )
        self._set_up(net, recipe, seed, budget=budget, schedule=schedule, threads=threads, data_bytes=data_bytes)

    def _set_up(self, net: Net, recipe: Recipe, seed: int, *, threads: int, **options: Any) -> None:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed}: expected 0 .. 2**63 - 1")
        choice = choose(net, recipe, threads=threads, **options)
        self.net, self.recipe, self.schedule, self.plan = net, recipe, choice.schedule, choice.plan
        self.position, self.classes = Position(), list[str]()
        self._program = choice.program
        self.runtime = Runtime(choice.program, choice.plan, threads)
        self._counters = self.runtime.view("counters")
        self._counters[C_SEED] = seed
        self._report = self.runtime.view("report")
        self._batch = Batch(self.runtime, net, recipe)
        self._torn, self._stale = False, net.head.kind == "ridge"
        self._deferred = "accumulator" in {region.value for region in set(choice.program.regions)}
        self.runtime.run("init", 1)
        self._set_loss_weights()

    def _set_loss_weights(self) -> None:
        if self.recipe.loss.weights:
            self.runtime.view("loss.weights")[:] = memoryview(array("f", self.recipe.loss.weights))

    @property
    def steps(self) -> int:
        """Training steps so far."""
        return self._counters[C_STEP]

    @property
    def seed(self) -> int:
        """Seed of initial weights, dropout and augmentation."""
        return self._counters[C_SEED]

    @property
    def rate_factor(self) -> float:
        """Factor on the learning rate; 1 unless set, and not kept in checkpoints."""
        return self.runtime.view("scalars")[V_FACTOR]

    @rate_factor.setter
    def rate_factor(self, factor: float) -> None:
        self.runtime.view("scalars")[V_FACTOR] = factor

    @property
    def stored_sample_bytes(self) -> int:
        """Bytes that a checkpoint writes of regions through which samples pass."""
        regions = dict(zip(self._program.names, self._program.regions))
        return sum(view.nbytes for name, _, _, view in self._kept_tensors() if regions[name] not in SAMPLE_FREE)

    @property
    def parameters(self) -> int:
        """Trainable numbers of stem, backbone and head."""
        return self._program.trainable

    def set_standardisation(self, mean: Any, scale: Any) -> None:
        """Let every input be taken as ``(x - mean) * scale``; both hold one number for each channel."""
        tables = [(self.runtime.view(name), values) for name, values in (("input.mean", mean), ("input.scale", scale))]
        for view, values in tables:
            if len(values) != len(view):
                raise UsageError(f"{len(values)} numbers for {len(view)} channels of the input; give one for each")
            if not all(math.isfinite(value) for value in values):
                raise UsageError("mean or scale of the input are not finite; expected numbers; mend the statistics")
        for view, values in tables:
            for index, value in enumerate(values):
                view[index] = value

    def class_numbers(self, classes: list[str]) -> list[int]:
        """Return this learner's number of each class of a data set.

        Raises
        ------
        DataError
            It was not trained on all of them.
        """
        if not self.classes:
            return list(range(len(classes)))
        numbers = {name: number for number, name in enumerate(self.classes)}
        unknown = [name for name in classes if name not in numbers]
        if unknown:
            raise DataError(
                f"the data has classes that the model does not know: {', '.join(unknown[:5])}; expected "
                f"only {', '.join(self.classes[:20])}; leave these samples out, or train on them"
            )
        return [numbers[name] for name in classes]

    # -- learning ---------------------------------------------------------------------------------------------

    def learn_many(self, x: Any, y: Any) -> Report:
        """Train on samples in their order, `batch` at a time, one step each.

        Parameters
        ----------
        x : ``(samples, *input_shape)`` real numbers, as a NumPy array or any buffer (which may also be flat)
        y : ``(samples,)`` class numbers, also as a list, or ``(samples, outputs)`` real numbers for the other losses

        Raises
        ------
        DataError
            Shapes or types do not fit, or a label is out of range: nothing was learned. Or a value is not finite:
            nothing was learned from its batch nor from those after it.
        NumericError
            The state or a gradient left its range.
        """
        samples, targets = self._check_batch(x, y)
        loss = correct = 0.0
        for first in range(0, samples.size, self.recipe.batch):
            n = self._batch.fill(samples, targets, first, self.recipe.batch)
            self.step(n)
            loss += self._report[0] * n
            correct += self._report[1] * n
        return Report(loss / samples.size, correct / samples.size, samples.size)

    def _check_batch(self, x: Any, y: Any) -> tuple[Values, Values]:
        samples = self._batch.samples(x)
        return samples, self._batch.targets(y, samples.size)

    def learn_one(self, x: Any, y: Any) -> Report:
        """Train on one sample; see `learn_many`."""
        self._batch.fill(self._batch.sample(x), self._batch.target_of_one(y), 0, 1)
        self.step(1)
        return Report(self._report[0], self._report[1], 1)

    def step(self, n: int) -> None:
        """Take a training step on the `n` samples that lie in the arena's input already."""
        if self._torn:
            raise NumericError("the model was left half updated by a failed step; load the last checkpoint")
        try:
            self.runtime.run("train", n)
        except NumericError as error:
            self._torn = not self._deferred and self._program.has_update(until=error.row)
            if not self._torn:
                raise
            raise NumericError(
                f"{error}; what comes after it in the net was updated already. Load the last checkpoint and lower the "
                "learning rate, or train with atomic=True, which commits all updates at the end of a step",
                error.status, error.row,
            ) from error

    def remember_many(self, x: Any, y: Any) -> None:
        """Add samples to the sums of a ridge head, with the features that the backbone gives now."""
        self._need_ridge()
        samples, targets = self._check_batch(x, y)
        for first in range(0, samples.size, self.schedule.micro_batch):
            self.remember_step(self._batch.fill(samples, targets, first, self.schedule.micro_batch))

    def remember_step(self, n: int) -> None:
        """Add the `n` samples that lie in the arena's input to the sums of a ridge head."""
        self.runtime.run("encode", n, until="forward")
        self.runtime.run("ridge_add", n)
        self._stale = True

    def forget(self) -> None:
        """Set the sums of a ridge head to zero."""
        self._need_ridge()
        self.runtime.run("ridge_reset", 1)
        self._stale = True

    def _need_ridge(self) -> None:
        if self.net.head.kind != "ridge":
            raise UsageError("this net has no ridge head; make it with Head(kind='ridge')")

    # -- predicting -------------------------------------------------------------------------------------------

    def predict_step(self, n: int) -> None:
        """Compute the probabilities of the `n` samples, one micro-batch at most, that lie in the arena's input."""
        if self._stale:
            self.runtime.run("ridge_solve", 1)
            self._stale = False
        self.runtime.run("encode", n, until="read_out")

    def predict_proba_many(self, x: Any) -> Any:
        """Return ``(samples, outputs)`` float32: probabilities, or values for the mean squared error.

        A NumPy array for a NumPy array, else an ``array`` in row order. A ridge head's answers are turned into
        probabilities by a softmax of its scores.
        """
        samples = self._batch.samples(x)
        result = self._batch.results(samples)
        for first in range(0, samples.size, self.schedule.micro_batch):
            n = self._batch.fill(samples, None, first, self.schedule.micro_batch)
            self.predict_step(n)
            self._batch.collect(result, first, n)
        return result

    def predict_proba_one(self, x: Any) -> list[float]:
        """Return the probability of each class, or each output's value, for one sample."""
        self._batch.fill(self._batch.sample(x), None, 0, 1)
        self.predict_step(1)
        return self._batch.first_result()

    def predict_many(self, x: Any) -> Any:
        """Return ``(samples,)`` class numbers; 0 or 1 for each output of a binary loss; values for squared error."""
        return argmax(self.predict_proba_many(x), self.net.head.outputs, self.recipe.loss)

    def predict_one(self, x: Any) -> Any:
        """Return the class number, or a list with 0 or 1 or the value for each output, for one sample."""
        return self.answer(self.predict_proba_one(x))

    def answer(self, values: Sequence[float]) -> Any:
        """Return the answer that the probabilities or values of one sample stand for; see `predict_one`."""
        if self.recipe.loss.labels:
            return max(range(len(values)), key=values.__getitem__)
        return values if isinstance(self.recipe.loss, MeanSquaredError) else [int(value > 0.5) for value in values]

    # -- the bijection ----------------------------------------------------------------------------------------

    def transform(self, x: Any) -> Any:
        """Return the backbone's output, ``(samples, ...)`` float64: both halves joined along channels."""
        return self._states(x, "forward")

    def encode(self, x: Any) -> Any:
        """Return the backbone's input (the stem's output), ``(samples, ...)`` float64, as it is on the grid."""
        return self._states(x, "encode")

    def invert(self, output: Any) -> Any:
        """Return the backbone's input for an output of `transform`; the same numbers as `encode`, bit for bit."""
        output = self._batch.check_outputs(output)
        fill = partial(self._batch.fill_state, output)
        return self._batch.states(len(output), fill, ("inverse", "inverse"), entry=True)

    def _states(self, x: Any, last: str) -> Any:
        samples = self._batch.samples(x)
        fill = partial(self._batch.fill, samples, None)
        return self._batch.states(samples.size, fill, ("encode", last), entry=last == "encode")

    # -- checkpoints ------------------------------------------------------------------------------------------

    def save(self, path: str) -> None:
        """Write a checkpoint; the previous one is kept beside it.

        Raises
        ------
        CheckpointError
            It could not be written, or the model is not whole; the file that was there is as it was.
        """
        if self._torn:
            raise CheckpointError(
                f"{path} was not written: a failed step left the model half updated; expected a whole one; load the "
                "last checkpoint"
            )
        metadata = to_metadata(self.net, self.recipe, self.classes, self.position)
        checkpoint.save(path, self._kept_tensors(), metadata)

    def _kept_tensors(self) -> list[tuple[str, str, tuple[int, ...], memoryview]]:
        found: list[tuple[str, str, tuple[int, ...], memoryview]] = []
        found.append(("counters", "I64", (len(self._counters),), self._counters.cast("B")))
        scalars = self.runtime.view("scalars")
        found.append(("scalars", "F32", (len(scalars),), scalars.cast("B")))
        for number, (name, region) in enumerate(zip(self._program.names, self._program.regions)):
            if region in KEPT:
                shape = self._program.decode_tensor(number).shape
                found.append((name, "F32", shape, self.runtime.view(number).cast("B")))
        return found

    def restore(self, path: str) -> None:
        """Take parameters, optimizer, sums and training position from a checkpoint of the same net and optimizer.

        Raises
        ------
        CheckpointError
            The file is damaged, or belongs to another net, optimizer or loss; the learner is as it was.
        """
        found = peek(path)
        check_alike(path, found, self.net, self.recipe)
        checkpoint.load(path, {name: view for name, _, _, view in self._kept_tensors()})
        self._set_loss_weights()
        self.rate_factor = 1.0
        self.classes, self.position = found.classes, found.position
        self._torn, self._stale = False, self.net.head.kind == "ridge"

    @classmethod
    def load(
        cls, path: str, *, budget: int | str | None = None, schedule: str | Schedule = "reversible", threads: int = 1,
        data_bytes: int = 0,
    ) -> Learner:
        """Return the learner that a checkpoint holds, ready to go on.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or of another version.
        """
        found = peek(path)
        learner = cls.__new__(cls)
        learner._set_up(
            found.net, found.recipe, 0, budget=budget, schedule=schedule, threads=threads, data_bytes=data_bytes
        )
        learner.restore(path)
        return learner

    def move_to(self, **position: Any) -> None:
        """Remember where training is; `Position` has the names."""
        self.position = replace(self.position, **position)

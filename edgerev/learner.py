"""The learner: a net in its arena, with the verbs that users call."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from typing import Any

from edgerev.batch import Batch, Report, Values, answer, answers, tasks
from edgerev.bijection import Bijection
from edgerev.continual.consolidation import Consolidation
from edgerev.errors import NumericError, UsageError
from edgerev.exclusive import exclusive
from edgerev.kernels.layout import C_SEED, C_STEP, V_FACTOR, LossKind
from edgerev.losses import Loss
from edgerev.net import Net
from edgerev.numbers import FLOAT32_MAX, finite32, whole
from edgerev.optimizers import Clip, Optimizer, RateSchedule
from edgerev.persistent import Persistent
from edgerev.position import Inputs, MemoryRequest, Position
from edgerev.recipe import Augment, Recipe, Schedule
from edgerev.remembering import Remembering
from edgerev.runtime import Runtime
from edgerev.schedule import choose


class Learner(Persistent, Bijection, Remembering):
    """Train and use a reversible net in one fixed allocation; for one thread at a time, others get a UsageError.

    Parameters
    ----------
    net : the net
    optimizer, loss, batch, rate_schedule, clip, augment, consolidation, rates, atomic : see `Recipe`
    budget : most bytes of the arena, also as text ("8MiB"), or None; the fastest schedule that fits is taken
    schedule : "reversible" (also when left out) or "stored", without a budget
    threads : threads that compute together; results are the same bits for any number
    seed : seed of initial weights, dropout and augmentation
    data_bytes : bytes to set aside in the arena for samples on their way from disk
    guard : whether to set aside bytes in the arena for the last accepted model, see `edgerev.accepted`

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
        consolidation: Consolidation | None = None, rates: tuple[float, ...] = (), atomic: bool = False,
        budget: int | str | None = None, schedule: str | Schedule | None = None,
        threads: int = 1, seed: int = 0, data_bytes: int = 0, guard: bool = False,
    ) -> None:
        defaults = Recipe()
        recipe = Recipe(
            batch, optimizer or defaults.optimizer, rate_schedule or defaults.rate_schedule, clip,
            loss or defaults.loss, augment or defaults.augment, consolidation, rates, atomic,
        )
        self._set_up(
            net, recipe, seed, budget=budget, schedule=schedule, threads=threads, data_bytes=data_bytes, guard=guard
        )

    def _set_up(self, net: Net, recipe: Recipe, seed: int, *, threads: int, **options: Any) -> None:
        whole("seed", seed, 0, 2**63 - 1)
        self._turn, self._torn = threading.RLock(), False
        choice = choose(net, recipe, threads=threads, **options)
        self.memory = MemoryRequest(options["budget"], options["schedule"])
        self.net, self.recipe, self.schedule, self.plan = net, recipe, choice.schedule, choice.plan
        self.position, self.classes, self.inputs = Position(), list[str](), Inputs()
        self._program = choice.program
        self.runtime = Runtime(choice.program, choice.plan, threads)
        self._counters = self.runtime.view("counters")
        self._counters[C_SEED] = seed
        self._report = self.runtime.view("report")
        self._batch = Batch(self.runtime, net, recipe)
        self._stale = net.head.closed_form
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
    def whole(self) -> bool:
        """Whether it can be used: a step that fails while it updates leaves a model that is half changed."""
        return not self._torn

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
        self.runtime.view("scalars")[V_FACTOR] = finite32("rate_factor", factor, 0, FLOAT32_MAX)

    @property
    def parameters(self) -> int:
        """Trainable numbers of stem, backbone and head."""
        return self._program.trainable

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, channels last: the net's input, and what augmentation crops on every side."""
        return self._batch.sample_shape

    @exclusive
    def set_standardisation(self, mean: Any, scale: Any) -> None:
        """Let every input be taken as ``(x - mean) * scale``.

        Parameters
        ----------
        mean, scale : ``(channels,)`` numbers that a float32 can hold, in any sequence

        Raises
        ------
        UsageError
            Their number is another one, or one is not finite; nothing changed.
        """
        tables = [
            (self.runtime.view(name), [finite32(name, value, -FLOAT32_MAX, FLOAT32_MAX) for value in values])
            for name, values in (("input.mean", mean), ("input.scale", scale))
        ]
        for view, values in tables:
            if len(values) != len(view):
                raise UsageError(f"{len(values)} numbers for {len(view)} channels of the input; give one for each")
        for view, values in tables:
            view[:] = memoryview(array("f", values))

    # -- learning ---------------------------------------------------------------------------------------------

    @exclusive
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
            self._step(n)
            loss += self._report[0] * n
            correct += self._report[1] * n
        return self._new_report(loss / samples.size, correct / samples.size, samples.size)

    def _new_report(self, loss: float, correct: float, samples: int) -> Report:
        return Report(loss, correct if self.recipe.loss.number != LossKind.MEAN_SQUARED_ERROR else None, samples)

    def _check_batch(self, x: Any, y: Any) -> tuple[Values, Values]:
        samples = self._batch.samples(x)
        return samples, self._batch.targets(y, samples.size)

    @exclusive
    def learn_one(self, x: Any, y: Any) -> Report:
        """Train on one sample.

        Parameters
        ----------
        x : ``input_shape`` real numbers, as a NumPy array or any buffer, or flat, also as a list
        y : class number, or ``(outputs,)`` real numbers for the other losses

        Raises
        ------
        DataError, NumericError
            See `learn_many`; nothing was learned.
        """
        self._batch.fill(self._batch.sample(x), self._batch.target_of_one(y), 0, 1)
        self._step(1)
        return self._new_report(self._report[0], self._report[1], 1)

    @exclusive
    def step(self, n: int) -> None:
        """Take a training step on the `n` samples, `batch` at most, that lie in the arena's input and target already.

        Raises
        ------
        DataError, NumericError
            See `learn_many`; the message of the latter says whether the model is still whole.
        """
        self._step(n)

    def _step(self, n: int) -> None:
        self._need_whole()
        try:
            self.runtime.run("train", n)
        except (NumericError, KeyboardInterrupt) as error:
            cause = error.__cause__ if isinstance(error, KeyboardInterrupt) else error
            row = cause.row if isinstance(cause, NumericError) else None
            self._torn = row is not None and row >= self._program.first_update and not self._deferred
            if not self._torn or not isinstance(error, NumericError):
                raise
            raise NumericError(
                f"{error}. What comes after it in the net was updated already, so the last checkpoint is the way back; "
                "train with atomic=True to commit all updates at the end of a step",
                error.status, error.row,
            ) from error

    # -- predicting -------------------------------------------------------------------------------------------

    @exclusive
    def predict_step(self, n: int) -> None:
        """Compute the probabilities of the `n` samples, one micro-batch at most, that lie in the arena's input."""
        self._need_whole()
        if self._stale:
            self._solve()
        self.runtime.run("encode", n, until="read_out")

    @exclusive
    def predict_proba_many(self, x: Any) -> Any:
        """Return ``(samples, outputs)`` float32: probabilities, or values for the mean squared error.

        A NumPy array for a NumPy array, else an ``array`` in row order. The answers of a head in closed form are turned
        into probabilities by a softmax of its scores. A head for several tasks has outputs for each of them in turn;
        where a task is at hand, those of others are 0.
        """
        samples = self._batch.samples(x)
        result = self._batch.results(samples)
        for first in range(0, samples.size, self.schedule.micro_batch):
            n = self._batch.fill(samples, None, first, self.schedule.micro_batch)
            self.predict_step(n)
            self._batch.collect(result, first, n)
        return result

    @exclusive
    def predict_proba_one(self, x: Any) -> list[float]:
        """Return the ``(outputs,)`` probabilities of classes, or the outputs' values, for one sample; see `learn_one`.

        Raises
        ------
        DataError, NumericError
            Shape, type or values do not fit, or the state leaves its range.
        """
        self._batch.fill(self._batch.sample(x), None, 0, 1)
        self.predict_step(1)
        return self._batch.first_result()

    @exclusive
    def predict_many(self, x: Any) -> Any:
        """Return ``(samples,)`` class numbers; 0 or 1 for each output of a binary loss; values for squared error."""
        return answers(self.predict_proba_many(x), self.net.head, self.recipe.loss)

    @exclusive
    def predict_task_many(self, x: Any) -> Any:
        """Return ``(samples,)`` task numbers: of that whose answer is the likeliest; see `task`.

        Raises
        ------
        UsageError
            The net has adapters: features, and so answers, are those of the last task at hand.
        DataError, NumericError
            As for `predict_many`.
        """
        if self._has_adapters():
            raise UsageError(
                "the net has adapters, whose features are those of one task; expected none; tell tasks apart by their "
                "inputs: edgerev.continual.tasks.InputStatistics"
            )
        return tasks(self.predict_proba_many(x), self.net.head)

    @exclusive
    def predict_one(self, x: Any) -> Any:
        """Return the class number, or a list with 0 or 1 or the value of each output; see `predict_proba_one`."""
        return self.answer(self.predict_proba_one(x))

    def answer(self, values: Sequence[float]) -> Any:
        """Return the answer that the probabilities or values of one sample stand for; see `predict_one`."""
        return answer(values, self.net.head.outputs, self.recipe.loss)

"""What a learner keeps of earlier experiences, and what it leaves as it is: the verbs of continual learning."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

from edgerev.batch import WHOLE_FORMATS, Batch
from edgerev.continual.consolidation import EWC
from edgerev.errors import NumericError, UsageError
from edgerev.exclusive import exclusive
from edgerev.kernels.layout import C_ADAPTERS, C_FROZEN, C_TASK, NEVER_SEEN, V_SHARE
from edgerev.net import Net
from edgerev.numbers import BELOW_ONE, FLOAT32_MAX, TINY, finite32, whole
from edgerev.recipe import Recipe, Schedule
from edgerev.runtime import Runtime


class Remembering:
    """Part of `edgerev.learner.Learner`, which sets the attributes."""

    net: Net
    recipe: Recipe
    schedule: Schedule
    runtime: Runtime
    _batch: Batch
    _counters: Any
    _check_batch: Any
    _need_whole: Any
    _stale: bool

    # -- tasks, and what is kept as it is ---------------------------------------------------------------------

    @property
    def task(self) -> int | None:
        """Number of the task at hand, or None: answers are then those of all tasks, and the task is inferred.

        While a task is at hand, only its answers are trained, and its own adapters are in place; while there is none,
        those of the last one are. Kept in checkpoints.
        """
        return self._counters[C_TASK] - 1 if self._counters[C_TASK] else None

    @task.setter
    def task(self, number: int | None) -> None:
        if number is not None:
            number = whole("task", number, 0, self.net.head.tasks - 1)
        if number == self.task:
            return
        if self._has_adapters():
            self.runtime.run("put_away", 1)
        self._counters[C_TASK] = 0 if number is None else number + 1
        if self._has_adapters():
            self.runtime.run("take_out", 1)

    def _has_adapters(self) -> bool:
        return "put_away" in self.runtime.program.sections

    @property
    def frozen(self) -> int:
        """Coupling blocks, counted from the stem, that training leaves as they are, stem included; 0 is none at all.

        What is frozen costs no time in the backward pass. Kept in checkpoints.
        """
        return self._counters[C_FROZEN] // 2

    @frozen.setter
    def frozen(self, blocks: int) -> None:
        number = whole("frozen", blocks, 0, self.net.depth // 2)
        self._counters[C_FROZEN] = 1 + 2 * number if number else 0

    @property
    def adapters_only(self) -> bool:
        """Whether training changes only the adapters and the head; kept in checkpoints."""
        return bool(self._counters[C_ADAPTERS])

    @adapters_only.setter
    def adapters_only(self, only: bool) -> None:
        if only and not self._has_adapters():
            raise UsageError("this net has no adapters; expected some; put Adapter() into F or G")
        self._counters[C_ADAPTERS] = int(bool(only))

    # -- consolidation ----------------------------------------------------------------------------------------

    @exclusive
    def consolidate(self, x: Any = None, y: Any = None) -> None:
        """End an experience: from here on, what mattered in it is held where it is now.

        Parameters
        ----------
        x, y : samples of the experience, as for `learn_many`, from which EWC estimates what matters, one by one; not
            needed for synaptic intelligence, which has it from training

        Raises
        ------
        UsageError
            The recipe has no consolidation, or EWC is given no samples.
        DataError, NumericError
            As for `learn_many`; what was held before still is.
        """
        method = self.recipe.consolidation
        if method is None:
            raise UsageError("nothing to consolidate with; make the learner with consolidation=SynapticIntelligence()")
        if isinstance(method, EWC):
            if x is None or y is None:
                raise UsageError("EWC estimates from samples what matters; expected some; pass x and y")
            samples, targets = self._check_batch(x, y)
            self._share(1.0)
            self.runtime.run("fade", 1)
            self._share(1 / samples.size)
            for first in range(samples.size):
                self._batch.fill(samples, targets, first, 1)
                self._need_whole()
                self.runtime.run("fisher", 1)
        self.runtime.run("consolidate", 1)

    def _share(self, factor: float) -> None:
        self.runtime.view("scalars")[V_SHARE] = factor

    # -- sums of a head in closed form ------------------------------------------------------------------------

    @property
    def remembers(self) -> bool:
        """Whether a head in closed form has samples in its sums, or answers of some that were released."""
        view = self.runtime.view
        return self.net.head.closed_form and (any(view("ridge.counts")) or max(view("ridge.bias")) > NEVER_SEEN / 2)

    @property
    def calibrated(self) -> bool:
        """Whether the features of a head in closed form have the range that whole sums need; floats need none."""
        return not self._quantises() or self.runtime.view("ridge.low")[0] <= self.runtime.view("ridge.high")[0]

    @exclusive
    def calibrate(self, x: Any) -> None:
        """Take the range of the features of `x` as that of whole features; only before the first sum.

        What later leaves the range is taken to its end. May be called for more samples: the range grows.

        Raises
        ------
        UsageError
            The head's sums are of floats, or have samples already.
        DataError, NumericError
            As for `predict_many`.
        """
        if not self._quantises():
            raise UsageError("the head's features are floats; expected whole ones; make it with Head(sums='int32')")
        samples = self._batch.samples(x)
        for first in range(0, samples.size, self.schedule.micro_batch):
            self.calibrate_step(self._batch.fill(samples, None, first, self.schedule.micro_batch))

    @exclusive
    def calibrate_step(self, n: int) -> None:
        """Take the `n` samples that lie in the arena's input into the range of whole features; see `calibrate`."""
        if self.remembers:
            raise UsageError("the sums have samples of another range; expected none; call forget() first")
        self._need_whole()
        self.runtime.run("encode", n, until="forward")
        self.runtime.run("ridge_range", n)

    def _no_range(self) -> None:
        """Let whole features have no range, as at the start."""
        if self._quantises():
            for name, value in (("ridge.low", FLOAT32_MAX), ("ridge.high", -FLOAT32_MAX)):
                view = self.runtime.view(name)
                view[:] = memoryview(array("f", [value]) * len(view))

    def _quantises(self) -> bool:
        return "ridge_range" in self.runtime.program.sections

    @exclusive
    def remember_many(self, x: Any, y: Any) -> None:
        """Add samples to the sums of a head in closed form, with the features that the backbone gives now.

        Raises
        ------
        UsageError
            The head has no sums, or whole features have no range yet.
        DataError, NumericError
            As for `learn_many`. Samples go in by micro-batches: those before the one that failed are kept in the sums.
        """
        self._need_sums()
        samples, targets = self._check_batch(x, y)
        for first in range(0, samples.size, self.schedule.micro_batch):
            self.remember_step(self._batch.fill(samples, targets, first, self.schedule.micro_batch))

    @exclusive
    def remember_step(self, n: int) -> None:
        """Add the `n` samples that lie in the arena's input to the sums of a head in closed form."""
        self._remember("encode", n)

    @exclusive
    def remember_states(self, states: Any, y: Any) -> None:
        """Add samples to the sums by what the backbone makes of its inputs, the stem's outputs; see `remember_many`.

        Parameters
        ----------
        states : ``(samples, ...)`` inputs of the backbone, as `encode` and `invert` return them
        y : ``(samples,)`` class numbers

        Raises
        ------
        UsageError, DataError, NumericError
            As for `remember_many`; and DataError where a state is out of its range.
        """
        self._need_sums()
        states = self._batch.check_states(states, entry=True)
        targets = self._batch.targets(y, len(states))
        for first in range(0, len(states), self.schedule.micro_batch):
            n = self._batch.fill_state(states, first, self.schedule.micro_batch, entry=True)
            self._batch.target.put(targets, first, n, 1)
            self._remember("forward", n)

    def _remember(self, start: str, n: int) -> None:
        if not self.calibrated:
            raise UsageError("whole features have no range yet; expected one; call calibrate(x) with samples first")
        self._need_whole()
        self.runtime.run(start, n, until="forward")
        self._stale = True  # beforehand: an interruption may come after samples were added
        self.runtime.run("ridge_add", n)

    @exclusive
    def forget(self) -> None:
        """Set the sums of a head in closed form to zero, and forget its answers and the range of whole features."""
        self._need_sums()
        self._stale = True
        self.runtime.run("ridge_reset", 1)
        self._no_range()

    @exclusive
    def release(self) -> None:
        """Keep the answers of a head in closed form as they are now, and set its sums to zero.

        Sums to come change only the answers of classes that have samples in them. So one set of sums serves one task
        after another, each with answers of its own: scores of classes from different sums cannot be compared, and
        `task` has to be told.

        Raises
        ------
        UsageError
            The head has no sums.
        NumericError
            There are no answers to keep, or the sums cannot be solved; nothing changed.
        """
        self._need_sums()
        self._solve()
        self.runtime.run("ridge_release", 1)

    @exclusive
    def replace_sums(self, gram: Any, moments: Any, counts: Any) -> None:
        """Put other sums in the place of those that are there, and forget the answers of classes that they lack.

        Answers that were released, of classes without samples in either sums, stay.

        Parameters
        ----------
        gram : ``((features + 1) * (features + 2) / 2,)`` products of features, the last of which is 1: the lower
            triangle, row by row, as `runtime.view("ridge.gram")` shows it; of the type of the sums, contiguous
        moments : ``(features + 1, outputs)`` features by class, of the same type
        counts : ``(outputs,)`` int64 samples of each class

        Raises
        ------
        UsageError
            The head has no sums, or a size or type is another; nothing changed.
        NumericError
            The model is not whole.
        """
        self._need_sums()
        self._need_whole()
        pairs = [
            (self.runtime.view(f"ridge.{name}"), _sum(name, values, self.runtime.view(f"ridge.{name}")))
            for name, values in (("gram", gram), ("moments", moments), ("counts", counts))
        ]
        before = list(self.runtime.view("ridge.counts"))
        self._stale = True
        for view, given in pairs:
            view.cast("B")[:] = given.cast("B")
        self._no_answers(old and not new for old, new in zip(before, self.runtime.view("ridge.counts")))

    def _no_answers(self, lacking: Iterable[bool]) -> None:
        """Forget the answers of some classes."""
        weight, bias = self.runtime.view("ridge.weight"), self.runtime.view("ridge.bias")
        for column, lacks in enumerate(lacking):
            if lacks:
                bias[column] = NEVER_SEEN
                for place in range(column, len(weight), len(bias)):
                    weight[place] = 0.0

    @exclusive
    def fade(self, factor: float) -> None:
        """Let samples so far count `factor` times as much in float64 sums, so that those to come count more.

        Raises
        ------
        UsageError
            The factor is not in 0 .. 1, or the sums are of whole numbers, which are exact or nothing.
        """
        self._need_sums()
        if self._quantises():
            raise UsageError("sums of whole numbers cannot fade; expected Head(sums='float64'); make the head with it")
        self._share(finite32("fade: factor", factor, TINY, BELOW_ONE))
        self._stale = True
        self.runtime.run("ridge_fade", 1)

    @exclusive
    def settle(self) -> None:
        """Bring the weights of a head in closed form up to its sums, as predicting does before it answers.

        Raises
        ------
        NumericError
            There are no sums yet, or they cannot be solved.
        """
        if self._stale:
            self._solve()

    def _need_sums(self) -> None:
        if not self.net.head.closed_form:
            raise UsageError("this net has no ridge head; make it with Head(kind='ridge')")

    def _solve(self) -> None:
        """Bring the weights of a head in closed form up to its sums."""
        if not self.remembers:
            raise NumericError(
                "the ridge head has no samples yet; expected some: add samples first, or resume the training that "
                "this model comes from, which has not got that far"
            )
        if any(self.runtime.view("ridge.counts")):
            self.runtime.run("ridge_solve", 1)
        self._stale = False


def _sum(name: str, values: Any, view: memoryview) -> memoryview:
    """Return the memory of a sum that is to take the place of `view`."""
    try:
        given = memoryview(values)
    except TypeError as error:
        raise UsageError(f"{name}: {error}; expected an array; pass what was read from such a head") from error
    whole_numbers = [one.format[-1:] in WHOLE_FORMATS for one in (given, view)]  # int64 is "l" or "q"
    alike = given.itemsize == view.itemsize and whole_numbers[0] == whole_numbers[1]
    if given.nbytes != view.nbytes or not alike or not given.c_contiguous:
        raise UsageError(
            f"{name} of {given.nbytes} bytes, {given.itemsize} each of format {given.format}; expected {view.nbytes}, "
            f"{view.itemsize} each of format {view.format}, in one piece; pass what was read from such a head"
        )
    return given

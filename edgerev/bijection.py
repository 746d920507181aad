"""The backbone as a bijection: the verbs of a learner that go through it, there and back, without a head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from edgerev.batch import Batch
from edgerev.errors import NumericError, UsageError
from edgerev.exclusive import exclusive
from edgerev.program import Region
from edgerev.runtime import Runtime

if TYPE_CHECKING:
    from edgerev.learner import Learner
    from edgerev.net import Net


class Bijection:
    """Part of `edgerev.learner.Learner`, which sets the attributes."""

    net: Net
    runtime: Runtime
    _batch: Batch
    _torn: bool
    task: int | None
    remembers: bool
    _has_adapters: Callable[[], bool]
    _no_range: Callable[[], None]

    def _need_whole(self) -> None:
        if self._torn:
            raise NumericError("the model was left half updated by a failed step; load the last checkpoint")

    @exclusive
    def transform(self, x: Any) -> Any:
        """Return the backbone's output: both halves of the state joined along channels.

        Parameters
        ----------
        x : samples as for `learn_many`

        Returns
        -------
        NumPy array
            ``(samples, *half, channels)`` float64; multiples of the grid's step unless the state is float32.

        Raises
        ------
        DataError, NumericError
            Shape, type or values do not fit, or the state leaves its range.
        """
        return self._states(x, "forward")

    @exclusive
    def encode(self, x: Any) -> Any:
        """Return the backbone's input, which is the stem's output; see `transform`."""
        return self._states(x, "encode")

    @exclusive
    def invert(self, output: Any) -> Any:
        """Return the backbone's input for an output of `transform`: what `encode` gives, bit for bit unless float32.

        Parameters
        ----------
        output : ``(samples, ...)`` real numbers as `transform` returns them

        Raises
        ------
        DataError
            Its shape or type is another one, or a number is not finite or out of the state's range.
        """
        self._need_whole()
        output = self._batch.check_states(output)
        fill = partial(self._batch.fill_state, output)
        return self._batch.states(len(output), fill, ("inverse", "inverse"), entry=True)

    def _states(self, x: Any, last: str) -> Any:
        self._need_whole()
        samples = self._batch.samples(x)
        fill = partial(self._batch.fill, samples, None)
        return self._batch.states(samples.size, fill, ("encode", last), entry=last == "encode")

    @exclusive
    def take_backbone(self, other: Learner) -> None:
        """Take standardisation, stem and backbone of another learner, whose net may have another head.

        So a backbone is trained with one head, and kept with another. What the optimizer keeps is not taken. Whole
        features lose their range, for theirs are others: call `calibrate` after it.

        Parameters
        ----------
        other : a learner that no other thread uses meanwhile

        Raises
        ------
        UsageError
            The nets differ in more than the head, have adapters for other numbers of tasks or another task at hand,
            or this learner's sums have samples, whose features would be others. Nothing changed.
        NumericError
            A failed step left one of the models half updated.
        """
        self._need_whole()
        other._need_whole()
        if self.net.replace(head=other.net.head) != other.net:
            raise UsageError("the nets differ in more than the head; expected the same input, stem, backbone and state")
        if self.remembers:
            raise UsageError("the sums have samples of other features; expected none; call forget() first")
        views = [
            (self.runtime.view(name), other.runtime.view(name))
            for name, region in zip(self.runtime.program.names, self.runtime.program.regions)
            if region is Region.PARAMETERS and name.startswith(("input.", "stem.", "block"))
        ]
        if any(len(own) != len(their) for own, their in views):
            raise UsageError("the nets have adapters for different numbers of tasks; expected as many; change a head")
        if self._has_adapters() and self.task != other.task:
            raise UsageError(
                f"the adapters in place are those of task {self.task} here and of {other.task} there; expected the "
                "same; set task of one of them"
            )
        for own, their in views:
            own[:] = their
        self._no_range()

"""The backbone as a bijection: the verbs of a learner that go through it, there and back, without a head."""

from __future__ import annotations

from functools import partial
from typing import Any

from edgerev.batch import Batch
from edgerev.errors import NumericError
from edgerev.exclusive import exclusive


class Bijection:
    """Part of `edgerev.learner.Learner`, which sets the attributes."""

    _batch: Batch
    _torn: bool

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

"""The last accepted model's parameters, kept in the arena beside those that training changes.

They take as many bytes as the parameters, which the plan tells as `guard_bytes`. Optimizer and sums of the accepted
model are not kept here: going back to it takes a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgerev.errors import UsageError
from edgerev.learner import Learner
from edgerev.program import Region
from edgerev.runtime import Runtime

_CHUNK_BYTES = 1 << 14  # of which a copy is outside of the arena while two places change their contents


class Accepted:
    """A second model in a learner's arena: what its parameters were when they were last accepted.

    Parameters
    ----------
    learner : made with guard=True; its parameters are accepted as they are

    Raises
    ------
    UsageError
        The arena has no bytes for it.
    """

    def __init__(self, learner: Learner) -> None:
        if not learner.plan.guard_bytes:
            raise UsageError("the arena has no place for an accepted model; make the learner with guard=True")
        self._learner = learner
        self._own, self._kept = (learner.runtime.region(region) for region in (Region.PARAMETERS, Region.GUARD))
        self.accept()

    def load(self, path: str) -> None:
        """Take the parameters in a checkpoint of this model for accepted, whatever the learner is doing.

        Of a head in closed form, the checkpoint has to have been settled, see `Learner.settle`.

        Raises
        ------
        CheckpointError
            The file is damaged, or belongs to another net; the accepted parameters are as they were.
        """
        from edgerev.checkpoint_reader import read_part, verified

        with verified(path) as whole:
            read_part(whole, _Tensors(self._learner.runtime))

    def accept(self) -> None:
        """Take the parameters as they are now for accepted."""
        if self._learner.remembers:
            self._learner.settle()
        self._kept[:] = self._own

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the learner answer with the accepted parameters; inside, it must only predict."""
        if self._learner.remembers:
            self._learner.settle()  # or predicting would write answers of newer sums over the accepted ones
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for start in range(0, len(self._own), _CHUNK_BYTES):
            place = slice(start, start + _CHUNK_BYTES)
            self._own[place], self._kept[place] = bytes(self._kept[place]), self._own[place].tobytes()


class _Tensors:
    """Name, dtype, shape and place among the accepted of each parameter, as often as wanted."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __iter__(self) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
        program, plan, kept = self._runtime.program, self._runtime.plan, self._runtime.region(Region.GUARD)
        start = plan.regions[Region.PARAMETERS][0]
        for number, region in enumerate(program.regions):
            if region is Region.PARAMETERS:
                tensor, first = program.decode_tensor(number), plan.offsets[number] - start
                yield program.names[number], tensor.dtype.name, tensor.shape, kept[first : first + tensor.nbytes]

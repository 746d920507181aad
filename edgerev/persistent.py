"""What of a learner outlives the process: checkpoints, and files of other kinds with the same contents.

The verbs import what they need when they are called, for it takes 0.35 MB of memory: JSON, and the modules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgerev.errors import CheckpointError
from edgerev.exclusive import exclusive
from edgerev.position import Inputs, MemoryRequest, Position
from edgerev.recipe import Recipe, Schedule
from edgerev.runtime import Runtime

if TYPE_CHECKING:
    from typing import Self

    from edgerev.checkpoint_reader import Whole
    from edgerev.contents import Contents
    from edgerev.net import Net


class Persistent:
    """Part of `edgerev.learner.Learner`, which sets the attributes."""

    net: Net
    recipe: Recipe
    runtime: Runtime
    memory: MemoryRequest
    position: Position
    classes: list[str]
    inputs: Inputs
    rate_factor: float
    _torn: bool
    _stale: bool
    _set_up: Callable[..., None]
    _set_loss_weights: Callable[[], None]

    @exclusive
    def save(self, path: str) -> None:
        """Write a checkpoint; the previous one is kept beside it.

        Raises
        ------
        CheckpointError
            It could not be written, or the model is not whole or not finite; the file that was there is as it was.
        """
        from edgerev import checkpoint

        self._save(path, lambda tensors, metadata: checkpoint.save(path, tensors, metadata))

    @exclusive
    def save_into(self, fd: int) -> None:
        """Write a checkpoint into an open, empty file.

        Raises
        ------
        CheckpointError
            The model is not whole or not finite; nothing was written.
        OSError
            The file cannot be written.
        """
        from edgerev import checkpoint

        self._save(f"file {fd}", lambda tensors, metadata: checkpoint.write(fd, tensors, metadata))

    def _save(self, name: str, write: Callable[[Any, dict[str, str]], None]) -> None:
        from edgerev.contents import KeptTensors, to_metadata

        metadata = to_metadata(self.net, self.recipe, self.classes, self.inputs, self.position, self.memory)
        self.export(name, lambda runtime: write(KeptTensors(runtime), metadata))

    @exclusive
    def export(self, path: str, write: Callable[[Runtime], None]) -> None:
        """Call `write`, which makes a file of any kind from the arena, while a whole model is there; see `save`."""
        from edgerev.contents import check_finite

        if self._torn:
            raise CheckpointError(
                f"{path} was not written: a failed step left the model half updated; expected a whole one; load the "
                "last checkpoint"
            )
        check_finite(path, self.runtime)
        write(self.runtime)

    @exclusive
    def restore(self, path: str) -> None:
        """Take parameters, optimizer, sums and training position from a checkpoint of the same net and optimizer.

        Raises
        ------
        CheckpointError
            The file is damaged, or belongs to another net, optimizer or loss: the learner is as it was. If it cannot
            be read to its end, the learner is refused until another one is restored.
        """
        from edgerev.checkpoint_reader import verified
        from edgerev.contents import contents

        with verified(path) as whole:
            self._take(whole, contents(whole))

    def _take(self, whole: Whole, found: Contents) -> None:
        from edgerev.checkpoint_reader import check_fit, read
        from edgerev.contents import KeptTensors, check_alike

        check_alike(whole.path, found, self.net, self.recipe)
        tensors = KeptTensors(self.runtime)
        check_fit(whole, tensors)
        self.replace(lambda _: read(whole, tensors))
        self.classes, self.inputs, self.position = found.classes, found.inputs, found.position

    @exclusive
    def replace(self, read: Callable[[Runtime], None]) -> None:
        """Call `read`, which fills the arena with another state of this model; if it fails, the learner is refused."""
        self._torn = True
        read(self.runtime)
        self._torn, self._stale = False, self.net.head.closed_form
        self._set_loss_weights()
        self.rate_factor = 1.0

    @classmethod
    def load(
        cls, path: str, *, budget: int | str | None = None, schedule: str | Schedule | None = None, threads: int = 1,
        data_bytes: int = 0, guard: bool = False,
    ) -> Self:
        """Return the learner that a checkpoint holds, ready to go on; budget and schedule as in training if not given.

        Raises
        ------
        CheckpointError
            The file is missing, damaged, or of another version.
        """
        from edgerev.checkpoint_reader import verified

        with verified(path) as whole:
            return cls.from_checkpoint(
                whole, budget=budget, schedule=schedule, threads=threads, data_bytes=data_bytes, guard=guard
            )

    @classmethod
    def from_checkpoint(
        cls, whole: Whole, *, budget: int | str | None = None,
        schedule: str | Schedule | None = None, threads: int = 1, data_bytes: int = 0, guard: bool = False,
    ) -> Self:
        """Return the learner that a checkpoint that is open holds; see `load`."""
        from edgerev.contents import contents

        found, learner = contents(whole), cls.__new__(cls)
        given = found.memory if budget is None and schedule is None else MemoryRequest(budget, schedule)
        learner._set_up(
            found.net, found.recipe, 0, **given._asdict(), threads=threads, data_bytes=data_bytes, guard=guard
        )
        learner._take(whole, found)
        return learner

    def move_to(self, **position: Any) -> None:
        """Remember where training is; `Position` has the names."""
        self.position = self.position.replace(**position)

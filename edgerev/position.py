"""What a learner knows besides net and recipe: how far training is, what its inputs mean, what memory was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgerev.recipe import Schedule
from edgerev.value import Value


class Position(Value):
    """Where training is, so that it can be resumed; a checkpoint holds it.

    Attributes
    ----------
    experience, epoch, sample : how many of them are done, each within the one before
    loss : mean training loss of this epoch so far, or of the last one if no sample of this one is done
    matrix : accuracies measured so far, a row for each experience that is done
    stream : training and test samples of each experience; resuming needs the same
    """

    experience: int = 0
    epoch: int = 0
    sample: int = 0
    loss: float = 0.0
    matrix: Sequence[Sequence[float]] = ()
    stream: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        # what comes out of a file as lists is to equal what was saved
        for name in ("matrix", "stream"):
            object.__setattr__(self, name, tuple(map(tuple, getattr(self, name))))


class Inputs(NamedTuple):
    """What a learner's inputs mean, as far as they came from files.

    Attributes
    ----------
    columns : name of each feature, where the source names them
    dtype : of the samples as they were stored, "uint8" or "float32"
    label : label column of CSV files, or several
    digest : of all records in their order; see `edgerev.data.Dataset`
    """

    columns: Sequence[str] = ()
    dtype: str = ""
    label: str | list[str] | None = None
    digest: str = ""


class MemoryRequest(NamedTuple):
    """What was asked for of the arena's size: a budget, a schedule, or neither; see `edgerev.schedule.choose`."""

    budget: int | str | None = None
    schedule: str | Schedule | None = None

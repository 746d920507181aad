"""From records on disk to the arena's input, sample by sample, with no memory but the plan's."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING, Any

from edgerev.contents import Inputs
from edgerev.data.records import Records, differing_column
from edgerev.errors import DataError
from edgerev.program import Region

if TYPE_CHECKING:
    from edgerev.learner import Learner


def staging_bytes(records: Records, batch: int) -> int:
    """Return the bytes that a `Feed` wants in the arena's data region: none where records are float32 already."""
    return batch * records.record_bytes if records.dtype == "uint8" else 0


def check_meaning(records: Records, inputs: Inputs) -> None:
    """Refuse data whose numbers mean something else than what was trained on, as far as both are known.

    Raises
    ------
    DataError
        Features come in another order, or bytes 0 to 255 meet a model of floats.
    """
    differing = differing_column(inputs.columns, records.columns)
    if inputs.columns and records.columns and differing is not None:
        raise DataError(
            f"the data has the column {differing[1]!r} where the model was trained on {differing[0]!r}; expected "
            f"the same columns in the same order; reorder them, or name the label column"
        )
    if inputs.dtype not in ("", records.dtype):
        raise DataError(
            f"{records.name} holds {records.dtype}, but the model was trained on {inputs.dtype}; expected the same, "
            "for bytes count 0 .. 255 where floats are mostly scaled; convert the data to what it was in training"
        )


class Feed:
    """Reads samples and targets of one data set into the arena.

    Parameters
    ----------
    records : the data set
    learner : a learner whose plan has `staging_bytes` in its data region

    Raises
    ------
    DataError
        The data set's columns, type, shape or targets are not what the learner takes.
    """

    def __init__(self, records: Records, learner: Learner) -> None:
        runtime = learner.runtime
        self.records, self._runtime = records, runtime
        target = runtime.program.decode_tensor(runtime.program.find("target"))
        if records.shape != learner.sample_shape:
            raise DataError(
                f"{records.name}: samples have shape {records.shape}; the net takes {learner.sample_shape}; use "
                "data of that shape, channels last"
            )
        check_meaning(records, learner.inputs)
        wanted = "int32" if target.dtype.name == "I32" else "float32"
        if records.target_offset is not None and records.target_dtype != wanted:
            raise DataError(
                f"{records.name}: targets are {records.target_dtype}; the net's loss needs {wanted}: class labels for "
                "cross_entropy, values for the others; choose another loss or label"
            )
        values = prod(records.target_shape)
        if records.target_offset is not None and values != target.shape[-1]:
            raise DataError(f"{records.name}: targets have {values} values; the net has {target.shape[-1]} outputs")
        self._raw, self._target = runtime.view("raw").cast("B"), runtime.view("target").cast("B")
        self._staging: memoryview | None = None
        if records.dtype == "uint8":
            self._staging = runtime.region(Region.DATA)
            numpy = sys.modules.get("numpy") or __import__("numpy")
            self._bytes: Any = numpy.frombuffer(self._staging, "u1")
            self._floats: Any = numpy.frombuffer(runtime.view("raw"), "f4")
            self._copyto = numpy.copyto

    def fill(self, indices: Iterable[int], *, targets: bool = True) -> int:
        """Read the samples at `indices` to the start of the input; return how many there were."""
        records, count = self.records, 0
        self._runtime.first_sample = 0
        size, target_size = records.record_bytes, records.target_bytes
        place = self._raw if self._staging is None else self._staging
        for index in indices:
            target = self._target[count * target_size : (count + 1) * target_size] if targets else None
            records.read_into(index, place[count * size : (count + 1) * size], target)
            count += 1
        if self._staging is not None:
            used = count * size
            self._copyto(self._floats[:used], self._bytes[:used])
        return count

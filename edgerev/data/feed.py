"""From records on disk to the arena's input, sample by sample, with no memory but the plan's."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from math import prod
from typing import Any

from edgerev.data.records import Records
from edgerev.errors import DataError
from edgerev.program import Region
from edgerev.runtime import Runtime


def staging_bytes(records: Records, batch: int) -> int:
    """Return the bytes that a `Feed` wants in the arena's data region: none where records are float32 already."""
    return batch * records.record_bytes if records.dtype == "uint8" else 0


class Feed:
    """Reads samples and targets of one data set into the arena.

    Parameters
    ----------
    records : the data set
    runtime : a runtime whose plan has `staging_bytes` in its data region

    Raises
    ------
    DataError
        The data set's shape or targets are not what the program takes.
    """

    def __init__(self, records: Records, runtime: Runtime) -> None:
        self.records, self._runtime = records, runtime
        program = runtime.program
        raw, target = (program.decode_tensor(program.find(name)) for name in ("raw", "target"))
        if _padded(records.shape) != raw.shape:
            raise DataError(
                f"{records.path}: samples have shape {records.shape}; the net takes {_stripped(raw.shape)}; use "
                "data of that shape, channels last"
            )
        wanted = "int32" if target.dtype.name == "I32" else "float32"
        if records.target_offset is not None and records.target_dtype != wanted:
            raise DataError(
                f"{records.path}: targets are {records.target_dtype}; the net's loss needs {wanted}: class labels for "
                "cross_entropy, values for the others; choose another loss or label"
            )
        values = prod(records.target_shape)
        if records.target_offset is not None and values != target.shape[-1]:
            raise DataError(f"{records.path}: targets have {values} values; the net has {target.shape[-1]} outputs")
        self._raw, self._target = runtime.view("raw").cast("B"), runtime.view("target").cast("B")
        self._sample_bytes = raw.stride * 4
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
            records.read_into(index, place[count * size : (count + 1) * size])
            if targets:
                records.read_target_into(index, self._target[count * target_size : (count + 1) * target_size])
            count += 1
        if self._staging is not None:
            used = count * size
            self._copyto(self._floats[:used], self._bytes[:used])
        return count


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (3 - len(shape)) + tuple(shape)


def _stripped(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[next((index for index in (0, 1) if shape[index] > 1), 2) :]

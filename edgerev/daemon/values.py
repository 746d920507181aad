"""What requests say, as bytes for the store and the model; what the model answers, as names."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from edgerev.daemon.store import Arrival
from edgerev.errors import DataError

if TYPE_CHECKING:
    from edgerev.learner import Learner

UNPACKED = 4  # most bytes of the arrays in an NPZ file, over the most bytes of a request
_NUMBERS = {int, float}


class Values:
    """Turns the samples and labels of one model into bytes.

    Parameters
    ----------
    learner : has the model
    request_bytes : most bytes of a request

    Attributes
    ----------
    shape : of a sample, channels last
    elements : float32 numbers of a sample
    classes : their names, or none
    outputs : number of classes

    Raises
    ------
    DataError
        Every method: something does not fit; the message names its place.
    """

    def __init__(self, learner: Learner, request_bytes: int) -> None:
        self._most_bytes = UNPACKED * request_bytes
        self.shape, self.elements = learner.sample_shape, math.prod(learner.sample_shape)
        self.classes, self.outputs = tuple(learner.classes), learner.net.head.outputs
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def arrivals(self, samples: Sequence[Any]) -> list[Arrival]:
        """Return samples for the store.

        Parameters
        ----------
        samples : each a dict with `x`, and at will `y` and `key`
        """
        return [self._arrival(place, sample) for place, sample in enumerate(samples)]

    def _arrival(self, place: int, sample: Any) -> Arrival:
        if not isinstance(sample, dict) or not {"x"} <= sample.keys() <= {"x", "y", "key"}:
            raise DataError(f"sample {place}: expected an object with x, and at will y and key; change it")
        label = self.label(place, sample["y"]) if sample.get("y") is not None else None
        return Arrival(self._row(place, sample["x"]).tobytes(), label, self._key(place, sample.get("key")))

    def arrivals_of_arrays(self, data: bytes) -> list[Arrival]:
        """Return samples for the store from an NPZ file with `x`, and at will `y` and `key`."""
        from edgerev.daemon.npz import read_npz

        arrays = read_npz(data, self.elements, self._most_bytes)
        keys = arrays.keys or [None] * arrays.size
        labels = arrays.labels or [None] * arrays.size
        x, size = memoryview(arrays.x).cast("B"), 4 * self.elements
        return [
            Arrival(
                bytes(x[place * size : (place + 1) * size]), None if y is None else self.label(place, y),
                self._key(place, key),
            )
            for place, (y, key) in enumerate(zip(labels, keys))
        ]  # fmt: skip

    def rows(self, samples: Sequence[Any]) -> array:
        """Return samples without labels, each a list of numbers, one after another."""
        joined = array("f")
        for place, sample in enumerate(samples):
            joined += self._row(place, sample)
        return joined

    def rows_of_arrays(self, data: bytes) -> array:
        """Return the samples of an NPZ file with `x`, one after another."""
        from edgerev.daemon.npz import read_npz

        return read_npz(data, self.elements, self._most_bytes).x

    def labels(self, labels: Sequence[Any]) -> list[tuple[int, bytes]]:
        """Return the ids of samples with their labels.

        Parameters
        ----------
        labels : each a dict with `id` and `y`
        """
        pairs = []
        for place, label in enumerate(labels):
            number = _as_whole(label["id"]) if isinstance(label, dict) and label.keys() == {"id", "y"} else None
            if number is None or not 0 < number < 1 << 63:
                raise DataError(f"label {place}: expected an object with id, that of a sample, and y; change it")
            pairs.append((number, self.label(place, label["y"])))
        return pairs

    def label(self, place: int, y: Any) -> bytes:
        """Return a class, by name or number, as bytes."""
        number = self._numbers.get(y) if self._numbers and isinstance(y, str) else _as_whole(y)
        if number is None or not 0 <= number < self.outputs:
            known = f"one of {', '.join(self.classes)}" if self.classes else f"a class number below {self.outputs}"
            raise DataError(f"label {_short(y)} at {place}: expected {known}; change it")
        return array("i", [number]).tobytes()

    def name(self, number: int) -> str | int:
        """Return a class by its name, if it has one."""
        return self.classes[number] if number < len(self.classes) else number

    def _row(self, place: int, x: Any) -> array:
        try:
            values = array("f", _flat(x))
        except (TypeError, OverflowError) as error:
            raise DataError(f"sample {place}: {error}; expected numbers, nested as you like; change it") from error
        # float32 numbers that are finite add up to a finite float64, others never do
        if len(values) != self.elements or not math.isfinite(sum(values)):
            raise DataError(
                f"sample {place} has {len(values)} values; expected {self.elements} finite ones, of shape "
                f"{self.shape}, channels last; change it"
            )
        return values

    def _key(self, place: int, key: Any) -> str | None:
        if key is None:
            return None
        if not isinstance(key, str) or not key:
            raise DataError(f"sample {place}: key {_short(key)}: expected a text; change it")
        return key


def _as_whole(value: Any) -> int | None:
    """Return a whole number of JSON, which may be written as 1.0, or None if it is none."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def _flat(x: Any) -> list:
    """Return the numbers of nested lists, in order."""
    if not isinstance(x, list):
        raise TypeError(f"{_short(x)} is not a list")
    while x and type(x[0]) is list:
        x = list(chain.from_iterable(x))
    if not _NUMBERS.issuperset(map(type, x)):
        wrong = next(value for value in x if type(value) not in _NUMBERS)
        raise TypeError(f"{_short(wrong)} is not a number")
    return x


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."

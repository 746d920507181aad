"""Scenarios: a data set as a stream of experiences."""

from __future__ import annotations

from typing import NamedTuple

from edgerev.data import Records
from edgerev.errors import DataError


class Experience(NamedTuple):
    """One chunk of data, seen in order.

    Attributes
    ----------
    classes : class numbers that are new in it
    train, test : its samples
    """

    classes: tuple[int, ...]
    train: Records
    test: Records


def class_incremental(train: Records, test: Records, per_experience: int) -> list[Experience]:
    """Return experiences of `per_experience` new classes each, in the order of the class numbers.

    Raises
    ------
    DataError
        The data has no classes, or an experience would have no samples.
    """
    if train.classes is None:
        raise DataError(f"{train.name}: targets are values; a class-incremental stream needs classes")
    numbers = range(len(train.classes))
    found = []
    for first in numbers[::per_experience]:
        group = tuple(numbers[first : first + per_experience])
        part, held_out = train.subset(group), test.subset(group)
        if not len(part) or not len(held_out):
            names = ", ".join(train.classes[number] for number in group)
            raise DataError(
                f"{train.name}: {names} have no samples in training or test data; expected some in both; add some or "
                "leave these classes out"
            )
        found.append(Experience(group, part, held_out))
    return found

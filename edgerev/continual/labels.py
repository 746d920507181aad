"""The labels and columns that plans are made of, read once and checked."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from operator import index

from edgerev.errors import DataError
from edgerev.numbers import INT32_MAX

SHOWN = 5  # classes that a message names


def _class_number(label: object, place: int, what: str, most: int = INT32_MAX) -> int:
    try:
        number = index(label)  # type: ignore[arg-type]  # what has no index raises TypeError
    except TypeError:
        number = -1
    if not 0 <= number <= most:
        raise DataError(
            f"label {label!r} of {what} sample {place}: expected a class number, 0 .. {most}; number the classes from "
            "0, or leave the sample out"
        )
    return number


def by_class(labels: Iterable[int], what: str, classes: Sequence[str] | None) -> dict[int, array[int]]:
    """Return the indices of each class, growing."""
    most = INT32_MAX if classes is None else len(classes) - 1
    found: dict[int, array[int]] = {}
    for place, label in enumerate(labels):
        found.setdefault(_class_number(label, place, what, most), array("l")).append(place)
    return found


def check_classes(count: int, parts: dict[str, dict[int, array[int]]], classes: Sequence[str] | None = None) -> None:
    """Refuse classes without samples in a part, and data without any class."""
    if not count:
        raise DataError("no labels; expected at least one sample; check the selection")
    for what, part in parts.items():
        missing = list(islice((number for number in range(count) if number not in part), SHOWN))
        if missing:
            raise DataError(
                f"{listed(missing, classes)} have no samples in the {what} data; expected some of all {count} classes;"
                " add some, or leave these classes out and number the others anew"
            )


def paired(groups: Iterable[Hashable], labels: Iterable[int], *more: Iterable[Hashable]) -> Iterator[tuple]:
    """Yield rows of the columns, with their class numbers checked."""
    rows = zip(groups, labels, *more, strict=True)
    place = 0
    while True:
        try:
            group, label, *rest = next(rows)
        except StopIteration:
            return
        except ValueError as error:
            raise DataError(
                f"the columns end after {place} samples, but not all of them; expected a group, a label and, where "
                "given, a recording for every sample; pass columns of one length"
            ) from error
        yield group, _class_number(label, place, "the"), *rest
        place += 1


def listed(numbers: Sequence[int], names: Sequence[str] | None = None) -> str:
    """Name some classes, or give their numbers where they have no names."""
    shown = ", ".join(str(number) if names is None else names[number] for number in numbers[:SHOWN])
    return ("classes " if names is None else "") + shown + (", ..." if len(numbers) > SHOWN else "")

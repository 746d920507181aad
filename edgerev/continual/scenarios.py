"""Scenarios: a labelled data set as a stream of experiences, planned as indices into it.

A plan reads labels, or a column of groups, and never a sample, so it fits data in files (`Records.pick`) and in arrays
(`x[experience.train]`) alike. Class numbers count from 0.

The three settings are those of van de Ven and Tolias 2019, "Three scenarios for continual learning": in "task" the
model is told which experience a sample is of, in "domain" it is not, and in both the target is the place of the class
within its experience; in "class" the target is the class number itself, among all classes so far.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from heapq import merge
from typing import TYPE_CHECKING, NamedTuple

from edgerev.continual.labels import by_class, check_classes, listed, paired
from edgerev.continual.transforms import Permutation, Rotation, Transform
from edgerev.data.order import shuffled
from edgerev.errors import DataError, UsageError
from edgerev.numbers import FLOAT32_MAX, INT32_MAX, finite32, whole

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "SETTINGS", "Experience", "Permutation", "Rotation", "Transform", "by_group", "new_wearer", "permuted", "rotated",
    "split",
]  # fmt: skip

SETTINGS = ("task", "domain", "class")


class Experience(NamedTuple):
    """One chunk of data, seen in order.

    Attributes
    ----------
    task : its place in the stream, from 0
    classes : class numbers that are new in it
    train, test : indices of its samples in the training and the test data, in the order of these
    transform : what its samples go through; None leaves them as they are
    positions : whether a target is the place of the class within `classes`, not the class number
    """

    task: int
    classes: tuple[int, ...]
    train: Sequence[int]
    test: Sequence[int]
    transform: Transform | None = None
    positions: bool = False

    def target(self, label: int) -> int:
        """Return what the model is to answer for a class number.

        Raises
        ------
        DataError
            Targets are places within the experience, and the class is not in it.
        """
        if not self.positions:
            return label
        if label not in self.classes:
            raise DataError(
                f"class {label} is not in experience {self.task} of {listed(self.classes)}; expected one of these; "
                "pass samples of its own indices"
            )
        return self.classes.index(label)

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Return samples `(samples, *shape)` as the experience shows them."""
        return x if self.transform is None else self.transform(x)


def split(
    train_labels: Iterable[int], test_labels: Iterable[int], per_experience: int, setting: str, seed: int | None = None,
    *, classes: Sequence[str] | None = None, strict: bool = True,
) -> list[Experience]:  # fmt: skip
    """Return experiences of some classes each, as in split MNIST.

    Parameters
    ----------
    train_labels, test_labels : iterable of int
        The class number of every sample, read once.
    per_experience : int
        Classes of each.
    setting : {'task', 'domain', 'class'}
        What a target is; see the module.
    seed : int, optional
        Draws the order of the classes; without it, that of their numbers.
    classes : sequence of str, optional
        The name of each class, for messages; classes up to the highest label by default.
    strict : bool
        If false, the last experience may have fewer classes, and a class may lack samples as long as its experience
        has some.

    Returns
    -------
    list of Experience
        In their order.

    Raises
    ------
    DataError
        A label is no class number, a class has no samples in either part, or the classes do not divide.
    UsageError
        The setting is another, or a number is out of range.

    References
    ----------
    van de Ven and Tolias 2019, "Three scenarios for continual learning" (split MNIST).
    """
    whole("classes of an experience", per_experience, 1, INT32_MAX)
    if setting not in SETTINGS:
        raise UsageError(f"setting {setting!r}: expected one of {', '.join(SETTINGS)}; change it")
    train, test = by_class(train_labels, "training", classes), by_class(test_labels, "test", classes)
    count = len(classes) if classes is not None else max([*train, *test], default=-1) + 1
    if strict or not count:
        check_classes(count, {"training": train, "test": test}, classes)
    if strict and count % per_experience:
        raise DataError(
            f"{count} classes do not divide into experiences of {per_experience}; expected a divisor of {count}; "
            "change the classes of an experience, or pass strict=False for a smaller last one"
        )
    order: Sequence[int] = range(count) if seed is None else shuffled(count, seed, 0)
    found: list[Experience] = []
    for first in range(0, count, per_experience):
        group = tuple(order[first : first + per_experience])
        learned, measured = (
            array("l", merge(*(part[label] for label in group if label in part))) for part in (train, test)
        )
        if not learned or not measured:
            raise DataError(
                f"{listed(group, classes)} have no samples in training or test data; expected some in both; add some "
                "or leave these classes out"
            )
        found.append(Experience(len(found), group, learned, measured, positions=setting != "class"))
    return found


def permuted(
    train_labels: Iterable[int], test_labels: Iterable[int], size: int, experiences: int, seed: int
) -> list[Experience]:
    """Return experiences of all samples, whose values come in another fixed order in each; the first is as it was.

    Targets are class numbers, the same in all: this is domain-incremental.

    Parameters
    ----------
    train_labels, test_labels : iterable of int
        The class number of every sample, read once.
    size : int
        Values of one sample.
    experiences : int
        How many.
    seed : int
        Draws the orders.

    Returns
    -------
    list of Experience
        In their order.

    Raises
    ------
    DataError
        A label is no class number, or a class has no samples in either part.
    UsageError
        A number is out of range.

    References
    ----------
    Goodfellow et al. 2013, "An empirical investigation of catastrophic forgetting in gradient-based neural networks"
    (there "input reformatting"); Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks".
    """
    whole("values of a sample", size, 1, INT32_MAX)
    whole("experiences", experiences, 1, INT32_MAX)
    orders = (Permutation(tuple(shuffled(size, seed, number))) for number in range(1, experiences))
    return _seen_again(train_labels, test_labels, [None, *orders])


def rotated(
    train_labels: Iterable[int], test_labels: Iterable[int], shape: Sequence[int], experiences: int,
    most_degrees: float,
) -> list[Experience]:  # fmt: skip
    """Return experiences of all images, turned by angles that grow in equal steps from 0; the first is as it was.

    Targets are class numbers, the same in all: this is domain-incremental.

    Parameters
    ----------
    train_labels, test_labels : iterable of int
        The class number of every sample, read once.
    shape : sequence of int
        Of one image: `(height, width)` or `(height, width, channels)`.
    experiences : int
        How many.
    most_degrees : float
        Angle of the last, counterclockwise.

    Returns
    -------
    list of Experience
        In their order.

    Raises
    ------
    DataError
        A label is no class number, or a class has no samples in either part.
    UsageError
        A number is out of range, or these are no images.

    References
    ----------
    Lopez-Paz and Ranzato 2017, "Gradient episodic memory for continual learning" (MNIST rotations, there by angles
    drawn from 0 to 180 degrees).
    """
    whole("experiences", experiences, 1, INT32_MAX)
    finite32("most_degrees", most_degrees, -FLOAT32_MAX, FLOAT32_MAX)
    turns = [Rotation(tuple(shape), most_degrees * number / max(experiences - 1, 1)) for number in range(experiences)]
    return _seen_again(train_labels, test_labels, [None, *turns[1:]])


def by_group(groups: Iterable[Hashable], labels: Iterable[int]) -> list[Experience]:
    """Return an experience for each group, tested before it is trained on (prequential), as data that drifts comes.

    `test` and `train` are the same samples: measure first, learn then.

    Parameters
    ----------
    groups : iterable of hashable
        The group of every sample, such as the number of a batch, or a wearer; samples are in the order of time, and so
        are the groups, by the first sample of each.
    labels : iterable of int
        The class number of every sample.

    Returns
    -------
    list of Experience
        In their order; targets are class numbers.

    Raises
    ------
    DataError
        A label is no class number, there are no samples, or not as many groups as labels.
    """
    members: dict[Hashable, array[int]] = {}
    present: dict[Hashable, set[int]] = {}
    for place, (group, label) in enumerate(paired(groups, labels)):
        members.setdefault(group, array("l")).append(place)
        present.setdefault(group, set()).add(label)
    if not members:
        raise DataError("no samples to group; expected at least one; check the selection")
    return [
        Experience(task, classes, members[group], members[group])
        for task, (group, classes) in enumerate(zip(members, _new(present.values())))
    ]


def new_wearer(
    groups: Iterable[Hashable], held: Hashable, labels: Iterable[int], recordings: Iterable[Hashable] | None = None
) -> list[Experience]:
    """Return two experiences: learn from all other wearers, then adapt to one that was held out.

    Both are tested on the second half of the held wearer's recordings; the second trains on the first half. The
    halves are of each class, since a data set may be sorted by class; a single recording belongs to the first.

    Parameters
    ----------
    groups : iterable of hashable
        The wearer of every sample.
    held : hashable
        The wearer held out.
    labels : iterable of int
        The class number of every sample.
    recordings : iterable of hashable, optional
        The recording that every sample was cut from, so that no recording is in both halves; each sample is one of
        its own by default.

    Returns
    -------
    list of Experience
        Two; targets are class numbers.

    Raises
    ------
    DataError
        A label is no class number, the columns differ in length, or the held wearer or the others lack samples.
    """
    others, found = array("l"), 0
    theirs: set[int] = set()
    own: dict[int, dict[Hashable, array[int]]] = {}  # places by class and recording
    rows = paired(groups, labels) if recordings is None else paired(groups, labels, recordings)
    for place, (group, label, *recording) in enumerate(rows):
        if group != held:
            others.append(place)
            theirs.add(label)
        else:
            found += 1
            key = recording[0] if recording else place
            own.setdefault(label, {}).setdefault(key, array("l")).append(place)
    adapt, test = array("l"), array("l")
    for pieces in own.values():
        for number, piece in enumerate(pieces.values()):
            (adapt if 2 * number < len(pieces) else test).extend(piece)
    if not others or not test:
        raise DataError(
            f"wearer {held!r} has {found} samples, {len(test)} of them in second halves, the others have "
            f"{len(others)}; expected some of each, so a class with two recordings; hold out another wearer"
        )
    first, second = _new([theirs, set(own)])
    tested = array("l", sorted(test))
    return [Experience(0, first, others, tested), Experience(1, second, array("l", sorted(adapt)), tested)]


def _seen_again(
    train_labels: Iterable[int], test_labels: Iterable[int], transforms: Sequence[Transform | None]
) -> list[Experience]:
    """Return an experience of all samples for each transform."""
    train, test = by_class(train_labels, "training", None), by_class(test_labels, "test", None)
    count = max([*train, *test], default=-1) + 1
    check_classes(count, {"training": train, "test": test})
    learned, measured = (range(sum(map(len, part.values()))) for part in (train, test))
    return [
        Experience(task, () if task else tuple(range(count)), learned, measured, transform)
        for task, transform in enumerate(transforms)
    ]


def _new(groups: Iterable[set[int]]) -> Iterator[tuple[int, ...]]:
    """Yield the classes of each group that no group before had."""
    seen: set[int] = set()
    for group in groups:
        yield tuple(sorted(group - seen))
        seen |= group

"""Streams of experiences: every sample where it belongs, targets of the three settings, and what is refused."""

import pickle
import subprocess
import sys
from math import ceil, cos, floor, radians, sin

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerev.continual.scenarios import SETTINGS, Permutation, Rotation, by_group, new_wearer, permuted, rotated, split
from edgerev.data import open_dataset
from edgerev.data.order import shuffled
from edgerev.errors import DataError, UsageError

LABELS = [0, 1, 2, 3, 4, 5] * 3
TEST = [5, 4, 3, 2, 1, 0]
seeds = st.integers(0, 2**64 - 1)


def ref_places(labels, group):
    return [place for place, label in enumerate(labels) if label in group]


@st.composite
def labelled(draw):
    """Give training and test labels with all classes in both, and a number of classes that divides them."""
    classes = draw(st.integers(1, 12))
    more = st.lists(st.integers(0, classes - 1), max_size=40)
    train, test = (draw(st.permutations([*range(classes), *draw(more)])) for _ in range(2))
    return train, test, draw(st.sampled_from([n for n in range(1, classes + 1) if classes % n == 0]))


# -- split ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(labelled(), st.sampled_from(SETTINGS), st.none() | seeds)
def test_split_gives_every_sample_to_the_experience_of_its_class(data, setting, seed):
    train, test, per_experience = data
    plan = split(iter(train), np.array(test), per_experience, setting, seed)
    classes = [label for experience in plan for label in experience.classes]
    assert sorted(classes) == list(range(max(train) + 1))
    assert seed is not None or classes == sorted(classes)
    for task, experience in enumerate(plan):
        assert experience.task == task
        assert len(experience.classes) == per_experience
        assert list(experience.train) == ref_places(train, experience.classes)
        assert list(experience.test) == ref_places(test, experience.classes)
        targets = [experience.target(label) for label in experience.classes]
        assert targets == (list(experience.classes) if setting == "class" else list(range(per_experience)))
        samples = np.ones((2, 3))
        assert experience.apply(samples) is samples


def test_split_in_an_order_drawn_from_the_seed():
    drawn = {seed: [part.classes for part in split(LABELS, TEST, 2, "class", seed)] for seed in range(20)}
    assert drawn[3] == [part.classes for part in split(LABELS, TEST, 2, "class", 3)]
    assert len({tuple(classes) for classes in drawn.values()}) > 15


def test_split_with_a_smaller_last_experience():
    plan = split(LABELS, TEST, 4, "class", strict=False)
    assert [part.classes for part in plan] == [(0, 1, 2, 3), (4, 5)]
    # a class without test samples beside one that has some
    assert [list(part.test) for part in split([0, 1, 2], [1, 2], 2, "class", strict=False)] == [[0], [1]]


def test_split_of_records_and_of_arrays_is_the_same(tmp_path):
    x, y = toys.images(60)
    for part in ("train", "test"):
        toys.write_npz(tmp_path / f"{part}.npz", x, y)
    train = open_dataset(tmp_path, cache=tmp_path / "cache").train
    for of_files, of_arrays in zip(split(train.labels(), y, 2, "task"), split(y, y, 2, "task"), strict=True):
        assert of_files == of_arrays
        picked = train.pick(of_files.train)
        assert list(picked.labels()) == list(y[np.asarray(of_arrays.train)])
        sample = bytearray(picked.record_bytes)
        picked.read_into(3, memoryview(sample))
        assert bytes(sample) == x[of_arrays.train[3]].tobytes()


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 2], [0, 2], r"^classes 1 have no samples in the training data; expected some of all 3 classes; add"),
        ([0, 1], [0], r"^classes 1 have no samples in the test data; expected"),
        ([9], [9], r"^classes 0, 1, 2, 3, 4 have no samples"),
        ([0, -1], [0], r"^label -1 of training sample 1: expected a class number, 0 \.\. .*; number the classes"),
        ([0], [0, 2**31], r"^label 2147483648 of test sample 1: expected a class number"),
        ([0, 1.0], [0], r"^label 1\.0 of training sample 1: expected a class number"),
        (["ash"], ["ash"], r"^label 'ash' of training sample 0: expected a class number"),
        ([0, 1, 2], [0, 1, 2], r"^3 classes do not divide into experiences of 2; expected a divisor of 3; change"),
        ([], [], r"^no labels; expected at least one sample"),
    ],
)
def test_labels_that_cannot_be_split(train, test, message):
    with pytest.raises(DataError, match=message):
        split(train, test, 2, "class")


def test_messages_name_classes():
    names = ["ash", "birch", "cedar"]
    with pytest.raises(DataError, match=r"^cedar have no samples in the test data"):
        split([0, 1, 2], [0, 1], 1, "class", classes=names)
    with pytest.raises(DataError, match=r"^ash, birch have no samples in training or test data; expected some in"):
        split([0, 1, 2], [2], 2, "class", classes=names, strict=False)
    with pytest.raises(DataError, match=r"^label 3 of test sample 1: expected a class number, 0 \.\. 2"):
        split([0, 1, 2], [0, 3], 1, "class", classes=names)


def test_arguments_that_make_no_experiences():
    with pytest.raises(UsageError, match="setting 'classes': expected one of task, domain, class"):
        split(LABELS, TEST, 2, "classes")
    with pytest.raises(UsageError, match="classes of an experience 0: expected a whole number"):
        split(LABELS, TEST, 0, "task")
    with pytest.raises(UsageError, match="seed is -1"):
        split(LABELS, TEST, 2, "task", -1)
    with pytest.raises(UsageError, match="experiences 0"):
        permuted(LABELS, TEST, 4, 0, 0)
    with pytest.raises(UsageError, match="values of a sample 0"):
        permuted(LABELS, TEST, 0, 2, 0)
    with pytest.raises(UsageError, match="most_degrees nan"):
        rotated(LABELS, TEST, (4, 4), 2, float("nan"))
    with pytest.raises(UsageError, match=r"samples of shape \(16,\) cannot be turned"):
        rotated(LABELS, TEST, (16,), 2, 90)
    with pytest.raises(DataError, match="class 4 is not in experience 0 of classes 0, 1; expected one of these"):
        split(LABELS, TEST, 2, "domain")[0].target(4)


# -- permuted ------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), seeds)
def test_permuted_moves_the_same_values_of_all_samples(size, experiences, seed):
    plan = permuted(LABELS, TEST, size, experiences, seed)
    assert plan == permuted(LABELS, TEST, size, experiences, seed)
    assert [part.task for part in plan] == list(range(experiences))
    assert [part.classes for part in plan] == [tuple(range(6)), *[()] * (experiences - 1)]
    x = np.random.default_rng(0).normal(size=(3, size, 2)).astype("f4")[:, :, :1]
    assert (plan[0].apply(x) == x).all()
    for part in plan:
        assert (list(part.train), list(part.test)) == (list(range(18)), list(range(6)))
        assert [part.target(label) for label in range(6)] == list(range(6))
    for part in plan[1:]:
        order = part.transform.order
        ref_x = np.array([[sample[place] for place in order] for sample in x])
        comp_x = part.apply(x)
        assert (comp_x == ref_x).all()
        assert comp_x.dtype == x.dtype
        back = np.argsort(order)
        assert (part.apply(comp_x[:, back]) == comp_x).all()


def test_permutations_differ():
    plan = permuted(LABELS, TEST, 784, 4, 0)
    orders = [tuple(range(784)), *(part.transform.order for part in plan[1:])]
    orders += [part.transform.order for part in permuted(LABELS, TEST, 784, 4, 1)[1:]]
    # two random orders agree in one place on average
    assert max(sum(a == b for a, b in zip(one, other)) for one in orders for other in orders if one != other) < 10
    assert len(set(orders)) == 7


def test_orders_that_are_none():
    for order in ([], [1, 2], [0, 0], [0, 2]):
        with pytest.raises(UsageError, match="expected every place from 0 to"):
            Permutation(order)
    with pytest.raises(DataError, match="samples of 6 values for an order of 4; expected as many"):
        Permutation([1, 0, 3, 2])(np.zeros((2, 3, 2)))


def test_shuffled_orders_are_even():
    """All 24 orders of 4 come up about equally often: chi-squared of 23 degrees is below 50 for 99.9 %."""
    counts = {}
    for seed in range(4800):
        order = tuple(shuffled(4, seed, 0))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 50


# -- rotated -------------------------------------------------------------------------------------------------------


def ref_rotated(image, degrees):
    height, width = image.shape
    found = np.zeros(image.shape)
    c, s = cos(radians(degrees)), sin(radians(degrees))
    for row in range(height):
        for column in range(width):
            down, right = row - (height - 1) / 2, column - (width - 1) / 2
            r, q = down * c + right * s + (height - 1) / 2, right * c - down * s + (width - 1) / 2
            for i in (floor(r), floor(r) + 1):
                for j in (floor(q), floor(q) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        found[row, column] += (1 - abs(r - i)) * (1 - abs(q - j)) * image[i, j]
    return found


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 7), st.integers(1, 7), st.floats(-720, 720), seeds)
def test_rotation_against_the_loop(height, width, degrees, seed):
    x = np.random.default_rng(seed).normal(size=(3, height, width)).astype("f4")
    comp_x = Rotation((height, width), degrees)(x)
    assert comp_x.dtype == x.dtype
    np.testing.assert_allclose(comp_x, [ref_rotated(image, degrees) for image in x], atol=1e-4)


@pytest.mark.parametrize("side", [1, 2, 5, 28])
@pytest.mark.parametrize("quarters", range(-4, 9))
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_quarter_turns_are_exact(side, quarters, dtype):
    x = np.random.default_rng(side).integers(0, 256, (2, side, side, 3)).astype(dtype)
    assert (Rotation((side, side, 3), 90 * quarters)(x) == np.rot90(x, quarters, axes=(1, 2))).all()


def test_rotation_leaves_bytes_bytes():
    x = np.full((1, 9, 9), 255, "u1")
    turned = Rotation((9, 9), 30)(x)
    assert turned.dtype == np.uint8
    assert (turned[0, 3:6, 3:6] == 255).all()
    assert turned[0, 0, 0] == 0
    assert (x == 255).all()


def test_pixels_that_do_not_count_are_not_read():
    x = np.ones((1, 3, 3), "f4")
    x[0, 0, 0] = np.nan
    assert np.isnan(Rotation((3, 3), 90)(x)).sum() == 1


def test_rotated_angles_grow():
    plan = rotated(LABELS, TEST, (8, 8), 5, 180)
    assert [part.transform.degrees for part in plan[1:]] == [45, 90, 135, 180]
    x = toys.images(6)[0]
    assert (plan[0].apply(x) == x).all()
    assert (plan[4].apply(x) == x[:, ::-1, ::-1]).all()
    assert len(rotated(LABELS, TEST, (8, 8), 1, 180)) == 1
    with pytest.raises(DataError, match=r"samples of shape \(4, 4\) for a rotation of \(8, 8\); expected the same"):
        plan[1].apply(np.zeros((1, 4, 4)))


def test_transforms_are_values():
    rotation = Rotation([3, 3], 30)
    rotation(np.zeros((1, 3, 3)))
    assert rotation == Rotation((3, 3), 30.0) == pickle.loads(pickle.dumps(rotation))
    assert Permutation([1, 0]) == Permutation((1, 0))
    assert len({rotation, Rotation((3, 3), 30), Permutation([0])}) == 2


# -- drift and wearers ---------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=1))
def test_groups_come_in_the_order_of_time(rows):
    groups, labels = zip(*rows)
    plan = by_group(iter(groups), iter(labels))
    assert [groups[part.train[0]] for part in plan] == list(dict.fromkeys(groups))
    seen = set()
    for part in plan:
        assert part.test == part.train
        assert list(part.train) == ref_places(groups, {groups[part.train[0]]})
        there = {labels[place] for place in part.train}
        assert set(part.classes) == there - seen
        assert part.target(5) == 5
        seen |= there


def test_columns_that_cannot_be_grouped():
    for columns in (("aab", [0, 1]), ("aa", [0, 1, 2])):
        with pytest.raises(DataError, match="the columns end after 2 samples, but not all of them; expected a group"):
            by_group(*columns)
    with pytest.raises(DataError, match="no samples to group"):
        by_group([], [])
    with pytest.raises(DataError, match="label -1 of the sample 0: expected a class number"):
        by_group("a", [-1])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_a_new_wearer_is_adapted_to_on_one_half_and_tested_on_the_other(rows):
    groups, labels, takes = zip(*rows)
    recordings = list(zip(labels, takes))
    pieces = {}
    for place, (group, label, _) in enumerate(rows):
        if group == "b":
            pieces.setdefault(label, []).append(recordings[place])
    pieces = {label: list(dict.fromkeys(found)) for label, found in pieces.items()}
    first = {name for found in pieces.values() for name in found[: ceil(len(found) / 2)]}
    second = {name for found in pieces.values() for name in found} - first
    if not second or set(groups) == {"b"}:
        with pytest.raises(DataError, match=r"wearer 'b' has .* expected some of each, .*hold out another"):
            new_wearer(groups, "b", labels, recordings)
        return
    before, adapted = new_wearer(groups, "b", labels, recordings)
    assert list(before.train) == ref_places(groups, {"a", "c"})
    assert before.test == adapted.test
    own = ref_places(groups, {"b"})
    assert list(adapted.train) == [place for place in own if recordings[place] in first]
    assert list(adapted.test) == [place for place in own if recordings[place] in second]
    assert set(before.classes) == {labels[place] for place in before.train}
    assert set(adapted.classes) == {labels[place] for place in own} - set(before.classes)


def test_samples_are_recordings_of_their_own():
    plan = new_wearer("aabbbbb", "b", [0, 1, 0, 0, 0, 1, 1])
    assert [(list(part.train), list(part.test)) for part in plan] == [([0, 1], [4, 6]), ([2, 3, 5], [4, 6])]


def test_a_plan_needs_no_numpy():
    code = """
import sys
from edgerev.continual.scenarios import *
labels = [0, 1, 2, 3]
split(labels, labels, 2, "task", 1), permuted(labels, labels, 9, 3, 0), rotated(labels, labels, (3, 3), 3, 90)
by_group(labels, labels), new_wearer("aabb", "b", [0, 0, 0, 0])
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_drift_and_wearers(shared_data):
    gas = np.load(shared_data / "gas-drift" / "gas_drift.npz")
    plan = by_group(gas["batch"], gas["y"])
    assert [gas["batch"][part.train[0]] for part in plan] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert sum(len(part.train) for part in plan) == 6697
    hmp = np.load(shared_data / "hmp" / "hmp.npz")
    before, adapted = new_wearer(hmp["volunteer"], "f1", hmp["label"])
    held = hmp["volunteer"] == "f1"
    assert len(before.train) == (~held).sum()
    assert len(adapted.train) + len(adapted.test) == held.sum()
    assert 0 <= len(adapted.train) - len(adapted.test) <= len(hmp["classes"])

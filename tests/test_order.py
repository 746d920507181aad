import collections
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerev.data import Permutation
from edgerev.errors import UsageError

GOLDEN = [5, 6, 9, 3, 11, 2, 7, 8, 0, 1, 4, 10]
GOLDEN_LARGE = [11733, 11643, 19334]
U64 = st.integers(0, 2**64 - 1)


@given(count=st.integers(0, 3000), seed=U64, epoch=U64)
@settings(max_examples=60, deadline=None)
def test_is_a_bijection(count, seed, epoch):
    assert sorted(Permutation(count, seed, epoch)) == list(range(count))


@given(count=st.integers(1, 2**64 - 1), seed=U64, place=U64)
@settings(max_examples=200, deadline=None)
def test_stays_in_range_at_any_size_and_repeats_itself(count, seed, place):
    place %= count
    value = Permutation(count, seed, 3)[place]
    assert 0 <= value < count
    assert Permutation(count, seed, 3)[place] == value


def test_the_order_never_changes_between_versions():
    # A resumed run depends on these very numbers.
    assert list(Permutation(12, 1, 0)) == GOLDEN
    assert [Permutation(60000, 7, 2)[i] for i in (0, 1, 59999)] == GOLDEN_LARGE


def test_epochs_and_seeds_differ():
    orders = {tuple(Permutation(50, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_every_sample_comes_first_equally_often():
    count, runs = 10, 4000
    firsts = collections.Counter(Permutation(count, 5, epoch)[0] for epoch in range(runs))
    chi2 = sum((firsts[i] - runs / count) ** 2 / (runs / count) for i in range(count))
    assert chi2 < 27.9  # the 99.9 % quantile for 9 degrees of freedom


def test_neighbours_are_scattered():
    order = list(Permutation(10000, 3, 0))
    near = sum(abs(a - b) < 100 for a, b in itertools.pairwise(order))
    assert 140 < near < 260  # about 2 % by chance


@pytest.mark.parametrize("place", [-1, 5])
def test_a_position_outside_is_an_error(place):
    with pytest.raises(IndexError, match="epoch of 5"):
        Permutation(5, 1, 1)[place]


@pytest.mark.parametrize("args", [(-1, 0, 0), (5, -1, 0), (5, 0, 2**64), (5.0, 0, 0), (5, "1", 0)])
def test_arguments_that_make_no_sense(args):
    with pytest.raises(UsageError, match="expected an integer"):
        Permutation(*args)

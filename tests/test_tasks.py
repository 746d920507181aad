"""Telling tasks apart by their inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerev import DataError, UsageError
from edgerev.continual.tasks import InputStatistics


@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_statistics_do_not_depend_on_how_samples_come(seed, cuts):
    x = np.random.default_rng(seed).normal(3, 2, (40, 5))
    parts = InputStatistics(2, 5)
    for part in np.split(x, sorted(cuts)):
        parts.add(1, part)
    assert parts.counts.tolist() == [0, 40]
    np.testing.assert_allclose(parts.means[1], x.mean(0))
    np.testing.assert_allclose(parts.squares[1] / 40, x.var(0))


def test_tasks_that_differ_in_their_inputs():
    random = np.random.default_rng(0)
    scales = np.array([[1, 5, 1, 0.1], [5, 1, 0.1, 1], [1, 1, 5, 5]])
    known = InputStatistics(4, 4)
    for task, scale in enumerate(scales):
        known.add(task, random.normal(0, scale, (200, 4)))
    x = random.normal(0, scales[:, None], (3, 100, 4))
    found = known.likeliest(x.reshape(300, 2, 2)).reshape(3, 100)
    assert (found == np.arange(3)[:, None]).mean() > 0.95


def test_values_that_never_vary():
    known = InputStatistics(2, 2)
    known.add(0, np.zeros((3, 2)))
    known.add(1, np.ones((3, 2)))
    assert known.likeliest([[0, 0], [1, 1]]).tolist() == [0, 1]
    assert known.likeliest(np.empty((0, 2))).tolist() == []


@pytest.mark.parametrize(("x", "problem"), [([[1, 2, 3]], "2 values each"), ([[1, np.nan]], "NaN"), (3, "reshape")])
def test_bad_samples_are_refused(x, problem):
    known = InputStatistics(2, 2)
    known.add(0, np.ones((1, 2)))
    for call in (lambda: known.add(0, x), lambda: known.likeliest(x)):
        with pytest.raises(DataError, match=problem):
            call()


def test_unknown_tasks_are_refused():
    known = InputStatistics(2, 2)
    with pytest.raises(UsageError, match="no task has samples"):
        known.likeliest([[1, 2]])
    with pytest.raises(UsageError, match="task"):
        known.add(2, [[1, 2]])


def test_inputs_far_from_zero():
    random = np.random.default_rng(0)
    x = random.normal(0, 1, (2, 200, 8)) + np.array([0, 3])[:, None, None]
    known = InputStatistics(2, 8)
    for task in (0, 1):
        known.add(task, x[task] + 1e9)
    assert (known.likeliest(x.reshape(400, 8) + 1e9) == np.repeat([0, 1], 200)).mean() > 0.99

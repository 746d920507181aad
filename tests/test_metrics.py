"""Metrics against their definitions, spelt out, and against the statistics module."""

import statistics
import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerev.continual import metrics
from edgerev.continual.metrics import Prequential, Spread, over_seeds, paired_difference, prequential_accuracy
from edgerev.errors import UsageError

share = st.floats(0, 1)
figures = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)

# learned 1.0 0.9 0.8; the first was forgotten and came back a little
MATRIX = [[1.0, 0.2, 0.1], [0.5, 0.9, 0.3], [0.6, 0.7, 0.8]]


@st.composite
def matrices(draw):
    size = draw(st.integers(1, 6))
    return [[draw(share) for _ in range(size)] for _ in range(size)]


def test_figures_worked_out_by_hand():
    assert metrics.average_accuracy(MATRIX) == pytest.approx(0.7)
    assert metrics.backward_transfer(MATRIX) == pytest.approx((0.6 - 1.0 + 0.7 - 0.9) / 2)
    assert metrics.forward_transfer(MATRIX, [0.3, 0.1, 0.5]) == pytest.approx((0.2 - 0.1 + 0.3 - 0.5) / 2)
    assert metrics.forgetting(MATRIX) == pytest.approx((1.0 - 0.6 + 0.9 - 0.7) / 2)


def ref_forward_transfer(matrix, untrained):
    """Sum in the paper's numbering, from 1."""
    T, R, b = len(matrix), dict(enumerate(matrix, 1)), dict(enumerate(untrained, 1))
    return sum(dict(enumerate(R[i - 1], 1))[i] - b[i] for i in range(2, T + 1)) / (T - 1)


def ref_forgetting(matrix):
    k, a = len(matrix), {(i, j): value for i, row in enumerate(matrix, 1) for j, value in enumerate(row, 1)}
    return sum(max(a[row, j] for row in range(1, k)) - a[k, j] for j in range(1, k)) / (k - 1)


@given(matrices(), st.lists(share, min_size=6, max_size=6))
def test_definitions(matrix, untrained):
    size = len(matrix)
    untrained = untrained[:size]
    assert metrics.average_accuracy(matrix) == pytest.approx(statistics.fmean(matrix[-1]))
    if size == 1:
        assert metrics.backward_transfer(matrix) == metrics.forgetting(matrix) == 0
        assert metrics.forward_transfer(matrix, untrained) == 0
        return
    changes = [matrix[-1][j] - matrix[j][j] for j in range(size - 1)]
    assert metrics.backward_transfer(matrix) == pytest.approx(statistics.fmean(changes))
    assert metrics.forward_transfer(matrix, untrained) == pytest.approx(ref_forward_transfer(matrix, untrained))
    assert metrics.forgetting(matrix) == pytest.approx(ref_forgetting(matrix))


@given(matrices())
def test_rows_may_end_at_the_diagonal(matrix):
    ragged = [row[: i + 1] for i, row in enumerate(matrix)]
    assert metrics.average_accuracy(ragged) == metrics.average_accuracy(matrix)
    assert metrics.backward_transfer(ragged) == metrics.backward_transfer(matrix)
    assert metrics.forgetting(ragged) <= metrics.forgetting(matrix)
    assert metrics.forgetting(ragged) >= -metrics.backward_transfer(ragged) - 1e-12
    assert metrics.forward_transfer([[1.0, 0.5], [0.0, 1.0]], [0, 0.25]) == 0.25


def test_matrices_that_are_none():
    for metric in (metrics.average_accuracy, metrics.backward_transfer, metrics.forgetting):
        with pytest.raises(UsageError, match="no experiences; expected a row for each"):
            metric([])
        with pytest.raises(UsageError, match="row 1 of the matrix has 1 accuracies; expected at least 2, for experi"):
            metric([[1.0], [1.0]])
    with pytest.raises(UsageError, match="row 0 of the matrix has 1 accuracies; expected at least 2"):
        metrics.forward_transfer([[1.0], [1.0, 1.0]], [0, 0])
    with pytest.raises(UsageError, match="1 accuracies without training for 3 experiences; expected one for each"):
        metrics.forward_transfer(MATRIX, [0.1])


@given(st.lists(st.booleans(), min_size=1, max_size=50), st.floats(0.01, 1))
def test_prequential_accuracy_is_one_minus_the_error(answers, fading):
    counted = Prequential(fading)
    for right in answers:
        counted.add(right)
    factor, last = Fraction(fading), len(answers) - 1
    weights = [factor ** (last - place) for place in range(len(answers))]
    error = sum(weight * (not right) for weight, right in zip(weights, answers)) / sum(weights)
    assert counted.faded == pytest.approx(float(1 - error))
    assert counted.overall == sum(answers) / len(answers) == prequential_accuracy(answers)
    assert (counted.samples, counted.right) == (len(answers), sum(answers))
    assert prequential_accuracy(iter(answers), fading) == counted.faded


def test_the_past_fades():
    """A model that was right and fails now: the mean remembers, the faded accuracy is at most a^n."""
    counted = Prequential(0.9)
    for right in [True] * 1000 + [False] * 50:
        counted.add(right)
    assert counted.overall == pytest.approx(1000 / 1050)
    assert counted.faded == pytest.approx(0.9**50, rel=1e-6)
    assert Prequential().overall == Prequential().faded == prequential_accuracy([]) == 0


@pytest.mark.parametrize("fading", [0, -0.5, 1.5, float("nan"), "0.9"])
def test_factors_that_do_not_fade(fading):
    with pytest.raises(UsageError, match="expected a"):
        Prequential(fading)


@given(figures)
def test_spread_over_seeds(values):
    mean, deviation, runs = over_seeds(values)
    assert mean == pytest.approx(statistics.fmean(values))
    assert runs == len(values)
    if runs == 1:
        assert deviation is None
    else:
        assert deviation == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


@given(figures, st.floats(-1e3, 1e3))
def test_what_seeds_do_to_both_methods_cancels(values, gain):
    better = [value + gain for value in values]
    mean, deviation, runs = paired_difference(better, values)
    assert mean == pytest.approx(gain, abs=1e-6)
    assert deviation is None or deviation == pytest.approx(0, abs=1e-6)
    assert runs == len(values)


def test_spread_of_what_is_nearly_equal():
    assert over_seeds([1e9 + 1, 1e9 + 2, 1e9 + 3]) == Spread(1e9 + 2, 1.0, 3)
    assert over_seeds([0.1] * 10) == Spread(0.1, 0.0, 10)
    assert paired_difference([3, 5], [1, 1]) == Spread(3.0, pytest.approx(2**0.5), 2)


def test_figures_that_have_no_spread():
    for values in ([], [1.0, float("nan")], [float("inf")]):
        with pytest.raises(UsageError, match="expected finite numbers, at least one"):
            over_seeds(values)
    with pytest.raises(UsageError, match="2 runs of one method and 1 of the other; expected pairs with the same"):
        paired_difference([1, 2], [1])


def test_metrics_need_no_numpy():
    code = "import sys, edgerev.continual.metrics; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

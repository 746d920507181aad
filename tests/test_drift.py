"""Drift detectors: against windows that keep every number, and on streams with and without a change."""

import json
import random
from array import array
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerev.daemon.drift import Adwin, DriftDetector, InputDistance, PageHinkley


def draws(chance, count, seed):
    made = random.Random(seed)
    return [float(made.random() < chance) for _ in range(count)]


def ref_bound(values, old, delta, least=5):
    """Equation 3.1 of Bifet and Gavaldà, with the correction for many looks."""
    doubt = log(2 * log(len(values)) / delta)
    inverse = 1 / (old - least + 1) + 1 / (len(values) - old - least + 1)
    return sqrt(2 * inverse * np.var(values) * doubt) + 2 / 3 * inverse * doubt


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=300))
@settings(deadline=None, max_examples=50)
def test_the_histogram_is_the_window(values):
    made = Adwin(delta=1e-300)  # never cut
    for value in values:
        made.add(value)
    assert made.count == len(values)
    assert made.mean == pytest.approx(np.mean(values))
    parts = made._parts()
    assert [old for old, _ in parts] == sorted(old for old, _ in parts)
    assert [total for _, total in parts] == pytest.approx([sum(values[:old]) for old, _ in parts])
    if len(values) > 10:
        old = len(values) // 2
        comp = made._bound()(old, len(values) - old)
        assert comp == pytest.approx(ref_bound(values, old, 1e-300), rel=1e-6)


def test_no_change_where_there_is_none():
    for seed in range(5):
        made = Adwin()
        assert not any(made.add(value) for value in draws(0.1, 20_000, seed))
        assert made.count == 20_000
        assert len(json.dumps(made.state())) < 4_000


@pytest.mark.parametrize("seed", range(5))
def test_worse_answers_are_found(seed):
    made = Adwin()
    for value in draws(0.1, 5_000, seed):
        made.add(value)
    found = [place for place, value in enumerate(draws(0.3, 1_000, seed + 100)) if made.add(value)]
    assert found[0] < 250
    assert made.mean > 0.2


def test_better_answers_are_no_alarm_but_the_old_ones_are_dropped():
    made = Adwin()
    assert not any(made.add(value) for value in [*draws(0.5, 5_000, 0), *draws(0.1, 2_000, 1)])
    assert made.mean < 0.15
    assert made.count < 3_000


def test_a_rise_of_numbers():
    made = PageHinkley(slack=0.1, threshold=5.0, least=10)
    assert not any(made.add(1.0) for _ in range(100))
    rising = [made.add(2.0) for _ in range(20)]
    assert rising.index(True) == 5  # each adds a little less than 0.9, for the mean follows
    assert not any(made.add(1.0) for _ in range(100))


def batches(count, seed, shift=0.0, channels=4):
    made = np.random.default_rng(seed)
    for _ in range(count):
        x = made.normal(size=(16, 3, channels))
        x[..., 0] += shift
        yield array("f", x.astype("f4").tobytes())


def test_the_distance_is_that_of_the_means():
    made = InputDistance(4, reference=32)
    one, other, far = batches(3, 0)
    assert made.add(one, 16) is None
    assert made.add(other, 16) is None
    x = np.concatenate([np.array(part).reshape(-1, 4) for part in (one, other)])
    z = (np.array(far).reshape(-1, 4).mean(0) - x.mean(0)) / np.sqrt(x.var(0) / 16)
    assert made.add(far, 16) == pytest.approx(np.log1p((z**2).mean()), rel=1e-4)


def test_changed_inputs_become_the_norm():
    made = DriftDetector(4)
    assert not any(made.add_inputs(x, 16) for x in batches(500, 1))
    found = [made.add_inputs(x, 16) for x in batches(500, 2, shift=1.0)]
    assert found.index(True) < 20
    assert sum(found) == 1


def test_it_goes_on_from_its_state():
    made, again = DriftDetector(4), DriftDetector(4)
    answers = [*draws(0.1, 700, 3), *draws(0.6, 300, 4)]
    inputs = [*batches(60, 5), *batches(40, 6, shift=2.0)]
    found = []
    for place, x in enumerate(inputs):
        if place == 50:
            again.restore(json.loads(json.dumps(made.state())))
        both = [made, again] if place >= 50 else [made]
        found.append([
            [*(one.add_answer(value) for value in answers[10 * place : 10 * place + 10]), one.add_inputs(x, 16)]
            for one in both
        ])  # fmt: skip
    assert all(one[0] == one[1] for one in found[50:])
    assert any(map(any, (one[0] for one in found[50:])))
    assert made.state() == again.state()

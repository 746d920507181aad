"""Confident answers as labels, asking for the rest, a guard, and a standardisation that follows the inputs."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgerev import DataError, Dense, Head, Learner, Net, UsageError
from edgerev.continual.guard import Guard
from edgerev.continual.unlabelled import (
    RunningStandardisation,
    entropy,
    margin,
    most_surprising,
    pseudo_labels,
)  # fmt: skip

SURE, TORN = [0.9, 0.1, 0.0], [0.4, 0.35, 0.25]
ANSWERS = arrays("f8", st.tuples(st.integers(1, 12), st.integers(2, 5)), elements=st.floats(0.0625, 1)).map(
    lambda values: values / values.sum(1, keepdims=True)
)


def one_hot(labels, classes=3, sure=1.0):
    return sure * np.eye(classes)[labels] + (1 - sure) / classes


# -- answers as labels ---------------------------------------------------------------------------------------------


def test_confident_answers_are_kept():
    labels, kept = pseudo_labels(np.array([SURE, TORN, SURE[::-1]], "f4"), 0.8)
    assert (labels.tolist(), kept.tolist()) == ([0, 0, 2], [True, False, True])
    assert (labels.dtype, kept.dtype) == (np.int32, bool)


def test_a_group_votes_by_its_mean():
    found = pseudo_labels([SURE, [0.3, 0.7, 0.0], TORN, SURE], 0.6, ["a", "a", "b", "a"])
    assert found.labels.tolist() == [0, 0, 0, 0]
    assert found.kept.tolist() == [True, True, False, True]


@given(ANSWERS, st.floats(0, 1), st.data())
def test_groups_are_learned_whole_and_their_names_do_not_matter(values, confidence, data):
    groups = data.draw(st.lists(st.sampled_from("abc"), min_size=len(values), max_size=len(values)))
    found = pseudo_labels(values, confidence, groups)
    for group in set(groups):
        member = np.array(groups) == group
        mean = values[member].mean(0)
        assert len(set(found.labels[member])) == len(set(found.kept[member])) == 1
        assert mean[found.labels[member][0]] == pytest.approx(mean.max())
    renamed = pseudo_labels(values, confidence, [ord(group) for group in groups])
    assert (renamed.labels == found.labels).all()
    assert (renamed.kept == found.kept).all()


@given(ANSWERS, st.floats(0, 1))
def test_each_in_a_group_of_its_own_is_without_groups(values, confidence):
    alone = pseudo_labels(values, confidence, range(len(values)))
    plain = pseudo_labels(values, confidence)
    assert (alone.labels == plain.labels).all()
    assert (alone.kept == plain.kept).all()


# -- asking --------------------------------------------------------------------------------------------------------


def test_what_is_most_surprising_comes_first():
    values = [SURE, TORN, [0.5, 0.42, 0.08], [0.6, 0.2, 0.2]]
    assert most_surprising(values, 4).tolist() == [1, 2, 3, 0]
    assert most_surprising(values, 3, entropy).tolist() == [1, 3, 2]
    assert most_surprising(values, 0).tolist() == []
    np.testing.assert_allclose(margin(values), [-0.8, -0.05, -0.08, -0.4])
    np.testing.assert_allclose(entropy([[1, 0], [0.5, 0.5]]), [0, np.log(2)])


@given(ANSWERS, st.data(), st.sampled_from([margin, entropy]))
def test_no_other_is_more_surprising(values, data, measure):
    count = data.draw(st.integers(0, len(values)))
    found = most_surprising(values, count, measure)
    others = np.setdiff1d(np.arange(len(values)), found)
    assert len(set(found.tolist())) == count
    surprise = measure(values)
    assert min(surprise[found], default=np.inf) >= max(surprise[others], default=-np.inf)


def test_ties_go_to_the_earlier_sample():
    assert most_surprising([TORN] * 5, 3).tolist() == [0, 1, 2]


# -- the guard -----------------------------------------------------------------------------------------------------


def test_with_labels_only_accuracy_counts():
    labels = np.array([0, 1, 2, 0])
    good, worse = one_hot(labels), one_hot([0, 0, 0, 0])
    verdict = Guard().check(good, worse, labels)
    assert not verdict.accepted
    assert verdict.reason == "accuracy fell from 1.000 to 0.500"
    assert Guard(accuracy_loss=0.5).check(good, worse, labels).accepted
    assert Guard().check(worse, good, labels) == (True, "", {"accuracy_before": 0.5, "accuracy_after": 1.0})


@pytest.mark.parametrize(("candidate", "reason"), [
    (one_hot([0] * 6), "classes in use fell from 3.0 to 1.0"),
    (one_hot([0, 1, 2, 0, 1, 2], sure=0.5), "mean confidence fell from 1.000 to 0.667"),
    (one_hot([1, 2, 0, 1, 2, 0]), "100% of the answers changed"),
    (np.full((6, 3), np.nan), "an answer of the changed model is negative or not finite"),
])  # fmt: skip
def test_signs_of_harm_without_labels(candidate, reason):
    verdict = Guard().check(one_hot([0, 1, 2, 0, 1, 2]), candidate)
    assert (verdict.accepted, verdict.reason) == (False, reason)


@given(ANSWERS)
def test_a_model_that_did_not_change_is_accepted(values):
    for labels in (None, values.argmin(1)):
        assert Guard(0.0, 0.0, 0.0, 0.0).check(values, values, labels).accepted


def test_what_a_guard_cannot_see():
    """A change that stays confident and balanced passes without labels, and not with them."""
    labels = np.arange(30) % 3
    wrong = np.where(np.arange(30) < 9, (labels + 1) % 3, labels)
    assert Guard().check(one_hot(labels), one_hot(wrong)).accepted
    assert not Guard().check(one_hot(labels), one_hot(wrong), labels).accepted


def test_rolling_back_is_a_checkpoint(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (3 * np.eye(3, 6)[y] + random.normal(size=(90, 6))).astype("f4")
    learner = Learner(Net((6,), Dense(8), (), Head(3, kind="prototype")))
    learner.remember_many(x, y)
    accepted = learner.predict_proba_many(x)
    learner.save(str(tmp_path / "accepted.edgerev"))
    learner.fade(0.01)
    learner.remember_many(x, (y + 1) % 3)
    assert not Guard().check(accepted, learner.predict_proba_many(x)).accepted
    learner.restore(str(tmp_path / "accepted.edgerev"))
    assert (learner.predict_proba_many(x) == accepted).all()


# -- standardisation that follows ----------------------------------------------------------------------------------


def test_it_follows_as_many_samples_as_it_remembers():
    random = np.random.default_rng(1)
    x = random.normal(5, 2, (400, 7, 2))
    running = RunningStandardisation([0, 0], [1, 1], memory=400)
    running.add(x)
    np.testing.assert_allclose(running.mean, x.mean((0, 1)) / 2, rtol=1e-6)
    both = (1 + x.var((0, 1))) / 2 + x.mean((0, 1)) ** 2 / 4
    np.testing.assert_allclose(running.scale, both**-0.5, rtol=1e-6)
    for _ in range(30):
        running.add(x)
    np.testing.assert_allclose(running.mean, x.mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(running.scale, 1 / x.std((0, 1)), rtol=1e-6)


def test_channels_that_stand_still_or_are_out():
    running = RunningStandardisation([1, 1], [2, 0], memory=1e-3)
    for _ in range(9):
        running.add(np.full((50, 2), 3.0))
    np.testing.assert_allclose(running.mean, [3, 3], rtol=1e-4)
    np.testing.assert_allclose(running.scale, [2000, 0])
    running.add(np.empty((0, 2)))
    learner = Learner(Net((2,), Dense(4), (), Head(2)))
    learner.set_standardisation(running.mean, running.scale)


@given(arrays("f4", (9, 3), elements=st.floats(-1000, 1000, width=32)), st.floats(0.5, 1e6))
def test_moments_stay_finite(x, memory):
    running = RunningStandardisation([0, 1, 2], [1, 0.5, 2], memory)
    running.add(x)
    assert np.isfinite([running.mean, running.scale]).all()
    assert (running.scale > 0).all()


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "error", "match"), [
    (lambda: pseudo_labels([SURE], 1.5), UsageError, "confidence 1.5"),
    (lambda: pseudo_labels([SURE], 0.5, ["a", "b"]), DataError, "2 groups for 1 samples"),
    (lambda: pseudo_labels([[1.0]], 0.5), DataError, "two classes at least"),
    (lambda: pseudo_labels(SURE, 0.5), DataError, r"\(samples, classes\)"),
    (lambda: margin([SURE, [np.nan, 0, 1]]), DataError, "the answer for sample 1 is negative or not finite"),
    (lambda: entropy([[-1, 2]]), DataError, "sample 0"),
    (lambda: entropy([["a", "b"]]), DataError, "expected numbers"),
    (lambda: most_surprising([SURE], 2), UsageError, "count 2"),
    (lambda: Guard(changed=2), UsageError, "Guard: changed 2"),
    (lambda: Guard().check([SURE], [SURE, SURE]), DataError, "the same, of one sample at least"),
    (lambda: Guard().check(np.empty((0, 3)), np.empty((0, 3))), DataError, "of one sample at least"),
    (lambda: Guard().check([SURE], [SURE], [0.5]), DataError, "1 class numbers"),
    (lambda: Guard().check([SURE], [SURE], [0, 1]), DataError, "1 class numbers"),
    (lambda: RunningStandardisation([0], [1, 2], 10), UsageError, "every channel"),
    (lambda: RunningStandardisation([0], [np.inf], 10), UsageError, "finite"),
    (lambda: RunningStandardisation([0], [1], 0), UsageError, "memory 0"),
    (lambda: RunningStandardisation([0, 0], [1, 1], 10).add(np.ones((3, 3))), DataError, "shape"),
    (lambda: RunningStandardisation([0, 0], [1, 1], 10).add([[0, np.nan]]), DataError, "finite"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_importing_it_does_not_import_numpy():
    code = "import sys, edgerev.continual.guard; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"

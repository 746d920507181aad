"""Sums of a closed form under a backbone that moves: recalled through the inverse, or carried by a linear map."""

import numpy as np
import pytest

from edgerev import AdamW, Block, Conv1d, DataError, Dense, Head, Learner, Net, NumericError, ReLU, UsageError
from edgerev.continual.compensation import carry_sums, class_statistics, recall, refresh_sums

RANDOM = np.random.default_rng(0)
Y = np.arange(160) % 4
X = (3 * np.eye(4, 8)[Y] + RANDOM.normal(size=(160, 8))).astype("f4")


def make(stem=0.0, **head):
    block = Block((Dense(16), ReLU(), Dense(8)), repeat=2)
    net = Net((8,), Dense(16), (block,), Head(4, **{"kind": "prototype", "ridge": 1e-3, **head}))
    return Learner(net, optimizer=AdamW(1e-2), batch=16, seed=1, rates=(stem, 1, 1, 1, 1, 1))


def of(learner):
    return [np.array(learner.runtime.view(f"ridge.{name}")) for name in ("gram", "moments", "counts")]


def test_statistics_are_those_of_the_features():
    learner = make()
    learner.remember_many(X[Y < 3], Y[Y < 3])
    features = learner.transform(X)
    weights, means, covariance = class_statistics(learner)
    assert weights.tolist() == [40, 40, 40, 0]
    ref_means = np.stack([features[label == Y].mean(0) for label in range(3)] + [np.zeros(16)])
    np.testing.assert_allclose(means, ref_means, atol=1e-5)
    spread = (features - ref_means[Y])[Y < 3]
    np.testing.assert_allclose(covariance, spread.T @ spread / 120, atol=1e-4)


def test_samples_by_their_states_are_those_by_their_inputs():
    by_input, by_state = make(), make()
    by_input.remember_many(X, Y)
    by_state.remember_states(by_state.encode(X), Y)
    for ref, comp in zip(of(by_input), of(by_state)):
        assert (ref == comp).all()


def test_recalled_samples_have_the_statistics():
    learner = make()
    learner.remember_many(X, Y)
    recalled = recall(learner, 3000, seed=5)
    assert np.bincount(recalled.labels).tolist() == [3000] * 4
    assert (recall(learner, 3000, seed=5).states == recalled.states).all()
    ref_statistics = class_statistics(learner)
    refresh_sums(learner, recalled)  # of a backbone that has not moved
    for ref, comp in zip(ref_statistics, class_statistics(learner)):
        np.testing.assert_allclose(comp, ref, atol=0.15)
    assert of(learner)[2].tolist() == [40] * 4


def test_the_inverse_finds_old_classes_after_training_on_others():
    """The stem stays, so that the backbone's entry is the same place before and after."""
    old, accuracy = Y < 2, {}
    for way in ("none", "inverse"):
        learner = make()
        for chosen in (old, ~old):
            recalled = recall(learner, 300, seed=2) if way == "inverse" and not chosen[0] else None
            for _ in range(60):
                learner.learn_many(X[chosen], Y[chosen])
            if recalled is not None:
                refresh_sums(learner, recalled)
            learner.remember_many(X[chosen], Y[chosen])
        accuracy[way] = (learner.predict_many(X[old]) == Y[old]).mean()
    assert accuracy["inverse"] > max(accuracy["none"] + 0.2, 0.8)


def test_a_linear_change_is_carried():
    learner = make()
    learner.remember_many(X, Y)
    before = learner.transform(X)
    turn, shift = np.linalg.qr(RANDOM.normal(size=(16, 16)))[0], RANDOM.normal(size=16)
    weights, means, covariance = class_statistics(learner)
    carry_sums(learner, before, before @ turn + shift, 1e-9)
    comp_weights, comp_means, comp_covariance = class_statistics(learner)
    np.testing.assert_allclose(comp_weights, weights)
    np.testing.assert_allclose(comp_means, means @ turn + shift, atol=1e-3)
    np.testing.assert_allclose(comp_covariance, turn.T @ covariance @ turn, atol=1e-3)


def test_no_change_is_no_change():
    learner = make()
    learner.remember_many(X, Y)
    ref_sums, before = of(learner), learner.transform(X)
    carry_sums(learner, before, before)
    for ref, comp in zip(ref_sums, of(learner)):
        np.testing.assert_allclose(comp, ref, rtol=1e-12)


def test_sums_survive_what_goes_wrong():
    learner = make()
    learner.remember_many(X, Y)
    ref_sums, recalled = of(learner), recall(learner, 5, seed=0)
    broken = recalled._replace(states=np.where(recalled.labels[:, None] == 2, np.nan, recalled.states))
    with pytest.raises(DataError, match=r"an input of the backbone is not finite .* pass what invert returned"):
        refresh_sums(learner, broken)
    for ref, comp in zip(ref_sums, of(learner)):
        assert (ref == comp).all()


def test_a_broken_model_stays_refused():
    learner = make()
    learner.remember_many(X, Y)
    ref_sums, recalled, before = of(learner), recall(learner, 5, seed=0), learner.transform(X)
    learner._torn = True
    for call in (lambda: refresh_sums(learner, recalled), lambda: carry_sums(learner, before, before)):
        with pytest.raises(NumericError, match="half updated"):
            call()
    for ref, comp in zip(ref_sums, of(learner)):
        assert (ref == comp).all()


def test_other_sums_must_be_of_the_same_size_and_type():
    learner = made()
    gram, moments, counts = ref_sums = of(learner)
    for bad in (
        (gram[:-1], moments, counts), (gram.astype("f4").repeat(2), moments, counts), (gram, moments[::-1], counts),
        (gram, moments, counts.astype("i4")), (gram.astype("i8"), moments, counts),
        (gram, moments, counts.astype("f8")),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="in one piece; pass what was read"):
            learner.replace_sums(*bad)
    for ref, comp in zip(ref_sums, of(learner)):
        assert (ref == comp).all()
    with pytest.raises(UsageError, match=r"gram: .* pass what was read"):
        learner.replace_sums(gram.tolist(), moments, counts)
    learner.replace_sums(2 * gram, 2 * moments, counts)
    assert (of(learner)[0] == 2 * gram).all()


@pytest.mark.parametrize(("call", "error", "match"), [
    (lambda: class_statistics(make()), UsageError, "no float64 sums"),
    (lambda: class_statistics(make(kind="linear")), UsageError, "no float64 sums"),
    (lambda: recall(made(sums="int64"), 3, 0), UsageError, "no float64 sums"),
    (lambda: recall(made(rectify=True), 3, 0), UsageError, "use carry_sums"),
    (lambda: recall(made(), 0, 0), UsageError, "per_class 0"),
    (lambda: recall(made(), 3, -1), UsageError, "seed -1"),
    (lambda: recall(made(tasks=2), 3, 0), UsageError, "several tasks"),
    (lambda: carry_sums(made(), np.ones((3, 16)), np.ones((2, 16))), DataError, r"\(samples, 16\)"),
    (lambda: carry_sums(made(), np.ones((3, 9)), np.ones((3, 9))), DataError, r"\(samples, 16\)"),
    (lambda: carry_sums(made(), np.ones((3, 16)), np.full((3, 16), np.inf)), DataError, "not finite"),
    (lambda: carry_sums(made(), np.ones((3, 16)), np.ones((3, 16)), 0), UsageError, "strength 0"),
    (lambda: make(kind="linear").replace_sums(b"", b"", b""), UsageError, "no ridge head"),
    (lambda: made().remember_states(np.ones((3, 9)), [0, 1, 2]), DataError, "an input of the backbone: float64"),
    (lambda: made().remember_states(np.ones((3, 16)), [0, 1]), DataError, "3 samples but 2 labels"),
    (lambda: make(kind="linear").remember_states(np.ones((1, 16)), [0]), UsageError, "no ridge head"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, error, match):
    with pytest.raises(error, match=match):
        call()


def made(**head):
    learner = make(**head)
    if head.get("sums"):
        learner.calibrate(X)
    learner.remember_many(X, Y)
    return learner


def test_signals_cannot_be_taken_back():
    learner = Learner(Net((6, 2), Conv1d(4), (), Head(2, kind="prototype")))
    learner.remember_many(np.ones((4, 6, 2), "f4"), [0, 1, 0, 1])
    with pytest.raises(UsageError, match="use carry_sums"):
        recall(learner, 3, 0)


def test_samples_that_came_after_recall_are_not_lost():
    learner = make()
    learner.remember_many(X[Y < 2], Y[Y < 2])
    recalled = recall(learner, 5, seed=0)
    for _ in range(2):
        refresh_sums(learner, recalled)
    learner.remember_many(X[Y >= 2], Y[Y >= 2])
    ref_sums = of(learner)
    with pytest.raises(UsageError, match="came after recall"):
        refresh_sums(learner, recalled)
    for ref, comp in zip(ref_sums, of(learner)):
        assert (ref == comp).all()


def test_a_rectified_head_is_carried_by_what_its_sums_see():
    by_states, by_features = (made(rectify=True) for _ in range(2))
    before = by_states.transform(X)
    after = before @ np.random.default_rng(1).normal(size=(16, 16))
    carry_sums(by_states, before, after)
    carry_sums(by_features, np.maximum(before, 0), np.maximum(after, 0))
    for ref, comp in zip(of(by_features), of(by_states)):
        assert (ref == comp).all()

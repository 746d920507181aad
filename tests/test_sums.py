"""Sums of a head in closed form: the order of samples and of tasks, and what classes and features may do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerev import Adapter, Conv1d, Dense, Head, Learner, Net, NetError, NumericError, ReLU, UsageError

COUNT = 24


def learner(sums, outputs=3, tasks=1, kind="ridge"):
    made = Learner(Net((4,), Dense(6), (), Head(outputs, kind=kind, sums=sums, tasks=tasks)), batch=5)
    if sums != "float64":
        made.calibrate(np.array([[-9.0] * 4, [9.0] * 4], "f4"))
    return made


def solved(made):
    made.predict_many(np.zeros((1, 4), "f4"))
    return [np.array(made.runtime.view(f"ridge.{name}")) for name in ("weight", "bias", "gram", "moments", "counts")]


@pytest.mark.parametrize("kind", ["ridge", "prototype"])
@pytest.mark.parametrize("sums", ["int32", "int64", "float64"])
@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(COUNT)), seed=st.integers(0, 1000))
def test_the_order_of_samples_and_tasks(sums, kind, order, seed):
    random = np.random.default_rng(seed)
    x, y, task = random.normal(size=(COUNT, 4)).astype("f4"), random.integers(0, 3, COUNT), np.arange(COUNT) % 2
    found = []
    for indices in (range(COUNT), order):
        made = learner(sums, tasks=2, kind=kind)
        for number in indices:
            made.task = int(task[number])
            made.remember_many(x[number : number + 1], y[number : number + 1])
        made.task = None
        found.append(solved(made))
    for ref, comp in zip(*found):
        if sums == "float64":
            np.testing.assert_allclose(comp, ref, rtol=1e-5, atol=1e-5 * abs(ref[abs(ref) < 1e30]).max(initial=0))
        else:
            np.testing.assert_array_equal(comp, ref)


@pytest.mark.parametrize("kind", ["ridge", "prototype"])
@pytest.mark.parametrize("sums", ["int32", "float64"])
def test_a_class_of_one_sample_a_class_of_none_and_a_constant_feature(sums, kind):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 4)).astype("f4"), np.array([0] * 19 + [1])
    x[:, 2], x[19] = 1.0, (5, 5, 1, 5)
    made = learner(sums, kind=kind)
    made.remember_many(x, y)
    assert set(made.predict_many(x).tolist()) == {0, 1}
    assert solved(made)[1][2] == np.float32(-1e30)


@pytest.mark.parametrize("kind", ["ridge", "prototype"])
@pytest.mark.parametrize("sums", ["int32", "float64"])
def test_released_sums_leave_the_answers_of_their_task(sums, kind, tmp_path):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 30, 4)).astype("f4"), random.integers(0, 3, (2, 30))
    alone = []
    for task in (0, 1):
        made = learner(sums, tasks=2, kind=kind)
        made.task = task
        made.remember_many(x[task], y[task])
        alone.append(made.predict_many(x[task]))
    made = learner(sums, tasks=2, kind=kind)
    for task in (0, 1):
        made.task = task
        made.remember_many(x[task], y[task])
        made.release()
        assert not any(made.runtime.view("ridge.counts"))
    made.save(tmp_path / "both.edgerev")
    made = Learner.load(tmp_path / "both.edgerev")
    for task in (0, 1):
        made.task = task
        np.testing.assert_array_equal(made.predict_many(x[task]), alone[task])
    if sums == "int32":
        with pytest.raises(UsageError, match=r"forget\(\)"):
            made.calibrate(x[0])
    made.forget()
    with pytest.raises(NumericError, match="no samples yet"):
        made.predict_many(x[0])
    with pytest.raises(NumericError, match="no samples yet"):
        made.release()


def test_ten_thousand_classes():
    made = learner("int32", outputs=10_000)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("f4")
    made.remember_many(x, [0, 5_000, 9_999])
    assert set(made.predict_many(x).tolist()) <= {0, 5_000, 9_999}


def test_what_comes_too_early_or_too_late():
    made = Learner(Net((4,), Dense(6), (), Head(3, kind="ridge", sums="int32")), batch=5)
    x = np.ones((2, 4), "f4")
    with pytest.raises(UsageError, match="calibrate"):
        made.remember_many(x, [0, 1])
    made.calibrate(x)
    made.remember_many(x, [0, 1])
    with pytest.raises(UsageError, match=r"forget\(\)"):
        made.calibrate(x)
    with pytest.raises(UsageError, match="cannot fade"):
        made.fade(0.5)
    with pytest.raises(UsageError, match="task"):
        made.task = 1


def test_features_of_a_signal_through_random_layers():
    """The cells of `pool` are along time alone, whatever lies between backbone and sums."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 8, 3)).astype("f4"), np.arange(60) % 3
    head = Head(3, kind="ridge", pool=2, expansion=(Conv1d(6, 3), ReLU()))
    made = Learner(Net((8, 3), Conv1d(4, 3), (), head), batch=16)
    made.remember_many(x, y)
    state = np.pad(made.transform(x), ((0, 0), (1, 1), (0, 0)))
    weight, bias = (np.array(made.runtime.view(f"expansion.0.{part}")) for part in ("weight", "bias"))
    taps = sum(state[:, tap : tap + 8] @ weight.reshape(3, 4, 6)[tap] for tap in range(3)) + bias
    features = np.maximum(taps, 0).reshape(60, 2, 4, 6).mean(2).reshape(60, 12)
    size = features.shape[1]
    np.testing.assert_allclose(
        np.array(made.runtime.view("ridge.moments")).reshape(size + 1, 3)[:size], features.T @ np.eye(3)[y], atol=1e-4
    )


def test_a_new_range_after_forgetting():
    random = np.random.default_rng(0)
    x = random.normal(size=(20, 4)).astype("f4")
    ref, made = (Learner(Net((4,), Dense(6), (), Head(3, kind="ridge", sums="int32"))) for _ in range(2))
    made.calibrate(100 * x)
    made.remember_many(x, [0] * 20)
    made.forget()
    with pytest.raises(UsageError, match="calibrate"):
        made.remember_many(x, [0] * 20)
    for one in (ref, made):
        one.calibrate(x)
    for end in ("low", "high"):
        assert list(made.runtime.view(f"ridge.{end}")) == list(ref.runtime.view(f"ridge.{end}"))


@pytest.mark.parametrize("answered", [False, True])
def test_other_sums_take_the_answers_of_classes_that_they_lack(answered):
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 4)).astype("f4"), np.arange(30) % 3
    ref, made = learner("float64"), learner("float64")
    ref.remember_many(x[y < 2], y[y < 2])
    made.remember_many(x, y)
    if answered:
        made.predict_many(x)
    made.replace_sums(*(np.array(ref.runtime.view(f"ridge.{name}")) for name in ("gram", "moments", "counts")))
    for one, other in zip(solved(ref), solved(made)):
        np.testing.assert_array_equal(other, one)


def test_other_sums_leave_what_was_released():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(30, 4)).astype("f4"), np.arange(30) % 3
    made = learner("float64", tasks=2)
    made.task = 0
    made.remember_many(x, y)
    made.release()
    ref = made.predict_proba_many(x)
    made.task = 1
    made.remember_many(x, y)
    made.replace_sums(*(np.array(made.runtime.view(f"ridge.{name}")) * 0 for name in ("gram", "moments", "counts")))
    made.task = 0
    np.testing.assert_array_equal(made.predict_proba_many(x), ref)


def test_an_interruption_leaves_no_answers_of_before(monkeypatch):
    x, y = np.random.default_rng(0).normal(size=(20, 4)).astype("f4"), np.arange(20) % 3
    made, ref = learner("float64"), learner("float64")
    made.remember_many(x[:5], y[:5])
    made.predict_many(x)
    run = made.runtime.run

    def interrupted(section, *arguments, **options):
        run(section, *arguments, **options)
        if section == "ridge_add":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(made.runtime, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.remember_many(x[5:10], y[5:10])
    ref.remember_many(x[:10], y[:10])
    np.testing.assert_array_equal(made.predict_proba_many(x), ref.predict_proba_many(x))


def test_an_expansion_has_no_adapters():
    with pytest.raises(NetError, match="in F or G"):
        Head(3, kind="ridge", expansion=(Dense(8), Adapter(2)))


@pytest.mark.parametrize("kind", ["ridge", "prototype"])
def test_a_class_that_fades_away(kind):
    """Sums that fade further become denormal and lose their digits: a class that is gone keeps its last weights."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 4)).astype("f4"), np.arange(60) % 3
    x += 3 * np.eye(3, 4, dtype="f4")[y]
    made = learner("float64", kind=kind)
    made.remember_many(x, y)
    others = y < 2
    for _ in range(120):
        made.fade(1e-3)
        made.remember_many(x[others], y[others])
        made.predict_many(x)
    assert np.isfinite(made.predict_proba_many(x)).all()
    if kind == "prototype":  # a ridge's answers shrink with a class's share
        assert (made.predict_many(x)[~others] == 2).mean() > 0.8

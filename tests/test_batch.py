"""What may come in as samples and targets, and what comes out for it."""

import json
import subprocess
import sys
import textwrap
from array import array

import numpy as np
import pytest
import toys

from edgerev import BinaryCrossEntropy, Block, Conv1d, Dense, Head, Learner, MeanSquaredError, Net
from edgerev.errors import DataError
from edgerev.recipe import Augment

NET = Net((4,), Dense(16), (Block((Dense(8),)),), Head(3))
SIGNAL = Net((6, 2), Conv1d(8, 3), (Block((Conv1d(4, 3),)),), Head(3))
X, Y = toys.rows(10)
WHOLE = X.round()  # numbers that uint8 and float16 hold too
WHOLE -= WHOLE.min()


def learned(x, y, net=NET, **options):
    """Return the parameters after learning from these samples, and the report."""
    learner = Learner(net, batch=4, **options)
    report = learner.learn_many(x, y)
    return bytes(learner.runtime.view("stem.0.weight")), report


def spread(x):
    """Return an equal array that is not contiguous, in any of its axes."""
    wide = np.zeros(tuple(2 * size for size in x.shape), x.dtype)
    view = wide[tuple(slice(1, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def shaped(x):
    return memoryview(x.tobytes()).cast("f", x.shape)


SAMPLES = {
    "float32": WHOLE, "float64": WHOLE.astype("f8"), "float16": WHOLE.astype("f2"), "uint8": WHOLE.astype("u1"),
    "int64": WHOLE.astype("i8"), "big-endian": WHOLE.astype(">f4"), "not contiguous": spread(WHOLE),
    "not contiguous float64": spread(WHOLE.astype("f8")), "Fortran": np.asfortranarray(WHOLE),
    "read-only": np.frombuffer(WHOLE.tobytes(), "f4").reshape(WHOLE.shape), "memoryview": shaped(WHOLE),
    "flat memoryview": memoryview(WHOLE.tobytes()).cast("f"), "array": array("f", WHOLE.ravel().tolist()),
    "array of double": array("d", WHOLE.ravel().tolist()), "bytes": bytes(WHOLE.astype("u1").ravel().tolist()),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_of_any_type_are_the_same(name):
    assert learned(SAMPLES[name], Y) == learned(WHOLE, Y)


def test_what_is_not_whole_is_rounded_to_float32():
    x = X.astype("f8") * (1 + 1e-9)
    assert learned(x, Y) == learned(x.astype("f4"), Y)


LABELS = {kind: Y.astype(kind) for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4", ">i8")}
LABELS |= {f"array {kind}": array(kind, Y.tolist()) for kind in "bBhHiIlLqQ"}
LABELS |= {
    "list": Y.tolist(), "tuple": tuple(Y.tolist()), "bytes": bytes(Y.tolist()), "list of int64": list(Y),
    "not contiguous": spread(Y), "memoryview": memoryview(Y.astype("i4")),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_type_are_the_same(name):
    assert learned(X, LABELS[name]) == learned(X, Y.astype("i4"))
    assert learned(SAMPLES["array"], LABELS[name]) == learned(WHOLE, Y.astype("i4"))


def test_targets_of_any_type_are_the_same():
    values = np.random.default_rng(0).integers(0, 2, (10, 3))
    for loss in (MeanSquaredError(), BinaryCrossEntropy()):
        ref = learned(X, values.astype("f4"), loss=loss)
        flat = array("f", values.ravel().tolist())
        for y in (values, values.astype("f8"), values.astype("u1"), values > 0, spread(values), flat, memoryview(flat)):
            assert learned(X, y, loss=loss) == ref


ONE = {
    "array": WHOLE[0], "list": WHOLE[0].tolist(), "tuple": tuple(WHOLE[0]), "buffer": shaped(WHOLE[0]),
    "uint8": WHOLE[0].astype("u1"), "not contiguous": spread(WHOLE[0]), "bytes": bytes(map(int, WHOLE[0])),
}


@pytest.mark.parametrize("x", ONE.values(), ids=ONE)
def test_one_sample_of_any_type(x):
    learner, ref = Learner(NET), Learner(NET)
    assert learner.learn_one(x, np.int8(1)) == ref.learn_many(WHOLE[:1], [1])
    assert learner.predict_proba_one(x) == ref.predict_proba_many(WHOLE[:1])[0].tolist()
    assert learner.predict_one(x) == ref.predict_many(WHOLE[:1])[0]


def test_one_sample_with_positions_may_be_flat():
    x = np.arange(12, dtype="f4").reshape(6, 2)
    learner = Learner(SIGNAL)
    answers = [learner.predict_proba_one(shape) for shape in (x, x.ravel(), x.ravel().tolist(), shaped(x))]
    assert answers == [answers[0]] * 4
    for wrong in (x.T, x.reshape(3, 4), x[None], x[:5], shaped(x.reshape(3, 4))):
        with pytest.raises(DataError, match=r"the sample has shape \(.*\); expected \(6, 2\), channels last, or"):
            learner.predict_one(wrong)


@pytest.mark.parametrize("y", [[0.5, 1, 0], (0.5, 1, 0), np.array([0.5, 1, 0]), array("d", [0.5, 1, 0])])
def test_target_of_one_sample(y):
    learner, ref = (Learner(NET, loss=MeanSquaredError()) for _ in range(2))
    assert learner.learn_one(X[0], y) == ref.learn_many(X[:1], np.array([[0.5, 1, 0]]))
    single = Learner(Net((4,), Dense(16), (Block((Dense(8),)),), Head(1)), loss=MeanSquaredError())
    assert single.learn_one(X[0], 2.5).loss > 0


def test_windows_larger_than_the_net_s_input():
    learner = Learner(SIGNAL, augment=Augment(crop=2))
    x = np.random.default_rng(0).normal(size=(5, 10, 2)).astype("f4")
    assert (learner.encode(x) == Learner(SIGNAL).encode(x[:, 2:-2])).all()
    assert learner.learn_many(x, [0] * 5).samples == 5
    with pytest.raises(DataError, match=r"shape \(5, 6, 2\); expected \(samples, 10, 2\), channels last"):
        learner.learn_many(x[:, 2:-2], [0] * 5)


# -- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_answers_have_one_row_for_each_sample(count):
    x, flat = WHOLE[:count], array("f", WHOLE[:count].ravel().tolist())
    losses = (None, BinaryCrossEntropy(), MeanSquaredError())
    labels, several, values = (Learner(NET, batch=4, loss=loss) for loss in losses)
    for learner in (labels, several, values):
        proba = learner.predict_proba_many(x)
        assert (proba.shape, proba.dtype) == ((count, 3), np.float32)
        buffer = learner.predict_proba_many(flat)
        assert isinstance(buffer, array)
        assert buffer.tobytes() == proba.tobytes()
        assert np.array_equal(np.ravel(learner.predict_many(x)), np.array(learner.predict_many(flat)))
    np.testing.assert_allclose(labels.predict_proba_many(x).sum(1), 1, rtol=1e-6)
    assert labels.predict_many(x).tolist() == labels.predict_proba_many(x).argmax(1).tolist()
    assert isinstance(labels.predict_one(x[0]), int)
    assert several.predict_many(x).shape == (count, 3)
    assert np.isin(several.predict_many(x), (0, 1)).all()
    assert several.predict_one(x[0]) == several.predict_many(x)[0].tolist()
    assert 0 <= several.predict_proba_many(x).min() <= several.predict_proba_many(x).max() <= 1
    assert (values.predict_many(x) == values.predict_proba_many(x)).all()
    assert values.predict_one(x[0]) == values.predict_many(x)[0].tolist()


def test_a_process_without_numpy_never_gets_it(tmp_path):
    code = """
        import json, sys
        from array import array
        from edgerev import Block, Dense, Head, Learner, Net, ReLU

        net = Net((4,), Dense(16), (Block((Dense(8), ReLU(), Dense(8))),), Head(3, kind="ridge"))
        learner = Learner(net, batch=4, budget="1MiB", threads=2)
        x = array("f", [i % 7 / 3 for i in range(40)])
        y = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
        report = learner.learn_many(x, y)
        learner.learn_one(x[:4], 1)
        learner.remember_many(memoryview(x), array("q", y))
        found = [learner.predict_many(x).tolist(), learner.predict_one(list(x[:4]))]
        learner.save(sys.argv[1])
        assert Learner.load(sys.argv[1]).predict_many(x).tolist() == found[0]
        heavy = ("numpy", "numba", "pydantic", "sklearn", "edgerev.kernels.compile", "edgerev.kernels.executor")
        print(json.dumps([report, found, [name for name in heavy if name in sys.modules]]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "model.edgerev")]
    (_, _, samples), (many, one), heavy = json.loads(subprocess.run(command, stdout=-1, text=True, check=True).stdout)
    assert (samples, len(many), one) == (10, 10, many[0])
    assert heavy == []

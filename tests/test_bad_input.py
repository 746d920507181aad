"""Bad samples and labels: an error that says what, what was expected and what to do; the model stays as it was."""

from array import array

import numpy as np
import pytest
import toys

import harness
from edgerev.errors import BudgetError, CheckpointError, DataError, NetError, NumericError, UsageError
from edgerev.layers import Conv2d, Dense, GroupNorm, ReLU
from edgerev.learner import Learner
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule
from edgerev.recipe import Augment, Schedule

X, Y = toys.rows(10)


def make(kind="linear", **options):
    net = Net((4,), Dense(16), (Block((Dense(8), ReLU(), Dense(8)), repeat=2),), Head(3, kind=kind))
    return Learner(net, batch=16, optimizer=AdamW(1e-2), **options)


def with_value(value, dtype="f4"):
    x = X.astype(dtype)
    x[5, 2] = value
    return x


SAMPLES = {
    "NaN": (with_value(np.nan), "sample 5 holds NaN or infinity; expected finite numbers. Remove or rep"),
    "infinity": (with_value(-np.inf), "sample 5 holds NaN or infinity"),
    "beyond float32": (with_value(1e300, "f8"), "sample 5 holds NaN or infinity"),
    "NaN in a buffer": (array("f", with_value(np.nan).ravel().tolist()), "sample 5 holds NaN"),
    "too few features": (X[:, :3], r"shape \(10, 3\); expected \(samples, 4\); reshape"),
    "too many features": (np.zeros((10, 5)), r"shape \(10, 5\); expected \(samples, 4\); reshape"),
    "one sample alone": (X[0], r"shape \(4,\); expected \(samples, 4\); reshape"),
    "one axis more": (X[..., None], r"shape \(10, 4, 1\); expected \(samples, 4\); reshape"),
    "a number": (np.array(3.0), r"shape \(\); expected \(samples, 4\); reshape"),
    "a Python number": (3.0, "'float'; expected a NumPy array, or a contiguous buffer .*; convert it"),
    "text": (np.full((10, 4), "a"), "type <U1; expected real numbers; convert them to float32"),
    "complex": (X.astype(complex), "type complex128; expected real numbers; convert them to float32"),
    "objects": (X.astype(object), "type object; expected real numbers; convert them to float32"),
    "times": (np.zeros((10, 4), "M8[s]"), "type datetime64.*; expected real numbers; convert them to float32"),
    "lists": (X.tolist(), "'list'; expected a NumPy array, or a contiguous buffer .*; convert it"),
    "nothing": (None, "'NoneType'; expected a NumPy array"),
    "a string": ("ten samples", "'str'; expected a NumPy array"),
    "no samples": (X[:0], "the batch is empty; expected at least one sample"),
    "an empty buffer": (array("f"), "the batch is empty; expected at least one sample"),
    "part of a sample": (array("f", [0] * 39), r"a buffer of shape \(39,\); expected \(samples, 4\), or all"),
    "a buffer of another shape": (memoryview(bytes(160)).cast("f", (8, 5)), r"shape \(8, 5\); expected \(sampl"),
    "a buffer with gaps": (memoryview(array("f", [0] * 80))[::2], "expected a NumPy array, or a contiguous buffer"),
    "a buffer of characters": (memoryview(b"a" * 40).cast("c"), "format 'c'; expected a NumPy array"),
}  # fmt: skip

LABELS = {
    "too large": (np.where(Y == 2, 3, Y), "label 3 of sample 2 is out of range; expected class numbers 0 .. 2"),
    "negative": (np.where(Y == 1, -1, Y), "label -1 of sample 1 is out of range"),
    "negative int8": (np.where(Y == 1, -1, Y).astype("i1"), "label -1 of sample 1 is out of range"),
    "huge": (np.where(Y == 1, 2**32, Y), "label 4294967296 of sample 1 is out of range"),
    "hugest": (np.where(Y == 1, 2**64 - 1, Y.astype("u8")), "label 18446744073709551615 of sample 1 is out of range"),
    "huge in a list": ([10**30, *Y[1:]], "label 1000000000000000000000000000000 of sample 0 is out of range"),
    "negative in a buffer": (array("b", [*Y[:9].tolist(), -3]), "label -3 of sample 9 is out of range"),
    "float": (Y.astype("f4"), "labels have type float32; expected class numbers 0 .. 2; convert them to int32"),
    "float in a list": ([0.0, *Y[1:].tolist()], "label 0.0 of sample 0 is not a whole number; expected class numbers"),
    "float buffer": (array("f", Y.tolist()), "format 'f'; expected a NumPy array, or a contiguous buffer .*; convert"),
    "boolean": (Y > 0, "labels have type bool; expected class numbers"),
    "text": (np.array(toys.NAMES)[Y], "labels have type <U5; expected class numbers"),
    "text in a list": (["ash"] * 10, "label 'ash' of sample 0 is not a whole number"),
    "missing in a list": ([None, *Y[1:]], "label None of sample 0 is not a whole number"),
    "objects": (Y.astype(object), "labels have type object"),
    "too few": (Y[:9], "10 samples but 9 labels; expected one label for each sample"),
    "too many": ([0] * 11, "10 samples but 11 labels"),
    "one column": (Y[:, None], r"labels have shape \(10, 1\); expected \(samples,\); pass one class number for each"),
    "one-hot": (np.eye(3, dtype=int)[Y], r"labels have shape \(10, 3\)"),
    "none": ([], "10 samples but 0 labels"),
    "nothing": (None, "labels are NoneType; expected a sequence of class numbers"),
    "a number": (1, "labels are int; expected a sequence of class numbers"),
}


@pytest.fixture(scope="module")
def linear():
    return make()


@pytest.fixture(scope="module")
def ridge():
    learner = make("ridge")
    learner.remember_many(X, Y)
    return learner


def refuses(learner, call, match, error=DataError):
    """Check the error, and that the model did not change by a bit, and goes on as one that never saw it."""
    answers = learner.predict_proba_many(X)
    before = harness.lasting_bytes(learner.runtime)
    with pytest.raises(error, match=match) as caught:
        call()
    assert harness.lasting_bytes(learner.runtime) == before
    assert (learner.predict_proba_many(X) == answers).all()
    assert "expected" in str(caught.value) or error is NumericError
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("name", SAMPLES)
def test_bad_samples(name, linear, ridge):
    x, match = SAMPLES[name]
    refuses(linear, lambda: linear.learn_many(x, Y), match)
    for call in (linear.predict_many, linear.predict_proba_many, linear.transform, linear.encode):
        refuses(linear, lambda: call(x), match)  # noqa: B023
    refuses(ridge, lambda: ridge.remember_many(x, Y), match)
    linear.learn_many(X, Y)


@pytest.mark.parametrize("name", LABELS)
def test_bad_labels(name, linear, ridge):
    y, match = LABELS[name]
    refuses(linear, lambda: linear.learn_many(X, y), match)
    refuses(ridge, lambda: ridge.remember_many(X, y), match)


def test_a_bad_label_in_a_later_batch_is_found_before_the_first():
    learner = make()
    y = np.append(np.zeros(40, int), 9)
    for labels in (y, y.astype("i2"), y.tolist()):
        refuses(learner, lambda: learner.learn_many(np.zeros((41, 4)), labels), "label 9 of sample 40")  # noqa: B023
    assert learner.steps == 0


ONE = {
    "NaN": ([0, 0, np.nan, 0], "sample 0 holds NaN"),
    "too few": ([0, 0, 0], r"the sample has shape \(3,\); expected \(4,\), .* reshape it"),
    "many": (X, r"the sample has shape \(10, 4\); expected \(4,\)"),
    "row": (X[:1], r"the sample has shape \(1, 4\); expected \(4,\)"),
    "nested": ([[0, 0, 0, 0]], "the sample: .*; expected a flat sequence of real numbers; convert it"),
    "text": (["a", "b", "c", "d"], "the sample: .*; expected a flat sequence of real numbers"),
    "string": ("abcd", "the sample: .*'str'; expected a NumPy array, or a contiguous buffer"),
    "too large": ([10**400, 0, 0, 0], "the sample: .*; expected a flat sequence of real numbers"),
    "nothing": (None, "the sample: .*'NoneType'; expected a NumPy array"),
    "empty": ([], r"the sample has shape \(0,\); expected \(4,\)"),
    "complex": (X[0].astype(complex), "the sample have type complex128|the sample has type complex128"),
}
ONE_LABEL = {
    "too large": (3, "label 3 of sample 0 is out of range"),
    "negative": (-1, "label -1 of sample 0 is out of range"),
    "float": (1.0, "label 1.0 of sample 0 is not a whole number"),
    "list": ([1], r"label \[1\] of sample 0 is not a whole number"),
    "array": (np.array([1]), r"label array\(\[1\]\) of sample 0 is not a whole number"),
    "text": ("1", "label '1' of sample 0 is not a whole number"),
    "nothing": (None, "label None of sample 0 is not a whole number"),
    "huge": (2**70, "label 1180591620717411303424 of sample 0 is out of range"),
}


@pytest.mark.parametrize("name", ONE)
def test_a_bad_sample(name, linear):
    x, match = ONE[name]
    refuses(linear, lambda: linear.learn_one(x, 1), match)
    refuses(linear, lambda: linear.predict_one(x), match)


@pytest.mark.parametrize("name", ONE_LABEL)
def test_a_bad_label(name, linear):
    y, match = ONE_LABEL[name]
    refuses(linear, lambda: linear.learn_one(X[0], y), match)


@pytest.mark.parametrize("loss", [MeanSquaredError(), BinaryCrossEntropy()], ids=["squared", "binary"])
def test_bad_targets(loss):
    learner = make(loss=loss)
    good = np.zeros((10, 3), "f4")
    for bad, match in (
        (Y, r"targets have shape \(10,\); expected \(samples, 3\)"),
        (good[:, :2], r"targets have shape \(10, 2\); expected \(samples, 3\)"),
        (good[:9], "10 samples but 9 targets; expected one target for each"),
        (good.astype(complex), "targets have type complex128; expected real numbers"),
        (good.astype(str), "targets have type <U.*; expected real numbers"),
        (array("f", [0] * 29), r"a buffer of shape \(29,\); expected \(samples, 3\)"),
        (None, "targets: .*'NoneType'; expected a NumPy array"),
        (good + np.nan, "the target of sample 0 is not finite"),
        (good + np.inf, "the target of sample 0 is not finite"),
    ):
        refuses(learner, lambda: learner.learn_many(X, bad), match)  # noqa: B023
    for bad, match in (
        ([0, 0], "the target has 2 values; expected one for each of 3 outputs"), (0.5, "the target has 1 values"),
        ("abc", "the target: .*expected a flat sequence"), ([None] * 3, "the target: .*expected a flat sequence"),
        (None, "the target: .*expected a flat sequence"), ([np.nan, 0, 0], "the target of sample 0 .* not finite"),
    ):
        refuses(learner, lambda: learner.learn_one(X[0], bad), match)  # noqa: B023


def test_a_bad_sample_is_not_remembered_in_the_status():
    """What `encode` meets must not strike the next step."""
    learner, ref = make(), make()
    for call in (learner.encode, learner.transform, learner.predict_many):
        with pytest.raises(DataError, match="holds NaN"):
            call(with_value(np.nan))
    assert learner.learn_many(X, Y) == ref.learn_many(X, Y)


@pytest.mark.parametrize(("state", "size"), [("int32", 1e5), ("int16", 1e3)])
def test_a_state_that_overflows(state, size):
    net = Net((4,), Dense(16), (Block((Dense(8),)),), Head(3), state)
    learner = Learner(net, batch=16)
    match = r"stem took the state out of its range for sample 5 \(\+-2048 for int32, \+-32 for int16\)\. Standardise"
    for call in (lambda: learner.learn_many(with_value(size), Y), lambda: learner.predict_many(with_value(size))):
        refuses(learner, call, match, NumericError)


def test_a_loss_that_is_not_finite():
    learner = make(loss=MeanSquaredError())
    y = np.full((10, 3), 1e30)
    refuses(learner, lambda: learner.learn_many(X, y), r"the loss of sample 0 is not finite\. Lower", NumericError)


def test_bad_outputs_to_invert():
    learner = make()
    good = learner.transform(X)
    for bad, match in (
        (good[:, :15], r"float64 of shape \(10, 15\); expected real numbers of shape \(samples, 16\); pass what"),
        (good[0], r"shape \(16,\); expected"), (good[:0], r"shape \(0, 16\); expected"), (3.0, r"shape \(\); expected"),
        (good.astype(str), "<U.*expected real numbers"), (None, "object of shape .*expected real numbers"),
        (np.where(good == good[2, 3], np.nan, good), r"not finite or out of the state's range; expected numbers"),
        (good + 3000, r"out of the state's range; expected numbers within \+-2048; pass what transform returned"),
    ):
        refuses(learner, lambda: learner.invert(bad), match)  # noqa: B023


# -- numbers that a program cannot hold ----------------------------------------------------------------------------

NUMBERS = {
    "rate": (SGD, (-1, -1e-9, 1e39, np.inf, np.nan, "0.1", None, True)),
    "momentum": (SGD, (-0.1, 1, 1 - 1e-9, np.nan)), "weight_decay": (AdamW, (-1, 1e39, np.nan)),
    "beta1": (AdamW, (1, np.nan)), "beta2": (Lion, (1, -1)),
    "epsilon": (AdamW, (0, 1e-50, -1, 1e39, np.nan)), "limit": (Clip, (0, 1e-60, 1e40, np.nan)),
    "warmup": (RateSchedule, (-1, 3 * 10**9, 1.5)), "steps": (RateSchedule, (3 * 10**9, 1.0)),
    "floor": (RateSchedule, (-0.1, 1.1, np.nan)),
    "shift": (Augment, (-1, 1.5, 3 * 10**9)), "crop": (Augment, (-1, 1.0)), "noise": (Augment, (-1, np.nan, 1e39)),
    "smoothing": (CrossEntropy, (1, -1, 1 - 1e-9, np.nan)), "channels": (Dense, (0, 16.0, 10**19, "16")),
    "kernel": (Conv2d, (0, 4, 3.0)), "groups": (GroupNorm, (0, 1.0)), "outputs": (Head, (0, 10**19, 3.0)),
    "ridge": (Head, (0, 1e-60, np.nan, 1e39)),
}  # fmt: skip
NEEDED = {Clip: {"limit": 1}, Conv2d: {"channels": 4}, Head: {"outputs": 3}}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_that_a_program_cannot_hold(name):
    cls, values = NUMBERS[name]
    for value in values:
        with pytest.raises(UsageError, match=f"{name} .*: expected a (finite|whole) number, .*; change it|kernel must"):
            cls(**{**NEEDED.get(cls, {}), name: value})


def test_settings_become_plain_numbers():
    """So that they can be written as JSON."""
    layer, optimizer = Dense(np.int64(8)), SGD(np.float32(0.5), 0)
    assert (type(layer.channels), type(optimizer.rate), type(optimizer.momentum)) == (int, float, float)


def test_numbers_of_a_learner():
    learner = make()
    for value in (np.nan, np.inf, -1, 1e39, None):
        with pytest.raises(UsageError, match=r"rate_factor .*: expected a finite number, 0"):
            learner.rate_factor = value
    for values in ([0, 0, np.nan, 0], [0, 1e39, 0, 0], [0, "1", 0, 0]):
        with pytest.raises(UsageError, match=r"input\.scale .*: expected a finite number, -3\.4"):
            learner.set_standardisation([1] * 4, values)
    assert list(learner.runtime.view("input.mean")) == [0] * 4
    for weights in ((1, 2, np.nan), (1, -1, 1), (1, 1e39, 1)):
        with pytest.raises(UsageError, match=r"loss: weight .*: expected a finite number, 0"):
            CrossEntropy(weights)


def test_a_model_that_is_not_finite_is_not_saved(tmp_path):
    path, learner = tmp_path / "m.edgerev", make()
    learner.save(str(path))
    whole = path.read_bytes()
    for value in (np.nan, np.inf, -np.inf):
        learner.runtime.view("block1.F.0.weight")[3] = value
        with pytest.raises(CheckpointError, match=r"was not written: block1\.F\.0\.weight holds NaN or infinity; expe"):
            learner.save(str(path))
        assert path.read_bytes() == whole


# -- what cannot be made -------------------------------------------------------------------------------------------

ARGUMENTS = {
    "batch": ({"batch": 0}, UsageError, r"Recipe: batch 0: expected a whole number, 1 \.\. 2147483647; change it"),
    "huge batch": ({"batch": 3 * 10**9}, UsageError, r"batch 3000000000: expected a whole number, 1 \.\. 2147483647"),
    "more than there is": ({"batch": 2**31 - 1}, BudgetError, "the arena needs|would have"),
    "batch of another type": ({"batch": 16.0}, UsageError, r"batch 16\.0: expected a whole number"),
    "threads": ({"threads": 0}, UsageError, r"threads 0: expected a whole number, 1 \.\. 16"),
    "many threads": ({"threads": 17}, UsageError, r"threads 17: expected a whole number, 1 \.\. 16"),
    "half a thread": ({"threads": 1.5}, UsageError, r"threads 1\.5: expected a whole number, 1 \.\. 16"),
    "negative seed": ({"seed": -1}, UsageError, r"seed -1: expected a whole number, 0 \.\. 9223372036854775807"),
    "large seed": ({"seed": 2**63}, UsageError, r"seed 9223372036854775808: expected a whole number, 0"),
    "half a seed": ({"seed": 1.5}, UsageError, r"seed 1\.5: expected a whole number, 0"),
    "data": ({"data_bytes": -1}, UsageError, r"data_bytes -1: expected a whole number, 0"),
    "half a byte": ({"budget": 0.5}, UsageError, r"budget 0\.5: expected a whole number, 1"),
    "optimizer": ({"optimizer": "adamw"}, UsageError, r"optimizer 'adamw': expected such as AdamW\(1e-3\), not str; p"),
    "loss": ({"loss": CrossEntropy}, UsageError, r"loss .*: expected such as CrossEntropy\(\), not type; pass one"),
    "rates": ({"rate_schedule": "cosine"}, UsageError, r"rate_schedule 'cosine': expected such as RateSchedule\("),
    "clip": ({"clip": 1.0}, UsageError, r"clip 1\.0: expected such as Clip\(1\.0\) or None, not float"),
    "augment": ({"augment": True}, UsageError, r"augment True: expected such as Augment\(shift=1\), not bool"),
    "schedule of another type": ({"schedule": 5}, UsageError, 'schedule 5: expected such as "reversible", not int'),
    "micro-batch": ({"schedule": Schedule(32, 32)}, UsageError, "expected a micro_batch of at most the batch, 16; low"),
    "schedule": ({"schedule": "fast"}, UsageError, "schedule 'fast': expected reversible or stored, or a budget"),
    "budget": ({"budget": 1000}, BudgetError, r"needs [\d,]+ bytes .*; the budget is 1,000\. Not even one block fits"),
    "weights": ({"loss": CrossEntropy((1, 2))}, UsageError, "2 weights, the head 3 outputs; expected one for each"),
    "shift of features": ({"augment": Augment(shift=1)}, UsageError, "needs samples with positions; leave it out"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_bad_arguments(name):
    options, error, match = ARGUMENTS[name]
    net = Net((4,), Dense(16), (Block((Dense(8),)),), Head(3))
    with pytest.raises(error, match=match) as caught:
        Learner(net, **options)
    assert caught.value.exit_code == 2


def test_bad_descriptions():
    for make_it, match in (
        (lambda: SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: Clip(1, "local"), "expected function, global or"),
        (lambda: RateSchedule("linear"), "expected constant or cosine"),
        (lambda: RateSchedule("cosine", 5, 5), "steps must be more than warmup"),
        (lambda: CrossEntropy(()), "expected a weight for each class or output"),
    ):
        with pytest.raises(UsageError, match=match):
            make_it()
    for sizes in ((0, 1), (-4, 1), (4, 0), (4, 1.0), (4, 1, -1)):
        with pytest.raises(UsageError, match=r"Schedule: .*: expected a whole number, [01] \.\."):
            Schedule(*sizes)
    for make_it, match in (
        (lambda: Net((0,), Dense(8), (), Head(3)), "input_shape: size 0: expected a whole number, 1"),
        (lambda: Net((), Dense(8), (), Head(3)), r"input_shape \(\): expected one to three sizes"),
        (lambda: Net((4.0,), Dense(8), (), Head(3)), r"input_shape: size 4\.0: expected a whole number"),
        (lambda: Net(4, Dense(8), (), Head(3)), r"input_shape 4: expected such as \(28, 28, 1\), not int; pass one"),
        (lambda: Net((4,), Dense(8), [Dense(4)], Head(3)), r"a part of the backbone Dense.*: expected such as Block"),
        (lambda: Net((4,), Dense(8), Block((Dense(4),)), Head(3)), r"backbone Block.*: expected such as \(Block"),
        (lambda: Net((4,), Dense(8), (), 5), r"head 5: expected such as Head\(10\), not int; pass one"),
        (lambda: Block(F=Dense(8)), r"Block: F Dense\(channels=8\): expected such as \(Dense\(8\), ReLU"),
        (lambda: Block([Squeeze()]), r"Block: a layer of F Squeeze\(\): expected such as Dense\(8\), not Squeeze"),
        (lambda: Block((Dense(4),), repeat=0), "Block: repeat 0: expected a whole number, 1"),
        (lambda: Learner("mlp4"), r'net \'mlp4\': expected such as preset\("mlp16"\), not str; pass one'),
        (lambda: Net((4,), Dense(7), (), Head(3)), "odd number of channels .* use an even one"),
        (lambda: Net((4,), Dense(8), (Block((Dense(5),)),), Head(3)), r"block0\.F: .* must keep the shape \(4,\)"),
        (lambda: Head(0), r"Head: outputs 0: expected a whole number, 1 \.\."),
        (lambda: Net((4,), Dense(8), (), Head(3), "int8"), "state 'int8': expected int32, int16 or float32"),
    ):
        with pytest.raises(NetError, match=match):
            make_it()

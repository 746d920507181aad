"""The training step as a graph of standard operators: against our runtime, step by step and over fifty steps."""

import subprocess
import sys

import numpy as np
import pytest
from test_onnx import IMAGE, PRESETS, SIGNAL, VECTOR, jittered, net_of, nets, samples

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgerev.continual.consolidation import EWC, SynapticIntelligence  # noqa: E402
from edgerev.deploy.onnx.export import export, make  # noqa: E402
from edgerev.deploy.onnx.verify import TOLERANCES, case, difference, masks, state, verify  # noqa: E402
from edgerev.deploy.ort import TrainStep  # noqa: E402
from edgerev.errors import DataError, ExportError, NumericError, UsageError  # noqa: E402
from edgerev.layers import Adapter, Conv1d, Conv2d, Dense, Depthwise, Dropout, GroupNorm, ReLU, RMSNorm  # noqa: E402
from edgerev.learner import Learner  # noqa: E402
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError, SoftCrossEntropy  # noqa: E402
from edgerev.net import Block, Head, Net  # noqa: E402
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule  # noqa: E402
from edgerev.presets import preset  # noqa: E402
from edgerev.recipe import Augment  # noqa: E402

OPTIMIZERS = [
    SGD(1e-2), SGD(1e-2, weight_decay=0.1), SGD(1e-2, momentum=0.9), SGD(1e-2, 0.9, True, 0.01), AdamW(1e-3),
    AdamW(1e-2, 0.8, 0.9, 1e-6, 0.0), Lion(1e-3), Lion(1e-3, weight_decay=0.1),
]  # fmt: skip
LOSSES = [
    CrossEntropy(), CrossEntropy(smoothing=0.1, weights=(1.0, 2.0, 0.5, 0.0)), BinaryCrossEntropy(smoothing=0.2),
    BinaryCrossEntropy(weights=(1.0, 2.0, 3.0, 0.5)), MeanSquaredError(),
    MeanSquaredError(weights=(0.0, 1.0, 1.0, 4.0)), SoftCrossEntropy(), SoftCrossEntropy(weights=(1.0, 2.0, 0.5, 0.1)),
]  # fmt: skip
STRICT, USUAL = TOLERANCES["train-step"]._replace(share=1e-4), TOLERANCES["train-step"]


def targets(learner, n, random):
    outputs = learner.net.head.outputs
    if learner.recipe.loss.labels:
        return random.integers(0, outputs, n)
    y = random.random((n, learner.net.head.columns)).astype("f4")
    return y / y.sum(1, keepdims=True)


def check(learner, tmp_path, *, n=4, steps=3, opset=18, tolerance=STRICT):
    """Compare single steps from the same parameters: the first ones, in which optimizer state builds up."""
    random, model = np.random.default_rng(2), make(learner, "train-step", opset=opset)
    for _ in range(steps):
        x, y = samples(learner, n, seed=random), targets(learner, n, random)
        verify(model, case(learner, "train-step", x, y), tolerance, str(tmp_path / "step"))
        learner.learn_many(x, y)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("opset", [17, 18])
def test_steps_of_presets(name, opset, tmp_path):
    tolerance = USUAL if name == "vis1" else STRICT  # a million ReLUs, some of them at their kink
    check(jittered(Learner(preset(name), batch=4, optimizer=AdamW(1e-3))), tmp_path, opset=opset, tolerance=tolerance)


@pytest.mark.parametrize("layer", VECTOR, ids=str)
def test_layers_of_vectors(layer, tmp_path):
    check(jittered(Learner(net_of(layer, Dense(8), shape=(5,)))), tmp_path)


@pytest.mark.parametrize("layer", SIGNAL, ids=str)
def test_layers_of_signals(layer, tmp_path):
    check(jittered(Learner(net_of(layer, Conv1d(8, 3), shape=(12, 3), squeeze=True))), tmp_path)


@pytest.mark.parametrize("layer", IMAGE, ids=str)
def test_layers_of_images(layer, tmp_path):
    check(jittered(Learner(net_of(layer, Conv2d(8, 3), squeeze=True))), tmp_path)


@pytest.mark.parametrize("shape", [(1, 6, 2), (6, 1, 2), (1, 1, 2), (2, 2, 1)])
def test_images_of_one_row_or_column(shape, tmp_path):
    parts = (Conv2d(8, 3), GroupNorm(2), ReLU(), Depthwise(3))
    check(jittered(Learner(net_of(*parts, shape=shape, squeeze=shape == (2, 2, 1)))), tmp_path)


def test_convolutions_by_minimal_filtering(tmp_path):
    net = Net((16, 16, 3), Conv2d(32, 3), (Block((Conv2d(16, 3), ReLU(), Conv2d(16, 3))),), Head(3))
    check(jittered(Learner(net, batch=4)), tmp_path)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_optimizers(optimizer, tmp_path):
    check(jittered(Learner(net_of(RMSNorm(), Dense(8), shape=(5,)), optimizer=optimizer)), tmp_path, steps=6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_a_task_leaves_the_answers_of_others(optimizer, tmp_path):
    learner = jittered(Learner(net_of(Dense(8), shape=(5,), tasks=3), optimizer=optimizer))
    learner.task = 1
    check(learner, tmp_path, steps=3)


@pytest.mark.parametrize(
    ("loss", "tasks"), [(loss, tasks) for loss in LOSSES for tasks in (1, 2) if tasks == 1 or not loss.weights], ids=str
)
def test_losses(loss, tasks, tmp_path):
    learner = jittered(Learner(net_of(Dense(8), shape=(5,), tasks=tasks), loss=loss))
    learner.task = tasks - 1 if tasks > 1 else None
    check(learner, tmp_path)


@pytest.mark.parametrize("kind", ["function", "global", "adaptive"])
@pytest.mark.parametrize("limit", [0.01, 100.0])
def test_clipping(kind, limit, tmp_path):
    check(jittered(Learner(net_of(Dense(8), shape=(5,)), clip=Clip(limit, kind))), tmp_path)


@pytest.mark.parametrize("pool", ["average", "flatten", 2, 5])
@pytest.mark.parametrize("rectify", [False, True])
def test_pools(pool, rectify, tmp_path):
    check(jittered(Learner(net_of(Conv2d(8, 3), pool=pool, rectify=rectify))), tmp_path)


@pytest.mark.parametrize("state", ["int16", "float32"])
def test_other_states(state, tmp_path):
    coarse = USUAL._replace(share=5e-3)
    check(jittered(Learner(net_of(Conv2d(8, 3), RMSNorm()).replace(state=state))), tmp_path, tolerance=coarse)


@pytest.mark.parametrize("consolidation", [SynapticIntelligence(0.5), EWC(0.5)], ids=str)
def test_consolidation(consolidation, tmp_path):
    learner = jittered(Learner(net_of(Dense(8), shape=(5,)), consolidation=consolidation, optimizer=SGD(1e-2, 0.5)))
    random = np.random.default_rng(5)
    for _ in range(3):
        learner.learn_many(samples(learner, 4, seed=random), targets(learner, 4, random))
    x = samples(learner, 8, seed=random)
    learner.consolidate(*((x, targets(learner, 8, random)) if isinstance(consolidation, EWC) else ()))
    check(learner, tmp_path)


def test_rates_and_an_atomic_step(tmp_path):
    net = net_of(Dense(8), shape=(5,))
    check(jittered(Learner(net, rates=(0.1, 1.0, 2.0, 0.0), atomic=True)), tmp_path)


def test_frozen_modules_and_adapters(tmp_path):
    learner = jittered(Learner(net_of(Adapter(2), Dense(8), shape=(5,), tasks=2)))
    learner.task = 1
    check(learner, tmp_path)
    learner.adapters_only = True
    check(learner, tmp_path)
    names = {port.name for port in make(learner, "train-step").graph.output}
    assert "block0.F.0.down.weight.next" in names
    assert "block0.F.1.weight.next" not in names
    learner = jittered(Learner(net_of(Dense(8), shape=(5,))))
    learner.frozen = 1
    check(learner, tmp_path)
    names = {port.name for port in make(learner, "train-step").graph.output}
    assert "head.0.weight.next" in names
    assert "stem.0.weight.next" not in names


@settings(max_examples=20, deadline=None)
@given(nets(), st.integers(1, 4), st.sampled_from(OPTIMIZERS))
def test_any_stack_of_layers(tmp_path_factory, net, n, optimizer):
    # a sign or a mask at its kink may fall to either side; what it is multiplied by is small then, but not nothing
    loose = USUAL._replace(share=2e-3)
    learner = jittered(Learner(net, batch=4, optimizer=optimizer))
    check(learner, tmp_path_factory.mktemp("stack"), n=n, tolerance=loose)


# -- fifty steps in a row ------------------------------------------------------------------------------------------


def fifty_steps(learner, path, n=4, rate=None):
    """Train both; return the largest relative difference of a loss, and of a parameter within its layer."""
    random = np.random.default_rng(6)
    driver, worst = TrainStep(str(path)), 0.0
    for step in range(50):
        x, y = samples(learner, n, seed=random), targets(learner, n, random)
        drawn = masks(learner, n)
        loss = driver.step(x, y, rate and rate(step), drawn)
        ours = learner.learn_many(x, y).loss
        worst = max(worst, abs(loss - ours) / max(abs(ours), 1e-3))
    ours, theirs = state(learner), driver.parameters()
    weights = [name for name in theirs if "moment" not in name and not name.startswith("scalars.")]
    assert set(weights) <= ours.keys()
    assert driver.steps == 50
    return worst, max(difference(theirs[name], ours[name], largest_of_layer(ours, name)) for name in weights)


def largest_of_layer(values, name):
    """A bias starts at 0 and stays small: its difference counts beside its layer's weights, which it is added to."""
    layer = name.rpartition(".")[0]
    return max(abs(array).max() for other, array in values.items() if other.rpartition(".")[0] == layer)


@pytest.mark.parametrize("name", PRESETS)
def test_fifty_steps_of_presets(name, tmp_path):
    learner = jittered(Learner(preset(name), batch=4, optimizer=SGD(1e-3)))
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    loss, parameters = fifty_steps(learner, tmp_path / "step.onnx")
    assert loss < 1e-4
    assert parameters < 1e-4


FIFTY = [((5,), VECTOR, Dense(8)), ((12, 3), SIGNAL, Conv1d(8, 3)), ((6, 6, 3), IMAGE, Conv2d(8, 3))]


@pytest.mark.parametrize(
    ("shape", "layer", "last"), [(shape, layer, last) for shape, layers, last in FIFTY for layer in layers], ids=str
)
def test_fifty_steps_of_layers(shape, layer, last, tmp_path):
    learner = jittered(Learner(net_of(layer, last, shape=shape), batch=4, optimizer=SGD(1e-3)))
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    loss, parameters = fifty_steps(learner, tmp_path / "step.onnx")
    assert loss < 1e-4
    assert parameters < 1e-4


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_fifty_steps_of_losses(loss, tmp_path):
    learner = jittered(Learner(net_of(Dense(8), shape=(5,)), batch=4, optimizer=SGD(1e-3), loss=loss))
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    loss, parameters = fifty_steps(learner, tmp_path / "step.onnx")
    assert loss < 1e-4
    assert parameters < 1e-4


@pytest.mark.parametrize("optimizer", [AdamW(1e-4), Lion(1e-5), SGD(1e-3, 0.9, True, 1e-3)], ids=str)
def test_fifty_steps_of_optimizers(optimizer, tmp_path):
    net = net_of(RMSNorm(), Conv2d(8, 3), ReLU(), Dropout(0.2), Conv2d(8, 3), squeeze=True)
    learner = jittered(Learner(net, batch=4, optimizer=optimizer))
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    loss, parameters = fifty_steps(learner, tmp_path / "step.onnx")
    assert loss < 1e-4
    assert parameters < 1e-4


def test_rate_is_the_callers(tmp_path):
    schedule = RateSchedule(warmup=10)
    learner = jittered(Learner(preset("table"), batch=4, optimizer=AdamW(1e-3), rate_schedule=schedule))
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    loss, parameters = fifty_steps(learner, tmp_path / "step.onnx", rate=lambda step: 1e-3 * min(1, (step + 1) / 10))
    assert loss < 1e-4
    assert parameters < 1e-4


# -- the driver ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def step_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "step.onnx"
    net = net_of(Dense(8), Dropout(0.25), shape=(5,))
    export(jittered(Learner(net, batch=4)), str(path), "train-step")
    return path


def test_driver_learns(step_file):
    driver = TrainStep(str(step_file), threads=2)
    random = np.random.default_rng(0)
    y = random.integers(0, 4, 32)
    x = random.normal(size=(4, 5))[y] * 2 + random.normal(size=(32, 5)) / 4
    losses = [driver.step(x, y, 0.1) for _ in range(60)]
    assert driver.steps == 60
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2
    assert driver.metadata["net"]["head"]["outputs"] == 4


def test_driver_draws_masks_by_seed(step_file):
    x, y = np.ones((3, 5), "f4"), np.zeros(3, int)
    losses = [TrainStep(str(step_file), seed=seed).step(x, y) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_step_that_fails_changes_nothing(step_file):
    driver = TrainStep(str(step_file))
    x, y = np.ones((3, 5), "f4"), np.zeros(3, int)
    driver.step(x, y, 1e36)
    before = driver.parameters()
    for _ in range(2):
        with pytest.raises(NumericError, match=r"the loss of step 2 is .*nothing was learned"):
            driver.step(x, y)
    for name, values in driver.parameters().items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((2, 4)), [0, 1], "x has shape"),
        (np.ones((2, 5)), [[0], [1]], "y has shape"),
        (np.ones((2, 5)), [0], "2 samples, 1 targets"),
        (np.ones((0, 5)), [], "x has shape"),
        (np.full((2, 5), np.nan), [0, 1], "x holds NaN"),
        (np.ones((2, 5)), [0, 4], r"labels are in 0 \.\. 4; expected 0 \.\. 3"),
        (np.ones((2, 5)), [-1, 0], "labels are in -1"),
        (np.ones((2, 5)), [0.0, 1.7], "y holds numbers that are not whole; expected class numbers"),
        (np.ones((2, 5)), [np.nan, 1.0], "y holds numbers that are not whole"),
        (np.ones((2, 5)), [True, False], "y has type bool; expected class numbers; convert it to int64"),
        (np.ones((2, 5)), ["a", "b"], "y has type <U1; expected class numbers"),
        (np.ones((2, 5)) * 1j, [0, 1], "x has type complex128; expected real numbers; convert it to float32"),
        (np.full((2, 5), 1e300), [0, 1], "x holds NaN or infinity"),
        ([[1.0] * 5, [1.0]], [0, 1], "x is no array"),
    ],
)
def test_bad_batches(step_file, x, y, message):
    with pytest.raises(DataError, match=message):
        TrainStep(str(step_file)).step(x, y)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -1e-3, "fast"])
def test_bad_rates(step_file, rate):
    step, x = TrainStep(str(step_file)), np.ones((2, 5))
    with pytest.raises(UsageError, match=r"rate .*: expected a finite number"):
        step.step(x, [0, 1], rate)
    assert np.isfinite([step.step(x, [0, 1], np.float32(1e-3)) for _ in range(2)]).all()


def test_bad_masks(tmp_path):
    export(Learner(net_of(Dropout(0.5), Dense(8), shape=(5,))), str(tmp_path / "s.onnx"), "train-step")
    with pytest.raises(DataError, match=r"masks are for \['other'\]; expected one for each of \['block0\.F\."):
        TrainStep(str(tmp_path / "s.onnx")).step(np.ones((1, 5)), [0], masks={"other": np.ones((1, 1, 1, 8))})


def test_bad_targets(tmp_path):
    export(Learner(net_of(Dense(8), shape=(5,)), loss=BinaryCrossEntropy()), str(tmp_path / "s.onnx"), "train-step")
    with pytest.raises(DataError, match=r"targets are in .* expected 0 \.\. 1"):
        TrainStep(str(tmp_path / "s.onnx")).step(np.ones((1, 5)), np.full((1, 4), 1.5))


def test_unknown_provider(step_file):
    with pytest.raises(UsageError, match="provider 'npu': expected one of cpu, cuda, tensorrt"):
        TrainStep(str(step_file), "npu")


def test_provider_that_is_not_there(step_file):
    with pytest.raises(UsageError, match=r"provider 'cuda' is not part of this onnxruntime .* expected one of cpu"):
        TrainStep(str(step_file), "cuda")


def test_files_that_cannot_be_used(step_file, tmp_path):
    whole, broken = step_file.read_bytes(), tmp_path / "broken.onnx"
    for size in (0, 10, len(whole) // 3, len(whole) - 1):
        broken.write_bytes(whole[:size])
        with pytest.raises(ExportError, match=r"broken\.onnx"):
            TrainStep(str(broken))
    with pytest.raises(ExportError, match="cannot be read"):
        TrainStep(str(tmp_path / "none.onnx"))
    export(Learner(preset("table")), str(broken), "onnx")
    with pytest.raises(ExportError, match="of format onnx; expected a train-step"):
        TrainStep(str(broken))


def test_any_damage_is_an_error_of_ours(step_file, tmp_path):
    random, broken = np.random.default_rng(0), tmp_path / "broken.onnx"
    whole = step_file.read_bytes()
    for place in random.integers(30, len(whole), 60):  # before, there are versions and a producer
        data = bytearray(whole)
        data[place] ^= 1 << random.integers(0, 8)
        broken.write_bytes(data)
        with pytest.raises(ExportError, match=r"broken\.onnx"):
            TrainStep(str(broken))


def test_runtime_that_is_too_old(step_file, tmp_path):
    model = onnx.load(str(step_file))
    model.opset_import[0].version = 99
    assert len(model.metadata_props) > 5
    (tmp_path / "new.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"cannot load .*new\.onnx .*expected a runtime for opset 99"):
        TrainStep(str(tmp_path / "new.onnx"))


def test_a_device_needs_the_runtime_only(step_file):
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import edgerev.deploy.ort as ort; assert 'onnxruntime' not in sys.modules\n"
        f"print(ort.TrainStep({str(step_file)!r}).step([[1.0] * 5], [3]) > 0, 'numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True False\n"


def test_augmentation_is_left_to_the_caller(tmp_path):
    learner = Learner(net_of(Conv2d(8, 3)), augment=Augment(crop=2, shift=1, flip=True, noise=0.1))
    model = make(learner, "train-step")
    (x,) = (port for port in model.graph.input if port.name == "x")
    assert [size.dim_value for size in x.type.tensor_type.shape.dim][1:] == [6, 6, 3]

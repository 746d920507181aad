"""Inference, forward and inverse as ONNX, run by onnxruntime and compared with our runtime."""

import json
import runpy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

from edgerev.deploy.onnx.export import FORMATS, make  # noqa: E402
from edgerev.deploy.onnx.graph import Graph  # noqa: E402
from edgerev.deploy.onnx.verify import TOLERANCES, Case, case, open_model, verify  # noqa: E402
from edgerev.deploy.onnx.writer import ENTRIES  # noqa: E402
from edgerev.errors import CheckpointError, ExportError, UsageError  # noqa: E402
from edgerev.kernels.layout import Op  # noqa: E402
from edgerev.layers import (  # noqa: E402
    GELU,
    Adapter,
    Conv1d,
    Conv2d,
    Dense,
    Depthwise,
    Dropout,
    GroupNorm,
    Pointwise,
    ReLU,
    RMSNorm,
    SiLU,
)
from edgerev.learner import Learner  # noqa: E402
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError  # noqa: E402
from edgerev.net import Block, Head, Net, Squeeze  # noqa: E402
from edgerev.presets import preset  # noqa: E402
from edgerev.recipe import Augment  # noqa: E402

PRESETS = ("mlp2", "har1", "vis1", "digits", "sensors", "images", "table")
# of one layer each, which keeps the shape of a half of 8 channels
VECTOR = (Dense(8), Pointwise(8), RMSNorm(), GroupNorm(2), GELU(), SiLU(), ReLU(), Dropout(0.3), Adapter(3))
SIGNAL = (Conv1d(8, 5), Conv1d(8, 1), Depthwise(3), Pointwise(8), RMSNorm(), GroupNorm(4), GELU(), Adapter(2))
IMAGE = (Conv2d(8, 3), Conv2d(8, 5), Depthwise(5), Pointwise(8), RMSNorm(), GroupNorm(2), Dropout(0.5), Adapter(2))


def jittered(learner, seed=0):
    """Move every parameter away from its initial value, so that no bias is 0 and no gain 1."""
    random = np.random.default_rng(seed)
    for name, region in zip(learner.runtime.program.names, learner.runtime.program.regions):
        if region.value == "parameters" and not name.startswith(("input.", "loss.", "ridge.")):
            view = np.frombuffer(learner.runtime.view(name), "f4")
            view += random.normal(size=view.shape).astype("f4") / 20
    channels = learner.net.input_shape[-1]
    learner.set_standardisation(random.normal(size=channels), 0.5 + random.random(channels))
    return learner


def samples(learner, n, seed=1):
    return np.random.default_rng(seed).normal(size=(n, *learner.sample_shape)).astype("f4")


def check(learner, tmp_path, *, formats=("onnx", "inverse", "forward"), n=3, opset=18, tolerances=TOLERANCES):
    for format in formats:
        model = make(learner, format, opset=opset)
        verify(model, case(learner, format, samples(learner, n)), tolerances[format], str(tmp_path / format))


def net_of(*layers, shape=(6, 6, 3), squeeze=False, **head):
    stem = {1: Dense(16), 2: Conv1d(16, 3), 3: Conv2d(16, 3)}[len(shape)]
    parts = [Block(layers)]
    if squeeze:
        deep = 4 if len(shape) == 3 else 2
        parts += [Squeeze(), Block((Pointwise(8 * deep), ReLU()))]
    return Net(shape, stem, tuple(parts), Head(4, **head))


@pytest.mark.parametrize(
    ("shape", "stem"), [((5, 6, 3), Conv2d(16, 3)), ((2, 1, 1), Conv2d(16, 3)), ((12, 3), Conv1d(16, 3))]
)
def test_inverse_of_a_norm_at_the_exit(shape, stem, tmp_path):
    """A runtime that moves the change of layout behind the norm sums channels in another order."""
    for seed in range(5):
        net = Net(shape, stem, (Block((RMSNorm(),)),), Head(4))
        check(jittered(Learner(net, batch=4), seed), tmp_path, formats=("inverse",))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("opset", [17, 18])
def test_presets(name, opset, tmp_path):
    check(jittered(Learner(preset(name), batch=4)), tmp_path, opset=opset)


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


def test_signals_of_one_moment(tmp_path):
    check(jittered(Learner(net_of(Conv1d(8, 5), Depthwise(3), shape=(1, 4)))), tmp_path)


def test_convolutions_by_minimal_filtering(tmp_path):
    net = Net((16, 16, 3), Conv2d(32, 3), (Block((Conv2d(16, 3), ReLU(), Conv2d(16, 3))),), Head(3))
    learner = jittered(Learner(net, batch=4))
    assert any(learner.runtime.program.decode(row).op == Op.WINOGRAD for row in range(len(learner.runtime.program)))
    check(learner, tmp_path)


@pytest.mark.parametrize("pool", ["average", "flatten", 1, 2, 4, 5])
@pytest.mark.parametrize("rectify", [False, True])
def test_pools(pool, rectify, tmp_path):
    learner = jittered(Learner(net_of(Conv2d(8, 3), pool=pool, rectify=rectify)))
    check(learner, tmp_path, formats=["onnx"])


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy(), MeanSquaredError()], ids=str)
def test_probabilities(loss, tmp_path):
    check(jittered(Learner(net_of(Dense(8), shape=(5,)), loss=loss)), tmp_path, formats=["onnx"])


@pytest.mark.parametrize("state", ["int16", "float32"])
def test_other_states(state, tmp_path):
    # a grid of 2**-10 turns the last bit of a product into 1e-3 now and then; a float32 state has no exact inverse
    coarse = {name: t._replace(share=1e-3) for name, t in TOLERANCES.items()}
    if state == "int16":
        coarse["inverse"] = TOLERANCES["inverse"]
    check(jittered(Learner(net_of(Conv2d(8, 3), ReLU()).replace(state=state))), tmp_path, tolerances=coarse)


def test_task_at_hand(tmp_path):
    learner = jittered(Learner(net_of(Adapter(2), Dense(8), shape=(5,), tasks=3)))
    for task in (None, 0, 2):
        learner.task = task
        check(learner, tmp_path, formats=["onnx"])


@pytest.mark.parametrize("kind", ["ridge", "prototype"])
@pytest.mark.parametrize("sums", ["float64", "int64"])
@pytest.mark.parametrize("expansion", [(), (Conv2d(12, 3), ReLU())])
def test_heads_in_closed_form(kind, sums, expansion, tmp_path):
    net = net_of(Conv2d(8, 3), pool=2, kind=kind, sums=sums, expansion=expansion, ridge=1.0)
    learner = jittered(Learner(net))
    x = samples(learner, 40, seed=3)
    if sums == "int64":
        learner.calibrate(x)
    learner.remember_many(x, np.arange(40) % 4)
    # a feature that lies between two whole numbers may go to either
    share = 1e-5 if sums == "float64" else 1e-2
    check(learner, tmp_path, formats=["onnx"], tolerances={"onnx": TOLERANCES["onnx"]._replace(share=share)})


def test_stored_samples_are_larger_than_the_net_sees(tmp_path):
    learner = jittered(Learner(net_of(Conv2d(8, 3)), augment=Augment(crop=2, shift=1, flip=True)))
    assert samples(learner, 1).shape == (1, 10, 10, 3)
    check(learner, tmp_path, formats=["onnx"])


@st.composite
def nets(draw):
    dimensions = draw(st.integers(1, 3))
    layers = {1: VECTOR, 2: SIGNAL, 3: IMAGE}[dimensions]
    size = st.integers(1, 6)
    squeeze = dimensions > 1 and draw(st.booleans())
    positions = [(2 if squeeze else 1) * draw(size) for _ in range(dimensions - 1)]
    shape = (*positions, draw(st.integers(1, 4)))
    stack = draw(st.lists(st.sampled_from(layers), min_size=1, max_size=4))
    return net_of(*stack, shape=shape, squeeze=squeeze)


@settings(max_examples=25, deadline=None)
@given(nets(), st.integers(1, 4))
def test_any_stack_of_layers(tmp_path_factory, net, n):
    check(jittered(Learner(net, batch=4)), tmp_path_factory.mktemp("stack"), n=n)


# -- what the file says --------------------------------------------------------------------------------------------


def test_batch_is_open_or_fixed():
    learner = jittered(Learner(preset("table")))
    x = samples(learner, 5)
    whole = open_model(make(learner, "onnx").SerializeToString()).run(None, {"x": x})[0]
    one = open_model(make(learner, "onnx", batch=1).SerializeToString())
    assert one.get_inputs()[0].shape == [1, 16]
    np.testing.assert_allclose([one.run(None, {"x": x[i : i + 1]})[0][0] for i in range(5)], whole, atol=1e-6)


def test_metadata_and_names():
    learner = jittered(Learner(preset("mlp1", outputs=3)))
    learner.classes = ["ash", "birch", "cedar"]
    model = make(learner, "onnx")
    found = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert found["edgerev.classes"] == ["ash", "birch", "cedar"]
    assert found["edgerev.format"] == "onnx"
    assert found["edgerev.mean"] == np.frombuffer(learner.runtime.view("input.mean"), "f4").tolist()
    assert Net.from_dict(found["edgerev.net"]) == learner.net
    names = {node.name for node in model.graph.node}
    assert {"block0/F/x1/Gemm", "block0/G/x3/Gemm", "head/logits/Gemm"} <= names
    assert len(names) == len(model.graph.node)
    assert {"stem.0.weight", "block0.F.2.bias", "head.0.weight"} <= {array.name for array in model.graph.initializer}
    assert model.ir_version <= 10


def test_every_instruction_of_these_sections_has_an_entry():
    learner = Learner(preset("images"))
    program = learner.runtime.program
    for section in ("train", "encode", "forward", "read_out", "inverse"):
        ops = {program.decode(row).op for row in range(*program.sections[section])}
        assert ops <= {*ENTRIES, Op.SKIP, Op.REPEAT}


def test_unknown_instructions_are_named(monkeypatch):
    monkeypatch.delitem(ENTRIES, Op.POOL)
    with pytest.raises(ExportError, match="the instruction POOL of section read_out cannot be written"):
        make(Learner(preset("table")), "onnx")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "caffe"}, "format 'caffe': expected one of onnx"),
        ({"opset": 16}, "opset 16: expected 17 or 18"),
        ({"batch": 0}, "batch"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UsageError, match=message):
        make(Learner(preset("table")), **{"format": "onnx", **options})


def test_models_that_are_not_finite_stay_here():
    learner = Learner(preset("table"))
    learner.runtime.view("block1.F.1.weight")[3] = float("nan")
    with pytest.raises(CheckpointError, match=r"the graph was not written: block1\.F\.1\.weight holds NaN"):
        make(learner, "onnx")


def test_graph_that_is_not_valid_is_a_fault_of_ours():
    graph = Graph("bad", 18, None)
    x = graph.input("x", "f4", (2, 3))
    graph.output("y", graph.add("Gemm", x, x), "f4", (2, 2))
    with pytest.raises(ExportError, match="is not valid ONNX"):
        graph.build({}, "0")


def test_models_too_large_for_a_file(monkeypatch):
    monkeypatch.setattr("edgerev.deploy.onnx.graph._MOST_BYTES", 1000)
    with pytest.raises(ExportError, match="more than 1000 bytes"):
        make(Learner(preset("table")), "onnx")


def test_difference_is_written_down(tmp_path, capsys):
    learner = jittered(Learner(preset("table")))
    found = case(learner, "onnx", samples(learner, 2))
    wrong = Case(found.inputs, {"probability": found.expected["probability"] + np.float32(0.01)})
    with pytest.raises(ExportError, match=r"probability differs by 0\.01; .*python .*out\.py"):
        verify(make(learner, "onnx"), wrong, TOLERANCES["onnx"], str(tmp_path / "out"))
    runpy.run_path(str(tmp_path / "out.py"))
    assert "probability largest difference 0.01" in capsys.readouterr().out


def test_formats_have_tolerances():
    assert TOLERANCES.keys() == FORMATS.keys()

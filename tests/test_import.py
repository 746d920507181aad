"""`edgerev import`: weights that another runtime trained come back, or nothing happens."""

import contextlib
import json
import os

import numpy as np
import pytest
from test_onnx import jittered, net_of, samples
from test_onnx_train import targets
from test_ort_training import train_both, worker  # noqa: F401

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

from edgerev.deploy.onnx.bring_back import bring_back  # noqa: E402
from edgerev.deploy.onnx.export import export  # noqa: E402
from edgerev.deploy.onnx.training import make_training, write_folder  # noqa: E402
from edgerev.deploy.onnx.verify import state  # noqa: E402
from edgerev.deploy.onnx.wire import CHECKSUM  # noqa: E402
from edgerev.deploy.ort import TrainStep  # noqa: E402
from edgerev.errors import CheckpointError  # noqa: E402
from edgerev.layers import GELU, Adapter, Conv2d, Dense, Depthwise, GroupNorm, ReLU  # noqa: E402
from edgerev.learner import Learner  # noqa: E402
from edgerev.losses import BinaryCrossEntropy  # noqa: E402
from edgerev.optimizers import SGD, AdamW, Lion  # noqa: E402
from edgerev.presets import preset  # noqa: E402

OPTIMIZERS = [SGD(1e-2), SGD(1e-2, 0.9), AdamW(1e-3), Lion(1e-4)]
NET = net_of(Conv2d(8, 3), GroupNorm(2), ReLU(), Depthwise(3), squeeze=True)


def saved(learner, folder):
    learner.save(str(folder / "model.edgerev"))
    return folder / "model.edgerev"


def imported(cli, source, folder):
    done = cli("import", source, "--into", folder / "model.edgerev", "-o", folder / "new.edgerev", "--json")
    assert (done.code, done.err) == (0, "")
    return Learner.load(str(folder / "new.edgerev")), json.loads(done.out)


def refused(cli, source, folder, *messages, code=1):
    before = sorted(os.listdir(folder))
    done = cli("import", source, "--into", folder / "model.edgerev", "-o", folder / "new.edgerev")
    assert done.code == code
    assert all(message in done.err for message in messages), done.err
    assert sorted(os.listdir(folder)) == before


# -- round trips ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_from_onnxruntime_training(worker, cli, optimizer, tmp_path):  # noqa: F811
    learner = jittered(Learner(NET, batch=4, optimizer=optimizer))
    saved(learner, tmp_path)
    found, _, x = train_both(worker, learner, tmp_path, steps=20)
    back, figures = imported(cli, tmp_path / "trained", tmp_path)
    assert figures["format"] == "ort-training"
    assert back.steps == learner.steps == 20
    answers = back.predict_proba_many(x)
    np.testing.assert_allclose(answers, found["answers"], atol=1e-5)
    np.testing.assert_array_equal(answers.argmax(1), found["answers"].argmax(1))
    ours, theirs = state(learner), state(back)
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], atol=2e-3 * abs(ours[name]).max() + 1e-12, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_from_a_train_step(cli, optimizer, tmp_path):
    learner = jittered(Learner(NET, batch=4, optimizer=optimizer))
    random = np.random.default_rng(3)
    learner.learn_many(samples(learner, 4, seed=random), targets(learner, 4, random))
    saved(learner, tmp_path)
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    driver = TrainStep(str(tmp_path / "step.onnx"))
    for _ in range(20):
        x, y = samples(learner, 4, seed=random), targets(learner, 4, random)
        driver.step(x, y)
        learner.learn_many(x, y)
    driver.save(str(tmp_path / "trained.npz"))
    back, figures = imported(cli, tmp_path / "trained.npz", tmp_path)
    assert (figures["format"], figures["steps"]) == ("train-step", 21)
    theirs = state(back)
    for name, values in driver.parameters().items():
        np.testing.assert_array_equal(theirs[name], values)
    np.testing.assert_allclose(back.predict_proba_many(x), learner.predict_proba_many(x), atol=1e-4)
    np.testing.assert_array_equal(back.predict_many(x), learner.predict_many(x))


def test_training_goes_on_here(cli, tmp_path):
    """Where steps were taken makes no difference, moments included."""
    learner = jittered(Learner(preset("table"), batch=4, optimizer=AdamW(1e-3)))
    saved(learner, tmp_path)
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    driver, random = TrainStep(str(tmp_path / "step.onnx")), np.random.default_rng(3)
    batches = [(samples(learner, 4, seed=random), targets(learner, 4, random)) for _ in range(10)]
    for x, y in batches[:5]:
        driver.step(x, y)
    driver.save(str(tmp_path / "trained.npz"))
    back, _ = imported(cli, tmp_path / "trained.npz", tmp_path)
    for x, y in batches[5:]:
        back.learn_many(x, y)
    for x, y in batches:
        learner.learn_many(x, y)
    np.testing.assert_allclose(back.predict_proba_many(x), learner.predict_proba_many(x), atol=1e-5)


@pytest.mark.parametrize("tasks", [1, 2])
def test_from_a_graph(cli, tasks, tmp_path):
    net = net_of(Adapter(2), Dense(8), shape=(5,), tasks=tasks) if tasks > 1 else NET
    learner, other = jittered(Learner(net, batch=4)), jittered(Learner(net, batch=4), seed=9)
    saved(learner, tmp_path)
    export(other, str(tmp_path / "other.onnx"), "onnx")
    back, figures = imported(cli, tmp_path / "other.onnx", tmp_path)
    assert figures["format"] == "onnx"
    x = samples(learner, 5)
    np.testing.assert_array_equal(back.predict_proba_many(x), other.predict_proba_many(x))


def test_from_a_graph_that_a_tool_changed(cli, tmp_path):
    learner = jittered(Learner(NET, batch=4))
    saved(learner, tmp_path)
    export(learner, str(tmp_path / "m.onnx"), "onnx")
    model = onnx.load(str(tmp_path / "m.onnx"))
    (bias,) = (tensor for tensor in model.graph.initializer if tensor.name == "head.0.bias")
    bias.raw_data = np.arange(4, dtype="f4").tobytes()
    onnx.save(model, str(tmp_path / "m.onnx"))
    refused(cli, tmp_path / "m.onnx", tmp_path, "its checksum is another one", CHECKSUM)
    kept = [entry for entry in model.metadata_props if entry.key != CHECKSUM]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, str(tmp_path / "m.onnx"))
    back, _ = imported(cli, tmp_path / "m.onnx", tmp_path)
    np.testing.assert_array_equal(state(back)["head.0.bias"], np.arange(4))


def test_folder_of_an_export(cli, tmp_path):
    learner = jittered(Learner(NET, batch=4, optimizer=AdamW()))
    saved(learner, tmp_path)
    write_folder(make_training(learner), str(tmp_path / "out"))
    back, figures = imported(cli, tmp_path / "out", tmp_path)
    assert figures["steps"] == 0
    for name, values in state(learner).items():
        np.testing.assert_array_equal(state(back)[name], values)


# -- what does not fit ---------------------------------------------------------------------------------------------


@pytest.fixture
def step(tmp_path):
    """Give a folder with a model, and the arrays of its train step."""
    learner = jittered(Learner(preset("table"), batch=4, optimizer=AdamW()))
    saved(learner, tmp_path)
    export(learner, str(tmp_path / "step.onnx"), "train-step")
    TrainStep(str(tmp_path / "step.onnx")).save(str(tmp_path / "trained.npz"))
    return dict(np.load(tmp_path / "trained.npz"))


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda arrays: arrays.pop("head.0.bias"), ["lacks head.0.bias", "name the checkpoint that was exported"]),
        (lambda arrays: arrays.pop("head.0.bias.moment2"), ["lacks head.0.bias.moment2"]),
        (lambda arrays: arrays.pop("scalars.power1"), ["lacks scalars.power1"]),
        (lambda arrays: arrays.pop("edgerev.steps"), ["cannot be read as weights"]),
        (lambda arrays: arrays.update({"edgerev.steps": np.array(-3)}), ["it counts -3 steps"]),
        (lambda arrays: arrays.update({"edgerev.steps": np.array(np.inf)}), ["cannot be read as weights"]),
        (lambda arrays: arrays.update({"edgerev.steps": np.arange(3)}), ["cannot be read as weights"]),
        (lambda arrays: arrays.update(more=np.zeros(3, "f4")), ["has more besides"]),
        (lambda arrays: arrays.update({"head.0.bias": np.zeros(3, "f4")}), ["has head.0.bias of float32 [3], not"]),
        (lambda arrays: arrays.update({"head.0.bias": np.zeros(10)}), ["has head.0.bias of float64 [10], not float32"]),
        (lambda arrays: arrays["head.0.bias"].fill(np.nan), ["has NaN or infinity in head.0.bias"]),
        (lambda arrays: arrays.clear(), ["cannot be read"]),
        (lambda arrays: [arrays.pop(name) for name in list(arrays)[:9]], ["and 6 more"]),
    ],
)
def test_wrong_arrays(cli, step, tmp_path, change, messages):
    change(step)
    np.savez(tmp_path / "wrong.npz", **step)
    refused(cli, tmp_path / "wrong.npz", tmp_path, *messages)


def test_damaged_files(cli, step, tmp_path):
    learner = Learner.load(str(tmp_path / "model.edgerev"))
    files = {"npz": (tmp_path / "trained.npz").read_bytes(), "checkpoint": make_training(learner)["checkpoint"]}
    export(learner, str(tmp_path / "m.onnx"), "onnx")
    files["onnx"] = (tmp_path / "m.onnx").read_bytes()
    for name, content in files.items():
        for size in (0, 7, 100, len(content) // 2, len(content) - 1):
            path = tmp_path / f"broken.{name}"
            path.write_bytes(content[:size])
            refused(cli, path, tmp_path, str(path))
    path.write_bytes(b"letter to a friend" * 9)
    refused(cli, path, tmp_path, "cannot be read as weights", "expected a checkpoint of onnxruntime-training")
    refused(cli, tmp_path / "step.onnx", tmp_path, 'a graph of format "train-step"')
    refused(cli, tmp_path / "nothing", tmp_path, "cannot be read as weights")


def test_any_damage_is_an_error_of_ours(step, tmp_path):
    """Or goes unnoticed, in a format without a checksum: then it is numbers of the right names and shapes."""
    random, learner = np.random.default_rng(0), Learner.load(str(tmp_path / "model.edgerev"))
    files = [(tmp_path / "trained.npz").read_bytes(), make_training(learner)["checkpoint"]]
    for content in files:
        for _ in range(300):
            data = bytearray(content)
            for place in random.integers(0, len(data), 3):
                data[place] ^= 1 << random.integers(0, 8)
            (tmp_path / "broken").write_bytes(data)
            with contextlib.suppress(CheckpointError):
                bring_back(learner, str(tmp_path / "broken"))
    assert np.isfinite(learner.predict_proba_many(samples(learner, 2))).all()


@pytest.mark.parametrize(
    ("before", "after"), [(b"'shape': ()", b"'shape': (("), (b"{'descr'", b"{\n  x\n y'")], ids=["open", "indented"]
)
def test_a_damaged_header(cli, step, tmp_path, before, after):
    """NumPy takes what it cannot parse for a header of Python 2, and its tokens for sound."""
    data = (tmp_path / "trained.npz").read_bytes()
    (tmp_path / "trained.npz").write_bytes(data.replace(before, after))
    refused(cli, tmp_path / "trained.npz", tmp_path, "cannot be read as weights")


def test_an_empty_file(cli, step, tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(cli, tmp_path / "empty.onnx", tmp_path, "cannot be read as weights (it is empty)")


def test_another_model(cli, step, tmp_path):
    other = Learner(preset("digits"), batch=4, optimizer=AdamW())
    write_folder(make_training(other), str(tmp_path / "out"))
    refused(cli, tmp_path / "out", tmp_path, "does not fit the model", "tensors of its ort-training export")
    export(other, str(tmp_path / "m.onnx"), "onnx")
    refused(cli, tmp_path / "m.onnx", tmp_path, "does not fit the model")
    write_folder(make_training(Learner(preset("table"), batch=4, optimizer=SGD())), str(tmp_path / "sgd"))
    refused(cli, tmp_path / "sgd", tmp_path, "lacks block0.F.0.gain.moment2")


def test_a_model_of_the_same_shapes(cli, tmp_path):
    learner = Learner(net_of(ReLU(), Dense(8), shape=(5,)), batch=4)
    learner.classes = ["cat", "dog"]
    saved(learner, tmp_path)
    for name, net, options, classes, message in (
        ("net", net_of(GELU(), Dense(8), shape=(5,)), {}, learner.classes, "its metadata names another net;"),
        ("loss", learner.net, {"loss": BinaryCrossEntropy()}, [], "names the loss BINARY_CROSS_ENTROPY;"),
        ("classes", learner.net, {}, ["dog", "cat"], "names the classes dog, cat;"),
    ):
        other = Learner(net, batch=4, **options)
        other.classes = classes
        export(other, str(tmp_path / f"{name}.onnx"), "onnx")
        refused(cli, tmp_path / f"{name}.onnx", tmp_path, "does not fit the model", message)
    learner.classes = ["cat"]  # "dog" came later
    export(learner, str(tmp_path / "m.onnx"), "onnx")
    imported(cli, tmp_path / "m.onnx", tmp_path)


@pytest.mark.parametrize("format", ["onnx", "train-step", "ort-training"])
def test_adapters_of_another_task(cli, format, tmp_path):
    learner = Learner(net_of(Adapter(2), Dense(8), shape=(5,), tasks=3), batch=4)
    learner.task = 1
    saved(learner, tmp_path)
    for task, message in ((2, "names the task 2, not 1"), (1, None)):
        learner.task = task
        source = tmp_path / f"of {task}"
        if format == "ort-training":
            write_folder(make_training(learner), str(source))
        else:
            export(learner, str(source), format)
        if format == "train-step":
            TrainStep(str(source)).save(str(source))
        if message:
            refused(cli, source, tmp_path, "does not fit the model", message)
        else:
            imported(cli, source, tmp_path)


@pytest.mark.parametrize("released", [False, True])
def test_a_head_in_closed_form_answers_from_its_sums(cli, released, tmp_path):
    learner, x = Learner(net_of(Dense(8), shape=(5,), kind="ridge"), batch=4), np.random.default_rng(0).random((20, 5))
    learner.remember_many(x, np.arange(20) % 4)
    if released:
        learner.release()
    saved(learner, tmp_path)
    export(learner, str(tmp_path / "m.onnx"), "onnx")
    back, _ = imported(cli, tmp_path / "m.onnx", tmp_path)
    np.testing.assert_array_equal(back.predict_proba_many(x), learner.predict_proba_many(x))
    (tmp_path / "new.edgerev").unlink()
    np.frombuffer(learner.runtime.view("ridge.weight"), "f4")[:] += 0.1
    export(learner, str(tmp_path / "m.onnx"), "onnx")
    if not released:
        return refused(cli, tmp_path / "m.onnx", tmp_path, "ridge.weight is not what the model's sums give")
    back, _ = imported(cli, tmp_path / "m.onnx", tmp_path)
    np.testing.assert_array_equal(back.predict_proba_many(x), learner.predict_proba_many(x))
    return None


def test_a_file_that_is_there_stays(cli, step, tmp_path):
    (tmp_path / "new.edgerev").write_bytes(b"mine")
    refused(cli, tmp_path / "trained.npz", tmp_path, "there already", code=2)
    arguments = ("import", tmp_path / "trained.npz", "--into", tmp_path / "model.edgerev")
    assert cli(*arguments, "-o", tmp_path / "new.edgerev", "--force").code == 0
    assert (tmp_path / "new.edgerev.previous").read_bytes() == b"mine"


def test_a_damaged_model(cli, step, tmp_path):
    (tmp_path / "model.edgerev").write_bytes(b"no")
    refused(cli, tmp_path / "trained.npz", tmp_path, "model.edgerev")

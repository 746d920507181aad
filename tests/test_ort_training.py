"""The export for onnxruntime-training against our runtime: fifty steps of each preset, layer, loss and optimizer.

That runtime installs the same module as onnxruntime, so it lives in an environment of its own: set
EDGEREV_ORT_TRAINING_PYTHON to a Python that has onnxruntime-training 1.19.2, or the tests that run it are skipped.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_onnx import PRESETS, jittered, net_of, samples
from test_onnx_train import FIFTY, LOSSES, largest_of_layer, targets

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

from edgerev.continual.consolidation import EWC, SynapticIntelligence  # noqa: E402
from edgerev.deploy.onnx.ort_checkpoint import OrtCheckpoint, pack, unpack  # noqa: E402
from edgerev.deploy.onnx.training import CHECKPOINT, FILES, make_training, write_folder  # noqa: E402
from edgerev.deploy.onnx.verify import difference, masks, state  # noqa: E402
from edgerev.deploy.ort_training import TrainingModule  # noqa: E402
from edgerev.errors import ExportError, UsageError  # noqa: E402
from edgerev.layers import Adapter, Conv2d, Dense, Dropout, ReLU, RMSNorm  # noqa: E402
from edgerev.learner import Learner  # noqa: E402
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule  # noqa: E402
from edgerev.presets import preset  # noqa: E402
from edgerev.tools.child import link_package  # noqa: E402

ROOT = Path(__file__).parents[1]
STEPS = 50
OPTIMIZERS = [
    SGD(1e-3, weight_decay=0.1), SGD(1e-3, 0.9), SGD(1e-3, 0.9, True, 0.01), AdamW(1e-4), AdamW(1e-4, weight_decay=0.5),
    AdamW(1e-4, 0.8, 0.9, 1e-6, 0.0), Lion(1e-5), Lion(1e-5, weight_decay=0.5),
]  # fmt: skip


class Worker:
    """The other environment, started once."""

    def __init__(self, python, folder):
        link_package(str(folder))  # that environment needs no install: NumPy and the runtime are enough
        self.process = subprocess.Popen(
            [python, ROOT / "tests" / "ort_training_worker.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(folder)},
        )  # fmt: skip

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def worker(training_python, tmp_path_factory):
    worker = Worker(training_python, tmp_path_factory.mktemp("tree"))
    yield worker
    worker.close()


def train_both(worker, learner, folder, *, n=4, steps=STEPS, rates=None, **form):
    """Train there and here; return what came of it there, and our losses."""
    random, x, y, drawn, losses = np.random.default_rng(6), [], [], [], []
    write_folder(make_training(learner, **form), str(folder / "model"))
    for _ in range(steps):
        x.append(samples(learner, n, seed=random))
        y.append(targets(learner, n, random))
        drawn.append(masks(learner, n))
        losses.append(learner.learn_many(x[-1], y[-1]).loss)
    named = {name: np.stack([found[name] for found in drawn]) for name in drawn[0]}
    np.savez(folder / "batches.npz", x=np.stack(x), y=np.stack(y), **named)
    assert worker.ask(verb="train", folder=str(folder), rates=rates) == {"steps": steps}
    return dict(np.load(folder / "result.npz")), np.array(losses), x[0]


def check(worker, learner, folder, **options):
    """Check losses and parameters of all steps, and the answers after them."""
    found, losses, x = train_both(worker, learner, folder, **options)
    there, ours = found.pop("losses"), state(learner)
    answers, _ = found.pop("answers"), found.pop("loss")
    assert np.max(abs(there - losses) / np.maximum(abs(losses), 1e-3)) < 1e-4
    assert "head.0.weight" in found
    for name, values in found.items():
        assert difference(values, ours[name], largest_of_layer(ours, name)) < 1e-4, name
    np.testing.assert_allclose(answers, learner.predict_proba_many(x), atol=1e-4 * max(1, abs(answers).max()))


@pytest.mark.parametrize("name", PRESETS)
def test_fifty_steps_of_presets(worker, name, tmp_path):
    check(worker, jittered(Learner(preset(name), batch=4, optimizer=SGD(1e-3))), tmp_path)


@pytest.mark.parametrize(
    ("shape", "layer", "last"), [(shape, layer, last) for shape, layers, last in FIFTY for layer in layers], ids=str
)
def test_fifty_steps_of_layers(worker, shape, layer, last, tmp_path):
    check(worker, jittered(Learner(net_of(layer, last, shape=shape), batch=4, optimizer=SGD(1e-3))), tmp_path)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_fifty_steps_of_losses(worker, loss, tmp_path):
    check(worker, jittered(Learner(net_of(Dense(8), shape=(5,)), batch=4, optimizer=SGD(1e-3), loss=loss)), tmp_path)


def deep_net():
    return net_of(RMSNorm(), Conv2d(8, 3), ReLU(), Dropout(0.2), Conv2d(8, 3), squeeze=True)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_fifty_steps_of_optimizers(worker, optimizer, tmp_path):
    check(worker, jittered(Learner(deep_net(), batch=4, optimizer=optimizer)), tmp_path)


@pytest.mark.parametrize("form", [{"opset": 17}, {"opset": 18, "batch": 4}], ids=str)
@pytest.mark.parametrize("kind", ["function", "global", "adaptive"])
def test_clipping(worker, kind, form, tmp_path):
    learner = jittered(Learner(net_of(Dense(8), shape=(5,)), batch=4, optimizer=AdamW(1e-3), clip=Clip(0.05, kind)))
    check(worker, learner, tmp_path, **form)


def test_pull_of_a_consolidation(worker, tmp_path):
    learner = jittered(Learner(net_of(Dense(8), shape=(5,)), batch=4, consolidation=EWC(0.5), optimizer=SGD(1e-3, 0.5)))
    random = np.random.default_rng(5)
    learner.consolidate(samples(learner, 8, seed=random), targets(learner, 8, random))
    check(worker, learner, tmp_path)


def test_rates_of_modules_in_an_atomic_step(worker, tmp_path):
    learner = Learner(
        net_of(Dense(8), shape=(5,)), batch=4, rates=(0.1, 1.0, 2.0, 0.0), atomic=True,
        optimizer=SGD(1e-3, weight_decay=0.1),
    )
    check(worker, jittered(learner), tmp_path)


def test_rate_is_the_callers(worker, tmp_path):
    schedule = RateSchedule(warmup=10)
    learner = jittered(Learner(preset("table"), batch=4, optimizer=AdamW(1e-4), rate_schedule=schedule))
    check(worker, learner, tmp_path, rates=[1e-4 * min(1, (step + 1) / 10) for step in range(STEPS)])


@pytest.mark.parametrize("frozen", [False, True])
def test_adapters_and_frozen_blocks(worker, frozen, tmp_path):
    net, decaying = net_of(Adapter(2), Dense(8), shape=(5,), tasks=2), SGD(1e-3, weight_decay=0.1)
    learner = jittered(Learner(net, batch=4, optimizer=decaying))
    learner.task, learner.adapters_only, learner.frozen = 1, not frozen, int(frozen)
    check(worker, learner, tmp_path)


@pytest.mark.parametrize("state", ["int16", "float32"])
def test_other_states(worker, state, tmp_path):
    learner = jittered(Learner(net_of(Conv2d(8, 3)).replace(state=state), batch=4, optimizer=SGD(1e-4)))
    found, losses, _ = train_both(worker, learner, tmp_path)
    assert np.max(abs(found["losses"] - losses)) < (1e-2 if state == "int16" else 1e-4)


def test_head_in_closed_form_stays_behind(worker, tmp_path):
    learner = jittered(Learner(preset("table", head="ridge"), batch=4, optimizer=SGD(1e-3)))
    learner.remember_many(samples(learner, 8), np.arange(8))
    found, losses, x = train_both(worker, learner, tmp_path, steps=3)
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
    np.testing.assert_allclose(found["answers"], learner.predict_proba_many(x), atol=1e-4)


# -- going on from a checkpoint ------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [AdamW(1e-3), SGD(1e-3, 0.9), Lion(1e-4)], ids=str)
def test_moments_go_along(worker, optimizer, tmp_path):
    """Exported in the middle of training, moments and the count of steps are those that our runtime has."""
    learner = jittered(Learner(preset("table"), batch=4, optimizer=optimizer))
    random = np.random.default_rng(1)
    for _ in range(7):
        learner.learn_many(samples(learner, 4, seed=random), targets(learner, 4, random))
    check(worker, learner, tmp_path, steps=5)
    trained = unpack(memoryview((tmp_path / "trained").read_bytes()))
    assert trained.step == 12


def test_saved_training_goes_on_to_the_bit(worker, tmp_path):
    learner = jittered(Learner(preset("table"), batch=4, optimizer=AdamW(1e-3)))
    write_folder(make_training(learner), str(tmp_path / "model"))
    script = """
model, x, y = folder + "/model", np.ones((4, 16), "f4"), np.arange(4)
whole, half = TrainingModule(model), TrainingModule(model)
for _ in range(6): whole.step(x, y)
for _ in range(3): half.step(x, y)
half.save(folder + "/half")
rest = TrainingModule(model, folder + "/half")
for _ in range(3): rest.step(x, y)
result = [bool((whole.parameters()[name] == values).all()) for name, values in rest.parameters().items()]
"""
    found = worker.ask(verb="calls", folder=str(tmp_path), script=script)
    assert len(found) > 8
    assert all(found)


def test_a_step_that_fails_changes_nothing(worker, tmp_path):
    files = make_training(Learner(preset("table"), batch=4))
    found = unpack(memoryview(files[CHECKPOINT]))
    torn = dict(found.parameters) | {"head.0.bias": np.full(10, np.nan, "f4")}
    write_folder(files | {CHECKPOINT: pack(found._replace(parameters=torn))}, str(tmp_path / "model"))
    script = """
module, x, y = TrainingModule(folder + "/model"), np.ones((4, 16), "f4"), np.arange(4)
messages = []
before = module.parameters()
for call in (
    lambda: module.step(x, y), lambda: module.step(x[:, :3], y), lambda: module.step(x, y + 9),
    lambda: module.step(x * np.nan, y), lambda: module.step(x, y[:2]),
):
    try:
        call()
    except Exception as error:
        messages.append(type(error).__name__ + ": " + str(error))
same = all(np.array_equal(module.parameters()[name], array, equal_nan=True) for name, array in before.items())
result = [same, *messages]
"""
    same, *messages = worker.ask(verb="calls", folder=str(tmp_path), script=script)
    assert same
    starts = [
        "NumericError: the loss of step 1 is nan", "DataError: x has shape", "DataError: labels are in",
        "DataError: x holds NaN", "DataError: 4 samples, 2 targets",
    ]  # fmt: skip
    assert len(messages) == len(starts)
    assert all(message.startswith(start) for message, start in zip(messages, starts))


def test_files_that_cannot_be_used(worker, tmp_path):
    write_folder(make_training(Learner(preset("table"), batch=4)), str(tmp_path / "model"))
    random = np.random.default_rng(0)
    for name in FILES:
        path = tmp_path / "model" / name
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[random.integers(40, len(whole) - 40)] ^= 4
        for content in (b"", whole[: len(whole) // 2], damaged if name.startswith(("train", "eval")) else b"x" * 99):
            path.write_bytes(content)
            result = 'result = [TrainingModule(folder + "/model").steps]'
            found = worker.ask(verb="calls", folder=str(tmp_path), script=result)
            assert found["error"] == "ExportError", name
            assert "expected" in found["message"]
        path.write_bytes(whole)


@pytest.mark.parametrize("name", [CHECKPOINT, "eval_model.onnx"])
def test_files_of_another_export(worker, name, tmp_path):
    for folder, outputs in (("model", 10), ("other", 3)):
        write_folder(make_training(Learner(preset("table", outputs=outputs), batch=4)), str(tmp_path / folder))
    (tmp_path / "other" / name).rename(tmp_path / "model" / name)
    script = (
        'module, x, y = TrainingModule(folder + "/model"), np.ones((2, 16)), [0, 1]\n'
        "result = [module.step(x, y, 0.0), module.evaluate(x, y)[0]]"
    )
    found = worker.ask(verb="calls", folder=str(tmp_path), script=script)
    assert found["error"] == "ExportError"
    assert "expected graphs and checkpoint of one export" in found["message"]


def test_without_that_runtime(tmp_path):
    write_folder(make_training(Learner(preset("table"), batch=4)), str(tmp_path / "model"))
    with pytest.raises(ExportError, match=r"needs the package onnxruntime-training.*1\.19\.2"):
        TrainingModule(str(tmp_path / "model"))


# -- what is written -----------------------------------------------------------------------------------------------


def test_checkpoint_is_read_as_it_was_written(worker, tmp_path):
    random = np.random.default_rng(0)
    shapes = [(3,), (1, 1), (2, 3, 4, 1), (5, 2)]
    parameters = {f"p{'x' * k}": random.normal(size=shape).astype("f4") for k, shape in enumerate(shapes)}
    moments = {name: [array + 1, array + 2] for name, array in parameters.items()}
    found = unpack(memoryview(pack(OrtCheckpoint(parameters, moments, 5, 0.5))))
    assert found.step == 5
    assert found.parameters.keys() == parameters.keys()
    for name, array in parameters.items():
        np.testing.assert_array_equal(found.parameters[name], array)
        for there, here in zip(found.moments[name], moments[name]):
            np.testing.assert_array_equal(there, here)


def test_a_damaged_checkpoint_is_no_surprise():
    random = np.random.default_rng(0)
    whole = pack(OrtCheckpoint({"a": np.ones((2, 3), "f4")}, {"a": [np.ones((2, 3), "f4")]}, 1))
    outcomes = set()
    for _ in range(2000):
        data = bytearray(whole)
        data[random.integers(0, len(data))] ^= 1 << random.integers(0, 8)
        try:
            unpack(memoryview(data[: random.integers(1, len(data) + 1)]))
            outcomes.add("read")
        except ValueError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"consolidation": SynapticIntelligence(0.5)}, "SynapticIntelligence follows each change"),
        ({"rates": (1.0, 1.0, 0.5, 1.0), "optimizer": AdamW()}, "factors on the learning rate"),
        ({"rates": (1.0, 1.0, 0.5, 1.0), "optimizer": SGD(0.1, 0.9)}, "factors on the learning rate"),
    ],
)
def test_what_cannot_be_expressed(options, message):
    with pytest.raises(ExportError, match=f"{message}.*export a train-step"):
        make_training(Learner(net_of(Dense(8), shape=(5,)), **options))


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9), AdamW(), Lion()])
def test_what_would_move_the_answers_of_other_tasks(optimizer):
    learner = Learner(net_of(Dense(8), shape=(5,), tasks=2), optimizer=optimizer)
    make_training(learner)
    learner.task = 1
    with pytest.raises(ExportError, match=r"answers of tasks other than 1.*export a train-step"):
        make_training(learner)


def test_unknown_opset():
    with pytest.raises(UsageError, match="opset 16: expected 17 or 18"):
        make_training(Learner(preset("table")), opset=16)


def test_verb_writes_a_folder(cli, tmp_path):
    model, output = tmp_path / "m.edgerev", tmp_path / "out"
    Learner(preset("table")).save(str(model))
    done = cli("export", model, "--format", "ort-training", "-o", output, "--opset", "17", "--json")
    assert (done.code, done.err) == (0, "")
    assert sorted(os.listdir(output)) == sorted(FILES)
    assert json.loads(done.out)["bytes"] == sum((output / name).stat().st_size for name in FILES)
    done = cli("export", model, "--format", "ort-training", "-o", output)
    assert done.code == 2
    assert "there already" in done.err
    before = (output / CHECKPOINT).read_bytes()
    (output / CHECKPOINT).write_bytes(b"trained")
    assert cli("export", model, "--format", "ort-training", "-o", output, "--force").code == 0
    assert (output / CHECKPOINT).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["m.edgerev", "out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--opset", "12"), "opset 12: expected 17 or 18"), (("--batch", "0"), "batch"),
        (("--verify",), "verify a train-step"),
    ],
)
def test_bad_options_write_nothing(cli, options, message, tmp_path):
    model = tmp_path / "m.edgerev"
    Learner(preset("table")).save(str(model))
    done = cli("export", model, "--format", "ort-training", "-o", tmp_path / "out", *options)
    assert done.code == 2
    assert message in done.err
    assert os.listdir(tmp_path) == ["m.edgerev"]


def test_a_link_to_a_folder_is_followed(cli, tmp_path):
    model, real, link = tmp_path / "m.edgerev", tmp_path / "real", tmp_path / "link"
    Learner(preset("table")).save(str(model))
    assert cli("export", model, "--format", "ort-training", "-o", real).code == 0
    link.symlink_to(real)
    (real / CHECKPOINT).write_bytes(b"")
    assert cli("export", model, "--format", "ort-training", "-o", link, "--force").code == 0
    assert link.is_symlink()
    assert (real / CHECKPOINT).read_bytes()[4:8] == b"ODTC"
    assert sorted(os.listdir(tmp_path)) == ["link", "m.edgerev", "real"]


def test_a_folder_of_something_else_stays(cli, tmp_path):
    model, other = tmp_path / "m.edgerev", tmp_path / "mine"
    Learner(preset("table")).save(str(model))
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    done = cli("export", model, "--format", "ort-training", "-o", other, "--force")
    assert done.code == 2
    assert "is no such export" in done.err
    assert os.listdir(other) == ["letter.txt"]


def test_documentation_runs_as_shown(cli, training_python, tmp_path):
    learner, page = Learner(preset("table"), batch=4), (ROOT / "docs" / "onnx.md").read_text()
    learner.save(str(tmp_path / "model.edgerev"))
    write_folder(make_training(learner), str(tmp_path / "training"))
    link_package(str(tmp_path))
    (block,) = re.findall(r"^```py\n(.*?)^```", page, flags=re.M | re.S)
    done = subprocess.run([training_python, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    done = cli("import", tmp_path / "training", "--into", tmp_path / "model.edgerev", "-o", tmp_path / "new.edgerev")
    assert done.code == 0
    assert Learner.load(str(tmp_path / "new.edgerev")).steps == 10

"""`edgerev export`: from a checkpoint to a file that another runtime runs."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

from edgerev.cli import VERBS  # noqa: E402
from edgerev.cli import export as verb  # noqa: E402
from edgerev.deploy.onnx.export import FORMATS  # noqa: E402
from edgerev.deploy.ort import TrainStep  # noqa: E402
from edgerev.errors import ExportError  # noqa: E402
from edgerev.learner import Learner  # noqa: E402
from edgerev.optimizers import AdamW, RateSchedule  # noqa: E402
from edgerev.presets import preset  # noqa: E402
from edgerev.recipe import Augment  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "digits.edgerev"
    learner = Learner(
        preset("digits"), batch=4, optimizer=AdamW(1e-3), augment=Augment(crop=1, shift=1),
        rate_schedule=RateSchedule("cosine", warmup=2, steps=10),
    )
    learner.classes = [f"digit {index}" for index in range(10)]
    learner.set_standardisation([0.3], [2.0])
    random = np.random.default_rng(0)
    for _ in range(3):
        learner.learn_many(random.normal(size=(4, *learner.sample_shape)), random.integers(0, 10, 4))
    learner.save(str(path))
    return path


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("options", [(), ("--opset", "17", "--batch", "3")], ids=["open", "fixed"])
def test_formats(cli, model, tmp_path, format, options):
    output = tmp_path / "out.onnx"
    done = cli("export", model, "--format", format, "-o", output, "--verify", "--json", *options)
    assert (done.code, done.err) == (0, "")
    figures = json.loads(done.out)
    assert figures["bytes"] == output.stat().st_size
    assert figures["opset"] == (17 if options else 18)
    assert figures["largest_difference"] < 1e-3
    assert os.listdir(tmp_path) == ["out.onnx"]


def test_what_is_exported_answers(cli, model, tmp_path):
    output = tmp_path / "out.onnx"
    done = cli("export", model, "-o", output)
    assert done.code == 0
    assert "probability" not in done.out
    learner = Learner.load(str(model))
    x = np.random.default_rng(1).normal(size=(5, *learner.sample_shape)).astype("f4")
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["probability"], {"x": x})[0], learner.predict_proba_many(x), atol=1e-5)
    classes = session.get_modelmeta().custom_metadata_map["edgerev.classes"]
    assert json.loads(classes) == learner.classes


def test_training_goes_on_where_the_checkpoint_is(cli, model, tmp_path):
    output = tmp_path / "step.onnx"
    assert cli("export", model, "--format", "train-step", "-o", output).code == 0
    driver = TrainStep(str(output))
    assert driver.parameters()["scalars.power1"] == pytest.approx(0.9**3)
    assert np.isfinite(driver.step(np.zeros((4, 8, 8, 1)), np.zeros(4)))


def test_the_checkpoint_is_not_replaced_by_its_graph(cli, model, tmp_path):
    path = tmp_path / "m.edgerev"
    path.write_bytes(model.read_bytes())
    (tmp_path / "link.onnx").symlink_to(path)
    for output in (path, tmp_path / "link.onnx"):
        done = cli("export", path, "-o", output, "--force")
        assert done.code == 2
        assert "is the checkpoint itself" in done.err
    assert path.read_bytes() == model.read_bytes()


def test_a_pipe_stays(cli, model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = cli("export", model, "-o", tmp_path / "pipe", "--force")
    assert done.code == 2
    assert "is a device or a pipe" in done.err
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_that_is_there_stays(cli, model, tmp_path):
    output = tmp_path / "out.onnx"
    output.write_bytes(b"mine")
    done = cli("export", model, "-o", output)
    assert done.code == 2
    assert "there already" in done.err
    assert output.read_bytes() == b"mine"
    assert cli("export", model, "-o", output, "--force").code == 0
    assert output.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--opset", "12"), "opset 12: expected 17 or 18"),
        (("--batch", "0"), "batch"),
        (("--format", "caffe"), "invalid choice"),
    ],
)
def test_bad_options_write_nothing(cli, model, tmp_path, options, message):
    done = cli("export", model, "-o", tmp_path / "out.onnx", *options)
    assert done.code == 2
    assert message in done.err
    assert os.listdir(tmp_path) == []


def test_a_damaged_checkpoint_writes_nothing(cli, model, tmp_path):
    broken = tmp_path / "broken.edgerev"
    broken.write_bytes(model.read_bytes()[:-1])
    assert cli("export", broken, "-o", tmp_path / "out.onnx").code == 1
    assert os.listdir(tmp_path) == ["broken.edgerev"]


def test_a_difference_leaves_a_script_and_no_file(cli, model, tmp_path, monkeypatch):
    from edgerev.deploy.onnx import verify

    monkeypatch.setattr(verify, "tolerance", lambda *_: verify.Tolerance(-1.0, 1.0))
    done = cli("export", model, "-o", tmp_path / "out.onnx", "--verify")
    assert done.code == ExportError.exit_code
    assert f"python {tmp_path}/out.differs.py" in done.err
    assert sorted(os.listdir(tmp_path)) == ["out.differs.npz", "out.differs.onnx", "out.differs.py"]


@pytest.mark.parametrize(
    ("name", "format", "state", "head"), [
        ("digits", "forward", "int16", {}), ("digits", "onnx", "int16", {}), ("sensors", "train-step", "int16", {}),
        ("table", "inverse", "float32", {}), ("sensors", "onnx", "int32", {"kind": "prototype"}),
        ("table", "onnx", "int32", {"kind": "ridge", "sums": "int64"}),
    ],
)  # fmt: skip
def test_nets_whose_last_bits_weigh_more_are_verified(cli, tmp_path, name, format, state, head):
    """A coarse grid, an inverse that is not exact, scores in the thousands, features as whole numbers."""
    net, random = preset(name, state=state), np.random.default_rng(0)
    learner = Learner(net.replace(head=net.head.replace(**head)), batch=16)
    x, y = random.normal(size=(320, *learner.sample_shape)).astype("f4"), random.integers(0, 10, 320)
    x.reshape(320, -1)[np.arange(320), y] += 4
    learner.learn_many(x, y)
    if head:
        if "sums" in head:
            learner.calibrate(x)
        learner.remember_many(x, y)
    learner.save(str(tmp_path / "m.edgerev"))
    done = cli("export", tmp_path / "m.edgerev", "--format", format, "-o", tmp_path / "out.onnx", "--verify")
    assert (done.code, done.err) == (0, "")


def test_a_wrong_graph_of_a_coarse_net_is_found(tmp_path):
    from edgerev.deploy.onnx import export, verify

    learner = Learner(preset("table", state="int16"))
    x = np.random.default_rng(0).normal(size=(4, *learner.sample_shape)).astype("f4")
    found = verify.case(learner, "onnx", x)
    other = export.make(Learner(preset("table", state="int16"), seed=1), "onnx")
    with pytest.raises(ExportError, match="output probability differs"):
        verify.verify(other, found, verify.tolerance(learner, "onnx", found), str(tmp_path / "out"))


def test_missing_packages_are_named(cli, model, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    done = cli("export", model, "-o", tmp_path / "out.onnx")
    assert done.code == 1
    assert "python -m pip install 'edgerev[onnx]'" in done.err
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    done = cli("export", model, "-o", tmp_path / "out.onnx", "--verify")
    assert "python -m pip install 'edgerev[ort]'" in done.err
    assert os.listdir(tmp_path) == []


def test_a_head_in_closed_form_without_samples(cli, tmp_path):
    Learner(preset("table", head="ridge")).save(str(tmp_path / "m.edgerev"))
    done = cli("export", tmp_path / "m.edgerev", "-o", tmp_path / "out.onnx")
    assert "has no samples yet" in done.err
    assert cli("export", tmp_path / "m.edgerev", "--format", "train-step", "-o", tmp_path / "out.onnx").code == 0


def test_the_help_tells_all_formats():
    assert verb.FORMATS.keys() == FORMATS.keys() | {verb.TRAINING}
    assert VERBS["export"] == verb.HELP

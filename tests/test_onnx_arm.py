"""Exported graphs on aarch64: the wheels of onnxruntime and edgerev under qemu, beside our runtime on this machine."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_onnx import jittered, net_of, samples

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

from test_onnx_train import largest_of_layer, targets  # noqa: E402

from edgerev.deploy.dependencies import platforms  # noqa: E402
from edgerev.deploy.onnx.export import export  # noqa: E402
from edgerev.deploy.onnx.verify import difference, masks, state  # noqa: E402
from edgerev.deploy.wheel import make_wheel  # noqa: E402
from edgerev.kernels.targets import named  # noqa: E402
from edgerev.layers import Conv1d, Conv2d, Dense, Depthwise, Dropout, ReLU, RMSNorm  # noqa: E402
from edgerev.learner import Learner  # noqa: E402
from edgerev.optimizers import SGD, AdamW, Clip, Lion  # noqa: E402
from edgerev.presets import preset  # noqa: E402

pytestmark = pytest.mark.long

WORKER = Path(__file__).parent / "arm" / "onnx_worker.py"
STEPS, BATCH, CORES = 10, 4, 2
# the processors of Raspberry Pi 3, 4 and 5, as qemu calls them, and their numbers in /proc/cpuinfo
PROCESSORS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
NEWEST, OLDEST = "onnxruntime", "onnxruntime==1.20.*"  # of those that the extra `ort` allows
CPUINFO = """\
processor\t: {core}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
CASES = {
    "dense": (net_of(RMSNorm(), Dense(8), ReLU(), Dropout(0.3), Dense(8), shape=(5,)), AdamW(1e-3)),
    "conv1d": (net_of(Conv1d(8, 5), ReLU(), Conv1d(8, 3), shape=(12, 3), squeeze=True), Lion(1e-4)),
    "conv2d": (net_of(Conv2d(8, 3), RMSNorm(), ReLU(), Depthwise(3), squeeze=True), SGD(1e-2, momentum=0.9)),
    "digits": (preset("digits"), SGD(1e-3)),
}


class Device:
    """A processor of ARM's: Debian's Python, wheels, and little of this machine but its kernel."""

    def __init__(self, root, packages, folder, processor):
        self.folder, part = folder, PROCESSORS[processor]
        # onnxruntime crashes where /sys lists cores and /proc/cpuinfo has none of ARM's, as here
        (folder / "cpuinfo").write_text("".join(CPUINFO.format(core=core, part=part) for core in range(CORES)))
        cores = folder / "sys" / "devices" / "system" / "cpu"
        cores.mkdir(parents=True)
        for name in ("possible", "present"):
            (cores / name).write_text(f"0-{CORES - 1}\n")
        binds = {
            "/dev": "/dev", "/proc": "/proc", folder / "cpuinfo": "/proc/cpuinfo", folder / "sys": "/sys",
            packages: "/packages", WORKER.parent: "/arm", folder: "/root",
        }  # fmt: skip
        self.command = [
            "proot", "-q", f"qemu-aarch64-static -cpu {processor}", "-r", root,
            *(word for here, there in binds.items() for word in ("-b", f"{here}:{there}")), "-w", "/root",
            "/usr/bin/env", "-i", "HOME=/root", "PATH=/usr/bin:/bin", "PYTHONPATH=/packages",
        ]  # fmt: skip

    def run(self, *words):
        done = subprocess.run([*map(str, self.command), *words], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()


@pytest.fixture(scope="module")
def packages(arm_root, tmp_path_factory):
    """Give a function that returns a folder with edgerev and a runtime for the device's Python, from their wheels."""
    (python,) = (path.name.removeprefix("python") for path in (arm_root / "usr" / "bin").glob("python3.[0-9]*[0-9]"))
    target, folders = named("aarch64"), {}

    def installed(runtime):
        if runtime not in folders:
            folder = tmp_path_factory.mktemp("arm")
            command = [
                sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input",
                "--no-compile", "--only-binary=:all:", "--implementation=cp", f"--python-version={python}",
                *(f"--platform={tag}" for tag in platforms(target)), "--target", folder / "packages",
                make_wheel(target.name, folder), runtime,
            ]  # fmt: skip
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            failure = f"pip cannot install {runtime} for aarch64 and Python {python}: {done.stderr[-500:]}"
            folders[runtime] = failure if done.returncode else folder / "packages"
        if isinstance(folders[runtime], str):
            pytest.skip(folders[runtime])
        return folders[runtime]

    return installed


def train_here(learner, folder):
    """Export a learner to a folder, with batches; train it on them, and return its losses and its first answers."""
    for name in ("onnx", "forward", "inverse", "train-step"):
        export(learner, str(folder / f"{name}.onnx"), name)
    random, losses, answers, batches = np.random.default_rng(6), [], [], {}
    for _ in range(STEPS):
        x, y = samples(learner, BATCH, seed=random), targets(learner, BATCH, random)
        for name, values in {"x": x, "y": y, **masks(learner, BATCH)}.items():
            batches.setdefault(name, []).append(values)
        answers.append(np.array(learner.predict_proba_many(x)))
        losses.append(learner.learn_many(x, y).loss)
    np.savez(folder / "batches.npz", threads=CORES, **batches)
    return losses, answers[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("processor", "runtime"), [*((name, NEWEST) for name in PROCESSORS), ("cortex-a72", OLDEST)])
def test_training_and_answers(arm_root, packages, processor, runtime, case, tmp_path):
    device = Device(arm_root, packages(runtime), tmp_path, processor)
    net, optimizer = CASES[case]
    learner = jittered(Learner(net, batch=BATCH, optimizer=optimizer, clip=Clip(1.0)))
    losses, answers = train_here(learner, tmp_path)
    machine, version = device.run("python3", f"/arm/{WORKER.name}", "/root")
    assert machine == "aarch64"
    assert runtime == NEWEST or version.startswith("1.20.")
    found = np.load(tmp_path / "result.npz")
    assert found["steps"] == STEPS
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
    assert difference(found["probability"], answers, 1.0) < 1e-5
    np.testing.assert_array_equal(found["undone"], found["entry"])  # to the bit
    ours = state(learner)
    theirs = {name.removeprefix("parameter/"): found[name] for name in found if name.startswith("parameter/")}
    weights = [name for name in theirs if "moment" not in name and not name.startswith("scalars.")]
    assert set(weights) <= ours.keys()
    for name in weights:
        assert difference(theirs[name], ours[name], largest_of_layer(ours, name)) < 1e-4, name

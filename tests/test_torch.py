"""The same net, initial weights and batches in torch: the same loss curve.

Torch lives in an environment of its own, so it runs in a process of its own, fed by files: set EDGEREV_TORCH_PYTHON to
a Python that has it, or these tests are skipped.
"""

import json
import os
import subprocess

import numpy as np
import pytest

import harness
from edgerev.layers import Conv1d, Conv2d, Dense, ReLU
from edgerev.net import Block, Head, Net
from edgerev.optimizers import SGD
from edgerev.recipe import Recipe

STEPS, BATCH, CLASSES = 200, 16, 10
NETS = {
    "mlp4": Net((64,), Dense(128), (Block((Dense(64), ReLU(), Dense(64)), repeat=4),), Head(CLASSES)),
    "har2": Net((32, 9), Conv1d(16, 5), (Block((Conv1d(8, 5), ReLU(), Conv1d(8, 5)), repeat=2),), Head(CLASSES)),
    "vis2": Net((8, 8, 3), Conv2d(16, 3), (Block((Conv2d(8, 3), ReLU(), Conv2d(8, 3)), repeat=2),), Head(CLASSES)),
}

TORCH = """
import json, sys
import numpy as np
import torch
from torch.nn import functional

torch.set_num_threads(1)
data, rate, momentum, scale = np.load(sys.argv[1]), *map(float, sys.argv[2:])
weights = {name: torch.tensor(data[name], requires_grad=True) for name in data.files if name not in ("x", "y")}
optimizer = torch.optim.SGD(weights.values(), lr=rate, momentum=momentum)
spatial = data["x"].ndim - 3  # (step, sample, ..., channels)

def layer(x, name):
    w, b = weights[name + ".weight"], weights[name + ".bias"]
    if not spatial:
        return x @ w[0] + b
    taps = (round(len(w) ** (1 / spatial)),) * spatial  # w is (taps, in, out)
    kernel = w.reshape(*taps, *w.shape[1:]).permute(-1, -2, *range(spatial))
    convolution = (functional.conv1d, functional.conv2d)[spatial - 1]
    return convolution(x, kernel, b, padding=taps[0] // 2)

def branch(x, name):
    return scale * layer(torch.relu(layer(x, name + ".0")), name + ".2")

losses = []
for x, y in zip(torch.tensor(data["x"]), torch.tensor(data["y"])):
    if spatial:
        x = x.movedim(-1, 1)
    a, b = layer(x, "stem.0").chunk(2, 1)
    for block in range(sum(name.endswith("F.0.weight") for name in weights)):
        a = a + branch(b, f"block{block}.F")
        b = b + branch(a, f"block{block}.G")
    z = torch.cat([a, b], 1)
    z = z.flatten(2).mean(2) if spatial else z
    loss = functional.cross_entropy(z @ weights["head.0.weight"][0] + weights["head.0.bias"], y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(json.dumps(losses))
"""


@pytest.fixture(scope="module")
def torch_python():
    python = os.environ.get("EDGEREV_TORCH_PYTHON")
    if not python:
        pytest.skip("set EDGEREV_TORCH_PYTHON to a Python with torch")
    return python


def batches(net, rng):
    """Return batches of a task that can be learned: the class moves the mean of each channel."""
    labels = rng.integers(0, CLASSES, (STEPS, BATCH))
    centres = rng.normal(size=(CLASSES, *[1 for _ in net.input_shape[:-1]], net.input_shape[-1]))
    return (rng.normal(size=(*labels.shape, *net.input_shape)) + centres[labels]).astype("f4"), labels


@pytest.mark.parametrize(("name", "momentum"), [("mlp4", 0.0), ("har2", 0.9), ("vis2", 0.9)])
def test_loss_curve_is_that_of_torch(name, momentum, torch_python, tmp_path):
    """To 1e-3 over 200 steps, as issue 2 asks; 1e-6 was measured. A rate near the limit of stability would spread that:

    at 0.01 vis2's curve leaves that of torch by 0.1, while torch in float32 and in float64 part by 2e-4.
    """
    net, rate = NETS[name], 0.003 if momentum else 0.05
    runtime = harness.build(net, Recipe(batch=BATCH, optimizer=SGD(rate, momentum=momentum)))
    x, y = batches(net, np.random.default_rng(8))
    trained = {
        parameter: np.squeeze(harness.tensor(runtime, number), axis=(0, 1)) if parameter.endswith("bias")
        else harness.tensor(runtime, number)
        for parameter, number in harness.parameters(runtime) if parameter.endswith((".weight", ".bias"))
    }  # fmt: skip
    np.savez(tmp_path / "case.npz", x=x, y=y, **trained)
    (tmp_path / "script.py").write_text(TORCH)
    command = [torch_python, tmp_path / "script.py", tmp_path / "case.npz", str(rate), str(momentum)]
    done = subprocess.run([*command, repr(net.branch_scale)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = []
    for samples, labels in zip(x, y):
        harness.by_name(runtime, "raw")[...] = samples.reshape(harness.by_name(runtime, "raw").shape)
        harness.by_name(runtime, "target")[...] = labels.reshape(-1, 1, 1, 1)
        runtime.run("train", BATCH)
        losses.append(runtime.view("report")[0])
    ref = json.loads(done.stdout)
    assert np.mean(ref[-20:]) < 0.6 * ref[0]  # the curve goes somewhere
    np.testing.assert_allclose(losses, ref, rtol=0, atol=1e-3)

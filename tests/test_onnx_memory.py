"""Depth costs a training step in onnxruntime no activations: the runtime keeps the order that the graph asks for."""

import json
import os
from itertools import pairwise

import pytest

pytest.importorskip("onnx", reason="the package onnx is not installed")
pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

from edgerev.deploy.onnx.export import make
from edgerev.errors import UsageError
from edgerev.learner import Learner
from edgerev.presets import preset
from edgerev.tools.bench_onnx import onnx_figures

STATE_BYTES = 16 * 32 * 32 * 64 * 4  # of vis, batch 16: what each block would keep were its activations stored


@pytest.mark.long
def test_growth_does_not_follow_depth():
    figures = onnx_figures("vis", depths=(8, 64), batch=16, steps=2)
    shallow, deep = figures["rows"]
    more = deep["parameter_bytes"] - shallow["parameter_bytes"]
    assert deep["growth_bytes"] - shallow["growth_bytes"] <= 4 * more
    # and what is loaded is the graph and two sets of parameters, no more than a few KB for each node
    assert deep["load_bytes"] - shallow["load_bytes"] <= 2 * more + 56 * STATE_BYTES / 4


@pytest.mark.long
def test_growth_in_onnxruntime_training_does_not_follow_depth(training_python):
    figures = onnx_figures("vis", depths=(8, 64), batch=16, steps=2, training=training_python)
    assert figures["training_rise"] <= 4
    assert figures["own_rise"] > 20


def test_benchmark_in_onnxruntime_training(cli, training_python):
    options = ("--depths", "1,6", "--batch", "64", "--steps", "2", "--training", training_python)
    done = cli("bench", "onnx", "--preset", "mlp", *options)
    assert done.code == 0
    assert "with that one's own gradient graph it rises by" in done.out


def test_benchmark_of_a_small_net(cli, tmp_path):
    done = cli("bench", "onnx", "--preset", "mlp", "--depths", "1,3", "--batch", "2", "--steps", "2", "--json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads(done.out)["rows"]
    assert [row["depth"] for row in rows] == [1, 3]
    assert all(row["growth_bytes"] > 0 and row["step_ms"] > 0 for row in rows)
    plot = tmp_path / "memory.svg"
    done = cli("bench", "onnx", "--preset", "mlp", "--depths", "1,2", "--batch", "2", "--steps", "1", "--plot", plot)
    assert done.code == 0
    assert "growth while training rises by" in done.out
    assert plot.read_text().lstrip().startswith("<?xml")
    assert os.listdir(tmp_path) == ["memory.svg"]


@pytest.mark.parametrize(("kind", "depths"), [("cnn", (1, 2)), ("mlp", (4,)), ("mlp", (0, 1))])
def test_bad_options(kind, depths):
    with pytest.raises(UsageError, match="expected"):
        onnx_figures(kind, depths=depths)


@pytest.mark.parametrize("atomic", [False, True])
def test_each_function_waits_for_the_one_before_it(atomic):
    """Whatever order a runtime chooses, a recomputation needs the gradients of the function after it."""
    learner = Learner(preset("mlp3"), atomic=atomic)
    nodes = {node.output[0]: node for node in make(learner, "train-step").graph.node}

    def needs(name, seen):
        for other in nodes[name].input if name in nodes else ():
            if other not in seen:
                seen.add(other)
                needs(other, seen)
        return seen

    names = [f"block{index}/{letter}" for index in range(3) for letter in "FG"]
    for before, after in pairwise(names):
        (rebuilt,) = (name for name in nodes if name.startswith(f"{before}/backward/x1/Gemm"))
        layers = [f"{after.replace('/', '.')}.{layer}" for layer in (0, 2)]
        wanted = {f"{layer}.{kind}.next" for layer in layers for kind in ("weight", "bias")}
        if atomic:  # all updates come last
            start, end = f"{after}/backward/", "gradient/MatMul"
            wanted = {name for name in nodes if name.startswith(start) and name.endswith(end)}
            assert len(wanted) == 2
        assert wanted <= needs(rebuilt, set())

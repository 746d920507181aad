"""Nets by name: the reference nets at their depth, and defaults that take the shape of the data."""

import numpy as np
import pytest

from edgerev.errors import NetError
from edgerev.learner import Learner
from edgerev.net import Squeeze
from edgerev.optimizers import AdamW
from edgerev.presets import DEFAULTS, preset

SHAPES = {"mlp": (64,), "har": (128, 9), "vis": (32, 32, 3)}


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("depth", [1, 4, 40])
def test_reference_nets_have_their_depth(family, depth):
    net = preset(f"{family}{depth}")
    assert net.input_shape == SHAPES[family]
    assert len(list(net.functions())) == 2 * depth
    assert net.head.outputs == 10
    assert preset(f"{family}{depth}", outputs=3, state="int16", head="ridge").head.kind == "ridge"


def test_activation_bytes_do_not_depend_on_depth(cli):
    """Point by point the same regions, at batch 16."""
    import json

    for family in SHAPES:
        found = []
        for depth in (4, 40, 400) if family == "mlp" else (4, 40):
            done = cli("plan", "--preset", f"{family}{depth}", "--batch", 16, "--json")
            found.append(json.loads(done.out))
        assert len({plan["activation_bytes"] for plan in found}) == 1
        for name in ("state", "state_gradient", "workspace", "gradient", "stored", "io"):
            assert len({plan["regions"][name] for plan in found}) == 1
        assert len({plan["parameters"] for plan in found}) == len(found)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_learn_on_their_shape(name):
    random = np.random.default_rng(0)
    net = preset(name, outputs=4)
    x = random.normal(size=(8, *net.input_shape)).astype("f4")
    learner = Learner(net, batch=8, optimizer=AdamW(2e-3))
    first = learner.learn_many(x, np.arange(8) % 4)
    for _ in range(30):
        last = learner.learn_many(x, np.arange(8) % 4)
    assert last.loss < first.loss / 2


@pytest.mark.parametrize(("name", "shape", "squeezes"), [
    ("images", (32, 32, 3), 2), ("images", (28, 20, 1), 2), ("images", (30, 28, 1), 0), ("images", (7, 5, 2), 0),
    ("digits", (9, 7, 1), 0), ("sensors", (128, 9), 1), ("sensors", (127, 6), 0), ("sensors", (1, 1), 0),
    ("table", (1,), 0), ("table", (500,), 0), ("mlp3", (7,), 0), ("vis2", (5, 4, 1), 0), ("har1", (9, 2), 0),
])  # fmt: skip
def test_presets_take_the_shape_of_the_data(name, shape, squeezes):
    net = preset(name, shape, 2)
    assert net.input_shape == shape
    assert sum(isinstance(part, Squeeze) for part in net.functions()) == squeezes
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("f4")
    assert Learner(net, batch=2).learn_many(x, [0, 1]).samples == 2


def test_wrong_shapes_and_names():
    for name, shape in (("images", (64,)), ("table", (8, 8, 1)), ("sensors", (8, 8, 1)), ("digits", (64,))):
        with pytest.raises(NetError, match=r"is for samples like \(.*\), not \(.*\); choose another preset"):
            preset(name, shape)
    for name in ("mlp", "mlp0", "mlp01", "mlp-1", "resnet18", "", "Images", "mlp4 ", "vis1e3", "mlp٣", "mlp999999999"):
        with pytest.raises(NetError, match=r"no preset .*; expected mlp<N>, har<N>, vis<N> .*, or one of digits"):
            preset(name)
    with pytest.raises(NetError, match=r"no preset 'tabel'; .*; did you mean 'table'\?"):
        preset("tabel")
    with pytest.raises(NetError, match=r"not \(64,\); choose another preset: table$"):
        preset("images", (64,))
    with pytest.raises(NetError, match="outputs 0: expected a whole number"):
        preset("mlp4", outputs=0)
    with pytest.raises(NetError, match="channels"):
        preset("har4", (64,))

"""Configurations: every key documented, every mistake reported at once with its path."""

import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from edgerev import config as configuration
from edgerev.config import Config, check_config, load_config
from edgerev.errors import ConfigError, NetError
from edgerev.layers import LAYERS, Conv2d, Dense, Dropout, ReLU
from edgerev.losses import LOSSES, CrossEntropy
from edgerev.net import Block, Head, Squeeze
from edgerev.optimizers import OPTIMIZERS, SGD, AdamW, Clip, RateSchedule
from edgerev.recipe import Augment, Recipe
from edgerev.toml import tomllib

ROOT = Path(__file__).parents[1]
NET = {"net": {"preset": "mlp4"}}

FULL = """
[net]
stem = { layer = "conv2d", channels = 8, kernel = 5 }
outputs = 12
pool = "flatten"
state = "int16"

[[net.backbone]]
F = [{ layer = "dropout", rate = 0.2 }, { layer = "conv2d", channels = 4 }, { layer = "relu" }]
G = [{ layer = "conv2d", channels = 4, kernel = 1 }]
repeat = 3

[[net.backbone]]
squeeze = 2

[train]
epochs = 7
batch = 5
seed = 9223372036854775807
threads = 2
budget = "1.5MiB"
atomic = true
checkpoint_steps = 10

[data]
label = ["a", "b"]
standardise = "set"
holdout = 0

[optimizer]
kind = "sgd"
rate = 1
momentum = 0.5
nesterov = true

[loss]
kind = "cross_entropy"
weights = [1, 2.5]
smoothing = 0.1

[rate_schedule]
kind = "cosine"
warmup = 3
floor = 0.5

[clip]
limit = 2
kind = "adaptive"

[augment]
shift = 1
flip = true
crop = 2
noise = 0.25
"""


def problems(data):
    """Return the reported problems as path: text."""
    with pytest.raises(ConfigError) as caught:
        check_config(data, "x.toml")
    first, *lines = str(caught.value).splitlines()
    assert first == f"x.toml has {len(lines)} error{'s' * (len(lines) > 1)}:"
    return [line.strip() for line in lines]


def only_problem(data):
    (found,) = problems(data)
    return found


def test_everything_at_once():
    config = check_config(tomllib.loads(FULL))
    F = (Dropout(0.2), Conv2d(4), ReLU())
    net = config.make_net((12, 14, 1), 10)
    assert net.input_shape == (8, 10, 1)  # without the crop
    assert (net.stem, net.head, net.state) == (Conv2d(8, 5), Head(12, "flatten"), "int16")
    assert net.backbone[0].F == F
    assert (net.backbone[0].G, net.backbone[0].repeat, net.backbone[1]) == ((Conv2d(4, 1),), 3, Squeeze())
    assert config.train.budget == 3 << 19
    assert config.make_recipe(50) == Recipe(
        5, SGD(1.0, 0.5, True), RateSchedule("cosine", 3, 50, 0.5), Clip(2.0, "adaptive"), CrossEntropy((1, 2.5), 0.1),
        Augment(1, True, 2, 0.25), atomic=True,
    )  # fmt: skip


def test_defaults():
    config = check_config(NET)
    assert config.make_recipe(10) == Recipe()
    assert (config.train.epochs, config.train.budget, config.data.label, config.continual) == (5, None, "label", None)
    assert config.make_net((64,), 7).head == Head(7)
    block = {"stem": {"layer": "dense", "channels": 8}, "backbone": [{"F": [{"layer": "dense", "channels": 4}]}]}
    net = check_config({"net": block}).make_net((3,), 2)
    assert (net.stem, net.backbone, net.head) == (Dense(8), (Block((Dense(4),)),), Head(2))


def test_a_cosine_ends_with_training_or_where_it_says():
    for given, expected in (({"warmup": 5}, 100), ({"steps": 20}, 20), ({"warmup": 200}, 201)):
        config = check_config({**NET, "rate_schedule": {"kind": "cosine", **given}})
        assert config.make_recipe(100).rate_schedule.steps == expected


def test_ten_mistakes_are_ten_reports():
    found = problems({
        "net": {"preset": "mlp0", "ridg": 1},
        "train": {"epochs": "5", "batch": 0, "threads": 17, "budget": "8 apples", "atomic": 1},
        "data": {"holdout": 0.9},
        "optimizer": {"kind": "sdg"},
        "clip": {},
    })  # fmt: skip
    for path, text in zip(found, [
        "net.preset: no preset 'mlp0'; expected mlp<N>", "net.ridg: unknown key; did you mean 'ridge'?",
        "train.epochs: expected a valid integer, not '5'", "train.batch: expected greater than or equal to 1, not 0",
        "train.threads: expected less than or equal to 16, not 17", "train.budget: '8 apples' is not a size",
        "train.atomic: expected a valid boolean, not 1", "data.holdout: expected less than or equal to 0.5, not 0.9",
        "optimizer: expected the key kind with one of sgd, adamw, lion", "clip.limit: missing",
    ], strict=True):  # fmt: skip
        assert path.startswith(text)


MISTAKES = {
    "no net": ({}, "net: missing"),
    "a net that is no table": ({"net": 3}, "net: expected a valid dictionary"),
    "neither preset nor layers": ({"net": {}}, "net: expected either preset, or both stem and backbone"),
    "stem alone": ({"net": {"stem": {"layer": "relu"}}}, "net: expected either preset, or both"),
    "both": ({"net": {"preset": "mlp4", "stem": {"layer": "relu"}}}, "net: expected either preset, or both"),
    "unknown table": ({**NET, "trian": {}}, "trian: unknown key; did you mean 'train'?"),
    "nothing like it": ({**NET, "zzz": {}}, "zzz: unknown key; remove it, or take one of net, train, data,"),
    "key of another table": ({**NET, "train": {"label": "a"}}, "train.label: unknown key; remove it"),
    "text for a number": ({**NET, "train": {"batch": "16"}}, "train.batch: expected a valid integer, not '16'"),
    "float for an integer": ({**NET, "train": {"batch": 16.0}}, "train.batch: expected a valid integer, not 16.0"),
    "boolean for a number": ({**NET, "train": {"epochs": True}}, "train.epochs: expected a valid integer, not True"),
    "number for a boolean": ({**NET, "augment": {"flip": 1}}, "augment.flip: expected a valid boolean, not 1"),
    "seed too large": ({**NET, "train": {"seed": 2**63}}, "train.seed: expected less than 9223372036854775808"),
    "negative budget": ({**NET, "train": {"budget": -1}}, "train.budget: expected greater than or equal to 1"),
    "budget of another type": ({**NET, "train": {"budget": 1.5}}, "train.budget: expected a valid integer"),
    "label": ({**NET, "data": {"label": 3}}, "data.label: expected the name of a column, or a list of names, not 3"),
    "labels": ({**NET, "data": {"label": ["a", 1]}}, "data.label: expected the name of a column"),
    "no kind": ({**NET, "loss": {}}, "loss: expected the key kind with one of cross_entropy, soft_cross_entropy"),
    "unknown kind": ({**NET, "optimizer": {"kind": "adam"}}, "optimizer: expected the key kind with one of sgd, adamw"),
    "key of another kind": (
        {**NET, "optimizer": {"kind": "sgd", "beta1": 0.9}},
        "optimizer.beta1: unknown key; remove it, or take one of rate, momentum, nesterov, weight_decay (docs/",
    ),
    "key of a layer without any": (
        {"net": {"stem": {"layer": "relu", "slope": 1}, "backbone": []}},
        "net.stem.slope: unknown key; remove it (docs/configuration.md",
    ),
    "NaN": ({**NET, "optimizer": {"kind": "sgd", "rate": float("nan")}}, "optimizer.rate: expected a finite number"),
    "infinity": ({**NET, "augment": {"noise": float("inf")}}, "augment.noise: expected a finite number"),
    "out of the class's range": (
        {**NET, "optimizer": {"kind": "sgd", "nesterov": True}}, "optimizer: SGD(rate=0.01, momentum=0.0, nesterov=Tru",
    ),
    "negative weights": (
        {**NET, "loss": {"kind": "cross_entropy", "weights": [1, -1]}}, "loss: loss: weight -1.0: expected a finite",
    ),
    "beyond float32": ({**NET, "optimizer": {"kind": "sgd", "rate": 1e39}}, "optimizer: SGD: rate 1e+39: expected a "),
    "beyond int32": ({**NET, "train": {"batch": 3 * 10**9}}, "train.batch: expected less than or equal to 2147483647"),
    "too many outputs": ({"net": {"preset": "mlp4", "outputs": 10**19}}, "net.outputs: expected less than or equal to"),
    "epsilon": ({**NET, "optimizer": {"kind": "adamw", "epsilon": 0}}, "optimizer: AdamW: epsilon 0.0: expected"),
    "channels": (
        {"net": {"stem": {"layer": "dense", "channels": 0}, "backbone": []}}, "net.stem: Dense: channels 0: expected a",
    ),
    "no weights": ({**NET, "loss": {"kind": "cross_entropy", "weights": []}}, "loss: CrossEntropy(weights=()"),
    "steps before warmup": (
        {**NET, "rate_schedule": {"kind": "cosine", "warmup": 9, "steps": 9}}, "rate_schedule: schedule: steps must be",
    ),
    "unknown layer": (
        {"net": {"stem": {"layer": "conv"}, "backbone": [{"squeeze": 2}]}}, "net.stem: expected the key layer with one",
    ),
    "option of a layer": (
        {"net": {"stem": {"layer": "dense", "chanels": 3, "channels": 4}, "backbone": []}},
        "net.stem.chanels: unknown key; did you mean 'channels'?",
    ),
    "type of an option": (
        {"net": {"stem": {"layer": "dense", "channels": "8"}, "backbone": []}}, "net.stem.channels: expected a valid",
    ),
    "layer within a block": (
        {"net": {"stem": {"layer": "dense", "channels": 8}, "backbone": [{"squeeze": 2}, {"F": [{"layer": "dense"}]}]}},
        "net.backbone.1.F.0.channels: missing",
    ),
    "key of a block": (
        {"net": {"stem": {"layer": "dense", "channels": 8}, "backbone": [{"F": [{"layer": "relu"}], "repaet": 2}]}},
        "net.backbone.0.repaet: unknown key; did you mean 'repeat'?",
    ),
    "empty block": (
        {"net": {"stem": {"layer": "dense", "channels": 8}, "backbone": [{"F": []}]}}, "net.backbone.0.F: List should",
    ),
    "block and squeeze": (
        {"net": {"stem": {"layer": "dense", "channels": 8}, "backbone": [{"F": [{"layer": "relu"}], "squeeze": 2}]}},
        "net.backbone.0: expected either F",
    ),
    "another squeeze": (
        {"net": {"stem": {"layer": "dense", "channels": 8}, "backbone": [{"squeeze": 3}]}},
        "net.backbone.0.squeeze: expected 2, not 3",
    ),
    "budget and schedule": (
        {**NET, "train": {"budget": "1MiB", "schedule": "stored"}}, "train.schedule: a budget chooses the schedule; le",
    ),
    "continual without ridge": ({**NET, "continual": {}}, 'continual: needs a head that does not forget; set net.head'),
    "expansion without sums": (
        {"net": {"preset": "mlp4", "expansion": [{"layer": "relu"}]}}, "net.expansion: its weights are never trained",
    ),
    "ridge without classes": (
        {"net": {"preset": "mlp4", "head": "ridge"}, "loss": {"kind": "mean_squared_error"}}, "loss: a ridge head answ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_once_with_its_path(name):
    data, expected = MISTAKES[name]
    assert only_problem(data).startswith(expected)


def test_files_that_cannot_be_read(tmp_path):
    for path, content, match in (
        ("missing.toml", None, r"missing\.toml: No such file or directory; expected a TOML file; give the path of one"),
        ("bad.toml", b"[net\n", r"bad\.toml is not valid TOML: .*line 1.*; expected lines like .*; mend it"),
        ("twice.toml", b"[net]\npreset = 'a'\npreset = 'b'\n", "is not valid TOML: .*line 3"),
        ("latin.toml", b"# \xe9\n", r"is not valid TOML: .*utf-8"),
    ):
        if content is not None:
            (tmp_path / path).write_bytes(content)
        with pytest.raises(ConfigError, match=match):
            load_config(str(tmp_path / path))
    with pytest.raises(ConfigError, match="expected a TOML file"):
        load_config(str(tmp_path))
    assert ConfigError.exit_code == 2


def test_what_the_net_refuses_is_told_when_the_data_is_known():
    config = check_config({"net": {"preset": "images"}})
    with pytest.raises(NetError, match=r"preset 'images' is for samples like \(28, 28, 1\), not \(4,\)"):
        config.make_net((4,), 3)
    block = {"F": [{"layer": "dense", "channels": 5}]}
    config = check_config({"net": {"stem": {"layer": "dense", "channels": 8}, "backbone": [block]}})
    with pytest.raises(NetError, match=r"block0\.F: .* must keep the shape \(4,\)"):
        config.make_net((4,), 3)


# -- the documentation ---------------------------------------------------------------------------------------------

DOCS = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
TABLES = ("net", "train", "data", "optimizer", "loss", "continual", "rate_schedule", "clip", "augment")


def models_in(hint):
    """Return the pydantic models in a type."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint]
    return [model for part in typing.get_args(hint) for model in models_in(part)]


def fields():
    """Yield (path of the table, key, field) for every key of a configuration, all models walked."""
    waiting = [("", Config)]
    while waiting:
        path, model = waiting.pop(0)
        for key, field in model.model_fields.items():
            yield path, key, field
            inner = models_in(field.annotation)
            waiting += [(f"{path}.{key}".lstrip("."), found) for found in inner]


def section(table):
    """Return the section of the documentation whose heading names a table."""
    found = [part for part in re.split(r"^## ", DOCS, flags=re.M) if f"`[{table}]`" in part.splitlines()[0]]
    assert len(found) == 1, table
    return found[0]


def test_every_key_is_documented():
    walked = list(fields())
    assert {key for path, key, _ in walked if not path} == set(TABLES)
    assert len(walked) > 60
    for path, key, _ in walked:
        if path:
            table, text = path.split(".")[0], section(path.split(".")[0])
            names = (f"`{key}`", f"`{key} =", f"`{table}.{key}`", f" {key} =", f"{{ {key} =", f", {key} ", f"{key} = [")
            assert any(name in text for name in names), f"{path}.{key} is not in the section on [{table}]"


def test_every_kind_and_layer_is_documented():
    for table, classes in (("optimizer", OPTIMIZERS), ("loss", LOSSES)):
        for word in classes:
            assert f'`"{word}"`' in section(table)
    for word in LAYERS:
        assert f"`{word}`" in section("net")


def test_documented_keys_exist():
    known = {key for _, key, _ in fields()} | set(LAYERS)
    for row in re.findall(r"^\| `([a-z_.]+)` \|", DOCS, flags=re.M):
        assert row.split(".")[-1] in known, row


def test_documented_defaults_are_the_defaults():
    checked = 0
    for key, text in re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", DOCS, flags=re.M):
        table, _, name = key.rpartition(".")
        tables = (table,) if table else ("train", "data", "continual")
        for path, known, field in fields():
            if known == name and path in tables and not field.is_required():
                written = text.strip().strip("`")
                value = None if written == "none" else tomllib.loads(f"x = {written}")["x"]
                assert value == field.default, key
                checked += 1
    assert checked > 20


def test_documented_options_have_the_documented_defaults():
    for classes in (OPTIMIZERS, LOSSES, LAYERS):
        for word, cls in classes.items():
            for name, default in cls._field_defaults.items():
                found = re.findall(rf"`{name} = ([^`]+)`", word_section(word))
                if found:
                    assert tomllib.loads(f"x = {found[0]}")["x"] == default, (word, name)


def word_section(word):
    """Return what the documentation says right after a kind or a layer."""
    for pattern in (rf'^\| `"{word}"`[^|]*\|(.*)$', rf"`{word}`(?: and `\w+`)?\s+\(([^)]*)\)"):
        found = re.search(pattern, DOCS, flags=re.M)
        if found:
            return found[1]
    return ""


def test_adamw_is_documented_with_its_defaults():
    """The check above checks."""
    assert "`rate = 1e-3`" in word_section("adamw")
    assert AdamW().rate == 1e-3
    assert "kernel = 3" in word_section("depthwise")


RANGES = {
    key: words
    for words, keys in re.findall(r"^\| ((?:whole, )?(?:from|above) [^|]+) \| (`[^|]+`) \|$", DOCS, flags=re.M)
    for key in re.findall(r"`([\w.]+)`", keys)
}  # fmt: skip


def numbers_of(annotation):
    """Return int and float, as far as a type has them."""
    return {found for found in (int, float) if found is annotation} | {
        found for part in typing.get_args(annotation) if typing.get_origin(annotation) is not list
        for found in numbers_of(part)
    }  # fmt: skip


def test_the_range_of_every_number_is_documented():
    named = {**configuration.TABLES, "backbone": configuration.PartTable}
    wanted = {
        f"{table}.{key}" for table, model in named.items() for key, field in model.model_fields.items()
        if numbers_of(field.annotation)
    }  # fmt: skip
    for word, cls in {**configuration.CLASSES, **OPTIMIZERS, **LOSSES, **LAYERS}.items():
        hints = typing.get_type_hints(cls)
        wanted |= {f"{word}.{key}" for key in cls._fields if key != "weights" and numbers_of(hints[key])}
    assert set(RANGES) == wanted


def with_number(path, value):
    """Return a configuration that has a number, as simple as can be."""
    table, _, key = path.partition(".")
    data = {"net": dict(NET["net"])}
    if table == "clip":
        return data | {"clip": {key: value}}
    for name, classes in (("optimizer", OPTIMIZERS), ("loss", LOSSES)):
        if table in classes:
            return data | {name: {"kind": table, key: value}}
    if table in LAYERS:
        layer = {"layer": table, key: value}
        if "channels" in LAYERS[table]._fields:
            layer = {"channels": 2} | layer
        return {"net": {"stem": {"layer": "dense", "channels": 2}, "backbone": [{"F": [layer]}]}}
    if table == "backbone":
        block = {"F": [{"layer": "relu"}], key: value}
        return {"net": {"stem": {"layer": "dense", "channels": 2}, "backbone": [block]}}
    if table == "net":
        return {"net": NET["net"] | {"head": "ridge", key: value}}
    if table == "continual":
        data["net"]["head"] = "ridge"
    return data | {table: {key: value}}


@pytest.mark.parametrize("path", RANGES)
def test_documented_ranges_are_the_ranges(path):
    words = RANGES[path]
    smallest, step = re.match(r"(?:whole, )?(?:from|above) ([\d.]+)", words)[1], 1 if "whole" in words else 1e-3
    number = int if "whole" in words else float
    good, bad = [number(smallest)], [number(smallest) - step]
    if "above" in words:
        good, bad = [1e-9], [0.0]
    if "up to" in words:
        good.append(number(words.split("up to ")[1]))
        bad.append(good[-1] + step)
    elif "below" in words:
        good.append(0.999)
        bad.append(1.0)
    else:
        good.append(number(2**31 - 1) if not path.endswith("kernel") else 3)
    for value in good:
        check_config(with_number(path, value))
    for value in bad:
        with pytest.raises(ConfigError, match=path.partition(".")[2]):
            check_config(with_number(path, value))

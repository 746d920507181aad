"""Every verb end to end on small data in every format: text, JSON, exit codes, progress on a terminal only."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import toys

import edgerev.data.dataset
from edgerev.layers import Dense, ReLU
from edgerev.learner import Learner
from edgerev.losses import CrossEntropy
from edgerev.net import Block, Head, Net
from edgerev.optimizers import Clip, Lion
from edgerev.recipe import Schedule

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def work(tmp_path):
    toys.tree_set(tmp_path / "data")
    (tmp_path / "config.toml").write_text(toys.CONFIG)
    return tmp_path


def train(work, *more, output="model.edgerev"):
    return ["train", work / "config.toml", "--data", work / "data", "-o", work / output, *more]


def of(done):
    """Return what a command printed as JSON."""
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


# -- train ---------------------------------------------------------------------------------------------------------


def test_train_prints_figures(cli, work):
    figures = of(cli(*train(work, "--json")))
    assert figures["accuracy"] > 0.9
    assert (figures["samples"], figures["steps"], figures["measured_on"]) == (60, 24, "test")
    assert figures["arena_bytes"] == sum(figures["regions"].values())
    assert figures["stored_sample_bytes"] == 0
    assert 0 < figures["loss"] < 1
    assert figures["peak_rss_bytes"] >= figures["ready_rss_bytes"] > 0
    assert figures["step_ms"] > 0
    done = cli(*train(work, output="again.edgerev"))
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:2] == [
        f"memory             {figures['arena_bytes']:,d} B planned for {figures['parameters']:,d} parameters, batch 8",
        "schedule           reversible, the default without a budget",
    ]
    assert f"training loss      {figures['loss']:.4f} of 60 samples" in lines
    assert f"accuracy           {100 * figures['accuracy']:.2f} % of 30 test samples" in lines
    assert re.fullmatch(r"time +[\d.]+ s, 24 steps, [\d.]+ ms a step", lines[-2])
    assert lines[-1] == f"checkpoint         {work / 'again.edgerev'}"
    assert not re.search("^(parameters|workspace|kept of samples)", done.out, flags=re.M)  # plan has the regions
    assert (work / "again.edgerev").read_bytes() == (work / "model.edgerev").read_bytes()


def test_force_and_resume(cli, work):
    """Nothing is overwritten unasked; resuming without a checkpoint begins."""
    model = work / "model.edgerev"
    begun = cli(*train(work, "--resume"))
    assert (begun.code, begun.err) == (0, f"edgerev: {model} is not there; starting anew\n")
    first = model.read_bytes()
    assert cli(*train(work)).code == 2
    assert cli(*train(work, "--force", "--resume")).code == 2
    assert model.read_bytes() == first
    ended = cli(*train(work, "--resume", "--json"))
    assert (ended.code, json.loads(ended.out)["step_ms"]) == (0, 0)
    assert ended.err == f"edgerev: {model} was trained to its end already; measuring only\n"
    assert model.read_bytes() == first
    (work / "config.toml").write_text(toys.CONFIG.replace("batch = 8", "batch = 8\nseed = 1"))
    assert cli(*train(work, "--force")).code == 0
    assert model.read_bytes() != first
    assert Learner.load(f"{model}.previous").seed == 1  # the generation before is that of the new training
    assert cli("train", work / "config.toml").code == 2


def test_resuming_from_the_generation_before(cli, work):
    """Where a power cut on a file system without hard links left no other."""
    model, previous = work / "model.edgerev", work / "model.edgerev.previous"
    (work / "config.toml").write_text(toys.CONFIG.replace("batch = 8", "batch = 8\ncheckpoint_steps = 7"))
    assert cli(*train(work)).code == 0
    whole = model.read_bytes()
    model.unlink()
    assert f"{model} is gone but {previous} is there; expected a new name; add --resume" in cli(*train(work)).err
    done = cli(*train(work, "--resume"))
    assert (done.code, done.err) == (0, f"edgerev: {model} is not there; going on from {previous}\n")
    assert model.read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_between_two_steps(cli, work, number, monkeypatch):
    """What was learned is saved, and going on ends with the same bits."""
    assert cli(*train(work)).code == 0
    seen = []

    class Display(toys.Quiet):
        def update(self, n):
            seen.append(n)
            if len(seen) == 6:
                os.kill(os.getpid(), number)

    monkeypatch.setattr("edgerev.cli.progress.progress", Display)
    done = cli(*train(work, output="stopped.edgerev"))
    assert (done.code, done.err) == (128 + number, "edgerev: stopped after step 5; add --resume to go on\n")
    assert re.fullmatch(toys.PLANNED, done.out)
    assert Learner.load(str(work / "stopped.edgerev")).steps == 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert cli(*train(work, "--resume", output="stopped.edgerev")).code == 0
    assert (work / "stopped.edgerev").read_bytes() == (work / "model.edgerev").read_bytes()


def test_a_checkpoint_every_so_many_steps(cli, work):
    (work / "config.toml").write_text(toys.CONFIG.replace("batch = 8", "batch = 8\ncheckpoint_steps = 5"))
    assert cli(*train(work)).code == 0
    assert Learner.load(str(work / "model.edgerev")).steps == 24


FORMATS = ("csv", "npz", "npy", "idx", "idx.gz")


def write(folder, kind):
    """Write images with six classes in a format; return the path to pass, and one to predict from."""
    folder.mkdir()
    for part, seed in (("train", 1), ("test", 2)):
        x, y = toys.images(90 if part == "train" else 30, seed=seed)
        if kind == "csv":
            toys.write_csv(folder / f"{part}.csv", x.reshape(len(x), -1), y)
        elif kind == "npz":
            toys.write_npz(folder / f"{part}.npz", x, y)
        elif kind == "npy":
            np.save(folder / f"x_{part}.npy", x)
            np.save(folder / f"y_{part}.npy", y)
        else:
            toys.write_idx(folder, x, y, {"test": "t10k"}.get(part, part), kind.endswith("gz"))
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_from_training_to_predicting(kind, cli, tmp_path):
    data, model = write(tmp_path / "data", kind), tmp_path / "model.edgerev"
    preset = "table" if kind == "csv" else "digits"
    (tmp_path / "c.toml").write_text(
        f'[net]\npreset = "{preset}"\n[train]\nepochs = 6\nbatch = 8\n[optimizer]\nkind = "adamw"\nrate = 3e-3\n'
    )
    trained = of(cli("train", tmp_path / "c.toml", "--data", data, "-o", model, "--json"))
    assert trained["accuracy"] > 0.9
    assert of(cli("eval", model, "--data", data, "--json"))["accuracy"] == trained["accuracy"]
    more = ["--label", "label"] if kind == "csv" else []
    lines = cli("predict", model, "--data", data, "--part", "test", *more).out.splitlines()
    assert len(lines) == 30
    y = toys.images(30, seed=2)[1]
    assert np.mean([line == str(label) for line, label in zip(lines, y)]) == trained["accuracy"]


# -- eval, predict, inspect ----------------------------------------------------------------------------------------


@pytest.fixture
def model(cli, work):
    assert cli(*train(work)).code == 0
    return work / "model.edgerev"


PARTS = ("train", "test", "all")


def test_eval(cli, work, model):
    figures = of(cli("eval", model, "--data", work / "data", "--json"))
    assert figures == {"part": "test", "samples": 30, "accuracy": figures["accuracy"], "squared_error": None}
    for threads in (1, 2):
        done = cli("eval", model, "--data", work / "data", "--threads", threads)
        assert done == (0, f"accuracy {100 * figures['accuracy']:.2f} % of 30 samples (test)\n", "")
    sizes = {part: of(cli("eval", model, "--data", work / "data", "--part", part, "--json")) for part in PARTS}
    assert {part: (found["part"], found["samples"]) for part, found in sizes.items()} == {
        "train": ("train", 60), "test": ("test", 30), "all": ("all", 90),
    }  # fmt: skip
    assert sizes["test"]["accuracy"] == figures["accuracy"]
    right = sum(sizes[part]["samples"] * sizes[part]["accuracy"] for part in ("train", "test"))
    assert sizes["all"]["accuracy"] == pytest.approx(right / 90)
    for part, count in (("train", 60), ("test", 30), ("all", 90)):
        lines = cli("predict", model, "--data", work / "data", "--label", "label", "--part", part).out.splitlines()
        assert len(lines) == count
    assert cli("predict", model, "--data", work / "data", "--label", "label").out.splitlines() == lines
    done = cli("eval", model, "--data", work / "data" / "train.csv", "--part", "test")
    assert (done.code, "has no test part" in done.err) == (2, True)
    toys.write_csv(work / "tree.csv", *toys.rows(30), "tree")
    assert cli("eval", model, "--data", work / "tree.csv", "--label", "tree").code == 1


def test_the_budget_of_training_is_that_of_eval_and_predict(cli, work, monkeypatch):
    (work / "config.toml").write_text(toys.CONFIG.replace("batch = 8", 'batch = 8\nbudget = "60kB"'))
    arena = of(cli(*train(work, "--json")))["arena_bytes"]
    model, sizes, set_up = work / "model.edgerev", [], Learner._set_up

    def recorded(self, *arguments, **options):
        set_up(self, *arguments, **options)
        sizes.append(self.plan.arena_bytes)

    monkeypatch.setattr(Learner, "_set_up", recorded)
    toys.write_npz(work / "x.npz", toys.rows(3)[0])
    for command in (("eval", model, "--data", work / "data"), ("predict", model, "--data", work / "x.npz")):
        for more, expected in (((), arena), (("--threads", 2), None), (("--budget", "1GiB"), None)):
            assert cli(*command, *more).code == 0
            assert sizes[-1] <= 60_000 or "1GiB" in more
            assert expected is None or sizes[-1] == expected
        assert cli(*command, "--budget", "1kB").code == 2
    assert of(cli("inspect", model, "--json"))["memory"] == {"budget": 60_000, "schedule": None}
    stored = Learner.load(str(model), schedule="stored")
    stored.save(str(model))
    assert Learner.load(str(model)).schedule == stored.schedule
    assert Learner.load(str(model), schedule="reversible").schedule.stored == 0


def test_predict_prints_the_names_of_classes(cli, work, model):
    x, y = toys.rows(30, seed=5)
    toys.write_npz(work / "x.npz", x)
    np.save(work / "new.npy", x)
    lines = cli("predict", model, "--data", work / "x.npz").out.splitlines()
    assert cli("predict", model, "--data", work / "new.npy").out.splitlines() == lines
    assert set(lines) <= set(toys.NAMES)
    assert np.mean([line == toys.NAMES[label] for line, label in zip(lines, y)]) > 0.9
    rows = [line.split("\t") for line in cli("predict", model, "--data", work / "x.npz", "--proba").out.splitlines()]
    objects = [json.loads(line) for line in cli("predict", model, "--data", work / "x.npz", "--json").out.splitlines()]
    both = cli("predict", model, "--data", work / "x.npz", "--json", "--proba").out.splitlines()
    full = [json.loads(line) for line in both]
    proba = Learner.load(str(model)).predict_proba_many(x)
    for line, row, plain, whole, expected in zip(lines, rows, objects, full, proba, strict=True):
        assert row == [line, *(f"{value:.6f}" for value in expected)]
        assert plain == {"prediction": line}
        assert whole == {"prediction": line, "proba": expected.tolist()}


def test_predict_beyond_the_named_classes(cli, work):
    """A net may have outputs for classes to come; their answer is a number."""
    (work / "config.toml").write_text(toys.CONFIG.replace("[net]", "[net]\noutputs = 5"))
    assert cli(*train(work)).code == 0
    learner = Learner.load(str(work / "model.edgerev"))
    learner.runtime.view("head.0.bias")[4] = 100
    learner.save(str(work / "model.edgerev"))
    toys.write_npz(work / "x.npz", toys.rows(3)[0])
    assert cli("predict", work / "model.edgerev", "--data", work / "x.npz").out == "4\n" * 3


def test_inspect(cli, work, model):
    figures = of(cli("inspect", model, "--json"))
    assert figures["classes"] == list(toys.NAMES)
    assert figures["net"]["stem"] == {"layer": "dense", "channels": 16}
    assert figures["recipe"]["optimizer"]["kind"] == "adamw"
    assert figures["recipe"]["loss"]["kind"] == "cross_entropy"
    assert figures["position"]["experience"] == 1
    assert figures["tensors"]["stem.0.weight"] == ["F32", [1, 4, 16]]
    assert 0 < model.stat().st_size - figures["bytes"] < 5000
    assert figures["file_bytes"] == model.stat().st_size
    done = cli("inspect", model)
    sizes = f"{figures['file_bytes']:,d} B, of which {figures['bytes']:,d} B in {len(figures['tensors'])} tensors"
    assert done.out.splitlines()[0] == f"{model}: whole, {sizes}"
    rows = dict(re.split(" {2,}", line, maxsplit=1) for line in done.out.splitlines()[1:])
    assert rows == {
        "input": "4, state int32", "stem": "Dense(16)", "backbone": "Block((Dense(8), ReLU(), Dense(8)))",
        "head": "Head(3)", "batch": "8", "loss": "CrossEntropy()", "classes": "ash, birch, cedar",
        "optimizer": "AdamW(rate=0.01, beta1=0.9, beta2=0.999, epsilon=1e-08, weight_decay=0.01)",
        "columns": "f0, f1, f2, f3", "memory": "reversible schedule", "trained": "24 steps, to the end",
    }  # fmt: skip
    assert "stem.0.weight" not in done.out
    assert re.search(r"stem\.0\.weight +F32 \[1, 4, 16\]", cli("inspect", model, "--tensors").out)


def test_inspect_writes_what_is_not_usual_as_python_does(cli, tmp_path):
    """Without files there is no end to training, so it says the steps alone."""
    net = Net((4,), Dense(8), (Block((Dense(4),), (Dense(4), ReLU()), 2), Block((ReLU(),))), Head(3, kind="ridge"))
    schedule, loss = Schedule(4, 2), CrossEntropy((1.0, 2.0, 0.5))
    learner = Learner(net, optimizer=Lion(), loss=loss, batch=8, schedule=schedule, clip=Clip(1.5), atomic=True)
    learner.learn_many(*toys.rows(20))
    learner.save(str(tmp_path / "model.edgerev"))
    lines = [line.split(maxsplit=1) for line in cli("inspect", tmp_path / "model.edgerev").out.splitlines()]
    for expected in (
        ["backbone", "Block((Dense(4),), G=(Dense(4), ReLU()), repeat=2)"], ["Block((ReLU(),))"],
        ["head", "Head(3, kind='ridge')"], ["clip", "Clip(1.5)"], ["atomic", "True"],
        ["loss", "CrossEntropy(weights=(1.0, 2.0, 0.5))"], ["trained", "3 steps"],
        ["memory", "Schedule(4, 2)"],
    ):  # fmt: skip
        assert expected in lines, lines


def test_inspect_says_how_far_training_is(cli, work, monkeypatch):
    ends = iter([False, False, False, True])  # at each update of the progress, the first of which is before any step

    class Display(toys.Quiet):
        def update(self, n):
            if next(ends):
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("edgerev.cli.progress.progress", Display)
    assert cli(*train(work)).code == 128 + signal.SIGTERM
    shown = cli("inspect", work / "model.edgerev").out
    assert re.search("^trained +3 steps, up to epoch 1, 24 of 60 samples$", shown, flags=re.M), shown


@pytest.mark.parametrize("kind", ["binary_cross_entropy", "mean_squared_error"])
def test_several_columns_of_targets(kind, cli, work):
    x, y = toys.rows(90, seed=1)
    values = np.stack([y > 0, y > 1], 1)
    lines = ["f0,f1,f2,f3,p,q", *(",".join(f"{value:g}" for value in [*row, *more]) for row, more in zip(x, values))]
    (work / "values.csv").write_text("\n".join(lines) + "\n")
    text = toys.CONFIG.replace("epochs = 3", "epochs = 20")
    (work / "config.toml").write_text(f'{text}\n[loss]\nkind = "{kind}"\n[data]\nlabel = ["p", "q"]\n')
    model = work / "m.edgerev"
    trained = of(cli("train", work / "config.toml", "--data", work / "values.csv", "-o", model, "--json"))
    data = ["--data", work / "values.csv", "--label", "p,q"]
    measured = of(cli("eval", model, *data, "--json"))
    assert (trained["measured_on"], measured["samples"]) == ("held-out", 90)
    found = np.array([line.split() for line in cli("predict", model, *data).out.splitlines()], float)
    text = cli("eval", model, *data).out
    other = "squared_error" if kind == "binary_cross_entropy" else "accuracy"
    assert (trained[other], measured[other]) == (None, None)
    if kind == "binary_cross_entropy":
        assert (found == values).mean() == pytest.approx(measured["accuracy"])
        assert measured["accuracy"] > 0.9
        assert text == f"accuracy {100 * measured['accuracy']:.2f} % of 90 samples (all)\n"
    else:
        assert ((found - values) ** 2).mean() == pytest.approx(measured["squared_error"], rel=1e-4)
        assert measured["squared_error"] < 0.1
        assert text == f"mean squared error {measured['squared_error']:.6g} over 90 samples (all)\n"


def swapped(path, x, labels):
    """Write the rows of `toys.write_csv` with the columns f1 and f0 in each other's place."""
    toys.write_csv(path, x[:, [1, 0, 2, 3]], labels)
    path.write_text(path.read_text().replace("f0,f1", "f1,f0", 1))


def test_columns_in_another_order_are_refused(cli, work, model):
    """Each value would go where another one was learned; only the names tell."""
    assert of(cli("inspect", model, "--json"))["inputs"]["columns"] == ["f0", "f1", "f2", "f3"]
    assert re.search("^columns +f0, f1, f2, f3$", cli("inspect", model).out, flags=re.M)
    x, y = toys.rows(30, seed=2)
    swapped(work / "swapped.csv", x, [toys.NAMES[label] for label in y])
    message = "the data has the column 'f1' where the model was trained on 'f0'; expected the same columns in the same"
    for verb, *more in (("eval",), ("predict", "--label", "label")):
        done = cli(verb, model, "--data", work / "swapped.csv", *more)
        assert (done.code, done.out) == (1, "")
        assert message in done.err
    for part, seed in (("train", 1), ("test", 2)):
        x, y = toys.rows(60 if part == "train" else 30, seed=seed)
        swapped(work / "data" / f"{part}.csv", x, [toys.NAMES[label] for label in y])
    whole = model.read_bytes()
    assert message in cli(*train(work, "--resume")).err
    assert model.read_bytes() == whole


def test_the_label_column_is_known(cli, work):
    """By its name in training: to measure with, and for predicting to leave out where it is there."""
    x, y = toys.rows(30, seed=2)
    trees = toys.write_csv(work / "trees.csv", x, [toys.NAMES[label] for label in y], "tree")
    (work / "config.toml").write_text(toys.CONFIG + '[data]\nlabel = "tree"\n')
    model = work / "model.edgerev"
    assert cli("train", work / "config.toml", "--data", trees, "-o", model).code == 0
    measured = of(cli("eval", model, "--data", trees, "--json"))
    assert measured == of(cli("eval", model, "--data", trees, "--label", "tree", "--json"))
    named = cli("predict", model, "--data", trees, "--label", "tree")
    assert cli("predict", model, "--data", trees) == named
    trees.write_text("\n".join(line.rpartition(",")[0] for line in trees.read_text().splitlines()))
    assert cli("predict", model, "--data", trees) == named


def test_bytes_where_floats_were_learned_are_refused(cli, tmp_path):
    """And the other way round: scaled to 0 .. 1, all would be one dark image to a model of 0 .. 255."""
    x, y = toys.images(60)
    (tmp_path / "config.toml").write_text('[net]\npreset = "digits"\n')
    kinds = {"uint8": x[..., None], "float32": (x[..., None] / 255).astype("f4")}
    for kind, samples in kinds.items():
        toys.write_npz(tmp_path / f"{kind}.npz", samples, y)
    for learned, other in (("uint8", "float32"), ("float32", "uint8")):
        model = tmp_path / f"{learned}.edgerev"
        assert cli("train", tmp_path / "config.toml", "--data", tmp_path / f"{learned}.npz", "-o", model).code == 0
        for verb in ("eval", "predict"):
            done = cli(verb, model, "--data", tmp_path / f"{other}.npz")
            assert (done.code, done.out) == (1, "")
            assert f"{other}.npz holds {other}, but the model was trained on {learned}; expected the same" in done.err


def test_one_generation_is_used_from_start_to_end(cli, work, model, monkeypatch):
    """Another takes the name while the data is opened."""
    before = cli("predict", model, "--data", work / "data", "--proba")

    def open_dataset(*arguments, **options):
        other = Learner.load(str(model))
        other.learn_many(*toys.rows(60, seed=9))
        other.save(str(model))
        return edgerev.data.dataset.open_dataset(*arguments, **options)

    monkeypatch.setattr(edgerev.data, "open_dataset", open_dataset)
    assert cli("predict", model, "--data", work / "data", "--proba") == before
    monkeypatch.undo()
    assert cli("predict", model, "--data", work / "data", "--proba") != before


# -- plan, bench, demo ---------------------------------------------------------------------------------------------


def test_plan(cli, work):
    figures = of(cli("plan", "--preset", "mlp4", "--json"))
    keys = {"arena_bytes", "activation_bytes", "guard_bytes", "regions", "schedule", "parameters", "instructions"}
    assert keys == figures.keys()
    guarded = of(cli("plan", "--preset", "mlp4", "--guard", "--json"))
    assert guarded["guard_bytes"] == figures["regions"]["parameters"] == guarded["regions"]["guard"]
    assert guarded["arena_bytes"] == figures["arena_bytes"] + guarded["guard_bytes"]
    text = cli("plan", "--preset", "mlp4").out
    assert f"{figures['arena_bytes']:,d} B for {figures['parameters']:,d} parameters, batch 16" in text
    listing = cli("plan", "--preset", "mlp4", "--listing").out
    assert len(listing.splitlines()) >= figures["instructions"]
    assert "couple" in listing
    small = of(cli("plan", "--preset", "mlp4", "--state", "int16", "--batch", 4, "--outputs", 3, "--json"))
    assert small["arena_bytes"] < figures["arena_bytes"]
    assert of(cli("plan", "--config", work / "config.toml", "--input", "4", "--json"))["schedule"]["micro_batch"] == 8
    stored = of(cli("plan", "--preset", "mlp4", "--schedule", "stored", "--json"))
    assert stored["schedule"]["stored"] == 8


@pytest.mark.parametrize(("arguments", "match"), [
    ([], "give either --preset or --config"), (["--preset", "mlp4", "--config", "x"], "give either --preset or --conf"),
    (["--preset", "lenet"], "no preset 'lenet'; expected"), (["--preset", "mlp4", "--input", "4x"], "expected sizes"),
    (["--preset", "mlp4", "--input", "0"], "size 0: expected"), (["--preset", "mlp4", "--batch", "0"], "batch 0: exp"),
    (["--preset", "mlp4", "--outputs", "0"], "outputs 0: e"), (["--preset", "mlp4", "--budget", "8x"], "not a s"),
    (["--preset", "images", "--input", "28x28"], "is for samples like"), (["--config", "none.toml"], "No such file"),
    (["--preset", "mlp4", "--schedule", "fast"], "invalid choice"), (["--preset", "mlp4", "--batch", "x"], "invalid"),
])  # fmt: skip
def test_plan_says_what_is_wrong(arguments, match, cli):
    done = cli("plan", *arguments)
    assert (done.code, done.out) == (2, "")
    assert match in done.err


def test_plan_of_a_configuration_needs_a_shape(cli, work):
    assert "add --data, or --input such as --input 28x28x1" in cli("plan", "--config", work / "config.toml").err


@pytest.mark.parametrize("preset", ["mlp6", "har3", "vis2"])
@pytest.mark.parametrize("state", ["int32", "int16"])
def test_bench_inverse(preset, state, cli):
    command = ["bench", "inverse", "--preset", preset, "--state", state, "--steps", 5, "--batch", 3]
    figures = of(cli(*command, "--json"))
    assert (figures["max_abs_error"], figures["state_bits_equal"], figures["steps"]) == (0, True, 5)
    assert re.search(r"^max_abs_error +0\.0$", cli(*command).out, flags=re.M)


def test_bench_needs_a_benchmark(cli):
    assert cli("bench").code == 2
    assert cli("bench", "speedy").code == 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_learns_digits_class_by_class(seed, cli, tmp_path):
    pytest.importorskip("sklearn")
    model = tmp_path / "digits.edgerev"
    figures = of(cli("demo", "--json", "--seed", seed, "-o", model))
    assert figures["accuracy"] >= 0.96
    assert figures["stored_sample_bytes"] == 0
    assert [len(row) for row in figures["matrix"]] == [1, 2, 3, 4, 5]
    assert figures["accuracy_after"][-1] == figures["accuracy"]
    assert figures["forgetting"] < 0.03
    assert figures["seconds"] < 90
    assert figures["measured_on"] == "test"
    assert Learner.load(str(model)).classes == [str(digit) for digit in range(10)]


def test_demo_prints_a_report(cli, tmp_path):
    pytest.importorskip("sklearn")
    done = cli("demo", "-o", tmp_path / "m.edgerev")
    assert (done.code, done.err) == (0, "")
    for text in ("accuracy after each experience", "forgetting ", " 0 B of samples", " B of sums over them",
                 "resident memory ", "ms a step"):  # fmt: skip
        assert text in done.out
    assert cli("demo", "-o", tmp_path / "m.edgerev").code == 2
    assert cli("demo", "-o", tmp_path / "m.edgerev", "--force").code == 0
    assert "train.seed" in cli("demo", "--seed", -1).err


# -- progress ------------------------------------------------------------------------------------------------------


def test_progress_is_shown_on_a_terminal_only(work):
    command = [sys.executable, "-m", "edgerev", *map(str, train(work, "--force", "--json"))]
    piped = subprocess.run(command, capture_output=True, text=True, check=True)
    assert piped.stderr == ""
    assert json.loads(piped.stdout)["accuracy"] > 0.9
    shown, figures = on_terminal(command)
    assert "training" in shown
    assert "180" in shown
    assert "samples" in shown
    assert json.loads(figures)["accuracy"] == json.loads(piped.stdout)["accuracy"]


def on_terminal(command):
    """Run a command whose standard error is a terminal; return what it shows there, and its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    output = process.stdout.read()
    process.stdout.close()
    assert process.wait() == 0
    os.close(ours)
    return shown.decode(), output

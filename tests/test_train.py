"""Training from files: interrupted anywhere and resumed, it ends with the same bits as without."""

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import toys

import harness
from edgerev.contents import peek
from edgerev.data import Permutation
from edgerev.errors import CheckpointError, ConfigError, DataError, NetError, NumericError
from edgerev.evaluate import evaluate, reconstruction_error
from edgerev.learner import Learner

pytestmark = pytest.mark.usefixtures("cache")

PLAIN = {
    "net": toys.DENSE,
    "train": {"epochs": 2, "batch": 8, "checkpoint_steps": 2},
    "optimizer": {"kind": "sgd", "rate": 0.05, "momentum": 0.9},
}
RANDOM = {
    "net": toys.CONV,
    "train": {"epochs": 2, "batch": 7, "checkpoint_steps": 3, "seed": 5},
    "optimizer": {"kind": "adamw", "rate": 1e-2},
    "rate_schedule": {"kind": "cosine", "warmup": 3},
    "augment": {"shift": 1, "flip": True, "noise": 0.1},
    "clip": {"limit": 1.0, "kind": "global"},
}
CONTINUAL = {
    "net": {**toys.CONV, "head": "ridge", "pool": "flatten"},
    "train": {"epochs": 2, "batch": 4, "checkpoint_steps": 2},
    "optimizer": {"kind": "lion", "rate": 1e-3},
    "continual": {"classes_per_experience": 2, "later_rate": 0.5},
}
KEPT = {**CONTINUAL, "continual": {"classes_per_experience": 2, "later_rate": 0.0}}
WHOLE = {
    **KEPT, "net": {
        **toys.CONV, "head": "prototype", "pool": 2, "sums": "int32", "rectify": True,
        "expansion": [{"layer": "conv2d", "channels": 6}, {"layer": "relu"}],
    },
}  # fmt: skip
CONFIGS = {"plain": PLAIN, "random": RANDOM, "continual": CONTINUAL, "kept": KEPT, "whole": WHOLE}


class PowerCutError(Exception):
    pass


class Cable:
    """Makes progress displays that cut the power at the `after`-th update, counted over all of them."""

    def __init__(self, after):
        self.left, self.where = after, []

    def __call__(self, total, title):
        display = toys.Quiet(total, title)
        display.update = self.update
        self.where.append(title)
        return display

    def update(self, n):
        self.left -= 1
        if self.left < 0:
            raise PowerCutError


class Counter(Cable):
    """Counts updates, and in which display they were."""

    def __init__(self):
        super().__init__(10**9)
        self.updates = []

    def update(self, n):
        self.updates.append((self.where[-1], n))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    toys.write_npz(folder / "train.npz", *toys.images(66, seed=1))
    toys.write_npz(folder / "test.npz", *toys.images(30, seed=2))
    rows = folder / "rows"
    rows.mkdir()
    toys.write_npz(rows / "train.npz", *toys.rows(70, seed=1))
    toys.write_npz(rows / "test.npz", *toys.rows(30, seed=2))
    return {"plain": rows, "random": folder, "continual": folder, "kept": folder, "whole": folder}


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Give, for each configuration, what an uninterrupted run leaves: its file, its report, its updates."""
    found = {}

    def of(name):
        if name not in found:
            output, counter = tmp_path_factory.mktemp(name) / "model.edgerev", Counter()
            report = toys.trainer(CONFIGS[name], data[name], output, counter).run()
            found[name] = output.read_bytes(), report, counter.updates
        return found[name]

    return of


def figures(report):
    """Return what a report says about the model, without times and memory."""
    values = dataclasses.asdict(report)
    return {key: value for key, value in values.items() if not key.endswith(("seconds", "_ms", "rss_bytes"))}


def test_resuming_with_the_samples_in_another_order_is_refused(tmp_path):
    """As many of each class, but others are held out: those learned already would be measured on."""
    x, y = toys.rows(60)
    toys.write_npz(tmp_path / "set.npz", x, y)
    output = tmp_path / "model.edgerev"
    toys.trainer(PLAIN, tmp_path / "set.npz", output).run()
    whole = output.read_bytes()
    order = np.random.default_rng(0).permutation(60)
    toys.write_npz(tmp_path / "set.npz", x[order], y[order])
    with pytest.raises(CheckpointError, match=r"records of digest \w{64}, not \w{64}; expected the same"):
        toys.trainer(PLAIN, tmp_path / "set.npz", output).resume()
    toys.write_npz(tmp_path / "set.npz", x, y)
    toys.trainer(PLAIN, tmp_path / "set.npz", output).resume()
    assert output.read_bytes() == whole


def test_an_output_that_cannot_be_written_is_found_before_the_first_step(data, tmp_path, monkeypatch):
    def full(*where):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    trainer = toys.trainer(PLAIN, data["plain"], tmp_path / "model.edgerev")
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.run()
    assert trainer.learner.steps == 0
    assert list(tmp_path.iterdir()) == []


def test_data_that_means_something_else_than_it_seems(tmp_path):
    x, y = toys.images(30)
    toys.write_npz(tmp_path / "floats.npz", (x / 255).astype("f4"), y)
    with pytest.raises(NetError, match=r"read as signals .*; if they are images, reshape them to \(samples, 8, 8, 1\)"):
        toys.trainer({"net": {"preset": "digits"}}, tmp_path / "floats.npz", None)
    toys.write_npz(tmp_path / "one.npz", x, y * 0 + 3)
    with pytest.raises(DataError, match=r"one\.npz has one class, 3; expected at least two"):
        toys.trainer({"net": {"preset": "digits"}}, tmp_path / "one.npz", None)


def test_a_model_that_diverged_is_not_saved(data, tmp_path):
    """Its parameters are finite, but its state overflows: the next step would fail, and so would going on from it."""
    output = tmp_path / "model.edgerev"
    wild = {**PLAIN, "optimizer": {"kind": "sgd", "rate": 1e9}, "train": {**PLAIN["train"], "checkpoint_steps": 1}}
    with pytest.raises(NumericError, match=r"was not written, for .*diverged: .*there is no earlier one: .*start anew"):
        toys.trainer(wild, data["plain"], output).run()
    assert not output.exists()
    cut = toys.trainer(PLAIN, data["plain"], output, Cable(3))
    with contextlib.suppress(PowerCutError):
        cut.run()
    good = output.read_bytes()
    resumed = toys.trainer({**wild, "optimizer": {**wild["optimizer"], "momentum": 0.9}}, data["plain"], output)
    resumed.resume()
    with pytest.raises(NumericError, match=r"diverged: .*model\.edgerev is as it was: lower .* resume from it"):
        resumed.run()
    assert output.read_bytes() == good


def run_with_cuts(config, data, output, cuts):
    """Train; at each cut leave the process's state behind and resume from the file."""
    for cut in cuts:
        trainer = toys.trainer(config, data, output, Cable(cut))
        if output.exists():
            trainer.resume()
        with contextlib.suppress(PowerCutError):
            trainer.run()
            raise AssertionError("the power was cut too late")
    trainer = toys.trainer(config, data, output)
    if output.exists():
        trainer.resume()
    return trainer.run()


@pytest.mark.parametrize("name", CONFIGS)
def test_one_interruption_anywhere_leaves_no_trace(name, data, whole, tmp_path):
    ref, ref_report, updates = whole(name)
    for cut in range(1, len(updates), 5):
        output = tmp_path / f"{cut}.edgerev"
        report = run_with_cuts(CONFIGS[name], data[name], output, [cut])
        assert output.read_bytes() == ref, (cut, updates[cut])
        assert figures(report) == figures(ref_report), (cut, updates[cut])


@pytest.mark.parametrize("name", CONFIGS)
def test_many_interruptions_leave_no_trace(name, data, whole, tmp_path):
    """Every time after two more checkpoints' worth of updates, and once before the first checkpoint."""
    ref, ref_report, _ = whole(name)
    output, cuts = tmp_path / "model.edgerev", [1, 7, 4, 5]
    assert figures(run_with_cuts(CONFIGS[name], data[name], output, cuts)) == figures(ref_report)
    assert output.read_bytes() == ref


@pytest.mark.parametrize("part", ["epoch", "remembering"])
def test_an_interruption_in_the_second_of_three_experiences(part, data, whole, tmp_path):
    ref, ref_report, updates = whole("continual")
    inside = [at for at, (title, n) in enumerate(updates) if "2/3" in title and (n == 0) == (part == "remembering")]
    assert len(inside) > 3
    output = tmp_path / "model.edgerev"
    report = run_with_cuts(CONTINUAL, data["continual"], output, [inside[len(inside) // 2]])
    assert output.read_bytes() == ref
    assert len(report.matrix) == 3
    assert figures(report) == figures(ref_report)


def test_a_resumed_model_has_the_same_bits_in_memory(data, tmp_path):
    def state(trainer):
        trainer.run()
        return harness.lasting_bytes(trainer.learner.runtime)

    ref = state(toys.trainer(RANDOM, data["random"], None))
    with pytest.raises(PowerCutError):
        toys.trainer(RANDOM, data["random"], tmp_path / "model.edgerev", Cable(8)).run()
    resumed = toys.trainer(RANDOM, data["random"], tmp_path / "model.edgerev")
    resumed.resume()
    assert 0 < resumed.learner.position.sample < 66
    assert state(resumed) == ref


def test_other_threads_and_budgets_may_resume(data, whole, tmp_path):
    output = tmp_path / "model.edgerev"
    with pytest.raises(PowerCutError):
        toys.trainer(RANDOM, data["random"], output, Cable(8)).run()
    config = {**RANDOM, "train": {**RANDOM["train"], "threads": 2, "schedule": "stored"}}
    trainer = toys.trainer(config, data["random"], output)
    trainer.resume()
    trainer.run()
    ref = tmp_path / "ref.edgerev"
    ref.write_bytes(whole("random")[0])
    found, expected = (Learner.load(str(path)) for path in (output, ref))
    assert harness.lasting_bytes(found.runtime) == harness.lasting_bytes(expected.runtime)
    assert found.position == expected.position
    assert [found.schedule.stored, expected.schedule.stored] == [found.net.depth, 0]


def test_resuming_what_is_over_measures_again_and_changes_nothing(data, whole, tmp_path):
    for name in ("plain", "continual"):
        output = tmp_path / f"{name}.edgerev"
        output.write_bytes(whole(name)[0])
        trainer = toys.trainer(CONFIGS[name], data[name], output)
        trainer.resume()
        report = trainer.run()
        assert figures(report) == figures(whole(name)[1])
        assert output.read_bytes() == whole(name)[0]


# -- a process that is killed --------------------------------------------------------------------------------------


def test_a_killed_process_is_resumed_to_the_same_bits(tmp_path):
    toys.write_npz(tmp_path / "train.npz", *toys.rows(1203, seed=1))
    toys.write_npz(tmp_path / "test.npz", *toys.rows(30, seed=2))
    often, never = tmp_path / "often.toml", tmp_path / "never.toml"
    for path, steps in ((often, 1), (never, 0)):
        text = toys.CONFIG.replace("batch = 8", f"batch = 4\ncheckpoint_steps = {steps}").replace("= 3", "= 8", 1)
        path.write_text(text)
    output, ref = tmp_path / "model.edgerev", tmp_path / "ref.edgerev"
    train(never, tmp_path, "-o", ref)
    kill_at_first_checkpoint(often, tmp_path, output)
    position = peek(str(output)).position
    assert position.experience == 0
    assert position.epoch < 8
    train(never, tmp_path, "-o", output, "--resume")
    assert output.read_bytes() == ref.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "a temporary file is left"


def command(config, data, *arguments):
    return [sys.executable, "-m", "edgerev", "train", *map(str, (config, "--data", data, *arguments))]


def train(config, data, *arguments):
    done = subprocess.run(command(config, data, *arguments, "--json"), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def kill_at_first_checkpoint(config, data, output):
    for _ in range(5):  # a busy machine may let it finish first
        process = subprocess.Popen(command(config, data, "-o", output, "--force"), stdout=subprocess.DEVNULL)
        while not output.exists() and process.poll() is None:
            try:
                process.wait(0.001)
            except subprocess.TimeoutExpired:
                continue
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            return
        output.unlink()
    raise AssertionError("it was never killed in time")


# -- what may not be resumed ---------------------------------------------------------------------------------------

OTHERS = {
    "net": ({"net": {**toys.DENSE, "state": "int16"}}, "state"),
    "deeper net": ({"net": {**toys.DENSE, "backbone": toys.DENSE["backbone"] * 2}}, "backbone"),
    "outputs": ({"net": {**toys.DENSE, "outputs": 5}}, "head"),
    "optimizer": ({"optimizer": {"kind": "lion", "rate": 0.01}}, "optimizer sgd, not lion"),
    "moments": ({"optimizer": {"kind": "sgd", "rate": 0.01}}, "optimizer sgd, not sgd without momentum"),
    "weights": ({"loss": {"kind": "cross_entropy", "weights": [1, 2, 3]}}, "cross_entropy, not cross_entropy with w"),
    "seed": ({"train": {"epochs": 2, "seed": 1}}, "seed 0, not 1"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_something_else_is_refused(name, data, whole, tmp_path):
    changes, match = OTHERS[name]
    output = tmp_path / "model.edgerev"
    output.write_bytes(whole("plain")[0])
    trainer = toys.trainer({**PLAIN, **changes}, data["plain"], output)
    before = harness.lasting_bytes(trainer.learner.runtime)
    with pytest.raises(CheckpointError, match=match) as caught:
        trainer.resume()
    assert "expected the same" in str(caught.value)
    assert "start anew in another file" in str(caught.value)
    assert output.read_bytes() == whole("plain")[0]
    if name != "seed":
        assert harness.lasting_bytes(trainer.learner.runtime) == before


def test_other_samples_are_refused(data, whole, tmp_path):
    """The part held out would be another one, and hold what was trained on."""
    output = tmp_path / "model.edgerev"
    for count in (70, 71):
        toys.write_npz(tmp_path / f"{count}.npz", *toys.rows(count))
    toys.trainer(PLAIN, tmp_path / "70.npz", output).run()
    with pytest.raises(CheckpointError, match=r"training and test samples .*; expected the same"):
        toys.trainer(PLAIN, tmp_path / "71.npz", output).resume()


def test_other_classes_are_refused(data, whole, tmp_path):
    output = tmp_path / "model.edgerev"
    output.write_bytes(whole("plain")[0])
    x, y = toys.rows()
    toys.write_npz(tmp_path / "train.npz", x, np.array(toys.NAMES)[y])
    with pytest.raises(CheckpointError, match="classes"):
        toys.trainer(PLAIN, tmp_path / "train.npz", output).resume()


def test_what_may_change_on_resuming(data, whole, tmp_path):
    """Rate, batch, clipping, epochs: training goes on with the new ones."""
    output = tmp_path / "model.edgerev"
    with pytest.raises(PowerCutError):
        toys.trainer(PLAIN, data["plain"], output, Cable(5)).run()
    changes = {"optimizer": {"kind": "sgd", "rate": 0.01, "momentum": 0.5}, "clip": {"limit": 1.0}}
    trainer = toys.trainer({**PLAIN, **changes, "train": {"epochs": 4, "batch": 16}}, data["plain"], output)
    trainer.resume()
    assert trainer.run().accuracy > 0.9
    assert Learner.load(str(output)).recipe.optimizer.rate == 0.01


def test_the_order_of_an_epoch_does_not_depend_on_how_many_there_are(data, monkeypatch):
    """Else training that is resumed with more epochs within one would see some samples twice, and others never."""
    orders = []

    class Recorded(Permutation):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            orders.append(tuple(self))

    monkeypatch.setattr("edgerev.train.Permutation", Recorded)
    seen = []
    for epochs in (2, 3):
        trainer = toys.trainer({**CONTINUAL, "train": {"epochs": epochs, "batch": 4}}, data["continual"], None)
        orders.clear()
        trainer.run()
        assert len(orders) == 3 * epochs == len(set(orders))
        seen.append([orders[epochs * experience : epochs * experience + 2] for experience in range(3)])
    assert seen[0] == seen[1]


def test_weights_of_the_loss_are_the_configuration_s(data, tmp_path):
    output = tmp_path / "model.edgerev"
    weighted = {**PLAIN, "loss": {"kind": "cross_entropy", "weights": [1.0, 2.0, 3.0]}}
    toys.trainer(weighted, data["plain"], output).run()
    weighted["loss"] = {"kind": "cross_entropy", "weights": [4.0, 5.0, 6.0]}
    trainer = toys.trainer(weighted, data["plain"], output)
    trainer.resume()
    assert list(trainer.learner.runtime.view("loss.weights")) == [4, 5, 6]


def test_the_reconstruction_error_of_a_float32_state_is_reported(data):
    for state in ("int32", "int16", "float32"):
        trainer = toys.trainer({**PLAIN, "net": {**toys.DENSE, "state": state}}, data["plain"], None)
        error = trainer.run().reconstruction_error
        assert reconstruction_error(trainer.learner, trainer.split.test) == (error or 0)
        assert 0 < error < 1e-5 if state == "float32" else error is None


# -- data and measuring --------------------------------------------------------------------------------------------


def test_a_part_is_held_out_where_there_is_no_test_part(tmp_path):
    x, y = toys.rows(70, seed=3)
    toys.write_npz(tmp_path / "all.npz", x, y)
    for holdout, samples, what in ((0.2, 56, "held-out"), (0.0, 70, "training"), (0.5, 35, "held-out")):
        config = {**PLAIN, "data": {"holdout": holdout}}
        report = toys.trainer(config, tmp_path / "all.npz", None).run()
        assert (report.samples, report.measured_on) == (samples, what)
    split = toys.trainer(PLAIN, tmp_path / "all.npz", None).split
    seen = [read(part, index) for part in (split.train, split.test) for index in range(len(part))]
    assert sorted(seen) == sorted(map(bytes, x))


def read(records, index):
    buffer = bytearray(records.record_bytes)
    records.read_into(index, memoryview(buffer))
    return bytes(buffer)


def test_an_undecided_model_is_not_right_every_time(data):
    """Equal probabilities are one answer, the first class, not all of them."""
    trainer = toys.trainer(PLAIN, data["plain"], None)
    for name in ("head.0.weight", "head.0.bias"):
        view = trainer.learner.runtime.view(name)
        for index in range(len(view)):
            view[index] = 0
    assert evaluate(trainer.learner, trainer.split.test).accuracy == pytest.approx(1 / 3)


def test_classes_are_matched_by_name(data, tmp_path):
    """A set that lacks a class numbers the others differently."""
    trainer = toys.trainer(PLAIN, data["plain"], None)
    trainer.run()
    x, y = toys.rows(30, seed=7)
    toys.write_npz(tmp_path / "some.npz", x[y > 0], y[y > 0])
    assert evaluate(trainer.learner, toys.open_dataset(tmp_path / "some.npz").train).accuracy > 0.9
    toys.write_npz(tmp_path / "other.npz", x, y + 2)
    with pytest.raises(DataError, match=r"does not know: 3, 4; expected only 0, 1, 2; leave"):
        evaluate(trainer.learner, toys.open_dataset(tmp_path / "other.npz").train)


def test_more_classes_than_outputs(data):
    with pytest.raises(ConfigError, match=r"net\.outputs is 2, but the data has 3 classes .* raise it"):
        toys.trainer({**PLAIN, "net": {**toys.DENSE, "outputs": 2}}, data["plain"], None)


@pytest.mark.parametrize("kind", ["mean_squared_error", "binary_cross_entropy"])
def test_targets_that_are_values(kind, tmp_path):
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 4)).astype("f4")
    y = x @ random.normal(size=(4, 2)).astype("f4")
    toys.write_npz(tmp_path / "values.npz", x, (y > 0).astype("f4") if "binary" in kind else y)
    config = {**PLAIN, "loss": {"kind": kind}, "train": {"epochs": 30, "batch": 8}}
    report = toys.trainer(config, tmp_path / "values.npz", None).run()
    if "binary" in kind:
        assert report.accuracy > 0.85
    else:
        assert report.squared_error < 0.1 * y.var()
    with pytest.raises(DataError, match=r"targets have 2 values; the net has 3 outputs"):
        toys.trainer({**config, "net": {**toys.DENSE, "outputs": 3}}, tmp_path / "values.npz", None).run()
    with pytest.raises(DataError, match=r"targets are float32; .*choose another loss"):
        toys.trainer({**PLAIN, "loss": {"kind": "cross_entropy"}}, tmp_path / "values.npz", None).run()


def test_an_experience_without_samples_names_its_classes(tmp_path):
    toys.write_csv(tmp_path / "train.csv", *toys.rows(60))
    x, y = toys.rows(60)
    toys.write_csv(tmp_path / "test.csv", x[y < 2], y[y < 2])
    config = {**CONTINUAL, "net": {**toys.DENSE, "head": "ridge"}}
    with pytest.raises(DataError, match=r"2 have no samples in training or test data; expected some in both"):
        toys.trainer(config, tmp_path, None)

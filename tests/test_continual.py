"""The benchmark of continual learning on a data set of its own, and what it says of bytes."""

import json
import os
from array import array

import numpy as np
import pytest

from edgerev import Conv2d, Head, Learner, Net, UsageError
from edgerev.cli import main
from edgerev.continual.sizes import model_bytes, state_bytes
from edgerev.tools import bench_continual
from edgerev.tools.continual_base import Stream
from edgerev.tools.continual_methods import METHODS
from edgerev.tools.continual_twin import Twin


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four classes: a bright bar at the left, right, top or bottom of noise."""
    folder, random = tmp_path_factory.mktemp("bars"), np.random.default_rng(0)
    for part, count in (("train", 200), ("test", 80)):
        x, y = random.integers(0, 60, (count, 12, 12)), np.arange(count) % 4
        for image, label in zip(x, y):
            bar = [np.s_[:, :5], np.s_[:, 7:], np.s_[:5], np.s_[7:]][label]
            image[bar] += 180
        np.savez(folder / f"{part}.npz", x=x.astype("u1"), y=y)
    return str(folder)


@pytest.fixture
def quick(monkeypatch):
    """Few epochs: what is tested is that methods run, not how well they remember."""
    committed = bench_continual.settings_of

    def short(method):
        settings = committed(method)
        epochs, steps = (min(settings.get(name, 1), most) for name, most in (("epochs", 3), ("steps", 40)))
        return settings | {"epochs": epochs, "steps": steps, "stored": 40, "samples": 20, "batch": 16}

    monkeypatch.setattr(bench_continual, "settings_of", short)


@pytest.fixture
def torch_python():
    python = os.environ.get("EDGEREV_TORCH_PYTHON")
    if not python:
        pytest.skip("set EDGEREV_TORCH_PYTHON to a Python with torch")
    return python


@pytest.mark.parametrize("setting", ["task", "domain", "class"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_a_stream(method, setting, data, quick, request):
    torch = request.getfixturevalue("torch_python") if method.startswith("plain-") else None
    found = bench_continual._one_seed((data, "split", setting, method, 0, False), torch)
    assert len(found["matrix"]) == 2
    assert all(0 <= accuracy <= 1 for row in found["matrix"] for accuracy in row)
    stores = method in ("replay", "gdumb", "joint", "plain-joint")
    assert (found["stored_sample_bytes"] > 0) == stores
    if METHODS[method].__name__ == "ClosedForm":
        assert np.mean(found["matrix"][-1]) > 0.9


def test_a_twin_starts_from_the_same_weights(data, torch_python):
    """The one difference is that G reads the old half, and functions of weight 0 hide it."""
    runner = METHODS["fine-tuning"](Stream((12, 12, 1), "class", 4, 2), bench_continual.settings_of("fine-tuning"), 0)
    for name in ("block0.F.1", "block0.G.1"):
        runner.learner.runtime.view(name + ".weight")[:] = array("f", [0] * 200 * 200)
    twin = Twin(runner.learner, torch_python)
    x = np.random.default_rng(0).normal(size=(64, 144)).astype("f4")
    y = runner.learner.predict_many(x)
    np.testing.assert_array_equal(twin.predict_many(x), y)
    twin.learn_many(x, 3 - y)
    assert (twin.predict_many(x) != y).any()


def test_memory_of_twins_grows_with_depth_and_ours_does_not(data, torch_python, monkeypatch):
    monkeypatch.setattr("edgerev.tools.continual_twin.BLOCKS", (1, 3))
    options = {"scenario": "split", "setting": "class", "method": "plain-fine-tuning", "seeds": 1}
    figures = bench_continual.continual_figures(data, **options, torch=torch_python)
    one, three = figures["memory"]
    assert one["activation_bytes"] == three["activation_bytes"]
    assert three["plain_saved_bytes"] - one["plain_saved_bytes"] == 2 * 4 * 128 * 400  # what two blocks' ReLUs give
    for row in (one, three):
        values = row["plain_held_bytes"] / 4  # parameters, gradients and two moments of each, and a step count of each
        assert 0 <= values - 4 * row["parameters"] < 20
    assert figures["arena_bytes"] == one["plain_saved_bytes"] + one["plain_held_bytes"]


def test_a_twin_needs_torch(data):
    options = {"scenario": "split", "setting": "class", "method": "plain-joint", "seeds": 1}
    with pytest.raises(UsageError, match="add --torch"):
        bench_continual.continual_figures(data, **options)


def learned(method, setting, data, experiences):
    """Return a method that has learned some experiences, its stream, and the training images."""
    (x, y), (_, test_y) = bench_continual._arrays(data, False)
    stream, plan = bench_continual._plan("split", setting, x.shape[1:], y, test_y, 0)
    runner = METHODS[method](stream, bench_continual.settings_of(method), 0)
    for experience in plan[:experiences]:
        chosen = np.array(experience.train)
        runner.learn(experience, x[chosen], bench_continual._targets(experience, y[chosen]))
    return runner, plan, x.reshape(len(x), -1)


def test_distillation_begins_as_fine_tuning(data, quick):
    """Nothing is known before the first experience: a squared error carries the gradient of cross-entropy alone."""
    tuned, _, x = learned("fine-tuning", "domain", data, 1)
    distilled, _, _ = learned("lwf", "domain", data, 1)
    z = distilled.learner.predict_proba_many(x)
    shares = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, tuned.learner.predict_proba_many(x), atol=0.01)


@pytest.mark.parametrize("setting", ["task", "domain", "class"])
def test_distillation_keeps_answers_on_new_samples(setting, data, quick):
    moved = {}
    for method in ("lwf", "fine-tuning"):
        before, plan, x = learned(method, setting, data, 1)
        after, _, _ = learned(method, setting, data, 2)
        if setting == "task":
            before.learner.task = after.learner.task = 0
        shown = x[np.array(plan[1].train)]
        old, new = (one.learner.predict_proba_many(shown)[:, :2] for one in (before, after))
        if method == "lwf":
            old, new = (np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True) for z in (old, new))
        moved[method] = np.abs(old - new).mean()
    assert moved["lwf"] < moved["fine-tuning"]


def test_a_copy_of_the_model_counts_as_state(data, quick):
    tuned, distilled = (learned(method, "class", data, 0)[0] for method in ("fine-tuning", "lwf"))
    assert distilled.state_bytes == tuned.state_bytes + model_bytes(tuned.learner)


def test_permuted_inputs(data, quick):
    for scenario, method in (("permuted", "si"), ("rotated", "fine-tuning"), ("permuted", "task-ridge")):
        found = bench_continual._one_seed((data, scenario, "domain", method, 1, False))
        assert len(found["matrix"]) == 10
    assert np.mean(found["matrix"][-1]) > 0.9


def test_the_command_prints_figures_and_a_table(data, capsys, tmp_path):
    command = ["bench", "continual", "--data", data, "--method", "random-stem", "--seeds", "2"]
    assert main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert {"accuracy", "accuracy_std", "forgetting"} <= set(figures)
    assert {"state_bytes", "stored_sample_bytes", "arena_bytes", "seconds"} <= set(figures)
    assert len(figures["accuracies"]) == 2
    plot = tmp_path / "matrix.svg"
    assert main([*command, "--plot", str(plot)]) == 0
    assert "after 2" in capsys.readouterr().out
    assert "<svg" in plot.read_text()
    assert main([*command, "--plot", str(plot)]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [
    {"scenario": "nothing"}, {"setting": "all"}, {"method": "magic"},
    {"scenario": "permuted-mnist", "setting": "class"},
])  # fmt: skip
def test_what_is_unknown_is_refused(wrong, data):
    options = {"scenario": "split", "setting": "class", "method": "ridge", "seeds": 1, **wrong}
    with pytest.raises(UsageError, match="expected"):
        bench_continual.continual_figures(data, **options)


def test_settings_of_a_scenario_leave_those_of_other_settings(data, quick):
    for method in ("si", "ewc"):
        assert len(bench_continual._one_seed((data, "permuted", "task", method, 0, False))["matrix"]) == 10


def test_a_data_set_that_does_not_fit_is_refused(data, tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=random.normal(size=(20, 6)).astype("f4"), y=np.arange(20) % 4)
    with pytest.raises(UsageError, match="takes images"):
        bench_continual._one_seed((str(tmp_path), "split", "class", "ridge", 0, False))
    with pytest.raises(UsageError, match="leave out --validate"):
        bench_continual._one_seed((data, "split", "class", "ridge", 0, True))


def test_state_is_what_answers_do_without():
    learner = Learner(Net((6, 6, 1), Conv2d(4), (), Head(3, kind="ridge", sums="int32", pool=2)))
    size, columns = 16, 3
    stem, answers, ends = 4 * (9 * 4 + 4), 4 * (size + 1) * columns, 2 * 4 * size
    assert model_bytes(learner) == stem + answers + ends + 2 * 4  # and standardisation
    sums = 4 * (size + 1) * (size + 2) // 2 + 4 * (size + 1) * columns + 8 * columns
    control = sum(learner.runtime.view(name).nbytes for name in ("counters", "scalars"))
    assert state_bytes(learner) == sums + 4 * (size + 1) * columns + control  # and the linear head that leads

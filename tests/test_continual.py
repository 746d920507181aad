"""The benchmark of continual learning on a data set of its own, and what it says of bytes."""

import json

import numpy as np
import pytest

from edgerev import Conv2d, Head, Learner, Net, UsageError
from edgerev.cli import main
from edgerev.continual.sizes import model_bytes, state_bytes
from edgerev.tools import bench_continual
from edgerev.tools.continual_methods import METHODS


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


@pytest.mark.parametrize("setting", ["task", "domain", "class"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_a_stream(method, setting, data, quick):
    found = bench_continual._one_seed((data, "split", setting, method, 0, False))
    assert len(found["matrix"]) == 2
    assert all(0 <= accuracy <= 1 for row in found["matrix"] for accuracy in row)
    stores = method in ("replay", "gdumb", "joint")
    assert (found["stored_sample_bytes"] > 0) == stores
    if METHODS[method].__name__ == "ClosedForm":
        assert np.mean(found["matrix"][-1]) > 0.9


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


def test_state_is_what_answers_do_without():
    learner = Learner(Net((6, 6, 1), Conv2d(4), (), Head(3, kind="ridge", sums="int32", pool=2)))
    size, columns = 16, 3
    stem, answers, ends = 4 * (9 * 4 + 4), 4 * (size + 1) * columns, 2 * 4 * size
    assert model_bytes(learner) == stem + answers + ends + 2 * 4  # and standardisation
    sums = 4 * (size + 1) * (size + 2) // 2 + 4 * (size + 1) * columns + 8 * columns
    control = sum(learner.runtime.view(name).nbytes for name in ("counters", "scalars"))
    assert state_bytes(learner) == sums + 4 * (size + 1) * columns + control  # and the linear head that leads

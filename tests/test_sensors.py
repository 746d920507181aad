"""The benchmarks on sensors that age and on new wearers, on small data sets made for it."""

import json

import numpy as np
import pytest

from edgerev import DataError, UsageError
from edgerev.cli import main
from edgerev.tools import bench_compensation, bench_wearer, gas_data
from edgerev.tools.bench_gas import METHODS, gas_figures
from edgerev.tools.bench_prequential import prequential_figures
from edgerev.tools.bench_wearer import wearer_figures
from edgerev.tools.wearer_ways import WAYS

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def gas(tmp_path_factory):
    """Six gases on eight sensors that lose some of their strength in each batch; batches are sorted by gas."""
    folder, random = tmp_path_factory.mktemp("gas"), np.random.default_rng(0)
    y = np.tile(np.repeat(np.arange(6), 10), 3)
    batch = np.repeat([1, 2, 4], 60)
    x = 3 + 2 * np.eye(6, 8)[y] + 0.3 * random.normal(size=(180, 8)) - 0.7 * batch[:, None] * np.linspace(0, 0.5, 8)
    np.savez(folder / "gas_drift.npz", x=x.astype("f4"), y=y, batch=batch)
    return str(folder)


@pytest.fixture(scope="module")
def hmp(tmp_path_factory):
    """Three activities, which differ in frequency, by three volunteers, who differ in posture and speed."""
    folder, random = tmp_path_factory.mktemp("hmp"), np.random.default_rng(0)
    label, volunteer = np.tile(np.repeat(["a", "b", "c"], 4), 3), np.repeat(["f1", "f2", "m1"], 12)
    length = np.where(np.arange(36) % 5 == 4, 90, 200)  # some are shorter than a window
    samples = []
    for activity, who, size in zip(label, volunteer, length):
        posture, speed = {"f1": (20, 1), "f2": (30, 2), "m1": (40, 4)}[who]
        turn = np.arange(size)[:, None] * speed * {"a": 0.05, "b": 0.1, "c": 0.2}[activity] + random.uniform(0, 6)
        samples.append(posture + 15 * np.sin(turn + np.arange(3)) + random.normal(0, 3, (size, 3)))
    whole = np.clip(np.concatenate(samples), 0, 63).astype("u1")
    np.savez(folder / "hmp.npz", samples=whole, length=length, label=label, volunteer=volunteer)
    return str(folder)


@pytest.fixture
def quick(monkeypatch):
    for module, name, value in (
        (gas_data, "EPOCHS", 2), (bench_compensation, "PER_CLASS", 20), (bench_wearer, "FILTERS", 16),
        (bench_wearer, "LEAST_RECORDINGS", 12), (bench_wearer, "LEAST_CLASSES", 3),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


def figures_of(command, capsys):
    """Return what a command prints as JSON, having seen that it prints a table without."""
    assert main([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(figures) + len(figures["rows"]) + 1  # without the rows, but a gap and headings
    return figures, lines


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_the_batches(method, gas, quick):
    found = gas_figures(gas, method=method, width=8, seeds=1, fading=0.9)
    assert found["batches"] == [2, 4]
    assert found["accuracy"] == pytest.approx(np.mean(found["by_batch"]), abs=0.06)
    assert found["accuracy"] > (90 if method in ("prototype", "mapped") else 30)


def test_plain_inputs_leave_nothing_to_chance(gas):
    found = gas_figures(gas, method="prototype", width=8, seeds=3)
    assert found["accuracy_std"] == 0
    assert gas_figures(gas, method="prototype", width=8, seeds=1, five=True)["classes"] == 5


def test_test_then_train(gas, quick, capsys):
    command = ["bench", "gas", "--data", gas, "--prequential", "--seeds", "2", "--width", "8"]
    figures, lines = figures_of(command, capsys)
    rows = {(row["learner"], row["order"]): row for row in figures["rows"]}
    assert len(rows) == 9
    assert all(len(row["by_batch"]) == 2 for row in rows.values())
    assert rows["last label", "file"]["by_batch"] == [pytest.approx(100 * 54 / 60, abs=0.06)] * 2
    assert rows["last label", "random"]["accuracy"] < 40
    assert rows["online", "random"]["accuracy"] >= rows["frozen", "any"]["accuracy"]
    assert rows["retrained", "any"]["accuracy"] == pytest.approx(
        gas_figures(gas, method="prototype", width=8, seeds=1)["accuracy"]
    )
    assert lines[-10].split()[-2:] == ["2", "4"]


def test_an_answer_comes_before_its_label(gas, monkeypatch):
    """Labels that no input foretells are answered by chance, however fast they are learned."""
    stream = gas_data.gas_stream(gas)
    y = np.random.default_rng(0).integers(0, 6, len(stream.y)).astype("i4")
    monkeypatch.setattr("edgerev.tools.bench_prequential.gas_stream", lambda folder: stream._replace(y=y))
    monkeypatch.setattr(gas_data, "EPOCHS", 0)
    found = prequential_figures(gas, seeds=1, width=8)
    assert max(row["accuracy"] for row in found["rows"]) < 40


def test_sums_under_a_backbone_that_moves(gas, quick, capsys):
    command = ["bench", "gas", "--data", gas, "--compensation", "--seeds", "2", "--width", "8"]
    figures, _ = figures_of(command, capsys)
    assert len(figures["rows"]) == 2 * 3 * 5
    assert figures["recalled_bytes"] == 8 * 8 * 20 * 6
    key = ("stream", "stem_trained", "sums")
    for row in figures["rows"]:
        assert row["difference"] == pytest.approx(
            row["accuracy"] - next(
                other["accuracy"] for other in figures["rows"]
                if [other[name] for name in key] == [row["stream"], row["stem_trained"], "none"]
            )
        )  # fmt: skip


def test_settings_are_chosen_without_the_test(gas):
    stream = gas_data.gas_stream(gas)
    tested = {index for _, part in bench_compensation._plan(stream, "classes", 3, False) for index in part}
    for learned, held in bench_compensation._plan(stream, "classes", 3, True):
        assert not tested & {*learned, *held}
        assert not set(learned) & set(held)


def test_a_new_wearer(hmp, quick, capsys):
    figures, lines = figures_of(["bench", "wearer", "--data", hmp, "--seeds", "2"], capsys)
    assert figures["wearers"] == ["f1", "f2", "m1"]
    rows = {row["adapted"]: row for row in figures["rows"]}
    assert list(rows) == list(WAYS)
    assert rows["before"]["windows_gain"] == rows["before"]["recordings_gain"] == 0
    assert rows["labels of all"]["windows"] > rows["before"]["windows"]
    assert lines[-len(rows) - 1].split()[-3:] == ["f1", "f2", "m1"]


def test_wearers_to_choose_settings_on_are_others(hmp, monkeypatch):
    monkeypatch.setattr(bench_wearer, "FILTERS", 8)
    assert wearer_figures(hmp, seeds=1, validate=True)["wearers"] == ["f1", "f2", "m1"]
    with pytest.raises(DataError, match=r"no wearer .* has 30 recordings"):
        wearer_figures(hmp, seeds=1)


def test_a_way_leaves_nothing_to_the_next(hmp, quick, monkeypatch):
    """Each starts from the sums of the others."""
    together = wearer_figures(hmp, seeds=1)["rows"]
    for way in ("own answers, by recording", "normalisation"):
        monkeypatch.setattr(bench_wearer, "WAYS", {"before": WAYS["before"], way: WAYS[way]})
        alone = wearer_figures(hmp, seeds=1)["rows"][1]
        assert alone == next(row for row in together if row["adapted"] == way)


@pytest.mark.parametrize(("call", "error", "match"), [
    (lambda gas: gas_figures(gas, method="magic", width=8, seeds=1), UsageError, "method 'magic'"),
    (lambda gas: gas_figures(gas, method="random", width=8, seeds=1, fading=0), UsageError, "fading 0"),
    (lambda gas: gas_figures("nowhere", method="random", width=8, seeds=1), DataError, "is missing"),
    (lambda gas: wearer_figures("nowhere", seeds=1), DataError, "is not there"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(call, error, match, gas):
    with pytest.raises(error, match=match):
        call(gas)


@pytest.mark.parametrize("more", [["--method", "trained"], ["--five"], ["--fading", "0.9"]])
def test_options_that_comparisons_do_not_heed_are_refused(more, gas, capsys):
    assert main(["bench", "gas", "--data", gas, "--compensation", *more]) != 0
    assert "leave them out" in capsys.readouterr().err

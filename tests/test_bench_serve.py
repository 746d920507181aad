"""The daemon's benchmarks: under load, and along real sensors that age, through HTTP."""

import json

import pytest

from edgerev.tools.bench_serve import serve_figures
from edgerev.tools.bench_serve_gas import POISON, gas_serve_figures

pytest.importorskip("waitress", reason="the package waitress is not installed")
pytestmark = pytest.mark.usefixtures("cache")


def test_load():
    figures = serve_figures("mlp4", rate=1000, batch=16, seconds=2)
    assert figures["sent"] == 2000 // 16 * 16
    assert figures["refused"] == 0
    assert figures["sent"] - figures["trained_at_the_end"] < figures["sent"] / 2
    assert figures["predict_ms_p50"] <= figures["predict_ms_p99"] <= figures["predict_ms_max"]
    assert figures["peak_rss_bytes"] >= max(figures["rss_bytes_over_time"])
    json.dumps(figures)


def test_poison_needs_the_gas_sensors(cli):
    done = cli("bench", "serve", "--poison")
    assert done.code == 2
    assert "--poison: expected --gas DIR with it" in done.err


@pytest.mark.long
def test_adapting_beats_frozen_along_real_drift(shared_data):
    figures = gas_serve_figures(str(shared_data / "gas-drift"))
    assert figures["accuracy"] >= figures["frozen_accuracy"] + 25
    assert figures["rollbacks"] == 0


@pytest.mark.long
def test_wrong_labels_are_taken_back(shared_data):
    figures = gas_serve_figures(str(shared_data / "gas-drift"), poison=True)
    assert figures["rollbacks"] >= 1
    accuracies = {int(row["samples"].split()[0]): row["accuracy"] for row in figures["rows"]}
    while_wrong = min(accuracy for first, accuracy in accuracies.items() if POISON[0] <= first < POISON[2])
    assert while_wrong < 80
    assert accuracies[max(accuracies)] > 90

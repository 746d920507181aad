"""The whole way on real images: MNIST in five epochs and 8 MiB. Takes a quarter of an hour."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIG = Path(__file__).parent.parent / "docs" / "examples" / "mnist.toml"


@pytest.mark.long
def test_five_epochs_of_mnist_reach_99_2_percent(shared_data, tmp_path):
    """One seed; the README has the mean of three."""
    command = [sys.executable, "-m", "edgerev", "train", CONFIG, "--data", shared_data / "mnist"]
    command += ["-o", tmp_path / "model.edgerev", "--json"]
    found = json.loads(subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True).stdout)
    assert found["parameters"] <= 200_000
    assert found["arena_bytes"] <= 8 << 20
    assert found["accuracy"] >= 0.992
    assert found["peak_rss_bytes"] - found["ready_rss_bytes"] <= 1.05 * found["arena_bytes"] + (2 << 20)

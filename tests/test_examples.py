"""The examples of the documentation, on real data: what the page says of them is what they give."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "examples"
PAGE = (FOLDER.parent / "examples.md").read_text(encoding="utf-8")


@pytest.fixture
def example(shared_data, monkeypatch):
    def run(name, folder):
        monkeypatch.setattr(sys, "argv", [name])
        return runpy.run_path(str(FOLDER / f"{name}.py"))["main"](shared_data / folder)

    return run


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_shown(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60
    assert f"{{literalinclude}} examples/{path.name}" in PAGE
    assert f"def test_{path.stem}(" in Path(__file__).read_text(encoding="utf-8")


def test_sensor_drift(example):
    frozen, learning = example("sensor_drift", "gas-drift")
    assert f"{100 * frozen:.1f} % of right answers" in " ".join(PAGE.split())
    assert f"{100 * learning:.1f} %, in an order" in " ".join(PAGE.split())


@pytest.mark.long
def test_new_wearer(example):
    before, after = example("new_wearer", "hmp")
    assert f"{100 * before:.1f} % of windows are right before, and {100 * after:.1f} % after" in " ".join(PAGE.split())


@pytest.mark.long
def test_digits(example):
    accuracy, same = example("digits", "mnist")
    assert f"{100 * accuracy:.1f} % of the test images" in PAGE
    assert same

"""Training from the daemon's store: exactly once, to the same bit, whenever the power goes."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adaptation_child import CLASSES, EVERY, SHAPE, adaptation

from edgerev.daemon.store import Arrival
from edgerev.errors import StoreError

CHILD = Path(__file__).with_name("adaptation_child.py")
COUNT = 203

pytestmark = pytest.mark.usefixtures("cache")


def arrivals(count=COUNT):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(count, SHAPE)).astype("f4"), draw.integers(0, CLASSES, count).astype("i4")
    return [Arrival(row.tobytes(), label.tobytes()) for row, label in zip(x, y)]


def filled(path, count=COUNT):
    made = adaptation(str(path))
    made.store.put(arrivals(count))
    return made


def weights(made):
    x = np.random.default_rng(1).normal(size=(9, SHAPE)).astype("f4")
    return made.learner.steps, made.learner.predict_proba_many(x).tobytes()


@pytest.fixture
def uninterrupted(cache, tmp_path_factory):
    made = filled(tmp_path_factory.mktemp("whole") / "daemon.db")
    while made.step() is not None:
        pass
    made.save()
    assert len(made.store) == COUNT % 4
    return weights(made)


@pytest.mark.parametrize("cuts", [6, pytest.param(100, marks=pytest.mark.long)])
def test_kills_at_random_moments(cuts, uninterrupted, tmp_path):
    path, moments = tmp_path / "daemon.db", random.Random(0)
    filled(path).store.close()
    for _ in range(cuts):
        child = subprocess.Popen([sys.executable, str(CHILD), str(path)], stdout=subprocess.PIPE)
        for _ in range(moments.randint(0, 7)):
            child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
    made = adaptation(str(path))
    while made.step() is not None:
        pass
    assert weights(made) == uninterrupted
    assert made.problems == []


def test_a_generation_is_written_when_it_is_due(tmp_path):
    made = filled(tmp_path / "daemon.db")
    for step in range(1, 9):
        assert made.step().samples == 4
        assert made.store.trained == 4 * step // EVERY * EVERY
    assert len(made.store) == COUNT - 2 * EVERY


def test_no_whole_batch(tmp_path):
    made = filled(tmp_path / "daemon.db", 3)
    assert made.step() is None
    assert made.learner.steps == 0


def test_a_damaged_generation_gives_way_to_the_one_before(tmp_path):
    made = filled(tmp_path / "daemon.db")
    for _ in range(4):
        made.step()
    before = weights(made)
    for _ in range(4):
        made.step()
    made.store._db.execute("UPDATE parts SET data = zeroblob(length(data)) WHERE generation = 2")
    made.store.close()
    again = adaptation(made.store.path)
    assert weights(again) == before
    assert len(again.problems) == 1
    assert "generation 2 cannot be used" in again.problems[0]
    again.store._db.execute("UPDATE parts SET data = zeroblob(length(data))")
    again.store.close()
    with pytest.raises(StoreError, match=r"has no generation that can be used .*start anew"):
        adaptation(made.store.path)

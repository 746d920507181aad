"""Training from the daemon's store: exactly once, to the same bit, whenever the power goes."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adaptation_child import CLASSES, COUNT, EVERY, SETTINGS, SHAPE, adaptation, arrivals, filled, weights

from edgerev import Dense, Head, Learner, Net
from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.schema import PARTS
from edgerev.daemon.settings import GuardTable
from edgerev.daemon.store import Arrival, Store
from edgerev.errors import StoreError

CHILD = Path(__file__).with_name("adaptation_child.py")

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def uninterrupted(cache, tmp_path_factory):
    made = filled(tmp_path_factory.mktemp("whole") / "daemon.db")
    while made.step():
        pass
    made.save()
    assert len(made.store) == COUNT % 4
    assert made.rollbacks > 0
    return weights(made)


@pytest.mark.parametrize("cuts", [6, pytest.param(100, marks=pytest.mark.long)])
def test_kills_at_random_moments(cuts, uninterrupted, tmp_path):
    path, moments = tmp_path / "daemon.db", random.Random(0)
    filled(path).store.close()
    for _ in range(cuts):
        child = subprocess.Popen([sys.executable, str(CHILD), str(path)], stdout=subprocess.PIPE)
        for _ in range(moments.randint(0, 6 if cuts > 50 else 60)):
            child.stdout.readline()
        child.kill()
        child.wait()
        child.stdout.close()
    made = adaptation(str(path))
    while made.step():
        pass
    assert weights(made) == uninterrupted
    assert not made.problems


def test_a_generation_is_written_when_it_is_due(tmp_path):
    made = filled(tmp_path / "daemon.db")
    for step in range(1, 9):
        assert made.step() == 4
        assert made.store.trained == 4 * step // EVERY * EVERY
    assert len(made.store) == COUNT - 2 * EVERY


def test_no_whole_batch(tmp_path):
    made = filled(tmp_path / "daemon.db", 3)
    assert made.step() == 0
    assert made.learner.steps == 0


def test_a_damaged_generation_gives_way_to_the_one_before(tmp_path):
    made = filled(tmp_path / "daemon.db")
    for _ in range(4):
        made.step()
    before = weights(made)
    for _ in range(4):
        made.step()
    made.store._db.execute("UPDATE parts1 SET data = zeroblob(length(data)) WHERE generation = 3")
    made.store.close()
    again = adaptation(made.store.path)
    assert weights(again) == before
    assert len(again.problems) == 1
    assert "generation 3 cannot be used" in again.problems[0]
    for table in PARTS:
        again.store._db.execute(f"UPDATE {table} SET data = zeroblob(length(data))")
    again.store.close()
    with pytest.raises(StoreError, match=r"has no generation that can be used .*start anew"):
        adaptation(made.store.path)


def test_a_batch_that_cannot_be_learned_is_left_out(tmp_path):
    bad = [Arrival(np.full(SHAPE, np.float32(3e38)).tobytes(), bytes(4))] * 4
    good = arrivals(60)
    made, without = adaptation(str(tmp_path / "bad.db")), adaptation(str(tmp_path / "good.db"))
    heard = made._events.listen()
    made.store.put([*good[:28], *bad, *good[28:]])
    without.store.put(good)
    for one in (made, without):
        while one.step():
            pass
    assert made.refused == 1
    assert made.after == without.after + 4
    assert weights(made)[1] == weights(without)[1]
    kinds = [heard.get(0).kind]
    while (event := heard.get(0)) is not None:
        kinds.append(event.kind)
    assert kinds.count("refused batch") == 1


def test_going_back_by_hand(tmp_path):
    made = filled(tmp_path / "daemon.db", 160)
    start = weights(made)[1]
    for _ in range(10):
        made.step()
    assert weights(made)[1] != start
    made.go_back("asked for")
    assert weights(made)[1] == start
    assert made.store.trained == made.after == 40
    assert made.rollbacks == 1
    made.store.close()
    again = adaptation(made.store.path)
    assert weights(again)[1] == start
    assert again.step() == 4


def test_without_labels_from_outside_answers_are_watched(tmp_path):
    made = adaptation(str(tmp_path / "daemon.db"))
    x = np.random.default_rng(3).normal(size=(240, SHAPE)).astype("f4")
    ids = made.store.put([Arrival(row.tobytes()) for row in x])
    assert made.step() == 0
    collapsed = [(number, bytes(4)) for number in ids]  # as a model that believes in one class would label
    assert made.store.label(collapsed, known=False) == []
    while made.step():
        pass
    assert made.rollbacks > 0
    assert made.drifts == 0  # own answers say nothing of how good they are


def test_only_after_drift(tmp_path):
    training = SETTINGS.training.replace(after_drift=True, drift_samples=40)
    made = adaptation(str(tmp_path / "daemon.db"), SETTINGS.replace(training=training))
    made.store.put(arrivals(300))
    while made.step():
        pass
    assert made.learner.steps == 0
    assert made.after == 300
    made._tell_drift("inputs", 300)
    made.store.put(arrivals(300))
    while made.step():
        pass
    assert made.learner.steps == 10


@pytest.mark.parametrize("fading", [1.0, 0.99])
def test_a_head_in_closed_form_sums_up(tmp_path, fading):
    net = Net((SHAPE,), Dense(6), (), Head(CLASSES, kind="ridge", ridge=1e-3))
    made, alone = (Learner(net, batch=4, seed=1, guard=True) for _ in range(2))
    settings = SETTINGS.replace(training=SETTINGS.training.replace(fading=fading), guard=GuardTable(window=1000))
    store = Store(str(tmp_path / "daemon.db"), 4 * SHAPE, 4, 10_000)
    sent = arrivals(100)
    store.put(sent)
    adapted = Adaptation(made, store, settings)
    while adapted.step():
        pass
    for first in range(0, 100, 4):
        if first and fading < 1:
            alone.fade(fading**4)
        x, y = (b"".join(getattr(one, name) for one in sent[first : first + 4]) for name in "xy")
        alone.remember_many(np.frombuffer(x, "f4").reshape(4, SHAPE), np.frombuffer(y, "i4"))
    x = np.random.default_rng(1).normal(size=(9, SHAPE)).astype("f4")
    assert np.array_equal(made.predict_proba_many(x), alone.predict_proba_many(x))


def test_what_happened_is_kept(tmp_path):
    made = filled(tmp_path / "daemon.db")
    while made.step():
        pass
    made.save()
    lines = [json.loads(line) for line in made.store.history(100)]
    windows = [line for line in lines if line["kind"] == "window"]
    assert len(windows) >= COUNT // 48 - made.rollbacks - 1
    assert {"sample", "time", "loss", "accuracy", "accepted_accuracy"} <= windows[0].keys()
    assert sum(line["kind"] == "rollback" for line in lines) == made.rollbacks
    assert windows[-1]["accuracy"] > windows[0]["accuracy"]

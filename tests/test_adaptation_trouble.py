"""Adaptation where something goes wrong: bad batches, models that cannot answer, lost generations, full disks."""

import json

import numpy as np
import pytest
from adaptation_child import CLASSES, SETTINGS, SHAPE, adaptation, arrivals, weights

from edgerev import SGD, AdamW, Block, Dense, Head, Learner, Net, ReLU
from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.guard import Decision
from edgerev.daemon.settings import GuardTable, TrainingTable
from edgerev.daemon.store import Arrival, Store
from edgerev.errors import StoreError, UsageError

pytestmark = pytest.mark.usefixtures("cache")
PATIENT = SETTINGS.replace(
    training=TrainingTable(generation_samples=16, generation_seconds=0), guard=GuardTable(window=400)
)


def store(path, name="daemon.db"):
    return Store(str(path / name), 4 * SHAPE, 4, 10_000)


def run(made):
    while made.step():
        pass
    return made


def sent(x, y):
    return [Arrival(row.astype("f4").tobytes(), np.int32(label).tobytes()) for row, label in zip(x, y)]


def kinds(listener):
    found = []
    while (event := listener.get(0)) is not None:
        found.append(event.kind)
    return found


def fragile():
    """Return a learner whose gradient leaves its range for large, wrong samples, after later blocks were updated."""
    net = Net((SHAPE,), Dense(8), (Block((Dense(4), ReLU(), Dense(4)), repeat=3),), Head(CLASSES))
    rates = (1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0)
    made = Learner(net, optimizer=SGD(1e-7), batch=4, seed=3, guard=True, rates=rates)
    factors = (("block1.F.0.weight", 2e35), ("block1.F.2.weight", 5e-36), ("head.0.weight", 1e3))
    for name, factor in factors:
        view = np.frombuffer(made.runtime.view(name), "f4")
        view *= np.float32(factor)
    return made


@pytest.mark.parametrize("bad_places", [(3,), (2, 5, 6), (0, 1, 9)])
def test_a_step_that_tears_the_model_is_undone(tmp_path, bad_places):
    draw, teacher, good, mixed = np.random.default_rng(0), fragile(), [], []
    for place in range(12):
        x = draw.normal(size=(4, SHAPE))
        good += (batch := sent(x, x[:, :CLASSES].argmax(1)))
        if place in bad_places:
            wrong = (teacher.predict_many((25 * x).astype("f4")) + 1) % CLASSES
            mixed += sent(25 * x, wrong)
        mixed += batch
    made, without = (Adaptation(fragile(), store(tmp_path, name), PATIENT) for name in ("bad.db", "good.db"))
    heard = made._events.listen()
    made.store.put(mixed)
    without.store.put(good)
    run(made), run(without)
    assert made.refused == len(bad_places)
    assert kinds(heard).count("refused batch") == len(bad_places)
    assert made.after == without.after + 4 * len(bad_places)
    assert made.learner.steps == without.learner.steps == 12
    assert weights(made)[1] == weights(without)[1]
    lines = [json.loads(line) for line in made.store.history(100)]
    assert len(lines) == len({(line["kind"], line["sample"]) for line in lines})


def test_bad_samples_cost_no_work_twice(tmp_path):
    made = adaptation(str(tmp_path / "daemon.db"), PATIENT)
    bad = [Arrival(np.full(SHAPE, np.float32(3e38)).tobytes(), bytes(4))] * 4
    good = arrivals(80)
    for place in range(0, 80, 4):
        made.store.put([*good[place : place + 4], *bad])
    assert sum(1 for _ in iter(made.step, 0)) == 40
    assert made.refused == 20


def test_a_model_that_cannot_answer_gives_way(tmp_path):
    """Learned from one batch that is far too large, it has no answers for anything any more."""
    net = Net((SHAPE,), Dense(8), (Block((Dense(16), ReLU(), Dense(4)), repeat=4),), Head(CLASSES))
    learner = Learner(net, optimizer=SGD(0.05, momentum=0.9), batch=8, seed=1, guard=True)
    made = Adaptation(learner, store(tmp_path), PATIENT)
    made.store.put(arrivals(160))
    run(made)
    for scale in (100, 300, 900):
        x = scale * np.random.default_rng(1).normal(size=(8, SHAPE))
        made.store.put(sent(x, [0, 1, 2, 0, 1, 2, 0, 1]))
        run(made)
    later = arrivals(320)
    made.store.put(later)
    run(made)
    assert made.rollbacks > 0
    assert made.refused <= 3 + PATIENT.guard.window // 8
    x = np.frombuffer(b"".join(one.x for one in later), "f4").reshape(-1, SHAPE)
    y = np.frombuffer(b"".join(one.y for one in later), "i4")
    assert (learner.predict_many(x) == y).mean() > 0.6


def boundaries(made, count):
    """Learn, and return the answers after each sample number that is asked for."""
    found = {made.after: weights(made)[1]}
    while made.after < count and made.step():
        found[made.after] = weights(made)[1]
    return found


def test_what_is_accepted_is_older_than_the_probation(tmp_path):
    made = adaptation(str(tmp_path / "daemon.db"))
    made.store.put(arrivals(320))
    seen = boundaries(made, 204)
    assert made.guard.table.window * made.guard.table.probation == 96
    made.go_back("asked for")
    assert weights(made)[1] == seen[96]  # of 0, 96 and 192, when candidates were put by
    assert made.guard.window.samples == 0
    again = boundaries(made, 300)
    made.go_back("asked for")
    assert weights(made)[1] == again[204]  # begun anew where it went back


@pytest.mark.parametrize("harm", ["DELETE FROM parts{0} WHERE generation = {1} AND part = 0", (
    "UPDATE parts{0} SET data = zeroblob(length(data)) WHERE generation = {1} AND part = 0"
)])  # fmt: skip
def test_an_accepted_generation_that_is_damaged(tmp_path, harm):
    made = adaptation(str(tmp_path / "daemon.db"))
    made.store.put(arrivals(320))
    seen = boundaries(made, 220)
    number, heard = made._accepted_number, made._events.listen()
    made.store._db.execute(harm.format(number % 2, number))
    made.go_back("asked for")
    assert kinds(heard) == ["damage", "rollback"]
    assert weights(made)[1] == seen[192]  # the candidate's
    made.store.close()
    again = adaptation(made.store.path)
    assert weights(again)[1] == seen[192]
    assert again.step() == 4


def test_going_back_where_nothing_can_be_read(tmp_path):
    made = adaptation(str(tmp_path / "daemon.db"))
    made.store.put(arrivals(100))
    run(made)
    before = weights(made)[1]
    for table in ("parts0", "parts1"):
        made.store._db.execute(f"DELETE FROM {table} WHERE part = 0")
    made.go_back("asked for")
    assert made.rollbacks == 0
    assert weights(made)[1] == before


def test_a_full_disk_while_a_model_is_accepted(tmp_path):
    made, without = adaptation(str(tmp_path / "full.db")), adaptation(str(tmp_path / "free.db"))
    for one in (made, without):
        one.store.put(arrivals(320))
    while made.after < 192 - 4:
        made.step()
    made.store._db.execute("VACUUM")
    pages = made.store._db.one("PRAGMA page_count")
    made.store._db.one(f"PRAGMA max_page_count={pages}")
    for _ in range(3):
        with pytest.raises(StoreError):
            made.step()
    made.store._db.one("PRAGMA max_page_count=1000000")
    run(made), run(without)
    made.save(), without.save()
    assert weights(made) == weights(without)
    made.store.close(), without.store.close()
    assert weights(adaptation(made.store.path)) == weights(adaptation(without.store.path)) == weights(without)


def test_parameters_that_are_not_finite_are_not_kept(tmp_path):
    made = adaptation(str(tmp_path / "daemon.db"))
    made.store.put(arrivals(60))
    run(made)
    made.learner.runtime.view("head.0.bias")[0] = float("nan")
    made._changed = True
    made.store.put(arrivals(60)[:8])
    run(made)
    assert made.rollbacks > 0
    assert np.isfinite(np.frombuffer(weights(made)[1], "f4")).all()


def test_a_blank_head_is_no_model_to_go_back_to(tmp_path):
    net = Net((SHAPE,), Dense(6), (), Head(CLASSES, kind="ridge", ridge=1e-3))
    training = SETTINGS.training.replace(after_drift=True)
    made = Adaptation(Learner(net, batch=4, guard=True), store(tmp_path), SETTINGS.replace(training=training))
    made.store.put(arrivals(200))
    assert made.step() == 4
    made.go_back("asked for")
    assert made.rollbacks == 0
    assert "no model to go back to yet" in made.problems[-1]
    run(made)
    assert made.learner.remembers
    assert made.learner.runtime.view("ridge.counts")[0] < 60  # learned until it was accepted, then no drift came
    before = weights(made)[1]
    made.go_back("asked for")
    assert made.rollbacks > 0
    assert weights(made)[1] == before
    made.store.close()
    again = Adaptation(Learner(net, batch=4, guard=True), store(tmp_path), SETTINGS.replace(training=training))
    assert weights(again)[1] == before


def test_the_accepted_sums_answer_after_a_restart(tmp_path):
    net = Net((SHAPE,), Dense(6), (), Head(CLASSES, kind="prototype", ridge=1e-3))
    made = Adaptation(Learner(net, batch=4, guard=True), store(tmp_path), SETTINGS)
    made.store.put(arrivals(320))
    run(made)
    made.save()
    x = np.random.default_rng(2).normal(size=(7, SHAPE)).astype("f4")
    with made._keeper.accepted.in_place():
        before = made.learner.predict_proba_many(x)
    assert not np.array_equal(before, made.learner.predict_proba_many(x))
    made.store.close()
    again = Adaptation(Learner(net, batch=4, guard=True), store(tmp_path), SETTINGS)
    with again._keeper.accepted.in_place():
        assert np.array_equal(again.learner.predict_proba_many(x), before)


def test_without_a_guard_nothing_is_accepted(tmp_path):
    settings = SETTINGS.replace(guard=GuardTable(on=False, window=48))
    made = adaptation(str(tmp_path / "daemon.db"), settings)
    made.store.put(arrivals())
    run(made)
    made.save()
    assert made.rollbacks == 0
    assert len(made.store.generations()) == 2
    windows = [json.loads(line) for line in made.store.history(1000) if "window" in line]
    assert len(windows) == 800 // 48
    assert all(line["accepted_accuracy"] is None for line in windows)
    before = weights(made)[1]
    made.store.close()
    again = adaptation(made.store.path)  # with a guard
    assert weights(again)[1] == before
    again.go_back("asked for")
    assert weights(again)[1] == before


def test_learning_after_a_drift_goes_on_after_a_cut(tmp_path):
    settings = SETTINGS.replace(training=SETTINGS.training.replace(after_drift=True, drift_samples=40))
    made = adaptation(str(tmp_path / "daemon.db"), settings)
    made._tell_drift("inputs", 0)
    made.store.put(arrivals(20))
    run(made)
    made.save()
    made.store.close()
    again = adaptation(made.store.path, settings)
    again.store.put(arrivals(60))
    run(again)
    assert again.learner.steps == 10


def test_real_drift_is_told(tmp_path):
    settings = SETTINGS.replace(guard=GuardTable(on=False))
    made = adaptation(str(tmp_path / "daemon.db"), settings)
    heard, draw = made._events.listen(), np.random.default_rng(0)
    for shift, exchange in ((0, 0), (0, 1), (4, 1)):
        x = draw.normal(size=(1200, SHAPE)) + shift
        made.store.put(sent(x, (x[:, :CLASSES].argmax(1) + exchange) % CLASSES))
        run(made)
    told = []
    while (event := heard.get(0)) is not None:
        if event.kind == "drift":
            told.append((event.facts["of"], event.facts["sample"]))
    assert any(of == "answers" and 1200 < sample <= 1400 for of, sample in told)
    assert any(of == "inputs" and 2400 < sample <= 2600 for of, sample in told)
    assert not any(of == "inputs" and sample <= 2400 for of, sample in told)
    assert made.drifts == len(told)


def test_generations_wait_for_their_time(tmp_path):
    training = TrainingTable(generation_samples=16, generation_seconds=1e6)
    made = adaptation(str(tmp_path / "daemon.db"), SETTINGS.replace(training=training, guard=GuardTable(on=False)))
    made.store.put(arrivals(400))
    run(made)
    assert made.saved == 0
    made.settings = made.settings.replace(most_samples=1000)
    made.store.most_samples = 1000
    made.store.put(arrivals(104))
    assert made.step() == 4  # half of the samples that may wait do
    assert made.saved == 404


@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        (Head(CLASSES, tasks=2), SETTINGS, "2 tasks; expected one"),
        (
            Head(CLASSES), SETTINGS.replace(most_samples=7, training=TrainingTable(generation_samples=3)),
            "two batches, 8",
        ),
        (Head(CLASSES, kind="ridge", sums="int64"), SETTINGS, "no range yet"),
        (
            Head(CLASSES, kind="ridge", sums="int64"),
            SETTINGS.replace(training=SETTINGS.training.replace(fading=0.9)), "whole numbers cannot fade",
        ),
    ],
)  # fmt: skip
def test_models_and_settings_that_do_not_fit(tmp_path, net, settings, message):
    learner = Learner(Net((SHAPE,), Dense(6), (), net), optimizer=AdamW(), batch=4, guard=True)
    with pytest.raises(UsageError, match=message):
        Adaptation(learner, store(tmp_path), settings)


@pytest.mark.parametrize("fading", [1e-3, 1 - 2**-30])
def test_fading_of_any_size(tmp_path, fading):
    net = Net((SHAPE,), Dense(6), (), Head(CLASSES, kind="ridge", ridge=1e-3))
    settings = SETTINGS.replace(training=SETTINGS.training.replace(fading=fading))
    made = Adaptation(Learner(net, batch=16, guard=True), store(tmp_path), settings)
    made.store.put(arrivals(160))
    assert run(made).after == 160


def test_own_labels_do_not_hide_wrong_answers(tmp_path):
    made = adaptation(str(tmp_path / "daemon.db"))
    for place in range(48):
        known = place % 2 == 0
        made.guard.window.add([0.9, 0.05, 0.05], [0.05, 0.9, 0.05] if known else [0.9, 0.05, 0.05], 0, known)
    assert made.guard.window.known == 24
    assert made.guard.decide() is Decision.GO_BACK
    assert "of 24 samples it had 0 right, where the accepted model had 24" in made.guard.reason


@pytest.mark.parametrize("label", [-1, CLASSES, 2**30])
def test_a_stored_label_that_was_damaged(tmp_path, label):
    made = adaptation(str(tmp_path / "daemon.db"), PATIENT)
    made.store.put(arrivals(12))
    made.store._db.execute("UPDATE ready SET y = ? WHERE number = 6", np.int32(label).tobytes())
    assert run(made).after == 12
    assert made.refused == 1
    assert made.learner.steps == 2

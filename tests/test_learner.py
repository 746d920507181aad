"""The learner's verbs: learning one by one or many, the bijection, checkpoints, the ridge head."""

import os
import signal
import struct
import threading

import numpy as np
import pytest
import toys

import harness
from edgerev import checkpoint_reader
from edgerev.contents import KeptTensors, stored_sample_bytes
from edgerev.errors import CheckpointError, DataError, NetError, NumericError, UsageError
from edgerev.layers import Adapter, Conv2d, Dense, Dropout, ReLU, RMSNorm
from edgerev.learner import Learner
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule
from edgerev.presets import preset
from edgerev.program import Region
from edgerev.recipe import Augment, Schedule
from edgerev.team import Team

DENSE = Net((4,), Dense(16), (Block((Dropout(0.1), Dense(8), ReLU(), Dense(8)), repeat=2),), Head(3))
IMAGES = Net(
    (8, 8, 1), Conv2d(8), (Block((RMSNorm(), Conv2d(4))), Squeeze(), Block((Conv2d(4), ReLU(), Conv2d(16)))), Head(6)
)
X, Y = toys.rows(23, seed=1)
PICTURES, SPOTS = toys.images(23)
PICTURES = (PICTURES[..., None] / 100).astype("f4")


def state(learner):
    return harness.lasting_bytes(learner.runtime)


def values_for(loss):
    return Y if loss is None or loss.labels else np.random.default_rng(0).random((23, 3)).astype("f4")


# -- learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [CrossEntropy(smoothing=0.1), BinaryCrossEntropy(), MeanSquaredError((1, 2, 3))])
def test_many_in_batches_of_one_are_one_after_another(loss):
    y = values_for(loss)
    many, one = (Learner(DENSE, batch=1, loss=loss, optimizer=AdamW(1e-2)) for _ in range(2))
    whole = many.learn_many(X, y)
    reports = [one.learn_one(sample, target) for sample, target in zip(X, y)]
    assert state(many) == state(one)
    assert whole.loss == pytest.approx(np.mean([report.loss for report in reports]))
    if isinstance(loss, MeanSquaredError):
        assert {whole.accuracy, *(report.accuracy for report in reports)} == {None}
    else:
        assert whole.accuracy == pytest.approx(np.mean([report.accuracy for report in reports]))
    assert (whole.samples, many.steps, one.steps) == (23, 23, 23)


def test_one_sample_is_a_partial_batch():
    small, large = Learner(DENSE, batch=1), Learner(DENSE, batch=16)
    for sample, target in zip(X, Y):
        assert small.learn_one(sample, target) == large.learn_one(sample, target)
    assert state(small) == state(large)


@pytest.mark.parametrize("sizes", [(16, 7), (7, 16), (1, 22), (23,), (3, 4, 16)])
def test_partial_batches_are_steps_of_their_own(sizes):
    """A call goes on where the last one ended; within it, batches are full but for the last."""
    calls, batches = (Learner(DENSE, batch=16, optimizer=SGD(0.1, momentum=0.9)) for _ in range(2))
    first = 0
    for size in sizes:
        calls.learn_many(X[first : first + size], Y[first : first + size])
        for start in range(first, first + size, 16):
            stop = min(start + 16, first + size)
            batches.learn_many(X[start:stop], Y[start:stop])
        first += size
    assert state(calls) == state(batches)
    assert calls.steps == sum(-(-size // 16) for size in sizes)


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9, nesterov=True), AdamW(1e-2), Lion(1e-3)])
@pytest.mark.parametrize("net", [DENSE, IMAGES], ids=["dense", "images"])
def test_it_learns(net, optimizer):
    x, y = (X, Y) if net is DENSE else (PICTURES, SPOTS)
    learner = Learner(net, batch=8, optimizer=optimizer, clip=Clip(1.0))
    first = learner.learn_many(x, y)
    for _ in range(60):
        last = learner.learn_many(x, y)
    assert last.loss < first.loss / 4
    assert (learner.predict_many(x) == y).mean() >= 0.9


def test_the_report_is_measured_before_the_update():
    learner = Learner(Net((4,), Dense(16), (Block((Dense(8),)),), Head(3)), batch=23)
    proba = learner.predict_proba_many(X)
    report = learner.learn_many(X, Y)
    assert report.loss == pytest.approx(-np.log(proba[np.arange(23), Y]).mean(), rel=1e-5)
    assert report.accuracy == pytest.approx((proba.argmax(1) == Y).mean())


def test_seeds_are_reproducible():
    def trained(seed):
        learner = Learner(IMAGES, batch=8, seed=seed, augment=Augment(shift=1, flip=True, noise=0.1))
        learner.learn_many(PICTURES, SPOTS)
        return state(learner)

    assert trained(0) == trained(0)
    assert trained(7) == trained(7)
    assert len({trained(0), trained(1), trained(2**63 - 1)}) == 3


@pytest.mark.parametrize("options", [
    {"threads": 2}, {"threads": 3}, {"schedule": "stored"}, {"schedule": Schedule(8, 2)}, {"schedule": Schedule(3, 1)},
    {"schedule": Schedule(8, 8, 1)}, {"budget": "1MiB"},
])  # fmt: skip
def test_neither_threads_nor_schedule_change_a_bit(options):
    recipe = {"batch": 8, "optimizer": AdamW(1e-2), "augment": Augment(shift=1, noise=0.1)}
    ref, comp = Learner(IMAGES, **recipe), Learner(IMAGES, **recipe, **options)
    assert [ref.learn_many(PICTURES, SPOTS) for _ in range(2)] == [comp.learn_many(PICTURES, SPOTS) for _ in range(2)]
    assert state(ref) == state(comp)
    assert (ref.predict_proba_many(PICTURES) == comp.predict_proba_many(PICTURES)).all()


def test_predicting_changes_nothing():
    learner, alone = (Learner(DENSE, batch=8, optimizer=AdamW(1e-2)) for _ in range(2))
    for first in (0, 8, 16):
        batch = X[first : first + 8], Y[first : first + 8]
        learner.learn_many(*batch)
        learner.predict_many(X)
        learner.predict_proba_one(X[0])
        learner.invert(learner.transform(X))
        alone.learn_many(*batch)
    assert state(learner) == state(alone)


def test_standardisation():
    mean, scale = X.mean(0), 1 / X.std(0)
    plain, learner = Learner(DENSE), Learner(DENSE)
    learner.set_standardisation(mean, scale.tolist())
    np.testing.assert_allclose(learner.encode(X), plain.encode((X - mean) * scale), atol=1e-5)
    before = state(learner)
    for wrong in (mean[:3], [np.nan] * 4, [1, 2, 3, np.inf]):
        for pair in ((mean + 1, wrong), (wrong, scale)):
            with pytest.raises(UsageError, match=r"3 numbers for 4 channels|expected a finite"):
                learner.set_standardisation(*pair)
    assert state(learner) == before


# -- the bijection -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state_type", ["int32", "int16"])
@pytest.mark.parametrize("net", [DENSE, IMAGES], ids=["dense", "images"])
@pytest.mark.parametrize("schedule", ["reversible", Schedule(3, 1)], ids=str)
def test_the_inverse_is_exact(net, state_type, schedule):
    net = Net(net.input_shape, net.stem, net.backbone, net.head, state_type)
    x, y = (X, Y) if net.input_shape == (4,) else (PICTURES, SPOTS)
    learner = Learner(net, batch=8, schedule=schedule)
    for _ in range(2):
        entry, output = learner.encode(x), learner.transform(x)
        stages = list(net.stages())
        assert entry.shape == (23, *stages[0][:-1], 2 * stages[0][-1])
        assert output.shape == (23, *stages[-1][:-1], 2 * stages[-1][-1])
        assert not np.array_equal(entry.ravel(), output.ravel())
        assert (learner.invert(output) == entry).all()
        assert (learner.invert(output.tolist()) == entry).all()
        assert (learner.invert(output[3:4]) == entry[3:4]).all()
        learner.learn_many(x, y)


def test_outputs_off_the_grid_are_rounded_to_it():
    learner = Learner(DENSE)
    output = learner.transform(X)
    assert (learner.invert(output + 2.0**-22) == learner.encode(X)).all()
    assert (learner.invert(output - 2.0**-22) == learner.encode(X)).all()


# -- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, 0.9), AdamW(1e-2), Lion(1e-2)], ids=str)
def test_saving_and_loading_leave_no_trace(optimizer, tmp_path):
    """Going on from a checkpoint, with whatever threads and schedule, is as never having stopped."""
    path = str(tmp_path / "model.edgerev")
    recipe = {
        "batch": 8, "optimizer": optimizer, "rate_schedule": RateSchedule("cosine", 2, 12), "atomic": True,
        "augment": Augment(shift=1, flip=True, noise=0.1), "loss": CrossEntropy(tuple(range(1, 7)), 0.1), "seed": 3,
        "clip": Clip(1.0, "adaptive"),
    }  # fmt: skip
    learner = Learner(IMAGES, **recipe)
    learner.learn_many(PICTURES, SPOTS)
    learner.classes = ["a", "b", "c", "d", "e", "f"]
    learner.set_standardisation([0.5], [2.0])
    learner.move_to(epoch=2, sample=5)
    learner.save(path)
    saved = state(learner)
    learner.learn_many(PICTURES, SPOTS)
    proba = learner.predict_proba_many(PICTURES)
    for options in ({}, {"threads": 2}, {"schedule": "stored"}, {"budget": learner.plan.arena_bytes * 9 // 10}):
        loaded = Learner.load(path, **options)
        assert state(loaded) == saved
        assert (loaded.net, loaded.recipe, loaded.seed, loaded.steps) == (IMAGES, learner.recipe, 3, 3)
        assert (loaded.classes, loaded.position) == (learner.classes, learner.position)
        assert (loaded.parameters, loaded.position.sample) == (learner.parameters, 5)
        loaded.learn_many(PICTURES, SPOTS)
        assert state(loaded) == state(learner)
        assert (loaded.predict_proba_many(PICTURES) == proba).all()


def test_restoring_takes_the_learner_back(tmp_path):
    path = str(tmp_path / "model.edgerev")
    learner = Learner(DENSE, batch=8, optimizer=AdamW(1e-2))
    learner.learn_many(X, Y)
    learner.save(path)
    before = state(learner)
    learner.learn_many(X, Y)
    after = state(learner)
    learner.restore(path)
    assert state(learner) == before
    learner.learn_many(X, Y)
    assert state(learner) == after
    fresh = Learner(DENSE, batch=4, optimizer=AdamW(0.5), seed=9)
    fresh.restore(path)
    assert state(fresh) == before


def test_the_generation_before_is_kept(tmp_path):
    path = tmp_path / "model.edgerev"
    learner = Learner(DENSE)
    states = []
    for _ in range(3):
        learner.learn_many(X, Y)
        learner.save(str(path))
        states.append(state(learner))
    assert state(Learner.load(str(path))) == states[2]
    assert state(Learner.load(f"{path}.previous")) == states[1]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.edgerev", "model.edgerev.previous"]


def test_an_error_while_reading_leaves_a_learner_that_is_refused(tmp_path, monkeypatch):
    path, learner = str(tmp_path / "m.edgerev"), Learner(DENSE)
    learner.save(path)
    header_bytes = struct.unpack("<Q", (tmp_path / "m.edgerev").read_bytes()[:8])[0]
    read, left = checkpoint_reader.read_at, [3]

    def fail(fd, view, offset):
        if offset >= 8 + header_bytes and view.nbytes < checkpoint_reader.CHUNK_BYTES:
            left[0] -= 1
        if left[0] < 0:
            raise OSError(5, "Input/output error")
        return read(fd, view, offset)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_reader, "read_at", fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            learner.restore(path)
    with pytest.raises(NumericError, match="load the last checkpoint"):
        learner.predict_many(X)
    learner.restore(path)
    learner.predict_many(X)


def test_a_checkpoint_is_verified_once(tmp_path, monkeypatch):
    path, learner, counted = str(tmp_path / "m.edgerev"), Learner(DENSE), []
    learner.save(path)
    verify = checkpoint_reader._verify
    monkeypatch.setattr(checkpoint_reader, "_verify", lambda *where: counted.append(where) or verify(*where))
    Learner.load(path)
    assert len(counted) == 1
    learner.restore(path)
    assert len(counted) == 2


# -- steps that fail -----------------------------------------------------------------------------------------------


def explosive(**options):
    """Return a learner whose next step meets a gradient that is not finite, after the blocks behind it."""
    net = Net((3,), Dense(8), (Block((Dense(5), ReLU(), Dense(4)), repeat=3),), Head(3))
    learner = Learner(net, batch=8, **options)
    factors = (("block1.F.0.weight", 1e37), ("block1.F.2.weight", 1e-37), ("head.0.weight", 1e4))
    for name, factor in factors:
        view = np.frombuffer(learner.runtime.view(name), "f4")
        view *= np.float32(factor)
    return learner


def test_a_torn_model_says_so_until_it_is_restored(tmp_path):
    path = tmp_path / "model.edgerev"
    learner = explosive()
    learner.save(str(path))
    saved = path.read_bytes()
    with pytest.raises(NumericError, match=r"block1\.F is not finite\. .*is the way back.* atomic=True"):
        learner.learn_many(X[:, :3], Y)
    with pytest.raises(NumericError, match=r"left half updated .*; load the last checkpoint"):
        learner.learn_one(X[0, :3], 1)
    for call in (learner.predict_many, learner.transform, lambda x: learner.invert(np.zeros((len(x), 8)))):
        with pytest.raises(NumericError, match=r"left half updated .*; load the last checkpoint"):
            call(X[:, :3])
    with pytest.raises(CheckpointError, match="half updated; expected a whole one"):
        learner.save(str(path))
    assert path.read_bytes() == saved
    assert len(list(tmp_path.iterdir())) == 1
    learner.restore(str(path))
    learner.save(str(path))
    assert path.read_bytes() == saved


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_during_a_step_that_failed(threads, tmp_path, monkeypatch):
    """The kernels run to their end, so the model is torn, and the next batch is not to blame."""
    learner = explosive(threads=threads)
    owner, name = (learner.runtime._team, "run") if threads > 1 else (learner.runtime, "_call")
    run = getattr(owner, name)

    def interrupted(*arguments):
        run(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            learner.learn_many(X[:, :3], Y)
    assert "gradient of block1.F is not finite" in str(caught.value.__cause__)
    assert not any(learner.runtime.status)
    with pytest.raises(CheckpointError, match="half updated"):
        learner.save(str(tmp_path / "m.edgerev"))


def test_an_interrupt_during_a_step_that_did_not_fail(monkeypatch):
    ref, learner = Learner(DENSE), Learner(DENSE)
    ref.learn_many(X[:16], Y[:16])
    run = learner.runtime._call

    def interrupted(*arguments):
        run(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(learner.runtime, "_call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            learner.learn_many(X, Y)
    assert state(learner) == state(ref)
    learner.learn_many(X, Y)


@pytest.mark.parametrize("options", [{"atomic": True}, {"clip": Clip(1.0, "global")}, {"schedule": Schedule(4, 4)}])
def test_a_deferred_update_leaves_the_model_as_it_was(options):
    learner = explosive(**options)
    before = state(learner)
    for _ in range(2):
        with pytest.raises(NumericError, match=r"block1\.F is not finite"):
            learner.learn_many(X[:, :3], Y)
        assert state(learner) == before
    assert learner.steps == 0


def test_a_deferred_failure_is_that_of_the_block_where_it_began():
    """Its gradient makes those of all blocks before it not finite as well."""
    net = Net((3,), Dense(8), (Block((Dense(4),), repeat=3),), Head(3))
    for atomic in (False, True):
        learner = Learner(net, batch=8, atomic=atomic, optimizer=SGD(0.0))
        learner.set_standardisation([0] * 3, [0] * 3)  # a state of zeros, so the weights meet gradients alone
        for number in (1, 2):
            np.frombuffer(learner.runtime.view(f"block{number}.G.0.weight"), "f4")[:] = 3e38
        head = np.frombuffer(learner.runtime.view("head.0.weight"), "f4")
        head *= np.float32(1e4)
        with pytest.raises(NumericError, match=r"gradient of block2\.F is not finite\. Lower the learning rate, clip"):
            learner.learn_many(X[:8, :3], Y[:8])


def test_samples_are_counted_over_the_whole_call():
    x = X.copy()
    x[21, 2] = np.nan
    learner = Learner(DENSE, batch=8)
    for call in (learner.predict_many, learner.transform, lambda x: learner.learn_many(x, Y)):
        with pytest.raises(DataError, match="sample 21 holds NaN"):
            call(x)


def test_a_bad_batch_is_the_end_of_a_call():
    """What came before it was learned, as documented; nothing of it and nothing after it."""
    x = X.copy()
    x[9, 2] = np.nan
    ref, learner = Learner(DENSE, batch=8), Learner(DENSE, batch=8)
    ref.learn_many(X[:8], Y[:8])
    with pytest.raises(DataError, match="sample 9 holds NaN"):
        learner.learn_many(x, Y)
    assert state(learner) == state(ref)


def test_no_section_takes_more_samples_than_its_tensors_hold():
    """Those beyond the micro-batch would be what lies there from before."""
    net = Net((4,), Dense(16), (Block((Dense(8),)),), Head(3, kind="ridge"))
    for learner in (Learner(net, batch=16, schedule=Schedule(8, 4)), Learner(net, batch=16, schedule=Schedule(5, 5))):
        most = learner.schedule.micro_batch
        learner.remember_many(X, Y)
        for call in (learner.predict_step, learner.remember_step):
            for n in (0, most + 1, 16, 1.0):
                with pytest.raises(UsageError, match=rf"samples for encode .*: expected a whole .* {most}; c"):
                    call(n)
        learner.remember_step(most)
        learner.predict_step(most)
        learner.step(16)
        with pytest.raises(UsageError, match=r"samples for train 17: expected a whole number, 1 \.\. 16"):
            learner.step(17)


def test_a_learner_in_use_by_another_thread_is_refused():
    learner = Learner(DENSE)
    before = state(learner)
    begun, over = threading.Event(), threading.Event()

    def use():
        with learner._turn:
            begun.set()
            over.wait(60)

    thread = threading.Thread(target=use)
    thread.start()
    assert begun.wait(60)
    calls = (
        lambda: learner.learn_many(X, Y), lambda: learner.learn_one(X[0], 0), lambda: learner.step(1),
        lambda: learner.predict_many(X), lambda: learner.predict_one(X[0]), lambda: learner.transform(X),
        lambda: learner.save("never"), lambda: learner.set_standardisation([0] * 4, [1] * 4),
    )
    try:
        for call in calls:
            with pytest.raises(UsageError, match=r"was called while another thread uses this Learner; expected one c"):
                call()
    finally:
        over.set()
        thread.join()
    assert state(learner) == before
    learner.learn_many(X, Y)


@pytest.mark.parametrize(("there", "expected"), [({3, 5}, [{3}, {5}]), ({1, 3, 5}, []), ({1}, [])])
def test_threads_are_pinned_where_they_have_all_processors(there, expected, monkeypatch):
    pinned = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: there)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, processors: pinned.append(processors))
    team = Team(lambda first, last, n, thread: 0, 2)
    assert team.run(0, 0, 1) == 0
    team.close()
    assert sorted(pinned, key=list) == expected


def test_a_forked_child_has_threads_of_its_own():
    learner, ref = Learner(DENSE, threads=2), Learner(DENSE)
    for each in (learner, ref):
        each.learn_many(X, Y)
    answers, (ours, theirs) = ref.predict_proba_many(X), os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # it would hang, not fail
        os.write(theirs, learner.predict_proba_many(X).tobytes())
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as file:
        assert file.read() == answers.tobytes()
    assert os.waitpid(child, 0)[1] == 0
    assert (learner.predict_proba_many(X) == answers).all()


# -- the ridge head ------------------------------------------------------------------------------------------------


def ridge(outputs=3, **options):
    return Learner(Net((4,), Dense(16), (Block((Dense(8),)),), Head(outputs, kind="ridge", ridge=1e-3)), **options)


def solve(learner, x, y, strength=1e-3):
    """Return the scores of the ridge in closed form, in float64; -1e30 for classes never seen."""
    features = np.concatenate([learner.transform(x), np.ones((len(x), 1))], 1)
    targets = np.eye(learner.net.head.outputs)[y]
    penalty = strength * len(x) * np.diag([1.0] * (features.shape[1] - 1) + [0.0])
    scores = features @ np.linalg.solve(features.T @ features + penalty, features.T @ targets)
    return np.where(targets.any(0), scores, -1e30)


def test_ridge_answers_are_the_closed_form():
    learner = ridge(5)
    learner.remember_many(X, Y)
    scores = solve(learner, X, Y)
    ref_proba = np.exp(scores - scores.max(1, keepdims=True))
    ref_proba /= ref_proba.sum(1, keepdims=True)
    np.testing.assert_allclose(learner.predict_proba_many(X), ref_proba, atol=2e-4)
    assert (learner.predict_many(X) == scores.argmax(1)).all()
    assert (learner.predict_many(X) == Y).mean() > 0.9
    assert (learner.predict_proba_many(X)[:, 3:] < 1e-30).all()


def test_the_order_of_classes_changes_next_to_nothing():
    together, apart = ridge(), ridge()
    together.remember_many(X, Y)
    for label in (2, 0, 1):
        apart.remember_many(X[label == Y], Y[label == Y])
    np.testing.assert_allclose(apart.predict_proba_many(X), together.predict_proba_many(X), atol=1e-4)


def test_batches_of_remembering_change_nothing():
    whole, parts = ridge(batch=16), ridge(batch=3, threads=2)
    whole.remember_many(X, Y)
    for first in range(0, 23, 5):
        parts.remember_many(X[first : first + 5], Y[first : first + 5])
    assert (whole.predict_proba_many(X) == parts.predict_proba_many(X)).all()
    assert state(whole) == state(parts)


def test_classes_are_predicted_once_they_were_seen():
    learner = ridge()
    for label in (2, 0, 1):
        learner.remember_many(X[label == Y], Y[label == Y])
        seen = {2: {2}, 0: {0, 2}, 1: {0, 1, 2}}[label]
        assert set(learner.predict_many(X).tolist()) == seen
        assert learner.predict_one(X[0]) in seen


def test_forgetting_and_an_empty_memory():
    learner = ridge()
    with pytest.raises(NumericError, match="no samples yet; expected some: add samples first, or resume"):
        learner.predict_one(X[0])
    learner.remember_many(X, Y)
    answers = learner.predict_proba_many(X)
    learner.forget()
    with pytest.raises(NumericError, match="no samples yet; expected some: add samples first, or resume"):
        learner.predict_many(X)
    learner.remember_many(X, Y)
    assert (learner.predict_proba_many(X) == answers).all()


def test_remembering_after_predicting_counts():
    at_once, later = ridge(), ridge()
    at_once.remember_many(X, Y)
    later.remember_many(X[:10], Y[:10])
    later.predict_many(X)
    later.remember_many(X[10:], Y[10:])
    assert (at_once.predict_proba_many(X) == later.predict_proba_many(X)).all()


def test_sums_survive_saving(tmp_path):
    path = str(tmp_path / "model.edgerev")
    learner = ridge()
    learner.remember_many(X[:10], Y[:10])
    learner.save(path)
    learner.remember_many(X[10:], Y[10:])
    loaded = Learner.load(path, threads=2)
    loaded.remember_many(X[10:], Y[10:])
    assert (loaded.predict_proba_many(X) == learner.predict_proba_many(X)).all()
    ridge().save(path)
    with pytest.raises(NumericError, match="no samples yet; expected some: add samples first, or resume"):
        Learner.load(path).predict_one(X[0])


def test_what_needs_a_ridge_head_says_so():
    learner = Learner(DENSE)
    for call in (learner.forget, lambda: learner.remember_many(X, Y)):
        with pytest.raises(UsageError, match=r"no ridge head; make it with Head\(kind='ridge'\)"):
            call()
    with pytest.raises(NetError, match="a ridge head answers with classes"):
        ridge(loss=MeanSquaredError())


def test_samples_in_a_checkpoint_would_be_counted(tmp_path, monkeypatch):
    """The figure is 0 because nothing of the kind is in the file, not because nobody looks."""
    learner, path = Learner(preset("mlp4"), batch=4), str(tmp_path / "m.edgerev")

    learner.save(path)
    with checkpoint_reader.verified(path) as whole:
        sizes = [(name, entry.nbytes) for name, entry in whole.entries()]
    assert stored_sample_bytes(learner.runtime.program, sizes) == 0
    assert stored_sample_bytes(learner.runtime.program, sizes[::-1]) == 0
    assert stored_sample_bytes(learner.runtime.program, [("unknown", 7), *sizes]) == 7
    monkeypatch.setattr("edgerev.contents.KEPT", (Region.PARAMETERS, Region.IO))
    sizes = [(name, view.nbytes) for name, _, _, view in KeptTensors(learner.runtime)]
    assert stored_sample_bytes(learner.runtime.program, sizes) >= 4 * 64 * 4


def test_the_target_of_one_output_may_be_any_number():
    net = Net((4,), Dense(16), (Block((Dense(8),)),), Head(1))
    learners = [Learner(net, loss=MeanSquaredError()) for _ in range(3)]
    reports = [learner.learn_one(X[0], one) for learner, one in zip(learners, (1.0, np.float32(1), [1.0]))]
    assert reports[0] == reports[1] == reports[2]


@pytest.mark.parametrize("optimizer", [SGD(0.1, weight_decay=0.1), AdamW(0.05, weight_decay=0.1)])
def test_a_task_leaves_the_weights_of_others(optimizer):
    random = np.random.default_rng(0)
    net = Net((4,), Dense(8), (Block((ReLU(), Dense(4))),), Head(3, tasks=2))
    learner = Learner(net, optimizer=optimizer, batch=4)
    x, y = random.normal(size=(8, 4)).astype("f4"), random.integers(0, 3, 8)
    def weights():
        return np.array(learner.runtime.view("head.0.weight")).reshape(8, 2, 3).transpose(1, 0, 2)
    for task in (0, 1):
        learner.task = task
        before = weights()
        learner.learn_many(x, y)  # with moments of the other task's gradients by now
        after = weights()
        assert (after[task] != before[task]).all()
        np.testing.assert_array_equal(after[1 - task], before[1 - task])


def test_adapters_do_not_tell_tasks_apart():
    learner = Learner(Net((4,), Dense(8), (Block((Dense(4), Adapter(1))),), Head(3, tasks=2)), batch=4)
    with pytest.raises(UsageError, match="InputStatistics"):
        learner.predict_task_many(np.zeros((2, 4), "f4"))

"""Every status through a real net: the error names block and sample, and the model stays as it was."""

import threading

import numpy as np
import pytest

import harness
from edgerev.errors import DataError, EdgerevError, NumericError
from edgerev.kernels import layout
from edgerev.kernels.layout import Op, Status
from edgerev.layers import Conv1d, Dense, Dropout, ReLU
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion
from edgerev.program import Region
from edgerev.recipe import Recipe, Schedule

DENSE = Net((3,), Dense(8), (Block((Dropout(0.1), Dense(5), ReLU(), Dense(4)), repeat=3),), Head(3))
SIGNAL = Net((4, 2), Conv1d(4, 3), (Block((Conv1d(2, 3), ReLU())), Squeeze(), Block((Conv1d(4, 3),))), Head(3))
BATCH = 6


def element(runtime, name, *index):
    """Return a writer for one element of a tensor."""

    def write(value):
        harness.by_name(runtime, name)[index or (0, 0, 0)] = value

    return write


def poison_sample(value, sample=4):
    return lambda runtime: element(runtime, "raw", sample, 0, 0, 1)(value)


def poison_target(value, sample=3):
    return lambda runtime: element(runtime, "target", sample, 0, 0, 0)(value)


def poison_parameter(name, value):
    return lambda runtime: element(runtime, name)(value)


BAD_BATCHES = {
    "NaN sample": (poison_sample(np.nan), CrossEntropy(), Status.INPUT_NOT_FINITE, DataError, "sample 4 holds NaN"),
    "inf sample": (poison_sample(-np.inf), CrossEntropy(), Status.INPUT_NOT_FINITE, DataError, "sample 4 holds NaN"),
    "label too large": (poison_target(3), CrossEntropy(), Status.LABEL_OUT_OF_RANGE, DataError, "label of sample 3 "),
    "label -1": (poison_target(-1, 0), CrossEntropy(), Status.LABEL_OUT_OF_RANGE, DataError, "label of sample 0 "),
    "NaN target": (poison_target(np.nan), BinaryCrossEntropy(), Status.TARGET_NOT_FINITE, DataError, "target .* 3 "),
    "inf target": (poison_target(np.inf, 5), MeanSquaredError(), Status.TARGET_NOT_FINITE, DataError, "target .* 5 "),
    "huge sample": (poison_sample(1e5), CrossEntropy(), Status.STATE_OVERFLOW, NumericError, "stem .* sample 4 "),
    "huge target": (poison_target(1e30), MeanSquaredError(), Status.LOSS_NOT_FINITE, NumericError, "sample 3 "),
}


def fails(runtime, section, kind, status, match, n=BATCH, **options):
    with pytest.raises(kind, match=match) as caught:
        runtime.run(section, n, **options)
    if kind is NumericError:
        assert caught.value.status == status
    assert not any(runtime.status[at] for at in range(0, len(runtime.status), layout.STATUS_LINE))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("schedule", [Schedule(6, 6), Schedule(6, 2), Schedule(6, 1)])
def test_what_is_reported_depends_neither_on_chunks_nor_on_threads(schedule, threads):
    """A value that is not finite is found before one that is too large, and of equals the first sample is named."""
    runtime = harness.build(DENSE, Recipe(batch=BATCH), schedule, threads)
    harness.set_batch(runtime, np.random.default_rng(1))
    raw = harness.by_name(runtime, "raw")
    raw[1], raw[3] = 1e30, np.nan
    fails(runtime, "train", DataError, Status.INPUT_NOT_FINITE, "sample 3")
    harness.set_batch(runtime, np.random.default_rng(1))
    raw[2] = raw[4] = raw[5] = 1e30
    fails(runtime, "train", NumericError, Status.STATE_OVERFLOW, "sample 2")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", BAD_BATCHES)
def test_a_bad_batch_leaves_no_trace(case, threads):
    """After the error, training goes on with the bits of a twin that never saw the bad batch."""
    poison, loss, status, kind, match = BAD_BATCHES[case]
    for net, schedule in ((DENSE, Schedule(6, 6)), (SIGNAL, Schedule(6, 2)), (DENSE, Schedule(6, 6, 2))):
        recipe = Recipe(batch=BATCH, optimizer=AdamW(0.01), loss=loss, clip=Clip(1.0))
        runtime, twin = (harness.build(net, recipe, schedule, threads) for _ in range(2))
        for each in (runtime, twin):
            harness.train(each, np.random.default_rng(1), 2)
        before = harness.lasting_bytes(runtime)
        poison(runtime)
        fails(runtime, "train", kind, status, match)
        assert harness.lasting_bytes(runtime) == before
        for each in (runtime, twin):
            harness.train(each, np.random.default_rng(2), 2)
        assert harness.lasting_bytes(runtime) == harness.lasting_bytes(twin)


def test_predicting_a_bad_sample():
    runtime = harness.build(DENSE, Recipe(batch=BATCH))
    harness.set_batch(runtime, np.random.default_rng(0))
    poison_sample(np.nan, 2)(runtime)
    fails(runtime, "encode", DataError, Status.INPUT_NOT_FINITE, "sample 2 ", until="read_out")
    poison_sample(0.0, 2)(runtime)
    runtime.run("encode", BATCH, until="read_out")


@pytest.mark.parametrize(("name", "value", "status", "match"), [
    ("block1.F.1.weight", np.nan, Status.STATE_NOT_FINITE, r"block1\.F .* sample 0\b"),
    ("block2.G.3.bias", np.nan, Status.STATE_NOT_FINITE, r"block2\.G .* sample 0\b"),
    ("block0.G.3.bias", np.inf, Status.STATE_OVERFLOW, r"block0\.G .* sample 0\b"),
    ("block1.G.3.bias", 1e4, Status.STATE_OVERFLOW, r"block1\.G .* sample 0\b"),
    ("block1.F.3.bias", -1e30, Status.STATE_OVERFLOW, r"block1\.F .* sample 0\b"),
    ("head.0.weight", np.nan, Status.LOSS_NOT_FINITE, r"sample 0\b"),
    ("stem.0.weight", np.nan, Status.STATE_NOT_FINITE, r"stem .* sample 0\b"),
])  # fmt: skip
@pytest.mark.parametrize("threads", [1, 3])
def test_a_broken_parameter_is_traced_to_its_block(name, value, status, match, threads):
    runtime = harness.build(DENSE, Recipe(batch=BATCH), threads=threads)
    harness.set_batch(runtime, np.random.default_rng(0))
    poison_parameter(name, value)(runtime)
    before = harness.lasting_bytes(runtime)
    fails(runtime, "train", NumericError, status, match)
    assert harness.lasting_bytes(runtime) == before
    if status == Status.LOSS_NOT_FINITE:
        fails(runtime, "encode", NumericError, Status.OUTPUT_NOT_FINITE, r"sample 0\b", until="read_out")
    else:
        fails(runtime, "encode", NumericError, status, match, until="forward")


@pytest.mark.parametrize(("state", "limit"), [("int32", 2100), ("int16", 40)])
def test_a_state_that_grows_too_large_names_the_block_that_did_it(state, limit):
    net = Net((3,), Dense(8), (Block((Dense(4),), repeat=4),), Head(3), state)
    runtime = harness.build(net, Recipe(batch=BATCH))
    harness.set_batch(runtime, np.random.default_rng(0))
    for name, number in harness.parameters(runtime):
        if name.startswith("block"):
            harness.tensor(runtime, number)[...] = limit / 3 / net.branch_scale if name.endswith("F.0.bias") else 0
    fails(runtime, "train", NumericError, Status.STATE_OVERFLOW, r"block2\.F")


# -- gradients that are not finite ---------------------------------------------------------------------------------


def explode(runtime, name="block1.F"):
    """Make a function whose values are fine, but whose gradient is not: huge weights, then tiny ones, a steep head."""
    first, last = (harness.by_name(runtime, f"{name}.{index}.weight") for index in (1, 3))
    first *= np.float32(1e37)
    last *= np.float32(1e-37)
    head = harness.by_name(runtime, "head.0.weight")
    head *= np.float32(1e4)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("clip", [None, Clip(1.0), Clip(1.0, "global"), Clip(0.1, "adaptive")])
@pytest.mark.parametrize("optimizer", [SGD(0.01, momentum=0.9), AdamW(0.01), Lion(0.01)])
@pytest.mark.parametrize("schedule", [Schedule(6, 6), Schedule(6, 6, 4), Schedule(3, 1)])
def test_an_atomic_step_with_a_gradient_that_is_not_finite_changes_nothing(optimizer, clip, schedule, threads):
    recipe = Recipe(batch=BATCH, optimizer=optimizer, clip=clip, atomic=True)
    runtime = harness.build(DENSE, recipe, schedule, threads)
    harness.train(runtime, np.random.default_rng(1), 2)
    before = harness.lasting_bytes(runtime)
    explode(runtime)
    exploded = harness.lasting_bytes(runtime)
    assert exploded != before
    harness.set_batch(runtime, np.random.default_rng(2))
    fails(runtime, "train", NumericError, Status.GRADIENT_NOT_FINITE, r"block1\.F")
    assert harness.lasting_bytes(runtime) == exploded


def test_a_step_that_is_not_atomic_updates_this_block_and_later_ones():
    runtime = harness.build(DENSE, Recipe(batch=BATCH, optimizer=SGD(0.1)))
    harness.set_batch(runtime, np.random.default_rng(1))
    explode(runtime)
    before = {name: harness.tensor(runtime, number).copy() for name, number in harness.parameters(runtime)}
    fails(runtime, "train", NumericError, Status.GRADIENT_NOT_FINITE, r"block1\.F")
    after = {name: harness.tensor(runtime, number) for name, number in harness.parameters(runtime)}
    changed = {name.rsplit(".", 2)[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"head", "block2.F", "block2.G", "block1.G", "block1.F"}
    assert runtime.view("counters")[layout.C_STEP] == 0


# -- the other statuses --------------------------------------------------------------------------------------------


def test_ridge_sums_stay_when_a_label_is_wrong():
    runtime = harness.build(Net((3,), Dense(8), (Block((Dense(4),)),), Head(3, kind="ridge")), Recipe(batch=BATCH))
    harness.set_batch(runtime, np.random.default_rng(1))
    fails(runtime, "ridge_solve", NumericError, Status.NOT_POSITIVE_DEFINITE, "not positive definite", n=1)
    runtime.run("encode", BATCH, until="forward")
    runtime.run("ridge_add", BATCH)
    runtime.run("ridge_solve", 1)
    before = harness.lasting_bytes(runtime)
    poison_target(9, 5)(runtime)
    fails(runtime, "ridge_add", DataError, Status.LABEL_OUT_OF_RANGE, "label of sample 5 ")
    assert harness.lasting_bytes(runtime) == before


def test_an_unknown_instruction():
    runtime = harness.build(DENSE, Recipe(batch=BATCH))
    harness.set_batch(runtime, np.random.default_rng(1))
    rows = runtime.region(Region.PROGRAM).cast("i")
    rows[runtime.program.sections["forward"][0] * layout.ROW + layout.OP] = 99
    fails(runtime, "forward", EdgerevError, Status.UNKNOWN_OP, "one version of edgerev")


def test_every_status_has_a_test():
    """Those above, by name."""
    reached = {case[2] for case in BAD_BATCHES.values()}
    reached |= {Status.STATE_NOT_FINITE, Status.GRADIENT_NOT_FINITE, Status.NOT_POSITIVE_DEFINITE, Status.UNKNOWN_OP}
    reached |= {Status.OUTPUT_NOT_FINITE, Status.SUMS_FULL}
    assert reached == set(Status) - {Status.OK}


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_the_first_in_program_order_wins(threads):
    """A late sample's bad input comes before an early sample's bad label, whichever thread meets them."""
    runtime = harness.build(DENSE, Recipe(batch=BATCH), threads=threads)
    for sample in range(BATCH):
        harness.set_batch(runtime, np.random.default_rng(1))
        poison_target(7, 0)(runtime)
        poison_sample(np.nan, sample)(runtime)
        fails(runtime, "train", DataError, Status.INPUT_NOT_FINITE, f"sample {sample} holds NaN")
    harness.set_batch(runtime, np.random.default_rng(1))
    for sample in (5, 2, 3):
        poison_target(7, sample)(runtime)
    fails(runtime, "train", DataError, Status.LABEL_OUT_OF_RANGE, "label of sample 2 ")
    poison_sample(1e6, 5)(runtime)  # in the forward pass, before the labels are looked at
    fails(runtime, "train", NumericError, Status.STATE_OVERFLOW, "stem .* sample 5 ")


def test_samples_beyond_n_are_not_looked_at():
    runtime = harness.build(DENSE, Recipe(batch=BATCH))
    harness.set_batch(runtime, np.random.default_rng(1), n=4)
    runtime.run("train", 4)
    fails(runtime, "train", DataError, Status.INPUT_NOT_FINITE, "sample 4 ", n=5)


@pytest.mark.parametrize("threads", [2, 3])
def test_a_status_right_after_a_check_does_not_part_the_threads(threads):
    """A thread that is late at a CHECK must not see what a faster one records after it: it would wait for ever."""
    bench = harness.Bench(batch=8)
    s, t = bench.add("s", 1), bench.add("t", 1, value=np.nan)
    rows = [(Op.CHECK, (), {}), (Op.COUPLE, (s, t), {"sign": 1})]
    runtime = bench.runtime(*rows, threads=threads)
    for _ in range(300):
        run_with_limit(lambda: runtime._team.run(0, 2, 8))
        assert harness.found_statuses(runtime)


def run_with_limit(function, seconds=10):
    """Run in a thread, so that threads that wait for each other fail the test instead of stopping it."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "the threads wait for each other"

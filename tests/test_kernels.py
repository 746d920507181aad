"""Every compiled instruction against the oracle, row by row from the same bytes (harness.TOLERANCES has the limits).

`compare_rows` also finds writes outside the outputs, statuses that differ, and reads of what was never written.
"""

import itertools

import numpy as np
import pytest

import harness
import naive
from edgerev.kernels import layout
from edgerev.kernels.layout import Activation, DType, LossKind, Op, ScheduleKind, Status, UpdateKind
from edgerev.layers import GELU, Conv1d, Conv2d, Dense, Depthwise, Dropout, GroupNorm, Pointwise, ReLU, RMSNorm, SiLU
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule
from edgerev.program import Region
from edgerev.recipe import Augment, Recipe, Schedule
from harness import Bench, build, by_name, compare, compare_rows, compare_sections, found_statuses, tensor

NORMS = (GroupNorm(1), RMSNorm())


def check_net(net, recipe, n=None, schedule=None, steps=1):
    """Train some steps, then compare one more step and all other sections row by row."""
    rng = np.random.default_rng(7)
    runtime = build(net, recipe, schedule)
    harness.jitter(runtime, rng)
    n = n or recipe.batch
    for _ in range(steps):
        harness.set_batch(runtime, rng, n)
        runtime.run("train", n)
    harness.litter(runtime)
    harness.set_batch(runtime, rng, n)
    compare_sections(runtime, n)


def dense(half, F, outputs=3, state="int32", **head):
    return Net((3,), Dense(2 * half), (Block(F),), Head(outputs, **head), state)


def conv(shape, half, F, kernel=3, state="int32", backbone=None, **head):
    stem = (Conv1d if len(shape) == 2 else Conv2d)(2 * half, kernel)
    return Net(shape, stem, backbone or (Block(F),), Head(3, **head), state)


# -- layers and shapes ---------------------------------------------------------------------------------------------

CASES = {
    # channels that are no multiple of any vector, among them 1
    "dense 1": (dense(1, (Dense(1),)), 1),
    "dense 3-5": (dense(3, (Dense(5), ReLU(), Dense(3))), 2),
    "dense 17": (dense(17, (Dense(17), SiLU(), Dense(2), GELU(), Dense(17))), 5),
    "dense 33, wider than all strips": (dense(33, (RMSNorm(), Dense(70), ReLU(), Dense(33))), 9),
    "dense norms": (dense(6, (GroupNorm(3), Dense(4), RMSNorm(), GELU(), Dense(6), GroupNorm(2))), 3),
    "dense, only what has no weights": (dense(4, (SiLU(), ReLU(), GELU())), 2),
    "dense dropout": (dense(5, (Dropout(0.3), Dense(7), Dropout(0.5), ReLU(), Dense(5), Dropout(0.1))), 3),
    "conv1d, kernel larger than the signal": (conv((3, 2), 3, (Conv1d(5, 7), ReLU(), Conv1d(3, 5)), 7), 2),
    "conv1d length 1": (conv((1, 2), 1, (Conv1d(2, 3), SiLU(), Conv1d(1, 1))), 1),
    "conv1d length 19": (conv((19, 3), 17, (Conv1d(2, 5), ReLU(), Conv1d(17, 3)), 5), 2),
    "conv1d, relu on a halo": (conv((6, 1), 2, (ReLU(), Conv1d(3, 3), ReLU(), Dropout(0.2), Conv1d(2, 5))), 2),
    "conv1d depthwise": (conv((5, 2), 3, (Depthwise(5), GroupNorm(1), SiLU(), Pointwise(3), Depthwise(3))), 3),
    "conv2d 1x1": (conv((1, 1, 3), 2, (Conv2d(5, 3), ReLU(), Conv2d(2, 1))), 2),
    "conv2d 2x6": (conv((2, 6, 2), 5, (Conv2d(3, 3), GELU(), Conv2d(5, 3))), 2),
    "conv2d, 7x7 on 3x3": (conv((3, 3, 1), 2, (Conv2d(3, 7), ReLU(), Conv2d(2, 5)), 7), 2),
    "conv2d 5x5x17": (conv((5, 5, 2), 17, (Conv2d(17, 3), ReLU(), Conv2d(17, 3))), 1),
    "conv2d depthwise": (conv((4, 3, 2), 5, (Depthwise(3), RMSNorm(), ReLU(), Pointwise(7), Conv2d(5, 1))), 2),
    "conv2d, depthwise 7 on 1x2": (conv((1, 2, 2), 1, (Depthwise(7), SiLU(), Depthwise(5))), 2),
    "conv2d norms": (conv((3, 4, 2), 6, (GroupNorm(3), Conv2d(4, 3), RMSNorm(), ReLU(), Conv2d(6, 3), *NORMS)), 2),
    "conv2d dropout": (conv((2, 3, 2), 3, (Dropout(0.4), Conv2d(3, 3), Dropout(0.2), ReLU(), Dropout(0.3))), 2),
    # minimal filtering: shapes that it fits, with products before and after that it does not fuse with
    "winograd 3x3": (conv((16, 16, 3), 16, (Conv2d(32, 3), ReLU(), Conv2d(16, 3))), 2),
    "winograd 3x3, 16x20": (conv((16, 20, 1), 16, (RMSNorm(), Conv2d(16, 3), SiLU(), Conv2d(48, 3), Pointwise(16))), 1),
    "winograd 1x5": (conv((64, 3), 16, (Conv1d(32, 5), ReLU(), Conv1d(16, 5)), 5), 2),
    "winograd 1x3": (conv((68, 2), 16, (ReLU(), Conv1d(16, 3), ReLU(), Conv1d(16, 7), Conv1d(16, 3))), 3),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_layers(case):
    net, batch = CASES[case]
    check_net(net, Recipe(batch=batch))


@pytest.mark.parametrize("case", [case for case in CASES if "winograd" in case or "dropout" in case])
def test_layers_one_sample_at_a_time(case):
    net, batch = CASES[case]
    check_net(net, Recipe(batch=batch), schedule=Schedule(batch, 1))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("rows", "columns", "inner"), [
    (1, 1, 1), (1, 130, 5), (2, 67, 3), (3, 37, 9), (7, 13, 300), (50, 19, 64), (48, 40, 700), (250, 48, 513),
    (13, 530, 500), (1, 64, 1), (6, 10, 257),
    # blocks of rows that leave 1, 2 and 3; gradients over more positions than a panel holds; tails of one row more
    (241, 128, 256), (242, 64, 256), (243, 40, 300), (481, 70, 130), (257, 48, 64), (600, 64, 64), (300, 300, 12),
    (49, 9, 255), (48, 13, 256),
])  # fmt: skip
def test_products_of_all_sizes(rows, columns, inner, threads):
    """Single rows, wide tiles, panels of several blocks of k, blocks of rows, and columns that fill no vector."""
    bench = Bench(rows)
    x = bench.add("x", inner)
    y, dy, mask = (bench.add(name, columns) for name in ("y", "dy", "mask"))
    w, dw = (bench.add(name, inner, columns, capacity=0) for name in ("w", "dw"))
    b, db = (bench.add(name, columns, capacity=0) for name in ("b", "db"))
    scalars, size = bench.scalars(), {"kernel_h": 1, "kernel_w": 1}
    runtime = bench.runtime(
        (Op.CONV, (y, x, w, b), size), (Op.CONV, (y, x, w, b), {**size, "relu": 1}), (Op.CONV, (y, x, w), size),
        (Op.CONV, (y, x, w, layout.NO_TENSOR, mask), {**size, "add": 1}), (Op.CONV_WGRAD, (dw, db, x, dy), size),
        (Op.CONV_SGD, (w, b, x, dy, scalars), {**size, "decay": 0.1}), threads=threads,
    )
    compare_rows(runtime, "run", rows)


def test_minimal_filtering_is_used_where_it_fits():
    ops = {step: set() for step in CASES}
    for case, (net, batch) in CASES.items():
        ops[case] = set(build(net, Recipe(batch=batch)).program.rows[layout.OP :: layout.ROW])
    assert all((Op.WINOGRAD in found) == case.startswith("winograd") for case, found in ops.items())


@pytest.mark.parametrize("state", ["int32", "int16", "float32"])
@pytest.mark.parametrize("pool", ["average", "flatten"])
def test_states_squeezes_and_pools(state, pool):
    F1, F2 = (Conv1d(3, 3), ReLU(), Conv1d(3, 3)), (Conv1d(5, 3), ReLU(), Conv1d(12, 3))
    signal = conv((8, 2), 3, None, backbone=(Block(F1), Squeeze(), Squeeze(), Block(F2)), state=state, pool=pool)
    check_net(signal, Recipe(batch=2))
    G1, G2 = (Conv2d(1, 3), SiLU()), (Pointwise(3), ReLU(), Conv2d(4, 3))
    image = conv((2, 6, 2), 1, None, backbone=(Squeeze(), Block(G2, repeat=2)), state=state, pool=pool)
    check_net(image, Recipe(batch=2))
    image = conv((2, 2, 1), 1, None, backbone=(Block(G1), Squeeze()), state=state, pool=pool)
    check_net(image, Recipe(batch=3), n=2)


@pytest.mark.parametrize(("batch", "n", "schedule"), [
    (5, 1, (5, 5, 0)), (5, 3, (5, 1, 0)), (6, 5, (4, 2, 0)), (6, 1, (2, 1, 0)), (4, 3, (4, 4, 3)), (5, 4, (2, 2, 2)),
])  # fmt: skip
@pytest.mark.parametrize("state", ["int32", "int16"])
def test_partial_batches_under_every_schedule(batch, n, schedule, state):
    F = (Conv1d(5, 3), GroupNorm(5), ReLU(), Dropout(0.2), Depthwise(3), Pointwise(3))
    backbone = (Block(F), Squeeze(), Block((Conv1d(6, 5), SiLU())))
    net = conv((4, 2), 3, None, backbone=backbone, state=state, kind="ridge")
    check_net(net, Recipe(batch=batch), n, Schedule(*schedule))


# -- losses, optimizers, heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [
    CrossEntropy(), CrossEntropy(weights=(0.5, 0, 2), smoothing=0.3), BinaryCrossEntropy(),
    BinaryCrossEntropy(weights=(1, 2, 0.1), smoothing=0.2), MeanSquaredError(), MeanSquaredError(weights=(3, 0, 1)),
])  # fmt: skip
def test_losses(loss):
    check_net(dense(3, (Dense(3), ReLU())), Recipe(batch=5, loss=loss), n=4)


@pytest.mark.parametrize("optimizer", [
    SGD(0.1), SGD(0.1, momentum=0.9), SGD(0.1, momentum=0.8, nesterov=True, weight_decay=0.1),
    SGD(0.1, weight_decay=0.3), AdamW(0.1), AdamW(0.1, 0.5, 0.7, 1e-3, 0.4), Lion(0.1), Lion(0.1, 0.5, 0.7, 0.2),
])  # fmt: skip
@pytest.mark.parametrize("clip", [None, Clip(0.05), Clip(0.1, "global"), Clip(0.02, "adaptive")])
def test_optimizers(optimizer, clip):
    net = dense(3, (Dense(17), RMSNorm(), ReLU(), Dense(3)))
    check_net(net, Recipe(batch=3, optimizer=optimizer, clip=clip), steps=2)
    if clip is not None and clip.kind == "adaptive":
        check_net(net, Recipe(batch=3, optimizer=optimizer, clip=clip, atomic=True))


@pytest.mark.parametrize("kind", UpdateKind)
@pytest.mark.parametrize("size", [1, 5, 16, 67])
def test_updates_with_zero_and_tiny_gradients(kind, size):
    bench = Bench()
    w, m, v = (bench.add(name, size, capacity=0) for name in "wmv")
    bench.values[v] = abs(bench.values[v]) * (bench.random.random(size) < 0.5)
    g = bench.add("g", size, capacity=0)
    bench.values[g] = bench.values[g] * bench.random.choice([0, 1e-20, 1], size)
    rows = [(Op.SCHEDULE, (bench.scalars(), bench.counters()), {"rate": 0.1, "beta1": 0.9, "beta2": 0.99})]
    constants = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "decay": 0.1, "scale": 0.5}
    operands = (w, m, v, layout.NO_TENSOR, g, bench.program.find("scalars"))
    rows += 2 * [(Op.UPDATE, operands, {"kind": kind, **constants})]
    bench.check(*rows)


@pytest.mark.parametrize("kind", UpdateKind)
@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize(("task", "outputs"), [(-1, 2), (0, 70), (2, 1), (1, 67)])
@pytest.mark.parametrize("threads", [1, 3])
def test_updates_of_one_task(kind, remembers, task, outputs, threads):
    bench = Bench()
    w, m, v, g, importance, anchor, path = (
        bench.add(name, 5, 3 * outputs, capacity=0) for name in ("w", "m", "v", "g", "importance", "anchor", "path")
    )
    bench.values[v] = abs(bench.values[v])
    scalars, none = bench.scalars(), layout.NO_TENSOR
    memory = (importance, anchor) if remembers else (none, none)
    constants = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "decay": 0.1, "scale": 0.5, "strength": 0.3}
    runtime = bench.runtime(
        (Op.SCHEDULE, (scalars, bench.counters(task=task)), {"rate": 0.1, "beta1": 0.9, "beta2": 0.99}),
        (Op.UPDATE, (w, m, v, path if remembers else none, g, scalars, *memory),
         {"kind": kind, "outputs": outputs, **constants}),
        threads=threads,
    )  # fmt: skip
    before = by_name(runtime, "w").copy()
    compare_rows(runtime, "run", 1)
    changed = (by_name(runtime, "w") != before).reshape(5, 3, outputs).all((0, 2))
    assert changed.tolist() == [task in (-1, number) for number in range(3)]


@pytest.mark.parametrize("options", [
    {"kind": ScheduleKind.CONSTANT}, {"kind": ScheduleKind.CONSTANT, "warmup": 7},
    {"kind": ScheduleKind.COSINE, "total": 30}, {"kind": ScheduleKind.COSINE, "warmup": 3, "total": 20, "floor": 0.1},
    {"kind": ScheduleKind.COSINE, "warmup": 1, "total": 2, "floor": 1},
])  # fmt: skip
def test_rate_schedules(options):
    bench = Bench()
    betas = {"beta1": 0.9, "beta2": 0.999}
    scalars, counters = bench.scalars(), bench.counters()
    runtime = bench.runtime(
        (Op.SCHEDULE, (scalars, counters), {"rate": 0.3, **betas, **options}), (Op.ADVANCE, (scalars, counters), betas)
    )
    for step in range(40):
        compare_rows(runtime, "run", 1)
        assert by_name(runtime, "counters").flat[layout.C_STEP] == step + 1


def test_schedules_in_a_recipe():
    recipe = Recipe(batch=2, optimizer=AdamW(0.1), rate_schedule=RateSchedule("cosine", 2, 6, 0.1))
    check_net(dense(2, (Dense(2), ReLU())), recipe, steps=3)


@pytest.mark.parametrize(("outputs", "half", "seen"), [(1, 1, 1), (3, 5, 2), (5, 17, 5)])
def test_ridge_head(outputs, half, seen):
    runtime = build(dense(half, (Dense(half),), outputs, kind="ridge", ridge=0.1), Recipe(batch=6))
    rng = np.random.default_rng(1)
    for _ in range(8):
        harness.set_batch(runtime, rng)
        target = by_name(runtime, "target")
        target[...] %= seen
        runtime.run("encode", 6, until="forward")
        compare_rows(runtime, "ridge_add", 6)
    harness.litter(runtime)
    compare_rows(runtime, "ridge_solve", 1)
    runtime.run("encode", 6, until="read_out")
    assert (by_name(runtime, "probability")[..., seen:] < 1e-37).all()


def test_ridge_sums_go_on_beyond_what_float32_can_count():
    runtime = build(dense(3, (Dense(3),), 2, kind="ridge"), Recipe(batch=6))
    many = 2**24
    gram, counts = by_name(runtime, "ridge.gram"), by_name(runtime, "ridge.counts")
    gram[..., -1], counts[..., 1] = many, many
    harness.set_batch(runtime, np.random.default_rng(1))
    by_name(runtime, "target")[...] = 1
    runtime.run("encode", 6, until="forward")
    compare_rows(runtime, "ridge_add", 6)
    assert (gram.flat[-1], counts.flat[1]) == (many + 6, many + 6)


# -- random numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 1), (5, 4, 2), (1, 6, 3), (1, 1, 2), (7, 1, 1)])
@pytest.mark.parametrize("augment", [{}, {"shift": 2}, {"flip": 1}, {"shift": 9, "flip": 1}])
@pytest.mark.parametrize("crop", [0, 2])
def test_augmentation_moves_pixels_exactly(shape, augment, crop):
    bench = Bench(batch=4)
    channels = shape[2]
    raw = bench.add("raw", shape[0] + 2 * crop, shape[1] + 2 * crop, channels)
    y = bench.add("y", *shape, halo=(1, 2), value=0.0)
    mean, scale = (bench.add(name, channels, capacity=0, value=v) for name, v in (("mean", 0.0), ("scale", 1.0)))
    counters = bench.counters(seed=-(2**50) - 3, step=0)
    row = (Op.INPUT, (y, raw, mean, scale, counters), {"augment": 1, **augment})
    runtime = bench.runtime(row)
    for step in (0, 1, 2**33 + 5):
        by_name(runtime, "counters").flat[layout.C_STEP] = step
        compare_rows(runtime, "run", 4, {Op.INPUT: 0.0})


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, -3e38])
def test_input_that_is_not_finite_when_standardised(value):
    bench = Bench(batch=3)
    raw, y, mean = bench.add("raw", 2, 2, 1), bench.add("y", 2, 2, 1), bench.add("mean", 1, capacity=0)
    row = (Op.INPUT, (y, raw, mean, bench.add("scale", 1, capacity=0, value=10.0), bench.counters()), {})
    runtime = bench.runtime(row)
    by_name(runtime, "raw")[1, 1, 0] = value
    harness.run_row(runtime, 0, 3)
    assert found_statuses(runtime) == [(0, 1, Status.INPUT_NOT_FINITE)]


@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_augmentation_with_statistics_and_noise(noise):
    recipe = Recipe(batch=3, augment=Augment(shift=1, flip=True, crop=1, noise=noise))
    check_net(conv((3, 4, 2), 2, (Conv2d(2, 3),)), recipe, n=2)
    check_net(conv((5, 3), 2, (Conv1d(2, 3),)), recipe, n=2)
    check_net(dense(2, (Dense(2),)), Recipe(batch=3, augment=Augment(noise=noise)))


@pytest.mark.parametrize("size", [1, 3, 4, 67])
def test_dropout_and_init_draw_the_same_numbers(size):
    bench = Bench(batch=3)
    x, y, w = bench.add("x", 2, size, 1, value=1.0), bench.add("y", 2, size, 1), bench.add("w", size, capacity=0)
    counters = bench.counters(seed=2**63 - 5, step=2**32 + 7)
    bench.check(
        (Op.DROPOUT, (y, x, counters), {"rate": 0.5, "stream": 3}),
        (Op.INIT, (w, counters), {"random": 1, "value": 0.37, "stream": 1 << 20}),
        (Op.INIT, (w, counters), {"value": -0.25}),
        tolerances={Op.DROPOUT: 0.0},
    )


# -- elementary functions and the edges of numbers -----------------------------------------------------------------

WIDE = np.concatenate([
    np.linspace(-110, 110, 4001), np.linspace(-3, 3, 2001), np.geomspace(1e-45, 1e38, 400),
    -np.geomspace(1e-45, 1e38, 400), [0.0, -0.0, np.float32(3.4e38), -np.float32(3.4e38)],
]).astype("f4")  # fmt: skip


def by_element(bench, row, operand, ref, limit):
    """Run one row; each element's error must be at most `limit`, an array of the same size."""
    runtime = bench.runtime(row)
    runtime.run("run", bench.program.batch)
    comp = by_name(runtime, operand).reshape(-1).astype("f8")
    with np.errstate(invalid="ignore"):
        error = np.where(comp == ref, 0, np.nan_to_num(abs(comp - ref), nan=np.inf)) / limit
    worst = error.argmax()
    assert error[worst] <= 1, f"{WIDE[worst * WIDE.size // ref.size]}: {comp[worst]} instead of {ref[worst]}"


@pytest.mark.parametrize("kind", Activation)
def test_activations_over_the_whole_range(kind):
    """The sigmoid and tanh have an error of 1e-7, which x multiplies, or x^3 in the slope of the GELU."""
    x, gelu = np.float64(WIDE), kind == Activation.GELU
    with np.errstate(over="ignore"):
        values = dict(zip(("y", "dx"), naive.activated(x, kind)))
    limits = {"y": 2e-7 * np.where(x > 0, x, np.minimum(-x, 6)), "dx": 3e-7 * (1 + gelu * np.minimum(abs(x), 6) ** 3)}
    for op, name in ((Op.ACTIVATION, "y"), (Op.ACTIVATION_GRAD, "dx")):
        bench = Bench()
        result, x = bench.add(name, WIDE.size), bench.add("x", WIDE.size, value=WIDE)
        operands = (result, x, bench.add("dy", WIDE.size, value=1.0))[: 2 if name == "y" else 3]
        by_element(bench, (op, operands, {"kind": kind}), name, values[name], np.maximum(limits[name], 2e-45))


def test_probabilities_over_the_whole_range():
    bench = Bench(batch=WIDE.size)
    z, p = bench.add("z", 1, value=WIDE.reshape(-1, 1, 1, 1)), bench.add("p", 1)
    with np.errstate(over="ignore"):
        ref = 1 / (1 + np.exp(-np.float64(WIDE)))
    kind = {"kind": LossKind.BINARY_CROSS_ENTROPY}
    by_element(bench, (Op.PROBABILITY, (p, z), kind), "p", ref, np.maximum(3e-7 * ref, 1e-38))


def test_softmax_over_the_whole_range():
    t = np.float64(abs(WIDE))
    bench = Bench(batch=WIDE.size)
    values = np.stack([WIDE * 0, -abs(WIDE)], axis=1).reshape(-1, 1, 1, 2)
    z, p = bench.add("z", 2, value=values), bench.add("p", 2)
    ref = np.stack([1 / (1 + np.exp(-t)), np.exp(-t) / (1 + np.exp(-t))], axis=1).reshape(-1)
    by_element(bench, (Op.PROBABILITY, (p, z), {}), "p", ref, 4e-7 * np.maximum(ref, 1e-31))


@pytest.mark.parametrize("kind", [LossKind.CROSS_ENTROPY, LossKind.BINARY_CROSS_ENTROPY])
def test_losses_over_the_whole_range(kind):
    """Both are log(1 + e**-t), relative to which 4e-7 is 4 roundings; below 1e-7 it is lost beside 1, as is said."""
    bench, t = Bench(batch=WIDE.size), np.float64(WIDE)
    if kind == LossKind.CROSS_ENTROPY:
        values = np.stack([WIDE, WIDE * 0], axis=1).reshape(-1, 1, 1, 2)
        target = bench.add("t", 1, dtype=DType.I32, value=0)
    else:
        values, target = WIDE.reshape(-1, 1, 1, 1), bench.add("t", 1, value=1.0)
    z, dz = (bench.add(name, values.shape[-1], value=values) for name in ("z", "dz"))
    losses = bench.add("losses", 2)
    runtime = bench.runtime((Op.LOSS, (dz, losses, z, target), {"kind": kind}))
    runtime.run("run", WIDE.size)
    ref = np.logaddexp(0, -t)
    comp = by_name(runtime, "losses").reshape(-1, 2)
    error = abs(comp[:, 0] - ref) / np.maximum(ref, 0.25)
    assert error.max() < 4e-7, (t[error.argmax()], comp[error.argmax()])
    np.testing.assert_array_equal(comp[:, 1], t > 0 if kind else t >= 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e-42, 3e38, -3e38, -0.0])
def test_odd_values_pass_through_every_layer(value):
    """NaN and infinity come out as such, never as a number that looks right; huge values do not turn into NaN."""
    bench = Bench(batch=2)
    x = bench.add("x", 2, 3, 2)
    bench.values[x] = bench.values[x].copy()
    bench.values[x][1, 0, 1, 1] = value
    rows = []
    for index, kind in enumerate(Activation):
        rows.append((Op.ACTIVATION, (bench.add(f"y{index}", 2, 3, 2), x), {"kind": kind}))
    w, b, k = bench.add("w", 1, 2, 3, capacity=0), bench.add("b", 3, capacity=0), bench.add("k", 1, 1, 2, capacity=0)
    rows.append((Op.CONV, (bench.add("c", 2, 3, 3), x, w, b), {"kernel_h": 1, "kernel_w": 1}))
    rows.append((Op.DEPTHWISE, (bench.add("d", 2, 3, 2), x, k), {"kernel_h": 1, "kernel_w": 1}))
    rows.append((Op.DROPOUT, (bench.add("o", 2, 3, 2), x, bench.counters()), {"rate": 0.0}))
    rows.append((Op.COPY, (bench.add("p", 2, 3, 2), x), {}))
    runtime = bench.check(*rows)
    for name in ("y1", "y2"):
        assert np.isfinite(by_name(runtime, name)).all() == (np.isfinite(value) or value < 0), name  # 0 at -infinity
    for name in ("c", "d", "o", "p"):
        assert np.isfinite(by_name(runtime, name)).all() <= np.isfinite(value), name


# -- the grid ------------------------------------------------------------------------------------------------------


EDGES = [0, 0.5, 1.5, 2.5, 0.49999997, 32766, 32767, 32768, 32769, 65535, 8388607.5, 2**31 - 128, 2**31, 2**33, 1e30]


@pytest.mark.parametrize("dtype", [DType.I32, DType.I16])
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_couple_on_the_edges(dtype, sign):
    """The exact sum, or a status: never a wrapped number; ties go to even, NaN has a status of its own."""
    step, number = 2.0 ** -layout.FRACTION_BITS[dtype], np.iinfo("i4" if dtype == DType.I32 else "i2")
    values = np.float32([*np.array(EDGES) * step, *-np.array(EDGES) * step, np.nan, np.inf, -np.inf, 1e-42, -1e-45])
    bench = Bench()
    s, t = bench.add("s", 1, dtype=dtype, value=0), bench.add("t", 3)
    runtime = bench.runtime((Op.COUPLE, (s, t), {"sign": sign, "channel": 1}))
    for value, start in itertools.product(values, [0, 1, -1, number.min, number.min + 1, number.max]):
        tensor(runtime, s)[...], tensor(runtime, t)[0, 0, 0] = start, [9, value, 9]
        harness.run_row(runtime, 0, 1)
        found = found_statuses(runtime)
        if np.isnan(value):
            assert found == [(0, 0, Status.STATE_NOT_FINITE)]
            continue
        added = round(float(value) / step) if np.isfinite(value) else float(value)  # Python rounds half to even
        total = (start if sign else 0) + (sign or 1) * added
        fits = number.min <= total <= number.max
        if found:  # a t that is itself at the limit may be refused although the sum would fit
            assert found == [(0, 0, Status.STATE_OVERFLOW)]
            assert not fits or abs(added) > number.max, (value, start)
        else:
            assert fits, (value, start)
            assert tensor(runtime, s).item() == total, (value, start)


@pytest.mark.parametrize(("start", "value", "status"), [
    (1.0, np.nan, Status.STATE_NOT_FINITE), (1.0, np.inf, Status.STATE_OVERFLOW), (3e38, 3e38, Status.STATE_OVERFLOW),
    (3e38, -3e38, None), (1.0, 1e-45, None),
])  # fmt: skip
def test_couple_of_a_float_state(start, value, status):
    bench = Bench()
    s, t = bench.add("s", 1, value=start), bench.add("t", 1, value=value)
    runtime = bench.runtime((Op.COUPLE, (s, t), {"sign": 1}))
    harness.run_row(runtime, 0, 1)
    assert found_statuses(runtime) == ([(0, 0, status)] if status else [])
    assert status or tensor(runtime, s).item() == np.float32(start) + np.float32(value)


# -- from the same bytes to the same tensors, over whole steps -----------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9, weight_decay=0.01), AdamW(0.01)])
@pytest.mark.parametrize("name", ["dense", "conv1d", "conv2d"])
def test_three_steps_together(name, optimizer):
    """All that lasts agrees after three steps on 1e-5: roundings of one step are data of the next (state float32)."""
    options = {"state": "float32"}
    net = {
        "dense": dense(5, (Dense(9), GELU(), Dense(5)), **options),
        "conv1d": conv((6, 2), 3, None, backbone=(Block((Conv1d(3, 3), RMSNorm(), SiLU())), Squeeze()), **options),
        "conv2d": conv((4, 4, 2), 2, (Depthwise(3), GroupNorm(1), GELU(), Pointwise(2)), pool="flatten", **options),
    }[name]
    runtime, rng = build(net, Recipe(batch=4, optimizer=optimizer, clip=Clip(1.0))), np.random.default_rng(5)
    harness.set_batch(runtime, rng, 3)
    memory = harness.memory_of(runtime)
    harness.litter(runtime)
    for _ in range(3):
        runtime.run("train", 3)
        naive.run(runtime.program, memory, "train", 3)
    for where, number in harness.in_region(runtime, Region.PARAMETERS, Region.OPTIMIZER):
        compare(tensor(runtime, number), memory[number], 1e-5, where)
    compare(by_name(runtime, "report"), memory["report"], 1e-5)
    assert runtime.status[0] == Status.OK

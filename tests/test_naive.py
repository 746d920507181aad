"""The oracle against checks that do not depend on it: known answers, plain loops, central differences."""

import numpy as np
import pytest

import naive
from edgerev.kernels import layout
from edgerev.kernels.layout import NO_TENSOR, Activation, DType, LossKind, NormKind, Op, Status, UpdateKind
from edgerev.program import Program, Region

BATCH = 3


class Sketch:
    """A tiny program, its memory, and a random generator to fill it with."""

    def __init__(self, seed=0):
        self.program = Program(BATCH)
        self.memory = naive.Memory(self.program)
        self.random = np.random.default_rng(seed)

    def add(self, name, *shape, capacity=BATCH, dtype=DType.F32, halo=(0, 0), value=None):
        number = self.program.tensor(name, shape, Region.IO, dtype=dtype, capacity=capacity, halo=halo)
        array = self.memory[number]
        array[...] = value if value is not None else self.random.normal(size=array.shape)
        return number

    def counters(self, seed=1, step=1):
        return self.add("counters", layout.COUNTERS_SIZE, capacity=0, dtype=DType.I64, value=[seed, step, 0, 0, 0])

    def scalars(self):
        return self.add("scalars", layout.SCALARS_SIZE, capacity=0, value=1)

    def section(self, name, *rows):
        """Add a section of rows `(op, operands, parameters)`, then a CHECK."""
        with self.program.section(name):
            for op, operands, parameters in rows:
                self.program.emit(op, *operands, **parameters)
            self.program.emit(Op.CHECK)

    def run(self, *rows, n=BATCH, name="run", rounding=True):
        self.section(name, *rows)
        naive.run(self.program, self.memory, name, n, rounding=rounding)

    def slope(self, forward, of, by, cotangent, n=BATCH, step=1e-5):
        """Return the central difference of `sum(cotangent * of)` for each element of tensor `by`."""
        self.section("forward", *forward)
        values, gradient = self.memory[by].reshape(-1), np.zeros(self.memory[by].size)
        for element in range(values.size):
            kept, ends = values[element], []
            for change in (step, -step):
                values[element] = kept + change
                naive.run(self.program, self.memory, "forward", n, rounding=False)
                ends.append((self.memory[of] * cotangent).sum())
            values[element] = kept
            gradient[element] = (ends[0] - ends[1]) / (2 * step)
        naive.run(self.program, self.memory, "forward", n, rounding=False)  # leave what belongs to the inputs
        return gradient.reshape(self.memory[by].shape)

    def check_slopes(self, forward, backward, of, cotangent, pairs, **options):
        """Compare each gradient that `backward` writes with the slope of `forward`: pairs of (gradient, by)."""
        self.run(*forward, *backward, name="backward", rounding=False)
        for gradient, by in pairs:
            ref = self.slope(forward, of, by, cotangent, **options)
            np.testing.assert_allclose(self.memory[gradient], ref, rtol=1e-6, atol=1e-8, err_msg=f"{gradient} by {by}")


@pytest.mark.parametrize("line", [
    "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
])  # fmt: skip
def test_philox_known_answers(line):
    numbers = [int(word, 16) for word in line.split()]  # counter, key, answer
    assert naive.philox(numbers[:4], numbers[4:6]).tolist() == numbers[6:]


def test_random_numbers_follow_seed_step_stream_sample_element():
    seed, step = -(2**40) - 5, 7  # also a negative seed has a low and a high word
    sketch = Sketch()
    x, y = sketch.add("x", 2, 5, value=1.0), sketch.add("y", 2, 5)
    sketch.run((Op.DROPOUT, (y, x, sketch.counters(seed, step)), {"rate": 0.25, "stream": 9}))
    for sample in range(BATCH):
        for element in range(10):
            words = naive.philox((element // 4, sample, 9, step), (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
            kept = (int(words[element % 4]) >> 8) / 2**24 >= 0.25
            assert sketch.memory["y"][sample].flat[element] == pytest.approx(kept / 0.75)


def test_init_is_uniform_and_the_same_for_each_step():
    sketch = Sketch()
    counters = sketch.counters(3, 0)
    w, again = (sketch.add(name, 40, 50, capacity=0) for name in ("w", "again"))
    random = {"random": 1, "value": 0.1, "stream": 4}
    sketch.run((Op.INIT, (w, counters), random), name="first")
    sketch.memory["counters"][..., layout.C_STEP] = 8
    sketch.run((Op.INIT, (again, counters), random), name="second")
    values = sketch.memory["w"]
    assert np.array_equal(values, sketch.memory["again"])
    assert abs(values).max() <= np.float32(0.1)
    assert values.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.05)


def convolve(x, w, b, kh, kw, depthwise):
    """Return the convolution of `(n, H, W, C)` by nothing but loops."""
    n, height, width, channels = x.shape
    y = np.zeros((n, height, width, b.size))
    for s, i, j, o in np.ndindex(*y.shape):
        y[s, i, j, o] = b.flat[o]
        for ky, kx, c in np.ndindex(kh, kw, channels):
            row, column = i + ky - kh // 2, j + kx - kw // 2
            if 0 <= row < height and 0 <= column < width and (not depthwise or c == o):
                weight = w.reshape(kh * kw, -1)[ky * kw + kx, c] if depthwise else w[ky * kw + kx, c, o]
                y[s, i, j, o] += x[s, row, column, c] * weight
    return y


def convolution(kh, kw, depthwise):
    """Return a sketch of a convolution of 4x3 images with a kernel that is not symmetric, and its rows."""
    sketch, halo, kernel = Sketch(), (kh // 2, kw // 2), {"kernel_h": kh, "kernel_w": kw}
    outputs = 2 if depthwise else 3
    x, y, b = sketch.add("x", 4, 3, 2, halo=halo), sketch.add("y", 4, 3, outputs), sketch.add("b", outputs, capacity=0)
    w = sketch.add("w", *((kh * kw, 2) if depthwise else (kh * kw, 2, 3)), capacity=0)
    dy, dx = sketch.add("dy", 4, 3, outputs, halo=halo), sketch.add("dx", 4, 3, 2)
    dw, db = sketch.add("dw", *sketch.memory[w].shape, capacity=0), sketch.add("db", outputs, capacity=0)
    if depthwise:
        backward = (Op.DEPTHWISE, (dx, dy, w), {"flipped": 1, **kernel}), (Op.DEPTHWISE_WGRAD, (dw, db, x, dy), kernel)
        return sketch, [(Op.DEPTHWISE, (y, x, w, b), kernel)], backward
    flipped = sketch.add("flipped", kh * kw, 3, 2, capacity=0)
    backward = [(Op.FLIP, (flipped, w), {}), (Op.CONV, (dx, dy, flipped), kernel)]
    return sketch, [(Op.CONV, (y, x, w, b), kernel)], [*backward, (Op.CONV_WGRAD, (dw, db, x, dy), kernel)]


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(("kh", "kw"), [(1, 1), (3, 3), (1, 3), (5, 1)])
def test_convolution(kh, kw, depthwise):
    sketch, forward, backward = convolution(kh, kw, depthwise)
    sketch.run(*forward)
    ref = convolve(*(sketch.memory[name] for name in "xwb"), kh, kw, depthwise)
    np.testing.assert_allclose(sketch.memory["y"], ref, rtol=1e-12, atol=1e-12)
    sketch.check_slopes(forward, backward, "y", sketch.memory["dy"], [("dx", "x"), ("dw", "w"), ("db", "b")])


def test_weight_gradient_continues_over_micro_batches():
    sketch, _, (*_, (op, operands, kernel)) = convolution(3, 3, False)
    sketch.run((op, operands, kernel), name="whole")
    whole = sketch.memory["dw"].copy()
    for first in range(BATCH):
        with sketch.program.samples(first, 1):
            sketch.run((op, operands, kernel))
    np.testing.assert_allclose(sketch.memory["dw"], whole, rtol=1e-12, atol=1e-12)


def test_convolution_refuses_a_halo_too_small():
    sketch = Sketch()
    x, y, w = sketch.add("x", 4, 4, 1), sketch.add("y", 4, 4, 1), sketch.add("w", 9, 1, 1, capacity=0)
    with pytest.raises(ValueError, match="halo"):
        sketch.run((Op.CONV, (y, x, w), {"kernel_h": 3, "kernel_w": 3}))


@pytest.mark.parametrize("kind", Activation)
def test_activation(kind):
    sketch = Sketch()
    x, y, dy, dx = (sketch.add(name, 2, 4) for name in ("x", "y", "dy", "dx"))
    forward, backward = [(Op.ACTIVATION, (y, x), {"kind": kind})], [(Op.ACTIVATION_GRAD, (dx, x, dy), {"kind": kind})]
    sketch.check_slopes(forward, backward, "y", sketch.memory["dy"], [("dx", "x")])
    sketch.memory["x"][...] = 1
    sketch.run(*forward)
    np.testing.assert_allclose(sketch.memory["y"], {"RELU": 1, "GELU": 0.8411920, "SILU": 0.7310586}[kind.name], 1e-7)


@pytest.mark.parametrize(("kind", "groups"), [(NormKind.RMS, 1), (NormKind.GROUP, 1), (NormKind.GROUP, 3)])
def test_norm(kind, groups):
    sketch, group = Sketch(), kind == NormKind.GROUP
    x, y, dy, dx = (sketch.add(name, 2, 3, 6) for name in ("x", "y", "dy", "dx"))
    gamma, beta, dgamma, dbeta = (sketch.add(name, 6, capacity=0) for name in ("gamma", "beta", "dgamma", "dbeta"))
    stats = sketch.add("stats", *((2 * groups,) if group else (2, 3, 1)))
    same = {"kind": kind, "groups": groups}
    beta, dbeta = (beta, dbeta) if group else (NO_TENSOR, NO_TENSOR)
    forward = [(Op.NORM, (y, stats, x, gamma, beta), {"epsilon": 0.01, **same})]
    backward = [(Op.NORM_GRAD, (dx, x, dy, gamma, stats), same), (Op.NORM_WGRAD, (dgamma, dbeta, x, dy, stats), same)]
    pairs = [("dx", "x"), ("dgamma", "gamma")] + [("dbeta", "beta")] * group
    sketch.check_slopes(forward, backward, "y", sketch.memory["dy"], pairs)
    values = sketch.memory["x"][1, :, :, 6 - 6 // groups :] if group else sketch.memory["x"][1, 1, 2]
    centre = values.mean() if group else 0
    xhat = (sketch.memory["x"][1, 1, 2, 5] - centre) / np.sqrt(((values - centre) ** 2).mean() + 0.01)
    ref = xhat * sketch.memory["gamma"].flat[5] + (sketch.memory["beta"].flat[5] if group else 0)
    assert sketch.memory["y"][1, 1, 2, 5] == pytest.approx(ref, rel=1e-6)


@pytest.mark.parametrize("rectify", [0, 1])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (3, 5), (2, 3)])
def test_pool(rows, columns, rectify):
    sketch = Sketch()
    (s1, g1), (s2, g2) = ((sketch.add(f"s{c}", 3, 5, c), sketch.add(f"g{c}", 3, 5, c)) for c in (1, 2))
    y, dy = (sketch.add(name, 3 * rows * columns) for name in ("y", "dy"))
    cells = {"rows": rows, "columns": columns, "rectify": rectify}
    forward, backward = (Op.POOL, (y, s1, s2), cells), (Op.POOL_GRAD, (g1, g2, dy, s1, s2), cells)
    sketch.check_slopes([forward], [backward], "y", sketch.memory["dy"], [("g1", "s1"), ("g2", "s2")])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", LossKind)
def test_loss_gradient_is_that_of_the_mean(kind, smoothing, weighted):
    sketch, is_class = Sketch(), kind == LossKind.CROSS_ENTROPY
    z, dz, losses = sketch.add("z", 4), sketch.add("dz", 4), sketch.add("losses", 2)
    labels = np.array([2, 0, 3]).reshape(3, 1, 1, 1)
    target = sketch.add("t", 1, dtype=DType.I32, value=labels) if is_class else sketch.add("t", 4, value=0.3)
    weights = (sketch.add("weights", 4, capacity=0, value=[0.5, 1, 2, 3]),) if weighted else ()
    row = (Op.LOSS, (dz, losses, z, target, *weights), {"kind": kind, "smoothing": smoothing})
    with sketch.program.samples(1, 2):  # two samples of a run of three
        ref = sketch.slope([row], "losses", "z", np.array([1 / 3, 0]))
    np.testing.assert_allclose(sketch.memory["dz"][1:], ref[1:], rtol=1e-6, atol=1e-9)


def test_loss_values_report_and_probability():
    sketch = Sketch()
    z = sketch.add("z", 2, value=np.log([[3.0, 1.0], [1.0, 1.0], [1.0, 3.0]]).reshape(3, 1, 1, 2))
    dz, losses, p = sketch.add("dz", 2), sketch.add("losses", 2), sketch.add("p", 2)
    target = sketch.add("t", 1, dtype=DType.I32, value=0)
    report = sketch.add("report", layout.REPORT_SIZE, capacity=0)
    loss, summary = (Op.LOSS, (dz, losses, z, target), {}), (Op.REPORT, (report, losses), {})
    sketch.run(loss, summary, (Op.PROBABILITY, (p, z), {}), n=2)
    np.testing.assert_allclose(sketch.memory["losses"][:2, 0, 0, 0], np.log([4 / 3, 2]))
    np.testing.assert_allclose(sketch.memory["report"].flat, [np.log(8 / 3) / 2, 1])
    np.testing.assert_allclose(sketch.memory["p"][0].flat, [0.75, 0.25])


@pytest.mark.parametrize(("fh", "fw"), [(2, 2), (1, 2), (2, 1), (1, 1)])
def test_squeeze(fh, fw):
    sketch, channels = Sketch(), 3
    x, back = sketch.add("x", 2 * fh, 3 * fw, channels), sketch.add("back", 2 * fh, 3 * fw, channels)
    y = sketch.add("y", 2, 3, fh * fw * channels)
    sketch.run((Op.SQUEEZE, (y, x), {}), (Op.SQUEEZE, (back, y), {"inverse": 1}))
    x, y = sketch.memory["x"], sketch.memory["y"]
    for i, j, dy, dx, c in np.ndindex(2, 3, fh, fw, channels):
        assert (y[:, i, j, (dy * fw + dx) * channels + c] == x[:, i * fh + dy, j * fw + dx, c]).all()
    np.testing.assert_array_equal(sketch.memory["back"], x)


@pytest.mark.parametrize("dtype", [DType.I32, DType.I16])
def test_couple_is_undone_exactly_and_rounds_half_to_even(dtype):
    sketch, step = Sketch(), 2.0 ** -layout.FRACTION_BITS[dtype]
    s, t, y = sketch.add("s", 3, dtype=dtype, value=5), sketch.add("t", 4), sketch.add("y", 4, value=0)
    sketch.memory["t"][...] = np.array([9, 0.5, 1.5, -2.5]) * step
    sketch.run((Op.COUPLE, (s, t), {"sign": 1, "channel": 1}), (Op.LOAD, (y, s), {"channel": 1}), name="forward")
    np.testing.assert_array_equal(sketch.memory["s"][0, 0, 0], [5, 7, 3])
    np.testing.assert_array_equal(sketch.memory["y"][0, 0, 0], np.array([0, 5, 7, 3]) * step)
    sketch.run((Op.COUPLE, (s, t), {"sign": -1, "channel": 1}), name="inverse")
    assert (sketch.memory["s"] == 5).all()


def test_gradient_passes_straight_through_the_state_with_rounding_off():
    sketch = Sketch()
    x, hidden, out = sketch.add("x", 1, 2, 2), sketch.add("hidden", 4), sketch.add("out", 4)
    s = sketch.add("s", 1, 2, 2, dtype=DType.I16, value=0)
    wide, kept = (sketch.add(name, 4, dtype=DType.I16, value=0) for name in ("wide", "kept"))
    forward = [
        (Op.COUPLE, (s, x), {"sign": 0}), (Op.SQUEEZE, (wide, s), {}), (Op.COPY, (kept, wide), {}),
        (Op.LOAD, (hidden, kept), {}), (Op.ACTIVATION, (hidden, hidden), {"kind": Activation.SILU}),
        (Op.COUPLE, (kept, hidden), {"sign": -1}), (Op.LOAD, (out, kept), {}),
    ]  # fmt: skip
    x = sketch.memory["x"].copy()
    sigmoid = 1 / (1 + np.exp(-x))
    sketch.run(*forward, name="rounded")
    np.testing.assert_allclose(sketch.memory["out"].flat, (x - x * sigmoid).flat, atol=2**-10)
    gradient = sketch.slope(forward, "out", "x", 1.0)
    np.testing.assert_allclose(gradient, 1 - sigmoid * (1 + x * (1 - sigmoid)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("value", "start", "status"),
    [
        (np.nan, 0, Status.STATE_NOT_FINITE), (np.inf, 0, Status.STATE_OVERFLOW), (33.0, 0, Status.STATE_OVERFLOW),
        (-33.0, 32767, Status.STATE_OVERFLOW), (1 / 1024, 32767, Status.STATE_OVERFLOW), (1 / 1024, 32766, None),
    ],
)  # fmt: skip
def test_couple_records_a_status(value, start, status):
    sketch = Sketch()
    s, t = sketch.add("s", 2, dtype=DType.I16, value=start), sketch.add("t", 2, value=0)
    sketch.memory["t"][1, 0, 0, 1] = value
    row = (Op.COUPLE, (s, t), {"sign": 1})
    if status is None:
        return sketch.run(row)
    with pytest.raises(naive.Stopped, match=f"{status.name} in row 0, sample 1"):
        sketch.run(row, row)


def test_the_smallest_row_wins():
    sketch = Sketch()
    raw, y = sketch.add("raw", 2, value=np.inf), sketch.add("y", 2)
    mean, scale = (sketch.add(name, 2, capacity=0) for name in ("mean", "scale"))
    z, dz, losses = sketch.add("z", 2), sketch.add("dz", 2), sketch.add("losses", 2)
    target = sketch.add("t", 1, dtype=DType.I32, value=2)
    with pytest.raises(naive.Stopped, match="LABEL_OUT_OF_RANGE in row 0, sample 0"):
        sketch.run((Op.LOSS, (dz, losses, z, target), {}), (Op.INPUT, (y, raw, mean, scale), {}))


def test_input_takes_the_centre_and_refuses_nan():
    sketch = Sketch()
    raw, y = sketch.add("raw", 5, 4, 2), sketch.add("y", 2, 2, 2)
    mean, scale = sketch.add("mean", 2, capacity=0), sketch.add("scale", 2, capacity=0)
    row = (Op.INPUT, (y, raw, mean, scale), {})
    sketch.memory["raw"][2, 0, 0] = np.nan  # outside the window
    sketch.run(row)
    ref = (sketch.memory["raw"][:, 1:3, 1:3] - sketch.memory["mean"]) * sketch.memory["scale"]
    np.testing.assert_allclose(sketch.memory["y"], ref)
    sketch.memory["raw"][1, 1, 1] = np.nan
    with pytest.raises(naive.Stopped, match="INPUT_NOT_FINITE in row 2, sample 1"):
        sketch.run(row, name="again")


def test_augmented_input_is_a_random_window_mirrored_by_half():
    sketch, seen = Sketch(), set()
    raw, y = sketch.add("raw", 3, 4, 1), sketch.add("y", 2, 2, 1)
    mean, scale = sketch.add("mean", 1, capacity=0, value=0), sketch.add("scale", 1, capacity=0, value=1)
    sketch.section("run", (Op.INPUT, (y, raw, mean, scale, sketch.counters()), {"augment": 1, "shift": 1, "flip": 1}))
    for step in range(300):
        sketch.memory["counters"][..., layout.C_STEP] = step
        naive.run(sketch.program, sketch.memory, "run", BATCH)
        words = [int(word) for word in naive.philox((0, 2, 0, step), (1, 0))]
        top, left, mirror = words[0] * 4 >> 32, words[1] * 5 >> 32, words[2] >> 31
        pixels = np.pad(sketch.memory["raw"][2, :, :, 0], 1)[top : top + 2, left : left + 2]
        np.testing.assert_array_equal(sketch.memory["y"][2, :, :, 0], np.fliplr(pixels) if mirror else pixels)
        seen.add((top, left, mirror))
    assert len(seen) == 40


def test_noise_has_unit_variance():
    sketch = Sketch()
    raw, y = sketch.add("raw", 50, 50, 2, value=3), sketch.add("y", 50, 50, 2)
    mean, scale = sketch.add("mean", 2, capacity=0, value=3), sketch.add("scale", 2, capacity=0, value=9)
    sketch.run((Op.INPUT, (y, raw, mean, scale, sketch.counters()), {"augment": 1, "noise": 0.5}))
    np.testing.assert_allclose([sketch.memory["y"].mean(), sketch.memory["y"].std()], [0, 0.5], atol=0.02)


def test_samples_wrap_at_the_capacity_and_end_at_n():
    sketch = Sketch()
    x, y = sketch.add("x", 1, value=np.arange(3).reshape(3, 1, 1, 1)), sketch.add("y", 1, capacity=2, value=-1)
    with sketch.program.section("run"), sketch.program.samples(1, 2):
        sketch.program.emit(Op.COPY, y, x)
    for n, ref in ((1, [-1, -1]), (2, [-1, 1]), (3, [2, 1])):
        naive.run(sketch.program, sketch.memory, "run", n)
        np.testing.assert_array_equal(sketch.memory["y"].flat, ref)


@pytest.mark.parametrize(
    ("parameters", "ref", "m"),
    [
        ({"kind": UpdateKind.SGD, "beta1": 0.5}, 1 - 0.1 * 2 * (1 + 1.5), 3),
        ({"kind": UpdateKind.SGD, "beta1": 0.5, "nesterov": 1}, 1 - 0.1 * 2 * (1.5 + 1.75), 3),
        ({"kind": UpdateKind.ADAMW, "beta1": 0.9, "beta2": 0.99, "decay": 0.5}, (0.95 - 0.1) * 0.95 - 0.1, 0.38),
        ({"kind": UpdateKind.LION, "beta1": 0.9, "beta2": 0.99}, 1 - 0.1 - 0.1, 0.0398),
    ],
)
def test_two_updates_by_a_constant_gradient(parameters, ref, m):
    sketch = Sketch()
    start = {"w": 1, "m": 0, "v": 0, "g": 2}
    w, first, second, g = (sketch.add(name, 1, capacity=0, value=value) for name, value in start.items())
    schedule = {key: parameters[key] for key in ("beta1", "beta2") if key in parameters}
    scalars = sketch.scalars()
    counters = sketch.counters(step=0)
    step = (Op.SCHEDULE, (scalars, counters), {"rate": 0.1, **schedule})
    advance = (Op.ADVANCE, (scalars, counters), schedule)
    sketch.run(*2 * [step, (Op.UPDATE, (w, first, second, NO_TENSOR, g, scalars), parameters), advance])
    np.testing.assert_allclose([sketch.memory[name].item() for name in "wm"], [ref, m], rtol=1e-5)


def test_schedule_norm_and_clip():
    sketch, rates = Sketch(), []
    scalars, g = sketch.scalars(), sketch.add("g", 2, capacity=0, value=[3, 4])
    cosine = {"kind": layout.ScheduleKind.COSINE, "rate": 1, "warmup": 2, "total": 6, "floor": 0.5}
    norm = (Op.GRAD_NORM, (scalars, g), {"slot": layout.V_GRAD_SQUARES, "reset": 1})
    counters = sketch.counters(step=0)
    step, advance = (Op.SCHEDULE, (scalars, counters), cosine), (Op.ADVANCE, (scalars, counters), {})
    sketch.section("run", step, norm, (Op.CLIP, (scalars,), {"limit": 2}), advance)
    for _ in range(7):
        naive.run(sketch.program, sketch.memory, "run", BATCH)
        rates.append(sketch.memory["scalars"].flat[layout.V_RATE])
    np.testing.assert_allclose(rates, [0.5, 1, 0.75 + 0.125 * 2**0.5, 0.75, 0.75 - 0.125 * 2**0.5, 0.5, 0.5])
    assert sketch.memory["scalars"].flat[layout.V_CLIP] == pytest.approx(0.4)
    sketch.memory["g"][...] = 1e30  # its square is finite in float64 but not in float32
    with pytest.raises(naive.Stopped, match="GRADIENT_NOT_FINITE"):
        naive.run(sketch.program, sketch.memory, "run", BATCH)


def test_ridge_head_solves_least_squares():
    sketch = Sketch()
    features = sketch.add("features", 2)
    labels = sketch.add("labels", 1, dtype=DType.I32, value=np.array([0, 2, 2]).reshape(3, 1, 1, 1))
    gram, work = (sketch.add(name, 6, capacity=0, value=0) for name in ("gram", "work"))
    moments, counters = sketch.add("moments", 3, 3, capacity=0, value=0), sketch.counters()
    small = (("counts", 1), ("b", 1), ("w", 2))
    counts, b, w = (sketch.add(name, rows, 3, capacity=0, value=0) for name, rows in small)
    sketch.run(
        (Op.RIDGE_SUMS, (gram, moments, counts, features, labels, counters), {"outputs": 3}),
        (Op.RIDGE_SOLVE, (w, b, work, gram, moments), {"strength": 0.5}),
    )
    x = sketch.memory["features"].reshape(3, 2)
    centred, wanted = x - x.mean(0), np.eye(3)[[0, 2, 2]]  # a free constant is the same as centring
    ref = np.linalg.solve(centred.T @ centred + 1.5 * np.eye(2), centred.T @ wanted)
    np.testing.assert_allclose(sketch.memory["w"][0], ref, atol=1e-9)
    np.testing.assert_allclose(sketch.memory["b"].flat, np.where([1, 0, 1], wanted.mean(0) - x.mean(0) @ ref, 0))

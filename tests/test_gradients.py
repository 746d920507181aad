"""Gradients by three roads: central differences, stored activations, reversible; and random nets for all of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
import naive
from edgerev.arena import plan
from edgerev.kernels.layout import Op
from edgerev.layers import GELU, Conv1d, Conv2d, Dense, Depthwise, Dropout, GroupNorm, Pointwise, ReLU, RMSNorm, SiLU
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from edgerev.lower import lower
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion
from edgerev.program import Region
from edgerev.recipe import Augment, Recipe, Schedule
from edgerev.runtime import Runtime

LOSSES = [
    CrossEntropy(), CrossEntropy(weights=(0.5, 1, 2), smoothing=0.3), BinaryCrossEntropy(),
    BinaryCrossEntropy(weights=(1, 2, 0.1), smoothing=0.2), MeanSquaredError(), MeanSquaredError(weights=(3, 0, 1)),
]  # fmt: skip

DENSE = Net((3,), Dense(10), (Block((Dense(7), ReLU(), Dense(5)), (Dense(5), SiLU()), repeat=2),), Head(3))
DENSE_NORMS = Net((3,), Dense(12), (Block((GroupNorm(3), Dense(6), GELU(), RMSNorm())),), Head(3))
SIGNAL_LAYERS = (Conv1d(3, 5), ReLU(), Pointwise(2), RMSNorm(), Depthwise(3), GELU(), Conv1d(3, 3))
SIGNAL = Net(
    (6, 2), Conv1d(6, 3), (Block(SIGNAL_LAYERS), Squeeze(), Block((Conv1d(6, 7), GroupNorm(2)))), Head(3)
)  # fmt: skip
IMAGE_LAYERS = (Depthwise(5), GroupNorm(1), SiLU(), Pointwise(3), ReLU(), Conv2d(2, 3))
IMAGE = Net(
    (4, 2, 2), Conv2d(4, 3), (Block(IMAGE_LAYERS), Squeeze(), Block((RMSNorm(), Conv2d(8, 1), ReLU()))),
    Head(3, pool="flatten"),
)  # fmt: skip
DROPOUT = Net(
    (5, 2), Conv1d(4, 3), (Block((Dropout(0.3), Conv1d(4, 3), ReLU(), Dropout(0.5), Conv1d(2, 1))),), Head(3)
)  # fmt: skip
NETS = {"dense": DENSE, "dense norms": DENSE_NORMS, "conv1d": SIGNAL, "conv2d": IMAGE, "dropout": DROPOUT}


# -- central differences -------------------------------------------------------------------------------------------


class Oracle:
    """The oracle at float64 with rounding off: the loss and its gradient as a function of the parameters."""

    def __init__(self, net, loss, n, seed=0, augment=None):
        recipe = Recipe(batch=n + 1, optimizer=SGD(0.0), loss=loss, augment=augment or Augment(), atomic=True)
        self.program, self.n = lower(net, recipe, Schedule(n + 1, n + 1)), n
        self.memory, self.random = naive.Memory(self.program), np.random.default_rng(seed)
        first, last = self.program.sections["train"]
        until = next(row for row in range(first, last) if self.program.decode(row).op == Op.LOSS)
        self.program.sections["loss"] = (first, until + 1)
        self.memory["counters"].flat[0] = 1
        naive.run(self.program, self.memory, "init", 1)
        if loss.weights is not None:
            self.memory["loss.weights"][...] = loss.weights
        for _, number in self.parameters():
            self.memory[number][...] += 0.1 * self.random.normal(size=self.memory[number].shape)
        self.memory["raw"][...] = self.random.normal(size=self.memory["raw"].shape)
        target = self.memory["target"]
        target[...] = self.random.integers(0, 3, target.shape) if loss.labels else self.random.random(target.shape)

    def parameters(self):
        """Yield the gradient's tensor and the parameter's."""
        for number, (name, region) in enumerate(zip(self.program.names, self.program.regions)):
            if region is Region.ACCUMULATOR:
                module, layer, k, _ = name.rsplit(".", 3)
                yield number, self.program.find(f"{module}.{layer}.{self.word(module, layer, int(k))}")

    def word(self, module, layer, k):
        words = [name for name in ("weight", "gain", "bias") if f"{module}.{layer}.{name}" in self.program.names]
        return words[k]

    def gradients(self):
        """Return the gradient for each parameter's number."""
        self.memory["counters"].flat[1] = 5  # the random numbers of one step
        naive.run(self.program, self.memory, "train", self.n, rounding=False)
        return {weights: self.memory[number].copy() for number, weights in self.parameters()}

    def loss(self):
        self.memory["counters"].flat[1] = 5
        naive.run(self.program, self.memory, "loss", self.n, rounding=False)
        return self.memory["losses"][: self.n, 0, 0, 0].mean()


@pytest.mark.parametrize(("name", "loss"), [
    *itertools.product(NETS, LOSSES[1:2]), *itertools.product(["dense"], LOSSES[:1] + LOSSES[2:]),
])  # fmt: skip
def test_backward_agrees_with_central_differences(name, loss):
    """Each parameter's gradient along two random directions, to 1e-6."""
    oracle, step = Oracle(NETS[name], loss, 2), 1e-5
    gradients = oracle.gradients()
    assert len(gradients) == sum(region is Region.ACCUMULATOR for region in oracle.program.regions)
    scale = max(abs(gradient).max() for gradient in gradients.values())
    assert all(gradient.any() for gradient in gradients.values())
    for weights, gradient in gradients.items():
        array = oracle.memory[weights]
        kept = array.copy()
        for _ in range(2):
            direction = oracle.random.normal(size=array.shape)
            direction /= np.sqrt((direction**2).sum())
            ends = []
            for change in (step, -step):
                array[...] = kept + change * direction
                ends.append(oracle.loss())
            array[...] = kept
            slope, ref = (gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step)
            assert slope == pytest.approx(ref, rel=1e-6, abs=1e-7 * scale), oracle.program.names[weights]


def test_augmentation_is_passed_by_the_gradient():
    oracle = Oracle(IMAGE, CrossEntropy(), 2, augment=Augment(shift=1, flip=True, crop=1, noise=0.1))
    weights, gradient = next(iter(oracle.gradients().items()))
    array, ref = oracle.memory[weights], gradient.flat[3]
    kept, ends = array.flat[3], []
    for change in (1e-5, -1e-5):
        array.flat[3] = kept + change
        ends.append(oracle.loss())
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(ref, rel=1e-6)


# -- reversible, stored, mixed; chunks, micro-batches, threads: the same bits --------------------------------------


def schedules(net, batch):
    """Yield every schedule of a net at a batch: all divisions, and none, some and all functions stored."""
    functions = sum(not isinstance(part, Squeeze) for part in net.functions())
    for micro_batch in range(1, batch + 1):
        for chunk in (chunk for chunk in range(1, micro_batch + 1) if micro_batch % chunk == 0):
            yield Schedule(micro_batch, chunk)
        for stored in sorted({1, functions // 2, functions - 1, functions} - {0}):
            yield Schedule(micro_batch, micro_batch, stored)


def trained_bytes(net, recipe, schedule, threads=1, n=None, steps=3):
    """Return parameters and moments after some steps, with all scratch littered beforehand."""
    runtime, rng = harness.build(net, recipe, schedule, threads), np.random.default_rng(3)
    harness.jitter(runtime, rng)
    harness.litter(runtime)
    losses = harness.train(runtime, rng, steps, n)
    assert np.isfinite(losses).all()
    return harness.lasting_bytes(runtime)


@pytest.mark.parametrize("state", ["int32", "int16", "float32"])
@pytest.mark.parametrize("name", NETS)
def test_schedules_do_not_change_bits(name, state):
    """A float32 state is left out where blocks are stored: its inverse is not exact, so neither are the bits."""
    net = NETS[name]
    net = Net(net.input_shape, net.stem, net.backbone, net.head, state)
    batch, n = 4, 3
    ref = None
    for schedule in schedules(net, batch):
        for atomic in (False, True):
            if state == "float32" and schedule.stored:
                continue
            recipe = Recipe(batch=batch, optimizer=SGD(0.05, momentum=0.9), atomic=atomic)
            comp = trained_bytes(net, recipe, schedule, n=n)
            ref = ref or comp
            assert comp == ref, (schedule, atomic)


@pytest.mark.parametrize("name", NETS)
def test_threads_do_not_change_bits(name):
    recipe = Recipe(batch=4, optimizer=AdamW(0.01), clip=Clip(0.5))
    for schedule in (Schedule(4, 4), Schedule(4, 2), Schedule(2, 1), Schedule(4, 4, 1)):
        bits = {trained_bytes(NETS[name], recipe, schedule, threads, n=3) for threads in (1, 2, 3)}
        assert len(bits) == 1, schedule


@pytest.mark.parametrize("clip", [None, Clip(0.1), Clip(0.1, "global"), Clip(0.05, "adaptive")])
@pytest.mark.parametrize("optimizer", [SGD(0.05, 0.9, nesterov=True, weight_decay=0.1), AdamW(0.01), Lion(0.01)])
def test_schedules_do_not_change_bits_of_optimizers(optimizer, clip):
    bits = set()
    for schedule, atomic in itertools.product((Schedule(4, 4), Schedule(4, 1), Schedule(3, 3, 4)), (False, True)):
        recipe = Recipe(batch=4, optimizer=optimizer, clip=clip, atomic=atomic)
        bits.add(trained_bytes(DENSE, recipe, schedule))
    assert len(bits) == 1


# -- random nets ---------------------------------------------------------------------------------------------------


@st.composite
def residuals(draw, shape):
    """Draw layers that keep `shape`."""
    size, layers, channels = len(shape), [], shape[-1]

    def mixing(channels):
        kernel = draw(st.sampled_from((1, 3, 5)))
        return (Dense(channels), Conv1d(channels, kernel), Conv2d(channels, kernel))[size - 1]

    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(("mix", "depthwise", "activation", "norm", "dropout")))
        if kind == "mix":
            channels = draw(st.sampled_from((1, 2, 3, 5, 9)))
            layers.append(mixing(channels))
        elif kind == "depthwise":
            layers.append(Depthwise(draw(st.sampled_from((1, 3)))) if size > 1 else Pointwise(channels))
        elif kind == "activation":
            layers.append(draw(st.sampled_from((ReLU(), GELU(), SiLU()))))
        elif kind == "norm":
            layers.append(draw(st.sampled_from((RMSNorm(), GroupNorm(1)))))
        else:
            layers.append(Dropout(0.25))
    return (*layers, mixing(shape[-1]))


@st.composite
def nets(draw):
    """Draw a small net of one to four blocks with squeezes where sizes allow."""
    size = draw(st.integers(1, 3))
    positions = tuple(draw(st.sampled_from((1, 2, 4) if size == 3 else (1, 3, 4, 8))) for _ in range(size - 1))
    half = draw(st.sampled_from((1, 2, 3, 5)))
    stem = (Dense(2 * half), Conv1d(2 * half, 3), Conv2d(2 * half, 3))[size - 1]
    shape, backbone = (*positions, half), []
    for _ in range(draw(st.integers(1, 4))):
        if size > 1 and all(n % 2 == 0 for n in shape[:-1]) and draw(st.booleans()):
            shape = (*(n // 2 for n in shape[:-1]), shape[-1] * 2 ** (size - 1))
            backbone.append(Squeeze())
        F = draw(residuals(shape))
        backbone.append(Block(F, draw(residuals(shape)) if draw(st.booleans()) else ()))
    head = Head(3, draw(st.sampled_from(("average", "flatten"))))
    return Net((*positions, 2), stem, tuple(backbone), head, draw(st.sampled_from(("int32", "int16"))))


@st.composite
def recipes(draw):
    """Draw a recipe, and how many samples are there."""
    batch = draw(st.integers(1, 5))
    optimizer = draw(st.sampled_from((SGD(0.01), SGD(0.01, 0.9, weight_decay=0.1), AdamW(1e-3), Lion(1e-3))))
    clip = draw(st.sampled_from((None, Clip(1.0), Clip(0.5, "global"), Clip(0.1, "adaptive"))))
    loss = draw(st.sampled_from(LOSSES))
    recipe = Recipe(batch=batch, optimizer=optimizer, clip=clip, loss=loss, atomic=draw(st.booleans()))
    return recipe, draw(st.integers(1, batch))


@settings(max_examples=16, deadline=None, derandomize=True, database=None)
@given(net=nets(), recipe=recipes(), chunks=st.integers(1, 3))
def test_random_nets_row_by_row(net, recipe, chunks):
    recipe, n = recipe
    chunk = max(1, recipe.batch // chunks)
    runtime, rng = harness.build(net, recipe, Schedule(chunk * min(chunks, 2), chunk)), np.random.default_rng(2)
    harness.jitter(runtime, rng)
    harness.set_batch(runtime, rng, n)
    harness.litter(runtime)
    harness.compare_sections(runtime, n)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(net=nets(), recipe=recipes(), data=st.data())
def test_random_nets_have_the_same_bits_reversible_and_stored(net, recipe, data):
    recipe, n = recipe
    functions = sum(not isinstance(part, Squeeze) for part in net.functions())
    stored = data.draw(st.integers(1, functions))
    micro_batch = data.draw(st.integers(1, recipe.batch))
    ref = trained_bytes(net, recipe, Schedule(recipe.batch, recipe.batch), n=n, steps=2)
    assert trained_bytes(net, recipe, Schedule(micro_batch, micro_batch, stored), n=n, steps=2) == ref
    assert trained_bytes(net, recipe, Schedule(micro_batch, 1), threads=2, n=n, steps=2) == ref


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(net=nets(), seed=st.integers(0, 99))
def test_random_nets_agree_with_the_oracle_over_a_step(net, seed):
    """Gradients of a whole step in float32 and float64, to 1e-4 of the largest: roundings pass through every layer."""
    net = Net(net.input_shape, net.stem, net.backbone, net.head, "float32")
    program = lower(net, Recipe(batch=3, optimizer=SGD(0.0), atomic=True), Schedule(3, 3))
    runtime, rng = Runtime(program, plan(program)), np.random.default_rng(seed)
    runtime.view("counters")[0] = seed
    runtime.run("init", 1)
    harness.jitter(runtime, rng)
    harness.set_batch(runtime, rng, 2)
    memory = harness.memory_of(runtime)
    runtime.run("train", 2)
    naive.run(program, memory, "train", 2)
    found = [number for _, number in harness.in_region(runtime, Region.ACCUMULATOR)]
    scale = max(abs(memory[number]).max() for number in found)
    for number in found:
        harness.compare(harness.tensor(runtime, number), memory[number], 1e-4, program.names[number], scale)

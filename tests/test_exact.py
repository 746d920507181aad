"""The inverse is bit-exact at any depth, before and after training, for any threads; and steps allocate nothing."""

import ctypes

import elf
import numpy as np
import pytest

import harness
from edgerev.kernels import objects
from edgerev.kernels.targets import host_target
from edgerev.layers import GELU, Conv1d, Conv2d, Dense, Depthwise, Dropout, GroupNorm, Pointwise, ReLU, RMSNorm, SiLU
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion
from edgerev.program import Region
from edgerev.recipe import Augment, Recipe, Schedule

FUNCTIONS = {
    "dense relu": (Dense(7), ReLU(), Dense(6)),
    "dense gelu rms": (RMSNorm(), Dense(9), GELU(), Dense(6)),
    "dense silu group": (GroupNorm(1), Dense(5), SiLU(), Dense(6), Dropout(0.2)),
    "conv1d": (Conv1d(3, 5), ReLU(), Conv1d(6, 3)),
    "conv1d depthwise": (Depthwise(3), RMSNorm(), SiLU(), Pointwise(6)),
    "conv2d": (Conv2d(4, 3), ReLU(), Conv2d(6, 3)),
    "conv2d depthwise": (GroupNorm(2), Depthwise(5), GELU(), Dropout(0.1), Pointwise(6)),
}


def deep(name, depth, state="int32", squeezes=False):
    """Return a net of `depth` blocks, half of them after a squeeze if asked."""
    F, size = FUNCTIONS[name], 1 + ("conv1d" in name) + 2 * ("conv2d" in name)
    shape = ((3,), (8, 3), (4, 2, 3))[size - 1]
    half = {2: 3, 3: 2}[size] if squeezes else 6
    if squeezes:
        wide = (Depthwise(3), RMSNorm(), ReLU(), Pointwise(half))
        if size == 3:
            F = (Conv2d(5, 3), ReLU(), Conv2d(8, 3))
        backbone = (Block(wide, repeat=depth // 2), Squeeze(), Block(F, repeat=depth - depth // 2))
    else:
        backbone = (Block(F, repeat=depth),)
    stem = (Dense, Conv1d, Conv2d)[size - 1](2 * half)
    return Net(shape, stem, backbone, Head(4), state)


def state_error(runtime, n):
    """Encode, go forward and back; return the largest change of the state, and whether its bytes are the same."""
    states = [number for name, number in harness.in_region(runtime, Region.STATE) if name.endswith("@0")]
    runtime.run("encode", n)
    before = [harness.tensor(runtime, number).copy() for number in states]
    whole = bytes(runtime.region(Region.STATE))
    runtime.run("forward", n)
    assert bytes(runtime.region(Region.STATE)) != whole
    runtime.run("inverse", n)
    after = [harness.tensor(runtime, number) for number in states]
    error = max(abs(a.astype("f8") - b).max() for a, b in zip(after, before))
    return error, bytes(runtime.region(Region.STATE)) == whole


def check_inverse(net, steps=50, n=3, **recipe):
    runtime, rng = harness.build(net, Recipe(batch=4, **recipe)), np.random.default_rng(1)
    harness.set_batch(runtime, rng)
    assert state_error(runtime, n) == (0, True)
    before = harness.parameter_bytes(runtime)
    assert np.isfinite(harness.train(runtime, rng, steps)).all()
    assert harness.parameter_bytes(runtime) != before
    harness.set_batch(runtime, rng)
    assert state_error(runtime, n) == (0, True)


@pytest.mark.parametrize("state", ["int32", "int16"])
@pytest.mark.parametrize("depth", [4, 30])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_inverse_is_exact(name, depth, state):
    check_inverse(deep(name, depth, state), optimizer=SGD(0.002, momentum=0.9))


@pytest.mark.parametrize("state", ["int32", "int16"])
@pytest.mark.parametrize("name", ["dense relu", "dense gelu rms", "conv1d", "conv2d"])
def test_inverse_is_exact_at_depth_200(name, state):
    check_inverse(deep(name, 200, state), steps=50 if "dense" in name else 10, optimizer=AdamW(1e-3), clip=Clip(1.0))


@pytest.mark.parametrize("state", ["int32", "int16"])
@pytest.mark.parametrize("name", ["conv1d", "conv2d"])
def test_inverse_is_exact_with_squeezes(name, state):
    check_inverse(deep(name, 20, state, squeezes=True), optimizer=Lion(1e-3), augment=Augment(shift=1, noise=0.1))


@pytest.mark.parametrize("threads", [2, 3])
def test_inverse_is_exact_with_threads(threads):
    for name in ("dense relu", "conv2d"):
        runtime = harness.build(deep(name, 20), Recipe(batch=5), threads=threads)
        rng = np.random.default_rng(1)
        harness.train(runtime, rng, 5)
        assert state_error(runtime, 5) == (0, True)


@pytest.mark.parametrize("state", ["int32", "int16"])
def test_inverse_is_exact_for_a_state_near_its_limits(state):
    runtime = harness.build(deep("dense relu", 20, state), Recipe(batch=4))
    harness.set_batch(runtime, np.random.default_rng(1))
    raw = harness.by_name(runtime, "raw")
    raw *= np.float32((500 if state == "int32" else 5) / abs(raw).max())
    assert state_error(runtime, 4) == (0, True)


def test_a_float_state_comes_back_almost():
    """Not exact, as documented: each addition rounds. 200 couplings of a state near 1 lose some of 24 bits."""
    for name in ("dense relu", "conv1d"):
        runtime = harness.build(deep(name, 100, "float32"), Recipe(batch=4))
        harness.set_batch(runtime, np.random.default_rng(1))
        error, same = state_error(runtime, 4)
        assert error < 1e-4
        assert same == (error == 0)


def test_dropout_is_off_outside_training():
    probabilities = []
    for step in range(2):
        runtime = harness.build(deep("dense silu group", 4), Recipe(batch=4))
        harness.set_batch(runtime, np.random.default_rng(1))
        runtime.view("counters")[1] = step
        runtime.run("encode", 4, until="read_out")
        probabilities.append(bytes(runtime.view("probability")))
    assert probabilities[0] == probabilities[1]


# -- threads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bits_do_not_depend_on_threads(name):
    results = set()
    for threads in (1, 2, 3, 7):
        recipe = Recipe(batch=5, optimizer=AdamW(0.01), clip=Clip(0.1), augment=Augment(noise=0.1))
        runtime = harness.build(deep(name, 3), recipe, Schedule(5, 5), threads)
        rng = np.random.default_rng(4)
        harness.train(runtime, rng, 3, n=4)
        harness.set_batch(runtime, rng)
        runtime.run("encode", 5, until="read_out")
        results.add((harness.lasting_bytes(runtime), bytes(runtime.view("probability")), bytes(runtime.view("report"))))
    assert len(results) == 1


def test_ridge_does_not_depend_on_threads():
    results = set()
    net = Net((3,), Dense(10), (Block((Dense(5), ReLU())),), Head(4, kind="ridge"))
    for threads in (1, 2, 3):
        runtime, rng = harness.build(net, Recipe(batch=8), threads=threads), np.random.default_rng(2)
        for _ in range(3):
            harness.set_batch(runtime, rng)
            runtime.run("encode", 8, until="forward")
            runtime.run("ridge_add", 8)
        runtime.run("ridge_solve", 1)
        results.add(harness.lasting_bytes(runtime))
    assert len(results) == 1


# -- no allocation -------------------------------------------------------------------------------------------------


class MallInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


@pytest.mark.parametrize("name", ["dense gelu rms", "conv1d depthwise", "conv2d"])
def test_a_step_allocates_nothing(name):
    """Python may allocate now and then, so one of three measurements has to show no change; a leak would be in all."""
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("the C library has no mallinfo2 (glibc 2.33)")
    mallinfo2.restype = MallInfo
    net = deep(name, 4).replace(head=Head(4, kind="ridge"))
    runtime = harness.build(net, Recipe(batch=4, optimizer=AdamW(1e-4), clip=Clip(1.0, "global")))
    harness.set_batch(runtime, np.random.default_rng(0))
    sections = [runtime.program.sections[section] for section in ("train", "encode", "forward", "ridge_add")]
    for first, last in 2 * sections:
        assert runtime._call(first, last, 4, 0) == 0
    changes = []
    for _ in range(3):
        before = mallinfo2()
        for _ in range(200):
            for first, last in sections:
                runtime._call(first, last, 4, 0)
        after = mallinfo2()
        changes.append((after.uordblks - before.uordblks, after.hblkhd - before.hblkhd))
    assert (0, 0) in changes


def test_the_object_needs_nothing_but_memory_functions():
    data = objects.build(host_target()).read_bytes()
    assert elf.undefined_symbols(data) <= {"memset", "memcpy", "memmove", "_GLOBAL_OFFSET_TABLE_"}

"""Kernels compiled for other processors: the same bits as in this process, from objects that need nothing.

The first run compiles kernels and a C library for aarch64 (one to two minutes on two cores); both are cached. The long
tests do it for every target (half a minute each).
"""

import hashlib
import os
import re
import shutil
import subprocess
from array import array
from importlib.util import find_spec
from pathlib import Path

import elf
import numpy as np
import pytest
from cross_cases import CASES, LONG

from edgerev.arena import plan
from edgerev.deploy.cross import emit_object, link_program
from edgerev.kernels import objects
from edgerev.kernels.layout import Op
from edgerev.kernels.targets import TARGETS, host_target, named, usable
from edgerev.layers import LAYERS
from edgerev.losses import LOSSES
from edgerev.lower import lower
from edgerev.optimizers import OPTIMIZERS
from edgerev.program import Region
from edgerev.recipe import Schedule
from edgerev.runtime import Runtime
from edgerev.value import Value
from harness import Bench, set_batch, tensor

DRIVER = Path(__file__).parent / "c" / "run_program.c"
# What stands for the processors that this machine is not: those without newer instructions, as far as QEMU has them.
EMULATORS = {
    "aarch64": ("qemu-aarch64-static", "cortex-a53"), "rpi-zero2w": ("qemu-aarch64-static", "cortex-a53"),
    "rpi4": ("qemu-aarch64-static", "cortex-a72"), "rpi5": ("qemu-aarch64-static", "cortex-a76"),
    "jetson-nano": ("qemu-aarch64-static", "cortex-a57"),
    "jetson-orin": ("qemu-aarch64-static", "neoverse-n1"),  # like a Cortex-A76; there is no A78
    "armv7": ("qemu-arm-static", "cortex-a7"), "armv7-vfp": ("qemu-arm-static", "cortex-a7"),
    "x86-64-v2 on Nehalem": ("qemu-x86_64-static", "Nehalem"),
}  # fmt: skip
QUICK = ["aarch64", "x86-64-v3", *({host_target().name} - {"aarch64", "x86-64-v3"})]
SLOW = [*(name for name in {**TARGETS, **EMULATORS} if name not in QUICK), "x86-64-v3:4", "x86-64-v3:16"]
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in SLOW)]
ALLOWED = {"memset", "memcpy", "memmove"}
COMPARED = (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION, Region.STATE, Region.STATE_GRADIENT, Region.IO)


def runtime_with_batch(name, threads=1, *, denormal=True):
    """Return a runtime that has run nothing, with one batch in it."""
    net, recipe, _ = {**CASES, **LONG}[name]
    program = lower(net, recipe, Schedule(recipe.batch, 1 if "winograd" in name else recipe.batch, threads=4))
    runtime = Runtime(program, plan(program), threads)
    runtime.view("counters")[0] = 12345678901
    set_batch(runtime, np.random.default_rng(0))
    raw = np.frombuffer(runtime.view("raw"), np.float32)
    if denormal:
        raw[:4] = 0.0, -0.0, 1e-42, -3e-39  # zeros and denormal numbers
    return runtime


def write_image(runtime, path):
    """Write what run_program.c reads."""
    plan = runtime.plan
    places = [plan.offsets[runtime.program.find(name)] for name in ("status", "barrier")]
    header = array("q", [plan.arena_bytes, plan.rows, plan.tensor_table, *places])
    path.write_bytes(header.tobytes() + bytes(runtime.arena))


def digest(runtime, arena):
    """Return a digest of parameters, moments, sums, state and results for each region that differs when bits do."""
    parts = {}
    for region in COMPARED:
        start, size = runtime.plan.regions[region]
        parts[region.value] = hashlib.sha256(arena[start : start + size]).hexdigest()[:16]
    return parts


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cross")


@pytest.fixture(scope="session")
def expected(folder):
    """Give a function that returns the image that programs start from, a runtime that ran, and the digest expected."""
    results = {}

    def run(name):
        if name not in results:
            runtime = runtime_with_batch(name, denormal=name in CASES)
            image = folder / f"{name}.image"
            write_image(runtime, image)
            for section, n, times in {**CASES, **LONG}[name][2]:
                for _ in range(times):
                    runtime.run(section, n)
            results[name] = image, runtime, digest(runtime, bytes(runtime.arena))
        return results[name]

    return run


def program_for(target, folder):
    if find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: python -m pip install ziglang")
    path = folder / f"run-{target}"
    foreign = named(target).architecture != host_target().architecture
    return path if path.exists() else link_program(target, [DRIVER, emit_object(target), "-lm"], path, static=foreign)


@pytest.fixture(scope="session")
def launch(folder):
    """Give a function that returns the command to run the test's C program for a target, or one of EMULATORS."""

    def command(name):
        target = name.partition(" ")[0]
        emulator, processor = EMULATORS.get(name, ("", ""))
        if not emulator or (" " not in name and named(target).architecture == host_target().architecture):
            if not usable([target]):
                pytest.skip(f"this machine ({host_target().name}) cannot run {target}")
            return [program_for(target, folder)]
        if shutil.which(emulator) is None:
            pytest.skip(f"{emulator} is not installed: apt install qemu-user-static")
        return [emulator, "-cpu", processor, program_for(target, folder)]

    return command


def run_program(command, image, out, threads, runs):
    """Run the C program; return the arena that it leaves."""
    words = [*command, image, out, threads, *("{}:{}:{}:{}".format(*run) for run in runs)]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "allocations 0\n"
    return out.read_bytes()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("target", "threads"), [
    *((name, threads) for name in QUICK for threads in (1, 2, 3, 4)),
    *(pytest.param(name, threads, marks=pytest.mark.long) for name in SLOW for threads in (1, 3)),
])  # fmt: skip
def test_same_bits(target, case, threads, launch, expected, tmp_path):
    image, runtime, wanted = expected(case)
    runs = [(*runtime.program.sections[section], n, times) for section, n, times in CASES[case][2]]
    assert digest(runtime, run_program(launch(target), image, tmp_path / "out", threads, runs)) == wanted


@pytest.mark.long
@pytest.mark.parametrize("case", LONG)
@pytest.mark.parametrize("target", [*QUICK, *SLOW])
def test_same_bits_after_200_steps(target, case, launch, expected, tmp_path):
    """Also with NEON of ARMv7, which sets denormal numbers to zero: there are none."""
    image, runtime, wanted = expected(case)
    runs = [(*runtime.program.sections[section], n, times) for section, n, times in LONG[case][2]]
    assert digest(runtime, run_program(launch(target), image, tmp_path / "out", 1, runs)) == wanted


def test_long_cases_have_everything():
    def words(value):
        if isinstance(value, tuple | list):
            return set().union(*map(words, value))
        if isinstance(value, Value):
            return {type(value)}.union(*(words(getattr(value, field)) for field in value._fields))
        return {value} if isinstance(value, str) else set()

    found = words([case[:2] for case in LONG.values()])
    assert {*LAYERS.values(), *LOSSES.values(), *OPTIMIZERS.values()} <= found
    assert {"int16", "float32", "int32", "flatten", "ridge", "function", "global", "adaptive"} <= found


@pytest.mark.parametrize("case", CASES)
def test_steps_do_something(case, expected):
    image, runtime, wanted = expected(case)
    before = digest(runtime, image.read_bytes()[40:])
    assert before["parameters"] != wanted["parameters"]


def hard_sums():
    """Return a Bench, its rows and tensors: ``y * factor + addend`` where rounding twice or out of range goes wrong."""
    bench, rows, numbers = Bench(), [], []
    odd = np.float32(1 + 2**-23)
    powers = [sign * odd * np.float32(2.0**power) for sign in (1, -1) for power in range(-149, 128)]
    for factor in (2 - odd, odd, 1.0, -0.0, 2.0**-100, 3e38, np.inf):
        for addend in (odd, 1.0, -odd, 0.0, 3 * 2.0**-149, -(2.0**-126), -3.4e38, np.nan):
            anything = bench.random.integers(0, 1 << 32, 400, dtype=np.uint64).astype(np.uint32).view(np.float32)
            for values in (powers, anything, bench.random.normal(size=400)):
                numbers.append(bench.add(f"y{len(numbers)}", len(values), capacity=0, value=values))
                rows.append((Op.PEAK, (numbers[-1],), {"rounds": 1, "factor": factor, "addend": addend}))
    return bench, rows, numbers


@pytest.mark.parametrize("target", ALL)
def test_products_are_added_with_one_rounding(target, launch, tmp_path):
    bench, rows, numbers = hard_sums()
    runtime = bench.runtime(*rows)
    write_image(runtime, tmp_path / "image")
    first, last = runtime.program.sections["run"]
    before = bytes(runtime.arena)
    out = run_program(launch(target), tmp_path / "image", tmp_path / "out", 1, [(first, last, 1, 1)])
    runtime.run("run", 1)
    for number, (_, _, parameters) in zip(numbers, rows):
        comp, ref = tensor(runtime, number, out), tensor(runtime, number)
        if target == "armv7":  # no denormal numbers, neither in nor out; what rounds to the smallest number may be one
            sizes = [abs(array) for array in (tensor(runtime, number, before), ref, np.float32(parameters["addend"]))]
            normal = np.all([(size == 0) | ~(size <= np.float32(2.0**-126)) for size in np.broadcast_arrays(*sizes)], 0)
            normal &= (ref != 0) | (sizes[0] == 0) | (parameters["factor"] == 0)
            comp, ref = comp[normal], ref[normal]
        assert np.array_equal(comp, ref, equal_nan=True), parameters
        assert np.array_equal(np.signbit(comp[comp == 0]), np.signbit(ref[ref == 0]))


@pytest.mark.parametrize("target", [
    *QUICK, *(pytest.param(name, marks=pytest.mark.long) for name in TARGETS if name not in QUICK),
])  # fmt: skip
def test_objects_are_small_and_need_nothing(target):
    data = emit_object(target).read_bytes()
    assert elf.undefined_symbols(data) <= ALLOWED
    # a library may have 1 MB; this says when kernels grow unawares. Without fused multiply-add there is twice the code.
    assert len(data) < (400_000 if named(target).fused else 500_000)
    if named(target).architecture == "arm":
        attributes = elf.arm_attributes(data)
        assert attributes[elf.ARM_FLOATS] == 1  # passed in registers
        assert (elf.ARM_VECTORS in attributes) == ("neon" in named(target).requires)


@pytest.mark.long
@pytest.mark.parametrize("target", ["x86-64-v3", "armv7"])
def test_objects_are_reproducible(target):
    environment = {**os.environ, "EDGEREV_KERNEL_TARGET": target, "PYTHONHASHSEED": "77"}
    command = objects.COMPILER
    assert subprocess.run(command, env=environment, capture_output=True).stdout == emit_object(target).read_bytes()


def test_the_allocation_counter_counts(launch, tmp_path):
    source = tmp_path / "allocate.c"
    source.write_text(
        "#include <stdlib.h>\n#include <sys/mman.h>\n"
        "void *volatile kept;\n"  # or the C compiler leaves the calls out
        "int edgerev_run(void) {\n"
        "    kept = malloc(8); kept = calloc(2, 4); kept = realloc(kept, 16);\n"
        "    kept = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);\n"
        "    return 0;\n"
        "}\n"
    )
    target = host_target().name
    launch(target)  # skips where nothing can be linked
    program = link_program(target, [DRIVER, source, "-lm"], tmp_path / "allocate")
    image = tmp_path / "image"
    image.write_bytes(array("q", [512, 0, 0, 0, 0]).tobytes() + bytes(512))
    done = subprocess.run([program, image, tmp_path / "out", "1", "0:1:1:2"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "allocations 8\n")


def test_the_driver_reports_a_status(launch, expected, tmp_path):
    image, runtime, _ = expected("mlp4")
    data = bytearray(image.read_bytes())
    raw = 40 + runtime.plan.offsets[runtime.program.find("raw")]
    data[raw : raw + 4] = np.float32(np.nan).tobytes()
    (tmp_path / "image").write_bytes(data)
    command = [*launch(host_target().name), tmp_path / "image", tmp_path / "out", "1"]
    first, last = runtime.program.sections["train"]
    done = subprocess.run([*map(str, command), f"{first}:{last}:3:1"], capture_output=True, text=True)
    assert done.returncode == 3
    assert re.fullmatch(r"status 1 at row \d+, sample 0\n", done.stderr)
    assert not (tmp_path / "out").exists()

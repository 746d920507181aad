"""Kernels compiled for other processors: the same bits as in this process, from objects that need nothing.

The first run compiles kernels and a C library for aarch64 (one to two minutes on two cores); both are cached.
"""

import hashlib
import re
import shutil
import struct
import subprocess
from array import array
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgerev.arena import plan
from edgerev.deploy.cross import emit_object, link_program
from edgerev.kernels.targets import TARGETS, host_target, named
from edgerev.layers import (
    GELU,
    Conv1d,
    Conv2d,
    Dense,
    Depthwise,
    Dropout,
    GroupNorm,
    Pointwise,
    ReLU,
    RMSNorm,
    SiLU,
)
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from edgerev.lower import lower
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule
from edgerev.program import Region
from edgerev.recipe import Augment, Recipe, Schedule
from edgerev.runtime import Runtime
from harness import set_batch

DRIVER = Path(__file__).parent / "c" / "run_program.c"
QEMU = "qemu-aarch64-static"
ALLOWED = {"memset", "memcpy", "memmove"}
COMPARED = (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION, Region.STATE, Region.STATE_GRADIENT, Region.IO)
BATCH = 3

LINEAR, SIGNAL, IMAGE = (Dense(8), ReLU(), Dense(8)), (Conv1d(6, 5), GELU(), Conv1d(6, 3)), (Conv2d(4, 3), SiLU())
STEPS = [("init", 1, 1), ("train", BATCH, 5), ("train", BATCH - 1, 2)]
RIDGE = [
    *STEPS, ("ridge_reset", 1, 1), ("encode", BATCH, 1), ("forward", BATCH, 1), ("ridge_add", BATCH, 3),
    ("ridge_solve", 1, 1), ("read_out", BATCH, 1), ("inverse", BATCH, 1),
]
CASES = {
    "mlp4": (
        Net((13,), Dense(16), (Block(LINEAR, repeat=4),), Head(10)),
        Recipe(BATCH, SGD(0.05, momentum=0.9, nesterov=True, weight_decay=1e-3)), STEPS,
    ),
    "signal": (
        Net((16, 3), Conv1d(12, 5), (Block(SIGNAL), Squeeze(), Block((Conv1d(12, 3), ReLU()))), Head(5)),
        Recipe(BATCH, AdamW(0.01), RateSchedule("cosine", warmup=2, steps=6), augment=Augment(shift=2, noise=0.1)),
        STEPS,
    ),
    "image": (
        Net((8, 8, 3), Conv2d(8, 3), (Block(IMAGE), Squeeze(), Block((Conv2d(16, 3), GELU()))), Head(10, "flatten")),
        Recipe(BATCH, Lion(0.003), loss=CrossEntropy(smoothing=0.1), augment=Augment(shift=1, flip=True, noise=0.05)),
        STEPS,
    ),
    "separable": (
        Net(
            (8, 6, 2), Conv2d(16, 3),
            (Block((RMSNorm(), Depthwise(3), SiLU(), Pointwise(8), Dropout(0.2)), (GroupNorm(2), Conv2d(8, 3))),),
            Head(4),
        ),
        Recipe(BATCH, AdamW(0.01), clip=Clip(0.5), loss=BinaryCrossEntropy()), STEPS,
    ),
    "int16": (
        Net((12,), Dense(16), (Block((RMSNorm(), *LINEAR), repeat=2),), Head(3), state="int16"),
        Recipe(BATCH, SGD(0.02), clip=Clip(0.1, "adaptive"), loss=MeanSquaredError(), atomic=True), STEPS,
    ),
    "float32": (
        Net((12,), Dense(16), (Block(LINEAR, repeat=2),), Head(3), state="float32"), Recipe(BATCH, Lion(0.003)), STEPS,
    ),
    # minimal filtering in both directions and in one, sample by sample
    "winograd image": (
        Net((16, 16, 2), Conv2d(32, 3), (Block((Conv2d(32, 3), ReLU(), Conv2d(16, 3))),), Head(4)),
        Recipe(BATCH, SGD(0.02, momentum=0.9)), STEPS,
    ),
    "winograd signal": (
        Net((64, 3), Conv1d(32, 5), (Block((Conv1d(16, 5), ReLU(), Conv1d(16, 3))),), Head(4)),
        Recipe(BATCH, AdamW(0.01)), STEPS,
    ),
    # panels of B, columns that fill no vector, and SGD within the product
    "wide": (Net((70,), Dense(140), (Block((Dense(300), ReLU(), Dense(70))),), Head(7)), Recipe(64, SGD(0.02)), [
        ("init", 1, 1), ("train", 64, 2), ("train", 61, 1), ("train", 1, 2),
    ]),
    "ridge": (
        Net((8, 8, 1), Conv2d(8, 3), (Block((Conv2d(4, 3), ReLU())), Squeeze()), Head(10, kind="ridge")),
        Recipe(BATCH, SGD(0.02)), RIDGE,
    ),
}


def runtime_with_batch(name, threads=1):
    """Return a runtime that has run nothing, with one batch in it."""
    net, recipe, _ = CASES[name]
    program = lower(net, recipe, Schedule(recipe.batch, 1 if "winograd" in name else recipe.batch, threads=4))
    runtime = Runtime(program, plan(program), threads)
    runtime.view("counters")[0] = 12345678901
    set_batch(runtime, np.random.default_rng(0))
    raw = np.frombuffer(runtime.view("raw"), np.float32)
    raw[:4] = 0.0, -0.0, 1e-42, -3e-39  # zeros and denormal numbers
    return runtime


def write_image(runtime, path):
    """Write what run_program.c reads."""
    start, program = runtime.plan.regions[Region.PROGRAM][0], runtime.program
    rows = len(program.rows) * 4
    places = [runtime.plan.offsets[program.find(name)] for name in ("status", "barrier")]
    tensors = start + -(-rows // 64) * 64
    path.write_bytes(array("q", [runtime.plan.arena_bytes, start, tensors, *places]).tobytes() + bytes(runtime.arena))


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
    """Give, for each case, the image that programs start from, a runtime for its tables, and the digest expected."""
    results = {}
    for name, (_, _, steps) in CASES.items():
        runtime = runtime_with_batch(name)
        image = folder / f"{name}.image"
        write_image(runtime, image)
        for section, n, times in steps:
            for _ in range(times):
                runtime.run(section, n)
        results[name] = image, runtime, digest(runtime, bytes(runtime.arena))
    return results


def program_for(target, folder):
    if find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: python -m pip install ziglang")
    path = folder / f"run-{target}"
    foreign = named(target).architecture != host_target().architecture
    return path if path.exists() else link_program(target, [DRIVER, emit_object(target)], path, static=foreign)


@pytest.fixture(scope="session")
def launch(folder):
    """Give a function that returns the command to run the test's C program for a target."""

    def command(target):
        if target == "aarch64":
            if shutil.which(QEMU) is None:
                pytest.skip(f"{QEMU} is not installed: apt install qemu-user-static")
            return [QEMU, program_for(target, folder)]
        host = host_target()
        wanted = named(target)
        if host.architecture != wanted.architecture or (wanted.name in TARGETS and wanted.width > host.width):
            pytest.skip(f"this machine ({host.name}) cannot run {target}")
        return [program_for(target, folder)]

    return command


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("target", [
    *TARGETS, *(pytest.param(f"x86-64-v3:{width}", marks=pytest.mark.long) for width in (4, 16)),
])  # fmt: skip
def test_same_bits(target, case, threads, launch, expected, tmp_path):
    image, runtime, wanted = expected[case]
    sections = runtime.program.sections
    runs = ["{}:{}:{}:{}".format(*sections[section], n, times) for section, n, times in CASES[case][2]]
    command = [*launch(target), image, tmp_path / "out", str(threads), *runs]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "allocations 0\n"
    assert digest(runtime, (tmp_path / "out").read_bytes()) == wanted


@pytest.mark.parametrize("case", CASES)
def test_steps_do_something(case, expected):
    image, runtime, wanted = expected[case]
    before = digest(runtime, image.read_bytes()[40:])
    assert before["parameters"] != wanted["parameters"]


def undefined_symbols(data):
    """Return the names that a 64-bit ELF object leaves to the linker."""
    table, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * index) for index in range(count)]
    names = set()
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind == 2:  # the symbol table; its first entry is empty
            for at in range(offset + 24, offset + size, 24):
                name, _, _, section = struct.unpack_from("<IBBH", data, at)
                if section == 0:
                    start = sections[link][4] + name
                    names.add(data[start : data.index(b"\0", start)].decode())
    return names


# What no other test needs is compiled by the long tests only.
EMITTED = [
    name if name in ("aarch64", "x86-64-v3", host_target().name) else pytest.param(name, marks=pytest.mark.long)
    for name in TARGETS
]


@pytest.mark.parametrize("target", EMITTED)
def test_objects_are_small_and_need_nothing(target):
    data = emit_object(target).read_bytes()
    assert undefined_symbols(data) <= ALLOWED
    assert len(data) < 400_000  # a library may have 1 MB; this says when kernels grow unawares


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
    program = link_program(target, [DRIVER, source], tmp_path / "allocate")
    image = tmp_path / "image"
    image.write_bytes(array("q", [512, 0, 0, 0, 0]).tobytes() + bytes(512))
    done = subprocess.run([program, image, tmp_path / "out", "1", "0:1:1:2"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "allocations 8\n")


def test_the_driver_reports_a_status(launch, expected, tmp_path):
    image, runtime, _ = expected["mlp4"]
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

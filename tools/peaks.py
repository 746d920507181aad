"""What the machine can do at most: fused multiply-adds in registers, and copying memory of some size."""

from __future__ import annotations

import ctypes
from functools import cache

from edgerev.arena import plan
from edgerev.kernels import layout
from edgerev.kernels.layout import DType, Op
from edgerev.program import Program, Region
from edgerev.runtime import Runtime
from edgerev.tools.cost import section_cost
from edgerev.tools.timing import burst, empty_seconds

ELEMENTS = 192  # of each thread: whole runs of what the PEAK kernel keeps in registers, at any vector width
ROUNDS = 100_000
SMALLEST_COPY, LARGEST_COPY = 1 << 12, 1 << 26
APART = 1088


def start_program(threads: int = 1) -> Program:
    """Return a program for one sample with the tensors that every run needs, and nothing else yet."""
    program = Program(1, threads)
    lines = (layout.MAX_THREADS, layout.STATUS_LINE)
    program.tensor("status", lines, Region.CONTROL, dtype=DType.I32)
    program.tensor("barrier", (layout.BARRIER_SIZE,), Region.CONTROL, dtype=DType.I32)
    return program


@cache
def peak_flops(threads: int, repeats: int = 40) -> float:
    """Return the floating-point operations in a second of pure register arithmetic, best of `repeats` runs.

    Parameters
    ----------
    threads : threads that work side by side
    """
    program = start_program(threads)
    y = program.tensor("y", (threads * ELEMENTS,), Region.IO)
    with program.section("run"):
        program.emit(Op.PEAK, y, rounds=ROUNDS, factor=0.5, addend=0.5)
    runtime = Runtime(program, plan(program), threads)
    best = min(burst(lambda: runtime.run("run", 1), 1e-9) for _ in range(repeats))
    return section_cost(program, "run", 1).flops / (best - empty_seconds(runtime))


def copy_bandwidth(moved_bytes: int) -> float:
    """Return the bytes in a second that a plain copy reads and writes when it moves so many, or more, at a time.

    A small copy stays in the caches, so each instruction is held against the memory that its own size lives in. Larger
    copies count too because `memmove` has sizes at which it is slow.

    Parameters
    ----------
    moved_bytes : bytes read and written; taken as the next power of two between 4 KiB and 64 MiB
    """
    size = 1 << (min(max(moved_bytes, SMALLEST_COPY), LARGEST_COPY) - 1).bit_length()
    best = 0.0
    while size <= LARGEST_COPY:
        best = max(best, _copy_bandwidth(size))
        size *= 2
    return best


@cache
def _copy_bandwidth(moved_bytes: int) -> float:
    half = moved_bytes // 2
    source, target = ctypes.create_string_buffer(half), ctypes.create_string_buffer(half + APART)
    place = ctypes.byref(target, APART)  # equal low bits of both addresses make some processors wait
    empty = min(burst(lambda: ctypes.memmove(place, source, 0), 1e-4) for _ in range(10))
    best = min(burst(lambda: ctypes.memmove(place, source, half), 5e-4) for _ in range(10))
    return moved_bytes / max(best - empty, 1e-9)


def roofline_seconds(flops: int, moved_bytes: int, threads: int = 1) -> float:
    """Return the least time that this machine needs (roofline model, Williams et al. 2009).

    Parameters
    ----------
    flops, moved_bytes : as `edgerev.tools.cost` counts them
    """
    copying = moved_bytes / copy_bandwidth(moved_bytes) if moved_bytes else 0.0
    return max(flops / peak_flops(threads), copying)

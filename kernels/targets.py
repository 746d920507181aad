"""Processors that kernels are compiled for: what LLVM must know, and the register tile that fits."""

from __future__ import annotations

import platform

from edgerev.value import Value


class Target(Value):
    """A processor as the compiler sees it.

    Attributes
    ----------
    name : how users call it
    triple, cpu, features : LLVM's words
    width : float32 lanes of a vector register
    tile_rows, tile_vectors : largest register tile of the micro-kernel that does not spill
    libc : oldest GNU C library that programs and libraries run with
    generic : whether it is for all processors of a level, not those of one board
    """

    name: str
    triple: str
    cpu: str
    features: str
    width: int
    tile_rows: int
    tile_vectors: int
    libc: str = "2.17"
    generic: bool = True

    @property
    def architecture(self) -> str:
        return self.triple.split("-", 1)[0]


AARCH64 = Target("aarch64", "aarch64-linux-gnu", "generic", "+neon", 4, 8, 2)
X86_64_V3 = Target("x86-64-v3", "x86_64-linux-gnu", "x86-64-v3", "", 8, 6, 2)
X86_64_V4 = Target("x86-64-v4", "x86_64-linux-gnu", "x86-64-v4", "", 16, 8, 2)

TARGETS = {target.name: target for target in (AARCH64, X86_64_V3, X86_64_V4)}


def named(name: str) -> Target:
    """Return the target called `name`; ``NAME:WIDTH`` is the same processor with kernels of another vector width.

    Raises
    ------
    KeyError
        There is no such target.
    """
    base, _, width = name.partition(":")
    return TARGETS[base].replace(name=name, width=int(width)) if width else TARGETS[base]


def host_target() -> Target:
    """Return the target of the machine that this runs on."""
    machine = platform.machine()
    if machine == "aarch64":
        return AARCH64
    if machine != "x86_64":
        raise LookupError(f"no kernels for processor {machine!r}; expected x86_64 or aarch64")
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
    if not {"avx2", "fma"} <= set(flags):
        raise LookupError("this x86-64 processor has no AVX2 and FMA (level v3), which the kernels need")
    return X86_64_V4 if {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"} <= set(flags) else X86_64_V3


def usable(names: list[str]) -> list[str]:
    """Return those of the targets called `names` that this machine can run, best first."""
    return [name for name in names if name == host_target().name]

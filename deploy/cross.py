"""Compile the kernels for another processor, and link them with C, all from this machine.

LLVM inside llvmlite writes objects for every target; `ziglang` from PyPI brings linker and C libraries, so no
toolchain of the system is needed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edgerev.errors import KernelError, UsageError
from edgerev.kernels import library
from edgerev.kernels.targets import TARGETS, named

# Zig's names for what objects are linked with. Foreign programs are one static file (musl), so that an emulator needs
# no root folder; those for this machine use its C library, for which Zig need not compile one.
ZIG_TARGETS = {
    "aarch64": ("aarch64-linux-musl", "-static"), "x86-64-v3": ("x86_64-linux-gnu.2.17",),
    "x86-64-v4": ("x86_64-linux-gnu.2.17",),
}


def emit_object(name: str) -> Path:
    """Compile the kernels for the target called `name` unless that was done; return the object's path.

    Raises
    ------
    UsageError
        There is no such target.
    KernelError
        The compiler is missing or failed.
    """
    try:
        target = named(name)
    except (KeyError, ValueError):
        raise UsageError(f"target {name!r}: expected one of {', '.join(TARGETS)}") from None
    return library.build(target)


def link_program(name: str, inputs: Sequence[Path], output: Path) -> Path:
    """Link objects and C sources to a program for the target called `name`; return its path.

    Zig compiles its C library for a foreign target once (most of a minute) and keeps it in its own cache.

    Parameters
    ----------
    inputs : objects and C sources
    output : the program to write

    Raises
    ------
    KernelError
        Zig is missing or failed; the message ends with what it said.
    """
    command = [
        sys.executable, "-m", "ziglang", "cc", "-target", *ZIG_TARGETS[name.partition(":")[0]], "-O2", "-s", "-pthread",
        *map(str, inputs), "-o", str(output),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        hint = "; install it: python -m pip install ziglang" if "No module named ziglang" in done.stderr else ""
        raise KernelError(f"linking {output.name} for {name} failed{hint}:\n{done.stderr[-2000:]}")
    return output

"""Compile the kernels for any processor, and link them with C, all from this machine.

LLVM inside llvmlite writes objects for every target; `ziglang` from PyPI brings linker and C libraries, so no
toolchain of the system is needed. The same input gives the same bytes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from edgerev.errors import KernelError
from edgerev.kernels import objects
from edgerev.kernels.targets import Target, named

C_FILES = Path(__file__).parent / "c"
# How Zig calls architectures, and the end of its names for C libraries there.
_ZIG = {"x86_64": ("x86_64", ""), "aarch64": ("aarch64", ""), "arm": ("arm", "eabihf")}


def emit_object(name: str) -> Path:
    """Compile the kernels for the target called `name` unless that was done; return the object's path.

    Raises
    ------
    UsageError
        There is no such target.
    KernelError
        The compiler is missing or failed.
    """
    return objects.build(named(name))


def link_library(name: str, output: Path) -> Path:
    """Write the shared library of the kernels for the target called `name`; return its path.

    Raises
    ------
    UsageError, KernelError
        As for `emit_object`; or Zig is missing or failed.
    """
    target = named(name)
    _zig("cc", "-target", _zig_target(target, static=False), "-shared", "-s", emit_object(name), "-o", output)
    return output


def archive_library(name: str, output: Path) -> Path:
    """Write the static library of the kernels for the target called `name`; return its path.

    Raises
    ------
    UsageError, KernelError
        As for `emit_object`; or Zig is missing or failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        # a member is called as its file is; in the cache that name changes with the compiler's version
        member = shutil.copy(emit_object(name), Path(folder) / "edgerev.o")
        output.unlink(missing_ok=True)  # or the member would be added to it
        _zig("ar", "rcsD", output, member)
    return output


def link_program(name: str, inputs: Sequence[Path], output: Path, *, static: bool = False) -> Path:
    """Link objects and C sources to a program for the target called `name`; return its path.

    Parameters
    ----------
    inputs : objects, static libraries and C sources
    output : the program to write
    static : whether the C library goes into the file (musl), so that the program needs nothing where it runs; Zig
        compiles it for a target once, which takes most of a minute, and keeps it in its own cache

    Raises
    ------
    UsageError
        There is no such target.
    KernelError
        Zig is missing or failed; the message ends with what it said.
    """
    words = ["-target", _zig_target(named(name), static=static), *(["-static"] if static else [])]
    _zig("cc", *words, "-O2", "-s", "-pthread", *inputs, "-o", output)
    return output


def write_c_files(name: str, folder: Path) -> None:
    """Write all that a program in C needs for the target called `name`: header, example, both libraries.

    Parameters
    ----------
    folder : made if it is not there; files of these names in it are replaced

    Raises
    ------
    UsageError, KernelError
        As for `link_library`.
    """
    folder.mkdir(exist_ok=True)
    for source in sorted(C_FILES.glob("*.[ch]")):
        shutil.copyfile(source, folder / source.name)
    archive_library(name, folder / "libedgerev.a")
    link_library(name, folder / "libedgerev.so")


def _zig_target(target: Target, *, static: bool) -> str:
    architecture, ending = _ZIG[target.architecture]
    return f"{architecture}-linux-musl{ending}" if static else f"{architecture}-linux-gnu{ending}.{target.libc}"


def _zig(verb: str, *words: object) -> None:
    found = find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        raise KernelError("linking needs Zig, which is not installed: python -m pip install 'edgerev[build]'")
    # the program itself: `python -m ziglang` would run a file of that name in the working directory
    zig = Path(found.submodule_search_locations[0]) / "zig"
    done = subprocess.run([zig, verb, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise KernelError(f"`zig {verb}` failed:\n{done.stderr[-2000:]}")

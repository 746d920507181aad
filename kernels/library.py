"""The compiled kernels of this process, as C functions called through ctypes.

A wheel holds a library for each target of its platform; the best that this processor can run is loaded. Where none
fits, or the environment variable ``EDGEREV_JIT`` is 1, the kernels are compiled here, which needs Numba.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from edgerev.errors import KernelError
from edgerev.kernels.layout import INTERFACE, INTERFACE_SYMBOL, RUN_SYMBOL
from edgerev.kernels.targets import TARGETS, Target, host_target, usable

FOLDER = os.path.join(os.path.dirname(__file__), "libraries")
SUFFIX = ".so"
JIT_VARIABLE = "EDGEREV_JIT"

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_ssize_t
_RUN_TYPE = ctypes.CFUNCTYPE(
    ctypes.c_int32, _POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _SIZE, _SIZE, _POINTER, _POINTER
)
_INTERFACE_TYPE = ctypes.CFUNCTYPE(ctypes.c_int32)


class Kernels(NamedTuple):
    """Kernels in this process.

    Attributes
    ----------
    run : C function ``(rows, tensors, arena, first, last, n, thread, threads, status, barrier)`` -> failing thread + 1
    target : name of the target that they were compiled for
    path : the wheel's library, or "" if they were compiled here
    """

    run: Callable[..., int]
    target: str
    path: str


@cache
def load() -> Kernels:
    """Return the kernels for this machine.

    Raises
    ------
    KernelError
        The processor is not supported; or there is no library for it, and no compiler or it failed.
    """
    shipped = [] if os.environ.get(JIT_VARIABLE) == "1" else usable(shipped_targets())
    if shipped:
        return open_library(os.path.join(FOLDER, shipped[0] + SUFFIX), shipped[0])
    try:
        target = host_target()
    except LookupError as error:
        raise KernelError(str(error)) from error
    return compile_here(target)


def compile_here(target: Target) -> Kernels:
    """Return the kernels for a target that this machine can run, compiled by Numba unless that was done before.

    Raises
    ------
    KernelError
        There is no Numba, or it failed.
    """
    from importlib.util import find_spec

    if find_spec("numba") is None:
        raise KernelError(_nothing_fits(target.name))
    from edgerev.kernels.objects import build, link

    return _checked(link(build(target).read_bytes()), target.name, "")


def open_library(path: str, target: str) -> Kernels:
    """Return the kernels in a shared library; it stays for as long as the process lives.

    Raises
    ------
    KernelError
        It cannot be loaded, or is of another version.
    """
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise KernelError(f"{path} cannot be loaded ({error}); install edgerev again") from error

    def address(symbol: str) -> int:
        try:
            return ctypes.cast(library[symbol], _POINTER).value or 0
        except AttributeError:
            return 0

    return _checked(address, target, path)


def shipped_targets() -> list[str]:
    """Return the names of the targets that this installation has libraries for."""
    try:
        files = os.listdir(FOLDER)
    except FileNotFoundError:
        return []
    return sorted(name for name in TARGETS if name + SUFFIX in files)


def _nothing_fits(name: str) -> str:
    shipped = ", ".join(shipped_targets()) or "none"
    if os.environ.get(JIT_VARIABLE) == "1":
        return (
            f"{JIT_VARIABLE}=1 asks for kernels compiled here, which needs Numba; install it: python -m pip install "
            f"'edgerev[jit]', or unset {JIT_VARIABLE} to use a library (installed are: {shipped})"
        )
    return (
        f"no compiled kernels for this processor ({name}); the libraries installed are for: {shipped}. Install the "
        f"wheel made for it (`edgerev build --wheel --target {name}` on another machine), or the compiler: "
        "python -m pip install 'edgerev[jit]'"
    )


def _checked(address: Callable[[str], int], target: str, path: str) -> Kernels:
    found = _INTERFACE_TYPE(address(INTERFACE_SYMBOL))() if address(INTERFACE_SYMBOL) else 0
    if found != INTERFACE:
        raise KernelError(
            f"the kernels in {path or 'the cache'} have interface version {found}; expected {INTERFACE}, that of this "
            "edgerev; install it again, from one wheel"
        )
    return Kernels(_RUN_TYPE(address(RUN_SYMBOL)), target, path)

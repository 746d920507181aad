"""Is this machine fit for training? Everything that `edgerev doctor` checks; most of it is in `edgerev.board`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from edgerev.board import (
    Check,
    Level,
    ask_vcgencmd,
    cores_check,
    cpu_check,
    frequency_check,
    memory_check,
    swap_check,
    thermal_check,
    throttling_check,
)
from edgerev.errors import EdgerevError, UsageError
from edgerev.kernels import library
from edgerev.kernels.layout import INTERFACE
from edgerev.kernels.targets import architecture, hwcap
from edgerev.machine import cache_folder
from edgerev.units import format_bytes

OLDEST_PYTHON = (3, 10)
LOW_DISK_BYTES = 256 << 20
ROOT = Path("/")


def python_check(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Check that Python is new enough.

    Parameters
    ----------
    version : tuple of int
        Version to judge.
    """
    name = ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return Check("python", Level.ERROR, f"Python {name} is too old", f"install Python {wanted} or newer")
    return Check("python", Level.OK, f"Python {name}")


def disk_check(cache: Path | None = None) -> Check:
    """Check that the cache folder can be written and has room.

    Parameters
    ----------
    cache : Path, optional
        The folder, which need not exist yet; `cache_folder` by default.
    """
    try:
        cache = cache or cache_folder()
    except UsageError as error:
        return Check("disk", Level.WARNING, str(error), "set XDG_CACHE_HOME; without, nothing converted is kept")
    folder = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    figures: dict[str, object] = {"folder": str(cache), "free_bytes": free}
    message = f"{format_bytes(free)} free for {cache}"
    if not os.access(folder, os.W_OK):
        hint = "set XDG_CACHE_HOME to a folder that can be written; else kernels are compiled at every start"
        return Check("disk", Level.WARNING, f"{folder} cannot be written", hint, figures)
    if free < LOW_DISK_BYTES:
        hint = "free some space, or set XDG_CACHE_HOME to a folder on another disk"
        return Check("disk", Level.WARNING, message, hint, figures)
    return Check("disk", Level.OK, message, figures=figures)


def installed(package: str) -> str | None:
    """Return the version of an installed package, without importing it.

    Parameters
    ----------
    package : str
        Its name on the package index.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def packages_check() -> Check:
    """Check that the packages which every run needs are installed."""
    versions = {name: installed(name) for name in ("numpy", "pydantic", "tqdm")}
    missing = [name for name, version in versions.items() if version is None]
    message = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    hint = f"python -m pip install {' '.join(missing)}" if missing else ""
    return Check("packages", Level.ERROR if missing else Level.OK, message, hint, {"versions": versions})


def kernels_check() -> Check:
    """Load the kernels, say which they are, and train with them a little: every bit of the result is known."""
    from edgerev import selftest  # late, as it brings the library

    try:
        kernels = library.load()
        digest = selftest.train()
    except EdgerevError as error:
        return Check("kernels", Level.ERROR, str(error), "see above; `python -m pip install 'edgerev[jit]'` compiles")
    origin = "from the wheel" if kernels.path else f"compiled here by numba {installed('numba')}"
    figures: dict[str, object] = {
        "target": kernels.target, "library": kernels.path, "interface": INTERFACE, "digest": digest,
    }
    message = f"{kernels.target}, {origin}, interface {INTERFACE}"
    if digest != selftest.EXPECTED:
        message += f": the self-test gave {digest[:16]}..., not {selftest.EXPECTED[:16]}..."
        return Check("kernels", Level.ERROR, message, "results cannot be trusted: install edgerev again", figures)
    return Check("kernels", Level.OK, f"{message}; self-test passed", figures=figures)


def diagnose(
    root: Path = ROOT,
    cache: Path | None = None,
    machine: str | None = None,
    ask_firmware: Callable[[], str | None] = ask_vcgencmd,
    ask_hwcap: Callable[[], int] = hwcap,
) -> list[Check]:
    """Run all checks.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` lie.
    cache : Path, optional
        Cache folder to look at; `cache_folder` by default.
    machine : str, optional
        Architecture; that of this process by default.
    ask_firmware : callable
        Returns the answer of ``vcgencmd get_throttled``, or None.
    ask_hwcap : callable
        Returns the bits of AT_HWCAP.
    """
    return [
        python_check(),
        cpu_check(root, machine or architecture(), ask_hwcap),
        cores_check(root),
        memory_check(root),
        swap_check(root),
        frequency_check(root),
        thermal_check(root),
        throttling_check(root, ask_firmware),
        disk_check(cache),
        packages_check(),
        kernels_check(),
    ]


def worst_status(checks: list[Check]) -> Level:
    """Return the worst status among the checks.

    Parameters
    ----------
    checks : list of Check
        At least one.
    """
    return max((check.status for check in checks), key=list(Level).index)

"""Fetch the wheels that a target needs beside edgerev's own, so that it can install them without network.

pip chooses the versions. It takes tags for another machine, but reads requirements' markers as if for this one; so
what the wheels themselves ask for is looked up again here, with the target's Python in mind, until nothing is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from edgerev.errors import BundleError, UsageError
from edgerev.kernels.targets import Target

# The GNU C library that the system of each board brings; wheels may need no newer one. Debian 12 has 2.36.
_LIBC = {"jetson-nano": (2, 27), "jetson-orin": (2, 35)}
_COMMON_LIBC = (2, 35)
_PYTHONS = {"jetson-nano": ("3.10",), "jetson-orin": ("3.10",)}
_COMMON_PYTHONS = ("3.11", "3.13")  # of Debian 12 and 13, and so of Raspberry Pi OS
_OLD_TAGS = {(2, 5): "manylinux1", (2, 12): "manylinux2010", (2, 17): "manylinux2014"}


class System(NamedTuple):
    """A package that the device's system has, where there is no wheel."""

    module: str
    debian: str


# What Debian has in place of packages that publish no wheels for some targets (32-bit ARM).
SYSTEM_PACKAGES = {"numpy": System("numpy", "python3-numpy")}


class Fetched(NamedTuple):
    """What `fetch` brought.

    Attributes
    ----------
    libc : oldest GNU C library that the wheels run with, or "" if they hold no compiled code
    system : packages that the device's system has to have
    """

    libc: str
    system: list[System]


def default_pythons(name: str) -> tuple[str, ...]:
    """Return the versions of Python that the systems of the target called `name` bring."""
    return _PYTHONS.get(name, _COMMON_PYTHONS)


def platforms(target: Target) -> list[str]:
    """Return the platforms whose wheels run on `target`, those that ask for least first."""
    newest, oldest = _LIBC.get(target.name, _COMMON_LIBC), (2, 5) if target.architecture == "x86_64" else (2, 17)
    tags = []
    for minor in range(oldest[1], newest[1] + 1):
        tags.append(f"manylinux_2_{minor}_{target.machine}")
        if (2, minor) in _OLD_TAGS:
            tags.append(f"{_OLD_TAGS[2, minor]}_{target.machine}")
    return tags


def environment(target: Target, python: str) -> dict[str, str]:
    """Return what requirements' markers see on the device."""
    return {
        "python_version": python, "python_full_version": f"{python}.0", "implementation_version": f"{python}.0",
        "implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix",
        "sys_platform": "linux", "platform_system": "Linux", "platform_machine": target.machine,
        "platform_release": "", "platform_version": "", "extra": "",
    }  # fmt: skip


def fetch(target: Target, python: str, folder: Path, extra: str = "") -> Fetched:
    """Write the wheels of everything that edgerev needs on `target` with one version of Python into `folder`.

    An `extra` of edgerev's is fetched as well.

    Raises
    ------
    BundleError
        They cannot be had; the message ends with pip's words.
    UsageError
        `python` is no version, or one that edgerev does not run with.
    """
    check_python(python)
    around = environment(target, python)
    wanted = _applying(metadata.requires("edgerev") or [], {**around, "extra": extra})
    system: list[System] = []
    with tempfile.TemporaryDirectory() as scratch:
        got = Path(scratch)
        while wanted:
            failure = _pip_download(wanted, target, python, got)
            if failure:
                wanted = _without_system_package(wanted, failure, target, python, system)
                continue
            missing = _missing(sorted(got.glob("*.whl")), around, [package.module for package in system])
            if not missing:
                break
            wanted = [*wanted, *missing]
        wheels = sorted(got.glob("*.whl"))
        for wheel in wheels:
            (folder / wheel.name).write_bytes(wheel.read_bytes())
    return Fetched(oldest_libc([wheel.name for wheel in wheels]), system)


def oldest_libc(wheels: Iterable[str]) -> str:
    """Return the oldest GNU C library that runs all wheels of these names, or ""."""
    needed = []
    for name in wheels:
        tag = name.removesuffix(".whl").rsplit("-", 1)[1]
        spelled = [pair for pair, old in _OLD_TAGS.items() if re.search(rf"\b{old}_", tag)]
        spelled += [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)_", tag)]
        if spelled:
            needed.append(min(spelled))
    return ".".join(map(str, max(needed))) if needed else ""


def check_python(python: str) -> None:
    """Raise UsageError unless edgerev runs with this version of Python, as "3.11"."""
    if not re.fullmatch(r"3\.\d+", python):
        raise UsageError(f"--python {python}: expected a version such as 3.11; `python3 --version` on the device tells")
    requirement = metadata.metadata("edgerev")["Requires-Python"]
    if requirement and not _packaging("specifiers").SpecifierSet(requirement).contains(f"{python}.0"):
        raise UsageError(f"--python {python}: edgerev needs {requirement}; install such a Python on the device")


def _packaging(module: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"packaging.{module}")
    except ImportError as error:
        advice = "python -m pip install 'edgerev[build]'"
        raise BundleError(f"making bundles needs the package packaging, which is not installed; {advice}") from error


def _applying(requirements: Sequence[str], around: dict[str, str]) -> list[str]:
    """Return those of the requirements that apply in an environment, without their markers."""
    found = []
    for text in requirements:
        requirement = _packaging("requirements").Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(around):
            requirement.marker = None
            found.append(str(requirement))
    return found


def _missing(wheels: Sequence[Path], around: dict[str, str], present: Sequence[str]) -> list[str]:
    """Return what wheels ask for in an environment that is not among them."""
    name_of = _packaging("utils").canonicalize_name
    there = {*map(name_of, present), *(name_of(wheel.name.split("-", 1)[0]) for wheel in wheels)}
    asked = [text for wheel in wheels for text in _applying(_requirements(wheel), around)]
    return [text for text in asked if name_of(_packaging("requirements").Requirement(text).name) not in there]


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


def _pip_download(wanted: Sequence[str], target: Target, python: str, folder: Path) -> str:
    """Let pip download; return "", or what it said when it failed."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--only-binary=:all:", "--implementation=cp", f"--python-version={python}", "--dest=.",
        *(f"--platform={tag}" for tag in platforms(target)), *wanted,
    ]  # fmt: skip
    # not in the working directory, where Python would run a file called pip.py
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def _without_system_package(
    wanted: Sequence[str], failure: str, target: Target, python: str, system: list[System]
) -> list[str]:
    """Take what pip found no wheel of from the requirements and add it to `system`, if the device's system has it."""
    match = re.search(r"No matching distribution found for ([\w.-]+)", failure)
    name = _packaging("utils").canonicalize_name(match[1]) if match else ""
    rest = [text for text in wanted if _packaging("requirements").Requirement(text).name.lower() != name]
    if name not in SYSTEM_PACKAGES or len(rest) == len(wanted):
        raise BundleError(
            f"the wheels for {target.name} with Python {python} cannot be downloaded; expected one of each package for "
            f"{platforms(target)[-1]} or older; check the network and --python. pip says:\n{failure[-2000:]}"
        )
    system.append(SYSTEM_PACKAGES[name])
    return rest

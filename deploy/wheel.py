"""Make edgerev's wheel for any target: the installed Python files, with the target's kernels as a shared library.

The library is loaded by ctypes, so one wheel serves every Python 3 of its platform (``py3-none-<platform>``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module, metadata
from pathlib import Path

from edgerev.deploy.cross import link_library
from edgerev.errors import KernelError
from edgerev.kernels.library import FOLDER, SUFFIX
from edgerev.kernels.targets import TARGETS, Target, architecture, named

PACKAGES = ("edgerev", "edgerev.kernels", "edgerev.deploy", "edgerev.tools")  # each may lie in a folder of its own
INSTALLED = (".py", ".toml", ".c", ".h", ".sh", ".html", ".js", ".css", ".svg")  # of a checkout, with others
_EARLIEST = "315532800"  # 1980, the first that a zip file can say


def generic_targets(machine: str = "") -> list[str]:
    """Return the targets whose libraries a wheel for every machine of an architecture holds.

    Parameters
    ----------
    machine : its name in wheels: x86_64, aarch64 or armv7l; that of this Python if left out

    Raises
    ------
    KernelError
        There are no kernels for it.
    """
    wanted = [target for target in TARGETS.values() if target.generic]
    found = [
        target.name for target in wanted
        if (target.machine == machine if machine else target.architecture == architecture())
    ]  # fmt: skip
    if not found:
        raise KernelError(
            f"there are no kernels for {machine or architecture()}; expected one of "
            f"{', '.join(sorted({target.machine for target in wanted}))}, on Linux; install edgerev there"
        )
    return found


def platform_tag(target: Target) -> str:
    """Return the platform of a wheel with a library for `target`, as PEP 600 names it."""
    return f"manylinux_{target.libc.replace('.', '_')}_{target.machine}"


def make_wheel(name: str, folder: Path) -> Path:
    """Write edgerev's wheel for the target called `name` into `folder`; return its path.

    The same installation of edgerev and of the compiler gives the same bytes.

    Raises
    ------
    UsageError
        There is no such target.
    KernelError
        The compiler, the linker or the package `wheel` is missing, or one of them failed.
    """
    try:
        from wheel.wheelfile import WheelFile
    except ImportError as error:
        raise KernelError("making wheels needs the package wheel; python -m pip install 'edgerev[build]'") from error
    target = named(name)
    installed = _installation()
    tag = f"py3-none-{platform_tag(target)}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"edgerev-{installed.version}-{tag}.whl"
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _reproducible():
        library, written = link_library(name, Path(scratch) / "library"), Path(scratch) / path.name
        with WheelFile(written, "w") as wheel:
            for place, source in _installed_files():
                wheel.writestr(place, source.read_bytes())
            wheel.writestr(f"edgerev/kernels/{os.path.basename(FOLDER)}/{name}{SUFFIX}", library.read_bytes())
            for place, text in _metadata_files(installed, tag):
                wheel.writestr(f"edgerev-{installed.version}.dist-info/{place}", text)
        os.replace(written, path)  # so that what has the name is whole
    return path


def _installation() -> metadata.Distribution:
    """Return edgerev's metadata as they were installed; beside a checkout lies another, older form of them."""
    for found in metadata.distributions(name="edgerev"):
        if found.read_text("METADATA"):
            return found
    raise KernelError("edgerev is not installed, but on Python's path only; python -m pip install edgerev")


def _installed_files() -> Iterator[tuple[str, Path]]:
    """Yield the place in the wheel of each file of the packages, and where it lies now, in the order of places."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        (root,) = import_module(package).__path__
        for file in Path(root).rglob("*"):
            inside = file.relative_to(root)
            if file.is_file() and file.suffix in INSTALLED:
                found[f"{package.replace('.', '/')}/{inside.as_posix()}"] = file
    yield from sorted(found.items())


def _metadata_files(installed: metadata.Distribution, tag: str) -> Iterator[tuple[str, str]]:
    yield "WHEEL", f"Wheel-Version: 1.0\nGenerator: edgerev\nRoot-Is-Purelib: false\nTag: {tag}\n"
    licenses = [f"licenses/{name}" for name in installed.metadata.get_all("License-File") or ()]
    for name in ("METADATA", "entry_points.txt", *licenses):
        text = installed.read_text(name)
        if text is not None:
            yield name, text


@contextmanager
def _reproducible() -> Iterator[None]:
    """Let the wheel's files be of one date, unless the caller has set another."""
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = before or _EARLIEST
    try:
        yield
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]


def link_libraries(names: Sequence[str], folder: Path) -> None:
    """Write the libraries of several targets into the folder where an installation looks for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        link_library(name, folder / f"{name}{SUFFIX}")

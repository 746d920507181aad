"""Install the bundle that this package lies in, repair it, or switch back to it.

Nothing that runs is touched before the new bundle has been checked, installed in a folder of its own, and tried; then
`current` changes, in one step. What was left half done by a power cut is finished or removed by the next installation.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import ctypes
import hashlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .root import (
    CURRENT,
    FOLDER,
    PREVIOUS,
    SUMS,
    VENV,
    DamagedError,
    RefusedError,
    Root,
    check_files,
    end_by_exception,
    fail,
    remove,
)  # fmt: skip
from .service import STATE, UNIT, Service, write_safely

FORMAT = 1
MODEL = "model/model.edgerev"
_QUIET = ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH", "PIP_REQUIRE_VIRTUALENV", "EDGEREV_JIT")


def say(text: str) -> None:
    """Tell what is being done. If nobody listens any more, this raises, and so ends what was not finished."""
    print(f"edgerev: {text}", flush=True)


# -- does it fit --------------------------------------------------------------------------------------------------


def architecture() -> str:
    """Return that of this Python, in the words of wheels: a 64-bit kernel may run 32-bit programs."""
    machine, wide = os.uname().machine, sys.maxsize > 1 << 32
    if machine.startswith(("aarch64", "armv8", "armv7")):
        return "aarch64" if wide else "armv7l"
    return machine if wide or machine != "x86_64" else "i686"


def has(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def numbers(version: str) -> tuple[int, ...]:
    """Return "2.36" as (2, 36)."""
    return tuple(int(part) for part in version.split("."))


def check_device(manifest: dict[str, Any]) -> None:
    """Refuse a bundle that does not fit the device."""
    if manifest["format"] != FORMAT:
        raise RefusedError(f"the bundle has format {manifest['format']}; expected {FORMAT}; make it again")
    if manifest["architecture"] != architecture():
        raise RefusedError(
            f"the bundle is for {manifest['target']} ({manifest['architecture']}), this device is {architecture()}; "
            "make one for it: `edgerev build --list` shows the targets"
        )
    python = ".".join(map(str, sys.version_info[:2]))
    if python not in manifest["pythons"]:
        raise RefusedError(
            f"the bundle has wheels for Python {', '.join(manifest['pythons'])}, this device has {python}; "
            f"make it with `edgerev build --python {python}`"
        )
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[-1]
    if numbers(libc) < numbers(manifest["libc"] or "0"):
        raise RefusedError(
            f"the bundle needs GNU libc {manifest['libc']} or newer, this device has {libc}; update its system"
        )
    for module in ("venv", "ensurepip"):
        if not has(module):
            raise RefusedError(f"Python's module {module} is missing; on Debian: apt install python{python}-venv")
    for module, debian in manifest["system"]:
        if not has(module):
            raise RefusedError(f"{module} is missing and has no wheel for this device; on Debian: apt install {debian}")


def check_interface(manifest: dict[str, Any], source: Path) -> None:
    """Compare the interface versions of the bundle's library and program with the manifest's."""
    told = manifest["interface"]
    try:
        found = ctypes.CDLL(str(source / "c" / "libedgerev.so")).edgerev_interface()
    except (OSError, AttributeError) as error:
        raise RefusedError(
            f"the bundle's kernels cannot be loaded ({error}); make the bundle again, for this device"
        ) from error
    heads = {name: (source / "model" / name).read_bytes()[8:12] for name in ("model.program", "model.parameters")}
    versions = {"library": found, **{name: int.from_bytes(head, "little") for name, head in heads.items()}}
    for name, version in versions.items():
        if version != told:
            raise RefusedError(
                f"the bundle's {name} has interface version {version}, its manifest {told}; expected the same; "
                "make the bundle again, from one edgerev"
            )


# -- into its place -----------------------------------------------------------------------------------------------


def run(command: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program apart from the settings of whoever installs."""
    environment = {name: value for name, value in os.environ.items() if name not in _QUIET}
    environment |= {"LC_ALL": "C", "PIP_CONFIG_FILE": os.devnull}
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, cwd="/", text=True, **options)


def bring(root: Root, source: Path, name: str) -> None:
    """Move the files of a checked bundle, or copies of them, to their place; what is damaged there goes aside."""
    incoming, place = root.incoming(name), root.place(name)
    if source != incoming:
        remove(incoming)
        for path in [*check_files(source).wanted, SUMS]:
            (incoming / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, incoming / path)
        check_files(incoming)
    set_aside(root, place)
    os.sync()
    root.bundles.mkdir(exist_ok=True)
    remove(place)
    os.rename(incoming, place)


def set_aside(root: Root, place: Path) -> None:
    """Keep what somebody may have changed in a bundle, such as a model that was trained there, before it is removed."""
    if place.is_dir():
        try:
            check_files(place)
        except DamagedError as error:
            for path in error.files:
                (root.path / "damaged" / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(place / path, root.path / "damaged" / path)
                say(f"{place / path} is not as it was made; it is kept as {root.path / 'damaged' / path}")


def make_venv(place: Path, manifest: dict[str, Any]) -> None:
    """Make the virtual environment of a bundle that lies in its place, and try it."""
    venv = place / VENV
    remove(venv)
    say("making the virtual environment")
    options = ["--system-site-packages"] if manifest["system"] else []
    if run([sys.executable, "-m", "venv", *options, venv]).returncode:
        raise RefusedError("python3 -m venv failed; what it says is above; on Debian: apt install python3-venv")
    say("installing the wheels, without network")
    extra = f"[{manifest['extra']}]" if manifest.get("extra") else ""
    command: list[str | Path] = [
        venv / "bin" / "python", "-m", "pip", "install", "--isolated", "--quiet", "--disable-pip-version-check",
        "--no-cache-dir", "--no-index", "--find-links", place / "wheels", f"edgerev{extra}=={manifest['edgerev']}",
    ]  # fmt: skip
    if run(command).returncode:
        raise RefusedError("pip cannot install the bundle's wheels; what it says is above; make the bundle again")
    say("trying it")
    say(try_it(place, manifest))


def try_it(place: Path, manifest: dict[str, Any]) -> str:
    """Let the installed edgerev load the bundle's model and send a sample through it; return what it says."""
    interface = str(manifest["interface"])
    trial: list[str | Path] = [place / VENV / "bin" / "python", "-m", "edgerev.deploy.trial", place / MODEL, interface]
    told = _output(trial)
    _output([place / VENV / "bin" / "edgerev", "--version"])
    return told


def _output(command: Sequence[str | Path]) -> str:
    try:
        done = run(command, capture_output=True)
    except OSError as error:
        raise RefusedError(f"the bundle does not run on this device: {error}; push it again") from error
    if done.returncode:
        said = done.stderr.strip() or f"{command[0]} ended with {done.returncode}"
        raise RefusedError(f"the bundle does not run on this device: {said}")
    return done.stdout.strip()


def check_installed(place: Path) -> None:
    """Refuse an installation in which a file is not what pip wrote."""
    site = place / VENV / "lib"
    for record in site.glob("python*/site-packages/*.dist-info/RECORD"):
        for path, told, *_ in csv.reader(io.StringIO(record.read_text())):
            kind, _, value = told.partition("=")
            file = record.parent.parent / path
            if kind == "sha256":
                found = hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""
                if base64.urlsafe_b64encode(found).decode().rstrip("=") != value:
                    raise RefusedError(f"{file} is missing or changed")


def runs(place: Path, manifest: dict[str, Any]) -> bool:
    """Return whether a bundle that was installed before is whole and runs."""
    try:
        say("trying it")
        check_installed(place)
        say(try_it(place, manifest))
        return True
    except RefusedError as error:
        say(f"{error}; installing it again")
        return False


def whole(place: Path) -> bool:
    """Return whether the files of a bundle that came before are as they were made."""
    try:
        return bool(check_files(place).name)
    except DamagedError:
        return False


def prepare(root: Root, source: Path) -> tuple[str, bool]:
    """Bring a bundle to its place, and install it there unless it runs; return its name and whether it ran already."""
    name = check_files(source).name
    manifest = json.loads((source / "manifest.json").read_text())
    check_device(manifest)
    check_interface(manifest, source)
    root.settle()
    root.remove_others(source)
    place, known = root.place(name), name in (root.bundle_of(CURRENT), root.bundle_of(PREVIOUS))
    Service(root.path).check(source)
    try:
        if source != place and not whole(place):
            bring(root, source, name)
        if known and runs(place, manifest):
            return name, True
        make_venv(place, manifest)
    except BaseException:
        remove(root.incoming(name))
        if not known:
            remove(place)
        raise
    return name, False


# -- the switch ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let neither signals nor a connection that is gone stop what has begun; what is said comes at the end."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            print(said.getvalue(), end="", flush=True)


def seed_model(root: Root, place: Path) -> bool:
    """Give the service a model of its own, the first time that one asks for it; return whether this was the time."""
    unit, state = place / UNIT, root.path / STATE
    if not unit.is_file() or "@MODEL@" not in unit.read_text() or any(state.parent.glob(f"{STATE.name}*")):
        return False
    write_safely(state, (place / MODEL).read_bytes())
    return True


def activate(root: Root, name: str) -> str:
    """Make an installed bundle current and start its service; return "", or what went wrong, and all is as before."""
    service, before = Service(root.path), root.bundle_of(CURRENT)
    root.switch(name)
    seeded = False
    try:
        seeded = seed_model(root, root.place(name))
        problem = service.apply(root.place(name))
    except OSError as error:
        problem = str(error)
    if problem and before != name:
        root.point(CURRENT, before)
        if seeded:
            remove(root.path / STATE)
        if before:
            service.apply(root.place(before), watch=False)
        else:
            service.withdraw()
    root.settle()
    root.remove_others()
    return problem


def install(root: Root, source: Path) -> None:
    """Install the bundle in a folder, or repair it, or switch back to it."""
    name, ran = prepare(root, source)
    place = root.place(name)
    current = root.bundle_of(CURRENT) == name
    if current and ran and Service(root.path).fits(place):
        return say(f"bundle {name} is installed already, and runs")
    if (place / UNIT).is_file():
        say("switching, then looking at its service for some seconds")
    with undisturbed():
        problem = activate(root, name)
    if problem:
        kept = "it stays current, as it was" if current else "what was current before is so again"
        raise RefusedError(f"the service does not start: {problem}; {kept}; `journalctl -u {UNIT}` tells why")
    with contextlib.suppress(OSError):  # it is done, whoever listens
        say(f"bundle {name} is current in {root.path}")


def rollback(root: Root) -> int:
    """Let the bundle before the current one install itself; return the exit code."""
    with root.locked():
        root.settle()
    name = root.bundle_of(PREVIOUS)
    script = root.place(name) / "install.sh"
    if not name or name == root.bundle_of(CURRENT) or not script.is_file():
        raise RefusedError(
            f"there is no bundle before the current one in {root.path}; expected two that were installed; push one"
        )
    return run(["sh", script, "--path", root.path]).returncode


def main(words: Sequence[str] | None = None, *, locked: bool = False) -> int:
    """Do what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="edgerev", description="Install this bundle for the user who runs this.")
    parser.add_argument("--path", default=os.path.expanduser("~/.local/share/edgerev"), help="where bundles lie")
    parser.add_argument("--rollback", action="store_true", help="switch to the bundle before the current one")
    args = parser.parse_args(words)
    if not FOLDER.fullmatch(args.path):
        parser.error(
            f"--path {args.path}: expected a whole path of letters, digits and /._+- only; choose another folder"
        )
    root = Root(Path(os.path.realpath(args.path)))
    try:
        if args.rollback:
            return rollback(root)
        with contextlib.nullcontext() if locked else root.locked():
            install(root, Path(__file__).resolve().parent.parent)
        return 0
    except (RefusedError, OSError) as error:
        return fail(error)


if __name__ == "__main__":
    end_by_exception()
    sys.exit(main())

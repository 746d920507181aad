"""A bundle: a folder with all that a device needs to run a model, installed there without network.

`SHA256SUMS` covers every other file, and its own digest is the bundle's name; `manifest.json` says what the files are
for. The same input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edgerev import __version__
from edgerev.deploy import dependencies
from edgerev.deploy.cross import write_c_files
from edgerev.deploy.device.root import SUMS, compare, digest, files_in
from edgerev.deploy.device.service import UNIT
from edgerev.deploy.systemd import service
from edgerev.deploy.trial import try_model
from edgerev.deploy.wheel import make_wheel
from edgerev.errors import BundleError, UsageError
from edgerev.kernels.layout import INTERFACE
from edgerev.kernels.targets import named

FORMAT = 1
MANIFEST, INSTALLER = "manifest.json", "install.sh"
PACKAGE = ("device/__init__.py", "device/install.py", "device/root.py", "device/service.py")  # that install.sh starts
NEEDED = ("model/model.edgerev", "model/model.program", "model/model.parameters", "c/libedgerev.so")
DEVICE = Path(__file__).parent / "device"


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Attributes
    ----------
    edgerev : version of edgerev in the bundle
    interface : version of the contract between programs and kernels
    target, architecture : what the kernels were compiled for
    pythons : versions of Python that there are wheels for
    libc : oldest GNU C library that everything runs with
    system : packages that the device's system has to have: name of the module, Debian's name
    service : whether the bundle brings a systemd unit
    extra : of edgerev's, that the service needs; "" for none
    files : sha256 and bytes of every file but the manifest and the sums
    format : of the bundle itself
    """

    edgerev: str
    interface: int
    target: str
    architecture: str
    pythons: list[str]
    libc: str
    system: list[list[str]] = field(default_factory=list)
    service: bool = False
    extra: str = ""
    files: dict[str, dict[str, str | int]] = field(default_factory=dict)
    format: int = FORMAT


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all found as they should be.

    Attributes
    ----------
    folder : where it lies
    name : sha256 of its sums
    manifest : what it says
    paths : of all files, in order
    nbytes : of all files
    """

    folder: Path
    name: str
    manifest: Manifest
    paths: list[str]
    nbytes: int


def make(
    model: Path, target: str, output: Path, *, pythons: Sequence[str] = (), arguments: str = "", replace: bool = False,
    report: Callable[[str], None] = print,
) -> Bundle:
    """Make a bundle of `model` for the target called `target`; nothing is at `output` before all of it is there.

    Parameters
    ----------
    model : a checkpoint
    target : name of the target
    output : the folder to make
    pythons : versions of Python on the device, as "3.11"; by default those that the target's systems bring
    arguments : what the device is to run, as the command line of edgerev; "" for no service
    replace : whether a bundle at `output` may be replaced
    report : is told what is being done

    Raises
    ------
    UsageError
        There is no such target; the output is there; or `arguments` are not what edgerev takes.
    CheckpointError
        The model cannot be read.
    NumericError
        The model does not take a sample.
    KernelError
        The kernels cannot be compiled or linked.
    BundleError
        Dependencies cannot be downloaded.
    """
    processor, output = named(target), Path(os.path.abspath(output))
    check_output(output, replace=replace)
    unit = service(arguments) if arguments else ""
    extra = "serve" if arguments.split()[:1] == ["serve"] else ""
    versions = list(dict.fromkeys(pythons or dependencies.default_pythons(target)))
    for python in versions:
        dependencies.check_python(python)
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        folder = scratch / "bundle"
        folder.mkdir()
        report(f"model and program of {model}")
        _write_model(model, folder / "model")
        report(f"kernels for {target}")
        write_c_files(target, folder / "c")
        report(f"edgerev's wheel for {target}")
        make_wheel(target, folder / "wheels")
        system: dict[str, str] = {}
        for python in versions:
            report(f"wheels for Python {python}")
            system |= dict(dependencies.fetch(processor, python, folder / "wheels", extra).system)
        copy_installer(folder)
        if unit:
            (folder / UNIT).write_text(unit)
        libc = dependencies.oldest_libc(path.name for path in (folder / "wheels").iterdir())
        seal(
            folder,
            Manifest(
                __version__, INTERFACE, target, processor.machine, versions, libc,
                sorted(map(list, system.items())), bool(unit), extra,
            ),
        )  # fmt: skip
        _put_in_place(folder, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return verify(output)


def check_output(output: Path, *, replace: bool) -> None:
    """Raise UsageError unless `output` can become a bundle; `replace` allows a bundle that is there."""
    if not output.absolute().parent.is_dir():
        raise UsageError(f"the folder of {output} does not exist; expected {output.absolute().parent}; make it first")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / SUMS).is_file():
        raise UsageError(f"{output} is there already, and is not a bundle; expected a new name; choose another one")
    if not replace:
        raise UsageError(f"{output} is there already; expected a new name; add --force to replace it")


def _write_model(model: Path, folder: Path) -> None:
    from edgerev.deploy.c_model import write_c_model
    from edgerev.learner import Learner

    folder.mkdir()
    try_model(str(model))
    learner = Learner.load(str(model))
    shutil.copyfile(model, folder / "model.edgerev")
    write_c_model(learner, folder)


def copy_installer(folder: Path) -> None:
    """Write what installs a bundle on the device into its folder."""
    shutil.copyfile(DEVICE / INSTALLER, folder / INSTALLER)
    (folder / "device").mkdir()
    for path in PACKAGE:
        shutil.copyfile(DEVICE.parent / path, folder / path)


def _put_in_place(folder: Path, output: Path) -> None:
    """Move a bundle to `output`; what was there stays there if that fails or is interrupted."""
    old = folder.with_name("old")
    try:
        if output.exists():
            os.rename(output, old)
        os.rename(folder, output)
    except BaseException:
        if old.exists() and not output.exists():
            os.rename(old, output)
        raise


def seal(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, with the digests of all files in `folder`, and the sums over everything."""
    files = {
        path: {"sha256": digest(folder / path), "bytes": (folder / path).stat().st_size}
        for path in files_in(folder) if path not in (MANIFEST, SUMS)
    }  # fmt: skip
    text = json.dumps({**asdict(manifest), "files": files}, indent=1, sort_keys=True) + "\n"
    (folder / MANIFEST).write_text(text)
    lines = [f"{digest(folder / path)}  {path}\n" for path in files_in(folder) if path != SUMS]
    (folder / SUMS).write_text("".join(lines))


def verify(folder: Path) -> Bundle:
    """Read a bundle, every byte of it.

    Raises
    ------
    BundleError
        It is not a bundle, of another format, or a file is missing, changed or added.
    """
    if not (folder / SUMS).is_file():
        raise BundleError(f"{folder} is not a bundle: it has no {SUMS}; expected a folder made by `edgerev build`")
    try:
        found = compare(folder)
    except ValueError as error:
        raise _damaged(folder, str(error)) from error
    told = [f"{path} is missing" for path in found.missing] + [f"{path} does not belong to it" for path in found.added]
    if told:
        raise _damaged(folder, ", ".join(told))
    if found.changed:
        raise _damaged(folder, f"{', '.join(found.changed)}: the bytes are not those that were written")
    manifest = _read_manifest(folder, found.wanted)
    paths = sorted([*found.wanted, SUMS])
    return Bundle(folder, found.name, manifest, paths, sum((folder / path).stat().st_size for path in paths))


def _damaged(folder: Path, what: str) -> BundleError:
    return BundleError(f"{folder} is damaged: {what}; expected the files as they were made; run `edgerev build` again")


def _read_manifest(folder: Path, wanted: dict[str, str]) -> Manifest:
    try:
        data = json.loads((folder / MANIFEST).read_text())
        found = data["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({error})") from error
    if found != FORMAT:
        raise BundleError(f"{folder} has format {found}; expected {FORMAT}; make it with the edgerev that pushes it")
    try:
        manifest = Manifest(**data)
        told = {path: entry["sha256"] for path, entry in manifest.files.items()}
    except (TypeError, AttributeError, KeyError) as error:
        raise _damaged(folder, f"{MANIFEST} lacks a field ({error})") from error
    if told != {path: digest for path, digest in wanted.items() if path != MANIFEST}:
        raise _damaged(folder, f"{MANIFEST} and {SUMS} tell different files")
    for path in (INSTALLER, *PACKAGE, *NEEDED):
        if path not in told:
            raise _damaged(folder, f"{path} is not part of it")
    return manifest

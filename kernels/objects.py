"""Compile the kernels to object files, and link one into this process: what needs Numba.

An object is compiled once, in a process of its own, and kept in the user's cache under a name that changes with the
sources, the compiler and the processor; so a training process never holds the compiler.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from edgerev.errors import KernelError, UsageError
from edgerev.files import write_whole
from edgerev.kernels.targets import VARIABLE, Target
from edgerev.machine import cache_folder


def object_path(target: Target) -> Path:
    """Return where the object for `target` lies or will lie; the name holds a digest of all that it depends on.

    Raises
    ------
    KernelError
        The compiler is not installed, or there is no home folder to keep anything in.
    """
    digest = hashlib.sha256(repr(target).encode())
    try:
        for package in ("numba", "llvmlite"):
            digest.update(metadata.version(package).encode())
    except metadata.PackageNotFoundError as error:
        raise KernelError(
            f"compiling the kernels needs {package}, which is not installed; install it: "
            f"{sys.executable} -m pip install 'edgerev[jit]'"
        ) from error
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    try:
        folder = cache_folder()
    except UsageError as error:
        raise KernelError(str(error)) from error
    return folder / "kernels" / f"{target.name}-{digest.hexdigest()[:DIGITS]}.o"


DIGITS, KEPT = 24, 8  # of a digest in the name of an object; objects of one target
# Not `-m`: it puts the working directory first among the places to import from.
COMPILER = (
    sys.executable, "-c", "import sys; del sys.path[0]; from edgerev.kernels.compile import main; sys.exit(main())"
)  # fmt: skip
_unkept: dict[Path, tempfile.TemporaryDirectory] = {}  # objects that the cache could not take, for this process


def build(target: Target) -> Path:
    """Compile the executor for `target` unless that was done; return the object's path.

    Of processes that build at one time, one compiles and the others wait for it. A cache that cannot be written costs
    its purpose only: the object then lies in a temporary folder until this process ends.

    Raises
    ------
    KernelError
        The compiler is missing or failed (the message ends with what it said), or no folder can be written.
    """
    path = object_path(target)
    if _is_whole(path):
        return path
    if path in _unkept:
        return Path(_unkept[path].name) / path.name
    with _lock(path.parent / f"{target.name}.lock"):
        if _is_whole(path):  # compiled while this process waited
            return path
        data = _compile(target)
        try:
            write_whole(str(_digest_path(path)), [hashlib.sha256(data).hexdigest().encode()])
            write_whole(str(path), [data])
            _prune(path.parent, target)
            return path
        except OSError as reason:
            return _write_unkept(path, data, reason)


def _digest_path(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _is_whole(path: Path) -> bool:
    """Return whether the object is there, with the bytes that were compiled: linking others would crash the process."""
    try:
        return _digest_path(path).read_bytes() == hashlib.sha256(path.read_bytes()).hexdigest().encode()
    except OSError:
        return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock if the folder can be written; where it cannot, nothing is shared that needs one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "w")  # noqa: SIM115
    except OSError:
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(target: Target) -> bytes:
    print(f"edgerev: compiling kernels for {target.name}, once; about 20 s", file=sys.stderr, flush=True)
    environment = {**os.environ, VARIABLE: target.name}
    done = subprocess.run(COMPILER, env=environment, capture_output=True)
    if done.returncode or not done.stdout:
        raise KernelError(
            f"compiling the kernels for {target.name} failed:\n"
            + done.stderr.decode(errors="replace")[-2000:]
        )
    return done.stdout


def _prune(folder: Path, target: Target) -> None:
    """Remove the objects of sources long changed; a few stay, for several checkouts may share the folder."""
    old = sorted(folder.glob(f"{target.name}-{'[0-9a-f]' * DIGITS}.o"), key=os.path.getmtime)[:-KEPT]
    for path in old:
        path.unlink(missing_ok=True)
        _digest_path(path).unlink(missing_ok=True)


def _write_unkept(path: Path, data: bytes, reason: OSError) -> Path:
    try:
        folder = tempfile.TemporaryDirectory(prefix="edgerev-")
        write_whole(str(Path(folder.name) / path.name), [data])
    except OSError as error:
        raise KernelError(
            f"compiled kernels cannot be written, neither to {path.parent} ({reason}) nor to a temporary folder "
            f"({error}); set XDG_CACHE_HOME to a folder with some room"
        ) from error
    print(
        f"edgerev: {path.parent} cannot be written ({reason}), so kernels are compiled at every start; "
        "set XDG_CACHE_HOME to a folder that can be",
        file=sys.stderr, flush=True,
    )
    _unkept[path] = folder
    return Path(folder.name) / path.name


_engines: list[object] = []  # the code lives as long as the process


def link(data: bytes) -> Callable[[str], int]:
    """Link an object into this process; return what gives the address of a symbol in it, or 0."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(data))
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address

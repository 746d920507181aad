"""Bring a bundle to a device over the system's OpenSSH, and install it there.

The bundle is verified here, its fitness asked for, then it is streamed as a tar to `deploy/device/root.py` and
installed by its own `device/install.py`, which checks everything again. What runs on the device starts from
`current`, a symbolic link that changes in one step and last of all.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgerev.deploy.bundle import DEVICE, INSTALLER, Bundle, verify
from edgerev.deploy.device.root import FOLDER
from edgerev.errors import BundleError, UsageError
from edgerev.kernels.targets import TARGETS, decode_features
from edgerev.units import format_bytes

ROOT = "~/.local/share/edgerev"
SSH = "ssh"
_VENV_BYTES = 32 << 20  # an empty virtual environment with pip
_PROBE_MARK = "edgerev-probe "  # shells may greet on standard output
_KEPT = "the device keeps running what it had"


@dataclass(frozen=True)
class Device:
    """What a device says about itself.

    Attributes
    ----------
    root : folder of its bundles, as an absolute path
    machine, python, libc : architecture as wheels name it, and versions
    free : bytes on the disk of the root
    writable : whether the root can be made or written
    foreign : whether the root holds something and is not edgerev's
    processor : AT_HWCAP on ARM, the names of the processor's flags on x86
    current, previous : names of the bundles there, or ""
    missing : modules of Python that were asked for and are not there
    """

    root: str
    machine: str
    python: str
    libc: str
    free: int
    writable: bool
    foreign: bool
    processor: int | list[str]
    current: str
    previous: str
    missing: list[str]


class _CutError(BundleError):
    """The connection failed, so what became of the command is not known."""


class _RefusedError(BundleError):
    """The installer on the device said why it does not want to."""


class Host:
    """A device, reached by ssh.

    Parameters
    ----------
    name : as ssh takes it: a host, ``user@host``, or a name from ssh's configuration
    ssh : the command with its options, as ``ssh -p 2222 -i key``

    Raises
    ------
    UsageError
        A name or a command that is none.
    """

    def __init__(self, name: str, ssh: str = SSH) -> None:
        try:
            self._ssh = shlex.split(ssh)
        except ValueError as error:
            raise UsageError(f"--ssh {ssh!r}: {error}; expected words as in a shell; close the quotes") from error
        if not name or name.startswith("-") or not name.isprintable() or not self._ssh:
            raise UsageError(f"host {name!r}, --ssh {ssh!r}: expected user@host and a command; add what is missing")
        self.name = name

    def run(
        self, words: Sequence[str], *, report: Callable[[str], None], send: Callable[[IO[bytes]], None] | None = None
    ) -> None:
        """Run a command on the device, telling its output line by line; `send` writes its input.

        Raises
        ------
        BundleError
            There is no ssh, the connection failed, or the command did; the message tells why in the device's words.
        """
        with tempfile.TemporaryFile() as said:
            command = [*self._ssh, "-T", self.name, shlex.join(words)]  # a terminal would change the bytes
            try:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
            except OSError as error:
                advice = "on Debian: apt install openssh-client"
                raise BundleError(f"{command[0]} cannot be started ({error}); {advice}") from error
            with process:
                reader = threading.Thread(target=_tell_lines, args=(process.stdout, report))
                reader.start()
                try:
                    _feed(process.stdin, send)
                except BaseException:
                    process.terminate()
                    raise
                reader.join()
            said.seek(0)
            text = said.read().decode(errors="replace").strip()
        if process.returncode:
            raise self._failure(process.returncode, text)

    def _failure(self, code: int, text: str) -> BundleError:
        mark = "edgerev: error: "
        if mark in text:
            before, _, reason = text.rpartition(mark)
            more = "\n".join(line for line in before.splitlines() if line)
            kind = _RefusedError if code == 1 else BundleError  # else a bundle there is damaged
            return kind(f"{self.name}: {reason}" + (f"\n{more}" if more else ""))
        if code == 127:
            return BundleError(f"{self.name} lacks a program: {text}; on Debian: apt install python3 python3-venv")
        if code == 255 or code < 0:
            return _CutError(f"the connection to {self.name} failed or was cut: {text or f'ssh ended with {code}'}")
        return BundleError(f"the command on {self.name} failed with {code}: {text or 'it said nothing'}")

    def ask(self, root: str, modules: Sequence[str] = ()) -> Device:
        """Return what the device says about itself, with respect to the folder `root` and some modules."""
        lines: list[str] = []
        self.run(["python3", "-c", (DEVICE / "probe.py").read_text(), root, *modules], report=lines.append)
        for line in lines:
            if _PROBE_MARK in line:
                return Device(**json.loads(line.partition(_PROBE_MARK)[2]))
        raise BundleError(f"{self.name} did not answer what it is; expected Python 3 there; it said: {lines}")


def _tell_lines(stream: Any, report: Callable[[str], None]) -> None:
    for line in stream:
        report(line.decode(errors="replace").rstrip().removeprefix("edgerev: "))


def _feed(stream: Any, send: Callable[[IO[bytes]], None] | None) -> None:
    """Write the input of a command; if it stopped reading, its exit code and what it said tell more than that."""
    try:
        with stream:
            if send:
                send(stream)
    except BrokenPipeError:
        pass


def push(
    folder: Path, host: Host, *, root: str = ROOT, report: Callable[[str], None] = print,
    advance: Callable[[int], None] = lambda count: None,
) -> str:
    """Install the bundle in `folder` on `host`; return its name.

    Parameters
    ----------
    folder : a bundle
    host : the device
    root : where bundles lie on the device
    report : is told what is being done
    advance : is told the bytes of each file that was sent

    Raises
    ------
    BundleError
        The bundle is damaged or does not fit the device, the connection was cut, or the device refused it. What ran
        there runs on.
    """
    bundle = verify(folder)
    report(f"bundle {bundle.name[:12]} for {bundle.manifest.target}: {len(bundle.paths)} files are whole")
    needed = [module for module, _ in bundle.manifest.system]
    device = host.ask(root, ["venv", "ensurepip", *needed])
    check_fit(bundle, device, host.name)
    try:
        if bundle.name not in (device.current, device.previous) or not _runs_there(bundle, device, host, report):
            report(f"sending {format_bytes(bundle.nbytes)} to {host.name}")
            words = ["python3", "-c", (DEVICE / "root.py").read_text(), device.root, bundle.name]
            host.run(words, report=report, send=lambda stream: _send(bundle, stream, advance))
    except _CutError as error:
        raise BundleError(
            f"{error}\nthe device runs what it had, or this bundle if all of it had arrived; push again, that tells"
        ) from error
    except BundleError as error:
        raise BundleError(f"{error}\n{_KEPT}") from error
    return bundle.name


def _runs_there(bundle: Bundle, device: Device, host: Host, report: Callable[[str], None]) -> bool:
    """Let a bundle that is on the device check, repair and switch to itself; return False if it has to be sent again.

    Raises
    ------
    BundleError
        The connection was cut, or the installer refuses for another reason than a damaged bundle.
    """
    report(f"{host.name} has this bundle already; trying it there")
    try:
        host.run(["sh", f"{device.root}/bundles/{bundle.name}/{INSTALLER}", "--path", device.root], report=report)
    except (_CutError, _RefusedError):
        raise
    except BundleError as error:
        report(f"it cannot be used as it is ({error})")
        return False
    return True


def check_fit(bundle: Bundle, device: Device, name: str) -> None:
    """Raise BundleError unless the device called `name` can take the bundle, as far as can be told from here."""
    wants = bundle.manifest
    problems = []
    if wants.architecture != device.machine:
        problems.append(f"the bundle is for {wants.target} ({wants.architecture}), the device is {device.machine}; "
                        "make one for it: `edgerev build --list` shows the targets")  # fmt: skip
    if device.python not in wants.pythons:
        problems.append(f"the bundle has wheels for Python {', '.join(wants.pythons)}, the device has {device.python}; "
                        f"make it with `edgerev build --python {device.python}`")  # fmt: skip
    if _numbers(device.libc) < _numbers(wants.libc or "0"):
        problems.append(f"the bundle needs GNU libc {wants.libc} or newer, the device has {device.libc}; "
                        "update its system")  # fmt: skip
    debian = {"venv": f"python{device.python}-venv", "ensurepip": f"python{device.python}-venv", **dict(wants.system)}
    packages = list(dict.fromkeys(debian[module] for module in device.missing))
    if packages:
        problems.append(f"the device lacks {', '.join(device.missing)}; on it: sudo apt install {' '.join(packages)}")
    lacks = _lacks(wants.target, device) if wants.architecture == device.machine else []
    if lacks:
        problems.append(f"the bundle is for {wants.target}, whose processor has {', '.join(lacks)}; the device's has "
                        f"not; make one for it, or for a generic target: `edgerev build --list`")  # fmt: skip
    if not FOLDER.fullmatch(device.root):
        problems.append(f"{device.root!r} has letters that units and scripts do not take; expected letters, digits and "
                        "/._+- only; name another folder with --path")  # fmt: skip
    if device.foreign:
        problems.append(f"{device.root} is not empty and not edgerev's; expected a new or an empty folder; name one "
                        "with --path")  # fmt: skip
    if not device.writable:
        problems.append(f"{device.root} cannot be written; name another folder with --path")
    needed = disk_bytes(bundle, device.python)
    if device.free < needed and bundle.name not in (device.current, device.previous):
        problems.append(f"the bundle needs {format_bytes(needed)} in {device.root}, the device has "
                        f"{format_bytes(device.free)} free; free some, or name another folder with --path")  # fmt: skip
    if problems:
        raise BundleError("\n".join([*(f"{name}: {problem}" for problem in problems), f"nothing was sent; {_KEPT}"]))


def _lacks(name: str, device: Device) -> list[str]:
    """Return the features that the kernels for the target called `name` use and the device's processor has not."""
    target = TARGETS.get(name)
    if target is None:
        return []
    told = device.processor
    has = decode_features(target.architecture, told) if isinstance(told, int) else frozenset(told)
    return sorted({*target.requires} - has)


def disk_bytes(bundle: Bundle, python: str) -> int:
    """Return the bytes that a bundle takes on a device's disk once it is installed for a version of Python."""
    tag = f"-cp{python.replace('.', '')}-"
    unpacked = 0
    for path in bundle.paths:
        if path.endswith(".whl") and (tag in path or "-py3-" in path or "-abi3-" in path):
            try:
                with zipfile.ZipFile(bundle.folder / path) as wheel:
                    unpacked += sum(info.file_size for info in wheel.infolist())
            except zipfile.BadZipFile as error:
                raise BundleError(f"{bundle.folder / path} is not a wheel ({error}); make the bundle again") from error
    return bundle.nbytes + 2 * unpacked + _VENV_BYTES  # twice, for the code that Python compiles


def rollback(host: Host, *, root: str = ROOT, report: Callable[[str], None] = print) -> str:
    """Make the previous bundle of `host` the current one, and the other way round; return its name.

    Raises
    ------
    BundleError
        There is no previous bundle, or it does not run any more; nothing changed.
    """
    device = host.ask(root)
    if not device.previous or device.previous == device.current:
        raise BundleError(
            f"{host.name} has no previous bundle in {device.root}; expected two that were pushed; push the one you want"
        )
    words = ["sh", f"{device.root}/previous/{INSTALLER}", "--path", device.root, "--rollback"]
    try:
        host.run(words, report=report)
    except BundleError as error:
        raise BundleError(f"{error}\n{_KEPT}") from error
    return device.previous


def _send(bundle: Bundle, stream: IO[bytes], advance: Callable[[int], None]) -> None:
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        for path in bundle.paths:
            entry = tarfile.TarInfo(path)
            with open(bundle.folder / path, "rb") as file:
                entry.size, entry.mode = file.seek(0, 2), 0o644
                file.seek(0)
                archive.addfile(entry, file)
            advance(entry.size)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))

"""The folder on a device that holds its bundles: whose it is, which bundle is current, and how a bundle comes in.

`edgerev push` runs this file on the device, as ``python3 -c TEXT ROOT NAME``: then it takes a bundle as a tar from
standard input and lets the bundle's own installer go on. So it imports the standard library only, and is free of
backslashes, which some login shells change.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import os
import re
import select
import shutil
import signal
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

MARKER, SUMS, VENV = ".edgerev-root", "SHA256SUMS", "venv"
CURRENT, PREVIOUS, WAITING, NEW = "current", "previous", ".previous-next", ".link-new"
LOCK_SECONDS = 10.0
SILENCE_SECONDS = 60.0
_WORD = "[A-Za-z0-9_+!-][A-Za-z0-9_.+!-]*"  # so no "..", and nothing that a shell would take for more than a name
PATH = re.compile(f"{_WORD}(?:/{_WORD})*")
FOLDER = re.compile(r"/[A-Za-z0-9/._+-]*")  # where bundles may lie: part of units and scripts' first lines
_LINE = re.compile(f"([0-9a-f]{{64}})  ({PATH.pattern})")
_BUNDLE = re.compile("[0-9a-f]{64}")


class RefusedError(Exception):
    """What was asked for cannot be done; `code` is the exit code."""

    code = 1


class DamagedError(RefusedError):
    """Files of a bundle are not what they should be, so it has to come again; `files` are those too many or changed."""

    code = 3

    def __init__(self, text: str, files: list[str]) -> None:
        super().__init__(text)
        self.files = files


class Comparison(NamedTuple):
    """A bundle's files beside its sums: its name, what the sums tell, and what differs."""

    name: str
    wanted: dict[str, str]
    missing: list[str]
    changed: list[str]
    added: list[str]


def digest(path: Path) -> str:
    """Return the sha256 of a file, "" of what is none."""
    found = hashlib.sha256()
    if path.is_symlink() or not path.is_file():
        return ""
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def files_in(folder: Path) -> list[str]:
    """Return everything in a folder that is not a folder, by its path from there, without the virtual environment."""
    paths = []
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and VENV in folders:
            folders.remove(VENV)
        paths += [Path(place) / name for name in (*folders, *files)]
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_symlink() or not path.is_dir())


def compare(folder: Path) -> Comparison:
    """Compare every file of a bundle with its sum.

    Raises
    ------
    ValueError
        There are no sums, or they are not a list of sums.
    """
    sums = folder / SUMS
    if not sums.is_file():
        raise ValueError(f"it has no {SUMS}")
    matches = [_LINE.fullmatch(line) for line in sums.read_text(errors="replace").splitlines()]
    if not matches or None in matches:
        raise ValueError(f"{SUMS} is not a list of sums")
    wanted = {match[2]: match[1] for match in matches if match}
    there = set(files_in(folder))
    changed = [path for path, told in wanted.items() if path in there and digest(folder / path) != told]
    added = sorted(there - wanted.keys() - {SUMS})
    return Comparison(digest(sums), wanted, sorted(wanted.keys() - there), sorted(changed), added)


def check_files(folder: Path) -> Comparison:
    """Compare every file of a bundle with its sum, and refuse it unless all are as they were made."""
    try:
        found = compare(folder)
    except ValueError as error:
        raise DamagedError(f"the bundle is damaged: {error}; copy or push it again", []) from error
    told = []
    if found.missing or found.changed:
        told.append(f"files are missing or changed: {', '.join([*found.missing, *found.changed])}")
    if found.added:
        told.append(f"these files do not belong to it: {', '.join(found.added)}")
    if told:
        text = f"the bundle is damaged: {'; '.join(told)}; copy or push it again"
        raise DamagedError(text, found.changed + found.added)
    return found


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Root:
    """The folder of a device's bundles.

    Parameters
    ----------
    path : an absolute path without links
    """

    def __init__(self, path: Path) -> None:
        self.path, self.bundles = path, path / "bundles"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder edgerev's, or see that it is, and keep others from changing it meanwhile."""
        marker = self.path / MARKER
        if self.path.is_dir() and not marker.exists() and any(self.path.iterdir()):
            raise RefusedError(
                f"{self.path} is not empty, and has no {MARKER} that makes it edgerev's; expected a new or an empty "
                "folder; name another one with --path"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(marker, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._wait_for(lock)
            yield
        finally:
            os.close(lock)

    def _wait_for(self, lock: int) -> None:
        end = time.monotonic() + LOCK_SECONDS  # a receiver whose connection was cut is about to end
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    raise RefusedError(
                        f"something else is being installed in {self.path}; expected one at a time; wait until it is "
                        "done, then try again"
                    ) from None
            time.sleep(0.05)

    def bundle_of(self, link: str) -> str:
        """Return the name of the bundle that a link points to, or ""."""
        try:
            return os.path.basename(os.readlink(self.path / link))
        except OSError:
            return ""

    def place(self, name: str) -> Path:
        """Return where a bundle lies once it is installed."""
        return self.bundles / name

    def incoming(self, name: str) -> Path:
        """Return where a bundle lies while it comes."""
        return self.path / f"incoming-{name}"

    def point(self, link: str, name: str) -> None:
        """Let a link point to a bundle, in one step; to none for ""."""
        new = self.path / NEW
        remove(new)
        if name:
            os.symlink(f"bundles/{name}", new)
            os.replace(new, self.path / link)
        else:
            remove(self.path / link)

    def switch(self, name: str) -> None:
        """Make a bundle current, in one step; `settle` makes what was current before the previous one, or not."""
        if before := self.bundle_of(CURRENT):
            self.point(WAITING, before)
        os.sync()  # so that no power cut leaves a link to files that never reached the disk
        self.point(CURRENT, name)
        os.sync()

    def settle(self) -> None:
        """Finish a switch, also one that a power cut stopped: if it happened, what waits becomes the previous one."""
        waiting = self.bundle_of(WAITING)
        if waiting and waiting != self.bundle_of(CURRENT):
            os.replace(self.path / WAITING, self.path / PREVIOUS)
        else:
            remove(self.path / WAITING)
        remove(self.path / NEW)
        os.sync()

    def remove_others(self, source: Path | None = None) -> None:
        """Remove the bundles, whole or not, that are neither current nor previous nor `source`; nothing else ever."""
        kept = {self.place(self.bundle_of(link)) for link in (CURRENT, PREVIOUS, WAITING)} | {source}
        for folder, prefix in ((self.bundles, ""), (self.path, "incoming-")):
            for entry in os.listdir(folder) if folder.is_dir() else ():
                ours = entry.startswith(prefix) and _BUNDLE.fullmatch(entry.removeprefix(prefix))
                if ours and folder / entry not in kept:
                    remove(folder / entry)


class _Patience:
    """Standard input; it ends after a silence, since a cable that is pulled leaves the connection, and a lock, open."""

    def read(self, size: int) -> bytes:
        return os.read(0, size) if select.select([0], [], [], SILENCE_SECONDS)[0] else b""


def unpack(stream: Any, folder: Path) -> None:
    """Write the files of a tar, and refuse anything else in it."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for entry in archive:
                data = archive.extractfile(entry) if entry.isreg() else None
                if data is None or not PATH.fullmatch(entry.name):
                    raise RefusedError(f"the bundle did not arrive whole: {entry.name!r} is no file; push it again")
                place = folder / entry.name
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(place, "xb") as file:
                    shutil.copyfileobj(data, file)
    except (tarfile.TarError, FileExistsError) as error:
        raise RefusedError(f"the bundle did not arrive whole ({error}); push it again") from error


def receive(root: Root, name: str) -> int:
    """Take the bundle called `name` from standard input and let its own installer go on; return the exit code."""
    with root.locked():
        root.remove_others()
        incoming = root.incoming(name)
        try:
            incoming.mkdir()
            unpack(_Patience(), incoming)
            if check_files(incoming).name != name:
                raise RefusedError("the bundle did not arrive whole: its sums are not those sent; push it again")
            sys.dont_write_bytecode = True
            sys.path.insert(0, str(incoming))
            code: int = importlib.import_module("device.install").main(["--path", str(root.path)], locked=True)
            return code
        finally:
            remove(incoming)


def end_by_exception() -> None:
    """Let signals that end a process raise, so that what is half done is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, end)


def fail(error: Exception) -> int:
    """Tell why there is an end, if somebody still listens; return the exit code."""
    with contextlib.suppress(OSError):
        print(f"edgerev: error: {error}", file=sys.stderr, flush=True)
    return error.code if isinstance(error, RefusedError) else 1


def main(path: str, name: str) -> int:
    """Receive a bundle."""
    end_by_exception()
    try:
        return receive(Root(Path(path)), name)
    except (RefusedError, OSError) as error:
        return fail(error)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

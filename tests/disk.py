"""A disk that loses power: what a process did to a folder is recorded, and cut off anywhere.

`c/disk.c`, loaded before the process's other libraries, records its real calls. A cut takes the records up to a point
and keeps of each file what was synced, and of the rest nothing, a part, or pieces torn at any boundary, in any
combination; of the names in the folder those that were synced, and some of the later ones, in their order. This is
after Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), whose ALICE does so to find bugs.
"""

import mmap
import os
import select
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parent / "c" / "disk.c"
PIECES = (512, 4096, 509, 1)  # bytes between the boundaries at which what was not synced may be torn
LOST_FILES = ("-shm", "lock")  # need not survive: the index of the log, which SQLite makes anew, and what is locked


def build_library(folder):
    """Compile what is preloaded; return its path."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc here; on Debian: apt install gcc libc6-dev")
    path = folder / "libdisk.so"
    words = ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", SOURCE, "-o", path, "-ldl", "-pthread"]
    subprocess.run(words, check=True)
    return path


class Record(NamedTuple):
    """A call: its kind as in `c/disk.c`, the file's inode, and what belongs to it."""

    kind: str
    inode: int
    offset: int
    data: bytes


class Disk:
    """A folder, and a process whose calls on it are recorded."""

    def __init__(self, library, folder):
        self.library, self.folder = library, folder / "disk"
        self.log, self.trouble = folder / "log", folder / "trouble"
        self.folder.mkdir()
        self.trouble.write_bytes(bytes(8))

    def environment(self):
        return {
            **os.environ, "LD_PRELOAD": str(self.library), "DISK_FOLDER": str(self.folder),
            "DISK_LOG": str(self.log), "DISK_TROUBLE": str(self.trouble),
        }  # fmt: skip

    def strike(self, error, *, growing=False):
        """Let calls end with an error number from now on (0: no more); or only those that need more room."""
        with open(self.trouble, "r+b") as file, mmap.mmap(file.fileno(), 8) as words:
            words[:] = struct.pack("2i", error, growing)

    def run(self, command, lines=None):
        """Record a process until it has said so many lines, and kill it; return whether it ended before."""
        self.before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        self.log.unlink(missing_ok=True)
        child = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, env=self.environment())
        got, ended = b"", False
        while not ended and (lines is None or got.count(b"\n") < lines):
            assert select.select([child.stdout], [], [], 60)[0], "the process says nothing any more"
            piece = os.read(child.stdout.fileno(), 4096)
            got, ended = got + piece, not piece
        if not ended:
            child.kill()
        child.stdout.close()
        assert child.wait() == (0 if ended else -signal.SIGKILL)
        return ended

    def records(self):
        data, at, found = memoryview(self.log.read_bytes()), 0, []
        while at < len(data):
            kind, inode, offset, length = struct.unpack_from("4q", data, at)
            found.append(Record(chr(kind), inode, offset, bytes(data[at + 32 : at + 32 + length])))
            at += 32 + length
        return found

    def cut(self, random, at=None):
        """Leave in the folder what may be there if the power went at a record; return what was said before it."""
        records = self.records()
        at = random.randint(0, len(records)) if at is None else at
        contents = Contents(self.before, records[:at])
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for name, content in contents.after_cut(random).items():
            (self.folder / name).write_bytes(content)
        return b"".join(record.data for record in records[:at] if record.kind == "A").decode().splitlines()


class File:
    """What a file has for certain, and what was done to it since."""

    def __init__(self, content=b""):
        self.synced, self.since = bytearray(content), []

    def sync(self):
        self.synced = apply(self.synced, self.since)
        self.since = []

    def after_cut(self, random):
        """Return the content after a cut."""
        how = random.choice(("nothing", "beginning", "scattered", "garbled", "all"))
        if how == "nothing" or not self.since:
            return bytes(self.synced)
        if how == "all":
            return bytes(apply(self.synced, self.since))
        pieces = torn(self.since, random.choice(PIECES))
        if how == "beginning":
            pieces = pieces[: random.randrange(len(pieces) + 1)]
        else:
            share = random.random()
            pieces = [piece for piece in pieces if random.random() < share]
        if how == "garbled" and pieces:
            place = random.randrange(len(pieces))
            offset, data = pieces[place]
            pieces[place] = offset, data and random.randbytes(len(data))
        return bytes(apply(self.synced, pieces))


class Contents:
    """The files of a folder, as records change them."""

    def __init__(self, before, records):
        self.names = {name: File(content) for name, content in before.items()}
        self.synced, self.since = dict(self.names), []  # names, and the tables of names that came after
        self.files = {}  # by inode
        for record in records:
            self._take(record)

    def _take(self, record):
        kind, inode, offset, data = record
        if kind == "O" and data_name(data) in self.names:
            self.files[inode] = self.names[data_name(data)]
        elif kind == "W":
            self.files[inode].since.append((offset, data))
        elif kind == "T":
            self.files[inode].since.append((offset, None))
        elif kind == "F":
            self.files[inode].sync()
        elif kind == "D":
            self.synced, self.since = self.names, []
        elif kind in "CULR":
            self._name(kind, inode, [data_name(path) for path in data.split(b"\0")])

    def _name(self, kind, inode, paths):
        self.names = dict(self.names)
        if kind == "C":
            self.names[paths[0]] = self.files[inode] = File()
        elif kind == "U":
            del self.names[paths[0]]
        else:
            self.names[paths[1]] = self.names[paths[0]] if kind == "L" else self.names.pop(paths[0])
        self.since.append(self.names)

    def now(self):
        """Return the content of each file as processes see it."""
        return {name: bytes(apply(file.synced, file.since)) for name, file in self.names.items()}

    def after_cut(self, random):
        """Return the content of each file after a cut."""
        names = random.choice([self.synced, *self.since])
        contents = {file: file.after_cut(random) for file in dict.fromkeys(names.values())}
        return {name: contents[file] for name, file in names.items() if not name.endswith(LOST_FILES)}


def data_name(path):
    return os.path.basename(path.decode())


def torn(calls, size):
    """Return calls of writing with none across a boundary."""
    found = []
    for offset, data in calls:
        if data is None:
            found.append((offset, None))
            continue
        least = max(size, len(data) // 64)  # bounds the work for long writes
        start = 0
        while start < len(data):
            end = min(len(data), start + least - (offset + start) % least)
            found.append((offset + start, data[start:end]))
            start = end
    return found


def apply(content, calls):
    """Return content after writing (offset, data) and truncating (size, None)."""
    content = bytearray(content)
    for offset, data in calls:
        end = offset + len(data or b"")
        if len(content) < end:
            content += bytes(end - len(content))
        if data is None:
            del content[end:]
        else:
            content[offset:end] = data
    return content

"""The few system calls that safe files are made of: reading at a place, writing all, locking, making it last."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator


def read_at(fd: int, view: memoryview, offset: int) -> int:
    """Read from `offset` until `view` is full or the file ends, without moving the file's position.

    Parameters
    ----------
    fd : int
        A descriptor open for reading; threads may share it.
    view : memoryview
        Writable, C-contiguous; written in place.
    offset : int
        In bytes from the start of the file.

    Returns
    -------
    int
        Bytes read; fewer than `view.nbytes` only at the end of the file.
    """
    size = view.nbytes
    if size == 0:
        return 0
    done = os.preadv(fd, [view], offset)
    if done in (0, size):
        return done
    rest = view.cast("B")
    while done < size:
        count = os.preadv(fd, [rest[done:]], offset + done)
        if count == 0:
            break
        done += count
    return done


def write_all(fd: int, view: memoryview) -> None:
    """Write every byte of `view` at the file's position; a single `os.write` may stop short.

    Parameters
    ----------
    fd : int
        A descriptor open for writing.
    view : memoryview
        One-dimensional, of bytes.
    """
    done = 0
    while done < view.nbytes:
        done += os.write(fd, view[done:])


def open_exclusive(path: str, *, wait: bool, keep: bool = False) -> int:
    """Create an empty file, or empty the one a crash left behind, held under an exclusive lock.

    The name is fixed, unlike that of a `tempfile`, so that crash after crash cannot fill a device with leftovers.
    The lock goes when the descriptor is closed or the process dies.

    Parameters
    ----------
    path : str
        The temporary file.
    wait : bool
        Whether to wait for another process that holds it.
    keep : bool
        Whether to keep what is in a file that is there.

    Returns
    -------
    int
        A descriptor open for reading and writing.

    Raises
    ------
    BlockingIOError
        If another process holds the file and `wait` is false.
    OSError
        If the file cannot be created.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The file may have been renamed or removed by its last holder while this process waited for the lock.
            if _is_file_of(fd, path):
                if not keep:
                    os.ftruncate(fd, 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def unlink_own(fd: int, path: str) -> None:
    """Remove a temporary file on failure, unless the name is another process's by now.

    Parameters
    ----------
    fd : int
        From `open_exclusive`, still open and so still locked.
    path : str
        The temporary file.
    """
    with contextlib.suppress(OSError):
        if _is_file_of(fd, path):
            os.unlink(path)


def fsync_folder(folder: str) -> None:
    """Make the names in a folder survive a power cut; renaming alone reaches the disk whenever it likes.

    Parameters
    ----------
    folder : str
        The folder.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_whole(path: str, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file that a power cut leaves as it was or as it will be; links are followed.

    Parameters
    ----------
    path : str
        The file.
    parts : iterable of bytes or memoryview
        What it is to hold, one after another.

    Raises
    ------
    OSError
        If it cannot be written; it is as it was.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.tmp")
    fd = open_exclusive(temporary, wait=True)
    try:
        for part in parts:
            write_all(fd, memoryview(part))
        os.fsync(fd)
        os.replace(temporary, target)
    finally:
        unlink_own(fd, temporary)
        os.close(fd)
    fsync_folder(folder)


@contextlib.contextmanager
def file_in_memory() -> Iterator[tuple[int, str]]:
    """Give a descriptor and a path of a file that never touches the disk, for flash wears out; it goes at the end."""
    fd = os.memfd_create("edgerev")
    try:
        yield fd, f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _is_file_of(fd: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))

"""One file that holds a model: written so that a power cut leaves a whole one, read only if every bit is right.

The file has the safetensors format (https://github.com/huggingface/safetensors, "Format"): the header's length as a
little-endian uint64, the header in JSON, the tensors' bytes end to end. It is written here rather than by the
`safetensors` package, whose writer takes all tensors as `bytes` and so holds the file's contents in memory a second
time, where edgerev promises a fixed amount; the package reads the files (test).

The metadata's first key is `sha256`, over the whole file with the 64 digits of the checksum taken as zeros. It
stands at a fixed place, so it is filled in after the data has streamed past, and found without trusting the header.

The order of `save`, after which the named file is always a whole checkpoint, the old one or the new one:

1. Write and fsync the temporary file `.<name>.tmp`.
2. Hard-link the present file as `.<name>.old.tmp`.
3. Rename the temporary file to the name; fsync the folder.
4. Rename the link to `<name>.previous`; fsync the folder.

`<name>.previous` is replaced last, so it too is whole all along. A file system without hard links (FAT) gets 2 and 4
as one rename before 3: then for a moment only `<name>.previous` exists. A crash leaves at most the two hidden files;
their names are fixed, so the next save removes them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from math import prod

from edgerev.digest import sha256
from edgerev.errors import CheckpointError, UsageError
from edgerev.files import fsync_folder, open_exclusive, unlink_own, write_all

MAX_HEADER_BYTES = 100_000_000
CHUNK_BYTES = 1 << 18
HEADER_CHUNK_BYTES = 1 << 14
ITEM_BYTES = dict.fromkeys(("BOOL", "U8", "I8"), 1) | dict.fromkeys(("U16", "I16", "F16", "BF16"), 2)
ITEM_BYTES |= dict.fromkeys(("U32", "I32", "F32"), 4) | dict.fromkeys(("U64", "I64", "F64"), 8)
LENGTH_BYTES = 8
OPENING = b'{"__metadata__":{"sha256":"'
NO_DIGEST = b"0" * 64
DIGEST_AT = LENGTH_BYTES + len(OPENING)
DIGEST_END = DIGEST_AT + len(NO_DIGEST)
_NO_ROOM_CHECK = (errno.EOPNOTSUPP, errno.EINVAL)  # of a file system that cannot set room aside
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

# Iterated several times: a deep net has so many tensors that even a list of them would be megabytes.
Tensors = Iterable[tuple[str, str, Sequence[int], memoryview]]


def previous_path(path: str | os.PathLike[str]) -> str:
    """Name the generation before a checkpoint: its path, links followed, with `.previous` added."""
    return os.path.realpath(path) + ".previous"


def save(path: str | os.PathLike[str], tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a checkpoint, keeping the one before it as `<path>.previous`.

    Nothing of the tensors is copied; they must not change meanwhile.

    Parameters
    ----------
    path : str or os.PathLike
        The file; links are followed.
    tensors : iterable of (name, dtype, shape, view)
        In the order of the file; iterated several times. The dtype is safetensors' name, such as 'F32'; the view is
        C-contiguous, of any item type, and holds exactly the shape's bytes in little-endian order.
    metadata : mapping of str to str
        Any keys but `sha256`.

    Raises
    ------
    UsageError
        If the arguments do not fit together; nothing is written.
    CheckpointError
        If the file cannot be written; the old files are as they were.
    """
    _check(tensors, metadata)
    with _saving(path) as (fd, temporary, target):
        write(fd, tensors, metadata)
        os.fsync(fd)
        _replace(temporary, target)


def write(fd: int, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Write a checkpoint into an open, empty file.

    Parameters
    ----------
    tensors, metadata
        As for `save`.

    Raises
    ------
    UsageError
        If the arguments do not fit together; nothing is written.
    OSError
        If the file cannot be written.
    """
    _write(fd, _check(tensors, metadata), tensors, metadata)


def rehearse(path: str | os.PathLike[str], tensors: Tensors) -> None:
    """Make the temporary file of a save with room for all tensors, and remove it, before work goes into them.

    Parameters
    ----------
    path, tensors
        As for `save`.

    Raises
    ------
    CheckpointError
        If the file could not be written; the old files are as they were.
    """
    size = sum(view.nbytes for _, _, _, view in tensors)
    with _saving(path) as (fd, _, _):
        try:
            os.posix_fallocate(fd, 0, max(size, 1))
        except OSError as error:
            if error.errno not in _NO_ROOM_CHECK:
                raise


def _check(tensors: Tensors, metadata: Mapping[str, str]) -> int:
    """Return the bytes of the header's text, padded; UsageError if something does not fit together."""
    if "sha256" in metadata or not all(isinstance(text, str) for text in chain.from_iterable(metadata.items())):
        raise UsageError("metadata must map str to str without the key sha256; convert the values, for one to JSON")
    names = {"__metadata__"}
    for name, dtype, shape, view in tensors:
        if name in names or dtype not in ITEM_BYTES:
            raise UsageError(f"tensor {name!r} of {dtype}; expected a new name and one of {', '.join(ITEM_BYTES)}")
        names.add(name)
        need = prod(shape) * ITEM_BYTES[dtype]
        if view.nbytes != need or not view.c_contiguous:
            raise UsageError(
                f"tensor {name!r} has a view of {view.nbytes} bytes; expected {need} contiguous ones for {dtype} "
                f"{list(shape)}; pass the whole tensor"
            )
    size = sum(map(len, _header(tensors, metadata)))
    # The data starts at a multiple of 8, as in the files of the safetensors package.
    size += -size % 8
    if size > MAX_HEADER_BYTES:
        raise UsageError(f"the header would have {size} bytes; expected at most {MAX_HEADER_BYTES}; shorten it")
    return size


def _header(tensors: Tensors, metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the header's text in pieces, one for each tensor, so that it is never there as a whole."""
    separators = (",", ":")
    yield json.dumps({"__metadata__": {"sha256": NO_DIGEST.decode(), **metadata}}, separators=separators)[:-1].encode()
    end = 0
    for name, dtype, shape, view in tensors:
        entry = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + view.nbytes]}
        yield f",{json.dumps(name)}:{json.dumps(entry, separators=separators)}".encode()
        end += view.nbytes
    yield b"}"


def _write(fd: int, header_bytes: int, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    digest, joined = sha256(), bytearray(header_bytes.to_bytes(LENGTH_BYTES, "little"))

    def write(chunk: memoryview) -> None:
        digest.update(chunk)
        write_all(fd, chunk)

    left = header_bytes
    for piece in _header(tensors, metadata):
        joined += piece
        left -= len(piece)
        if len(joined) >= HEADER_CHUNK_BYTES:
            write(memoryview(joined))
            joined = bytearray()
    write(memoryview(joined + b" " * left))
    for _, _, _, view in tensors:
        if view.nbytes == 0:
            continue
        data = view.cast("B")
        for start in range(0, data.nbytes, CHUNK_BYTES):
            write(data[start : start + CHUNK_BYTES])
    os.pwrite(fd, digest.hexdigest().encode(), DIGEST_AT)


def _replace(temporary: str, target: str) -> None:
    """Put the temporary file in place and the present one aside; see the module's docstring for the order."""
    folder, name = os.path.split(target)
    link = os.path.join(folder, f".{name}.old.tmp")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
    linked = os.path.exists(target)
    try:
        if linked:
            os.link(target, link)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _replace_without_link(temporary, target, folder)
        return
    try:
        os.replace(temporary, target)
    except OSError:
        if linked:
            os.unlink(link)
        raise
    fsync_folder(folder)
    if linked:
        # Missing only if another process began its own save between these lines, which then sets .previous.
        with contextlib.suppress(FileNotFoundError):
            os.replace(link, previous_path(target))
        fsync_folder(folder)


def _replace_without_link(temporary: str, target: str, folder: str) -> None:
    os.replace(target, previous_path(target))
    fsync_folder(folder)
    try:
        os.replace(temporary, target)
    except OSError:
        os.replace(previous_path(target), target)
        raise
    fsync_folder(folder)


@contextmanager
def _saving(path: str | os.PathLike[str]) -> Iterator[tuple[int, str, str]]:
    """Give a descriptor of the temporary file, its path and that of the target; remove it if it is still there."""
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name}.tmp")
    try:
        if os.path.lexists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise FileExistsError(errno.EEXIST, "it is no regular file")
        fd = open_exclusive(temporary, wait=False)
        try:
            yield fd, temporary, target
        finally:
            unlink_own(fd, temporary)
            os.close(fd)
    except BlockingIOError as error:
        raise CheckpointError(
            f"{target} is being saved by another process; expected to be the only one; let it finish, or save elsewhere"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot save {target} ({error}); expected room for it beside the old one, in a folder that can be "
            "written; what was there is still whole: free some space or name another folder, then save again"
        ) from error

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
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from math import prod
from typing import Any, NamedTuple

from edgerev.data.files import fsync_folder, open_exclusive, read_at, unlink_own, write_all
from edgerev.errors import CheckpointError, UsageError

MAX_HEADER_BYTES = 100_000_000
CHUNK_BYTES = 1 << 18
ITEM_BYTES = dict.fromkeys(("BOOL", "U8", "I8"), 1) | dict.fromkeys(("U16", "I16", "F16", "BF16"), 2)
ITEM_BYTES |= dict.fromkeys(("U32", "I32", "F32"), 4) | dict.fromkeys(("U64", "I64", "F64"), 8)
_LENGTH_BYTES = 8
_OPENING = b'{"__metadata__":{"sha256":"'
_NO_DIGEST = b"0" * 64
_DIGEST_AT = _LENGTH_BYTES + len(_OPENING)
_DIGEST_END = _DIGEST_AT + len(_NO_DIGEST)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)

Tensors = Sequence[tuple[str, str, Sequence[int], memoryview]]


class Entry(NamedTuple):
    """Where a tensor lies: its dtype by safetensors' name, shape, first byte in the file, and size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Header(NamedTuple):
    """What a checkpoint says about itself."""

    metadata: dict[str, str]
    tensors: dict[str, Entry]


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
    tensors : sequence of (name, dtype, shape, view)
        In the order of the file. The dtype is safetensors' name, such as 'F32'; the view is C-contiguous, of any
        item type, and holds exactly the shape's bytes in little-endian order.
    metadata : mapping of str to str
        Any keys but `sha256`.

    Raises
    ------
    UsageError
        If the arguments do not fit together; nothing is written.
    CheckpointError
        If the file cannot be written; the old files are as they were.
    """
    header = _encode_header(tensors, metadata)
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    temporary, link = os.path.join(folder, f".{name}.tmp"), os.path.join(folder, f".{name}.old.tmp")
    with _saving(target):
        if os.path.lexists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise FileExistsError(errno.EEXIST, "it is no regular file")
        fd = open_exclusive(temporary, wait=False)
        try:
            _write(fd, header, tensors)
            os.fsync(fd)
            _replace(temporary, target, link, folder)
        finally:
            unlink_own(fd, temporary)
            os.close(fd)


class Whole(NamedTuple):
    """A checkpoint that is open and was verified."""

    path: str | os.PathLike[str]
    fd: int
    header: Header


@contextmanager
def verified(path: str | os.PathLike[str]) -> Iterator[Whole]:
    """Open a checkpoint and check every bit of it; what is `read` inside is that file, whatever takes its name.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint or any bit of it changed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(
            f"cannot open the checkpoint {os.fspath(path)} ({error}); expected a file made by save; {_way_out(path)}"
        ) from error
    try:
        with _reading(path):
            header = _verify(path, fd)
        yield Whole(path, fd, header)
    finally:
        os.close(fd)


def verify(path: str | os.PathLike[str]) -> Header:
    """Check every bit of a checkpoint against its checksum, in a small fixed buffer.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    Header
        Metadata (without the checksum) and tensors.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint or any bit of it changed.
    """
    with verified(path) as whole:
        return whole.header


def read(whole: Whole, into: Mapping[str, memoryview]) -> None:
    """Read all tensors of a checkpoint that was verified.

    Parameters
    ----------
    into : mapping of str to memoryview
        For each tensor a writable, C-contiguous view of exactly its size in bytes; written in place.

    Raises
    ------
    UsageError, CheckpointError
        As for `check_fit`, with the views untouched; or the file cannot be read to its end, and they are a mixture.
    """
    path, fd, header = whole
    check_fit(whole, into)
    with _reading(path):
        for name, view in into.items():
            if read_at(fd, view, header.tensors[name].offset) != view.nbytes:
                raise _damaged(path, "it became shorter while it was read")


def check_fit(whole: Whole, into: Mapping[str, memoryview]) -> None:
    """Check that views can take the tensors of a checkpoint; see `read`.

    Raises
    ------
    UsageError
        A view is read-only or not contiguous.
    CheckpointError
        The tensors are not those of `into` by name and size.
    """
    path, header = whole.path, whole.header
    for name, view in into.items():
        if view.readonly or not view.c_contiguous:
            raise UsageError(f"the buffer for {name} cannot be filled; expected a writable, C-contiguous one; pass it")
    missing = sorted(into.keys() - header.tensors.keys())
    extra = sorted(header.tensors.keys() - into.keys())
    sizes = [
        f"{name} has {header.tensors[name].nbytes} bytes, not {into[name].nbytes}"
        for name in into
        if name in header.tensors and header.tensors[name].nbytes != into[name].nbytes
    ]
    if missing or extra or sizes:
        problems = [f"lacks {', '.join(missing[:3])}"] if missing else []
        problems += [f"has {', '.join(extra[:3])} besides"] if extra else []
        problems += sizes[:3]
        raise CheckpointError(
            f"{os.fspath(path)} belongs to another net: it {'; '.join(problems)}; expected the {len(into)} tensors of "
            "this net; load it with the net it was saved from"
        )


def _encode_header(tensors: Tensors, metadata: Mapping[str, str]) -> bytearray:
    if "sha256" in metadata or not all(isinstance(text, str) for text in chain.from_iterable(metadata.items())):
        raise UsageError("metadata must map str to str without the key sha256; convert the values, for one to JSON")
    entries: dict[str, Any] = {"__metadata__": {"sha256": _NO_DIGEST.decode(), **metadata}}
    end = 0
    for name, dtype, shape, view in tensors:
        if name in entries or dtype not in ITEM_BYTES:
            raise UsageError(f"tensor {name!r} of {dtype}; expected a new name and one of {', '.join(ITEM_BYTES)}")
        need = prod(shape) * ITEM_BYTES[dtype]
        if view.nbytes != need or not view.c_contiguous:
            raise UsageError(
                f"tensor {name!r} has a view of {view.nbytes} bytes; expected {need} contiguous ones for {dtype} "
                f"{list(shape)}; pass the whole tensor"
            )
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + need]}
        end += need
    text = json.dumps(entries, separators=(",", ":")).encode()
    # The data starts at a multiple of 8, as in the files of the safetensors package.
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise UsageError(f"the header would have {len(text)} bytes; expected at most {MAX_HEADER_BYTES}; shorten it")
    return bytearray(len(text).to_bytes(_LENGTH_BYTES, "little") + text)


def _write(fd: int, header: bytearray, tensors: Tensors) -> None:
    digest = hashlib.sha256(header)
    write_all(fd, memoryview(header))
    for _, _, _, view in tensors:
        if view.nbytes == 0:
            continue
        data = view.cast("B")
        for start in range(0, data.nbytes, CHUNK_BYTES):
            chunk = data[start : start + CHUNK_BYTES]
            digest.update(chunk)
            write_all(fd, chunk)
    os.pwrite(fd, digest.hexdigest().encode(), _DIGEST_AT)


def _replace(temporary: str, target: str, link: str, folder: str) -> None:
    """Put the temporary file in place and the present one aside; see the module's docstring for the order."""
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
def _saving(target: str) -> Iterator[None]:
    try:
        yield
    except BlockingIOError as error:
        raise CheckpointError(
            f"{target} is being saved by another process; expected to be the only one; let it finish, or save elsewhere"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"cannot save {target} ({error}); expected room for it beside the old one, in a folder that can be "
            "written; what was there is still whole: free some space or name another folder, then save again"
        ) from error


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: str | os.PathLike[str], what: str) -> CheckpointError:
    return CheckpointError(
        f"{os.fspath(path)} is no whole checkpoint: {what}; expected a file made by save; {_way_out(path)}"
    )


def _way_out(path: str | os.PathLike[str]) -> str:
    previous = previous_path(path)
    if os.path.exists(previous):
        return f"the generation before it is in {previous}: load that"
    return "there is no .previous beside it: check the path, or restore a copy"


def _header_bytes(path: str | os.PathLike[str], fd: int) -> bytearray:
    """Read the length and the header, with nothing of it believed but that it fits into the file."""
    size = os.fstat(fd).st_size
    length = bytearray(_LENGTH_BYTES)
    read_at(fd, memoryview(length), 0)
    end = _LENGTH_BYTES + int.from_bytes(length, "little")
    if end - _LENGTH_BYTES > MAX_HEADER_BYTES:
        raise _damaged(path, f"its header would have {end - _LENGTH_BYTES} bytes")
    if end > size:
        raise _damaged(path, f"it has {size} bytes, but its header alone would end at {end}")
    if end < _DIGEST_END:
        raise _damaged(path, "its header is too short to hold a checksum")
    header = bytearray(end)
    if read_at(fd, memoryview(header), 0) != end:
        raise _damaged(path, "it became shorter while it was read")
    return header


def _decode_header(path: str | os.PathLike[str], header: bytearray, size: int) -> Header:
    if header[_LENGTH_BYTES:_DIGEST_AT] != _OPENING:
        raise _damaged(path, "its header has no checksum of edgerev's")
    try:
        fields = json.loads(header[_LENGTH_BYTES:])
        metadata = fields.pop("__metadata__")
        del metadata["sha256"]
        tensors: dict[str, Entry] = {}
        end = len(header)
        for name, field in fields.items():
            entry = _entry(field, len(header))
            if entry.offset != end:
                raise ValueError(f"tensor {name} does not start where the one before it ends")
            tensors[name] = entry
            end += entry.nbytes
        if not all(isinstance(text, str) for text in metadata.values()):
            raise ValueError("metadata that is not text")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error
    if end != size:
        raise _damaged(path, f"it has {size} bytes, but its tensors end at {end}")
    return Header(metadata, tensors)


def _entry(field: dict[str, Any], base: int) -> Entry:
    start, end = field["data_offsets"]
    shape = tuple(field["shape"])
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError("sizes that are not natural numbers")
    if end - start != prod(shape) * ITEM_BYTES[field["dtype"]]:
        raise ValueError("a tensor whose bytes do not fit its shape")
    return Entry(field["dtype"], shape, base + start, end - start)


def _verify(path: str | os.PathLike[str], fd: int) -> Header:
    header = _header_bytes(path, fd)
    found = bytes(header[_DIGEST_AT:_DIGEST_END])
    header[_DIGEST_AT:_DIGEST_END] = _NO_DIGEST
    digest = hashlib.sha256(header)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    at = len(header)
    while count := read_at(fd, buffer, at):
        digest.update(buffer[:count])
        at += count
    if digest.hexdigest().encode() != found:
        raise _damaged(path, "its contents do not match its checksum")
    return _decode_header(path, header, at)

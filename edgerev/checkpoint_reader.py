"""Reading a checkpoint: only if every bit is right, and without ever holding its header or its data as a whole.

A deep net has thousands of tensors, whose entries would take megabytes as Python objects; so the header's JSON is
decoded one entry at a time, whenever the entries are needed.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from math import prod
from typing import Any, NamedTuple

from edgerev.checkpoint import (
    CHUNK_BYTES,
    DIGEST_AT,
    DIGEST_END,
    HEADER_CHUNK_BYTES,
    ITEM_BYTES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    NO_DIGEST,
    OPENING,
    Tensors,
    previous_path,
)
from edgerev.digest import sha256
from edgerev.errors import CheckpointError, UsageError
from edgerev.files import read_at

MOST_NAMED = 3  # in a message


class Entry(NamedTuple):
    """Where a tensor lies: its dtype by safetensors' name, shape, first byte in the file, and size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Whole(NamedTuple):
    """A checkpoint that is open and was verified.

    Attributes
    ----------
    metadata : without the checksum
    """

    path: str
    fd: int
    metadata: dict[str, str]

    def entries(self) -> Iterator[tuple[str, Entry]]:
        """Yield name and place of each tensor, in the order of the file."""
        pairs = _pairs(self.path, self.fd)
        next(pairs)
        base = _header_end(self.path, self.fd)
        for name, field in pairs:
            yield name, _entry(field, base)


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
    path = os.fspath(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(
            f"cannot open the checkpoint {path} ({error}); expected a file made by save; {_way_out(path)}"
        ) from error
    try:
        with _reading(path):
            whole = _verify(path, fd)
        yield whole
    finally:
        os.close(fd)


def read(whole: Whole, tensors: Tensors) -> None:
    """Read all tensors of a checkpoint that was verified.

    Parameters
    ----------
    tensors : iterable of (name, dtype, shape, view)
        As for `save`, with views that can be written; quick if they are in the order of the file. Written in place.

    Raises
    ------
    UsageError, CheckpointError
        As for `check_fit`, with the views untouched; or the file cannot be read to its end, and they are a mixture.
    """
    check_fit(whole, tensors)
    finder = _Finder(tensors)
    with _reading(whole.path):
        for name, entry in whole.entries():
            found = finder.find(name)
            if found is None or read_at(whole.fd, found.view, entry.offset) != entry.nbytes:
                raise _damaged(whole.path, "it became shorter while it was read")


def read_part(whole: Whole, tensors: Tensors) -> None:
    """Read some tensors of a checkpoint that was verified, and leave the others.

    Parameters
    ----------
    tensors : see `read`

    Raises
    ------
    CheckpointError
        One is not in the file, or has another size there; the views are as they were. Or the file cannot be read to its
        end, and they are a mixture.
    """
    finder = _Finder(tensors)
    found = {name: entry for name, entry in whole.entries() if finder.find(name) is not None}
    for name, _, _, view in tensors:
        if name not in found or found[name].nbytes != view.nbytes:
            raise CheckpointError(
                f"{whole.path} belongs to another net: {name} is not in it in {view.nbytes} bytes; expected a "
                "checkpoint of this net; load it with the net it was saved from"
            )
    with _reading(whole.path):
        for name, _, _, view in tensors:
            if read_at(whole.fd, view, found[name].offset) != view.nbytes:
                raise _damaged(whole.path, "it became shorter while it was read")


def check_fit(whole: Whole, tensors: Tensors) -> None:
    """Check that tensors can take those of a checkpoint; see `read`.

    Raises
    ------
    UsageError
        A view is read-only or not contiguous.
    CheckpointError
        The tensors are not those of the checkpoint by name and size.
    """
    for name, _, _, view in tensors:
        if view.readonly or not view.c_contiguous:
            raise UsageError(f"the buffer for {name} cannot be filled; expected a writable, C-contiguous one; pass it")
    problems = list(islice(_misfits(whole, tensors), MOST_NAMED))
    if problems:
        raise CheckpointError(
            f"{whole.path} belongs to another net: it {'; '.join(problems)}; expected the "
            f"{sum(1 for _ in tensors)} tensors of this net; load it with the net it was saved from"
        )


def _misfits(whole: Whole, tensors: Tensors) -> Iterator[str]:
    """Yield what is different in the file."""
    finder = _Finder(tensors)
    seen = bytearray(finder.count)
    with _reading(whole.path):
        for name, entry in whole.entries():
            found = finder.find(name)
            if found is None or seen[found.number]:
                yield f"has {name} besides"
                continue
            seen[found.number] = 1
            if found.view.nbytes != entry.nbytes:
                yield f"has {entry.nbytes} bytes of {name}, not {found.view.nbytes}"
    for (name, *_), there in zip(tensors, seen):
        if not there:
            yield f"lacks {name}"


class _Found(NamedTuple):
    number: int
    view: memoryview


class _Finder:
    """Finds tensors by name without a table: each search goes on from where the last one ended."""

    def __init__(self, tensors: Tensors) -> None:
        self.count = sum(1 for _ in tensors)
        self._tensors, self._rest = tensors, enumerate(tensors)

    def find(self, wanted: str) -> _Found | None:
        for _ in range(self.count):
            step = next(self._rest, None)
            if step is None:
                self._rest = enumerate(self._tensors)
                step = next(self._rest)
            number, (name, _, _, view) = step
            if name == wanted:
                return _Found(number, view)
        return None


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _damaged(path: str, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is no whole checkpoint: {what}; expected a file made by save; {_way_out(path)}")


def _way_out(path: str) -> str:
    previous = previous_path(path)
    if os.path.exists(previous):
        return f"the generation before it is in {previous}: move that to {path}"
    return "there is no .previous beside it: check the path, or restore a copy"


def _header_end(path: str, fd: int) -> int:
    """Return where the header ends, with nothing of it believed but that it fits into the file."""
    size = os.fstat(fd).st_size
    length = bytearray(LENGTH_BYTES)
    read_at(fd, memoryview(length), 0)
    end = LENGTH_BYTES + int.from_bytes(length, "little")
    if end - LENGTH_BYTES > MAX_HEADER_BYTES:
        raise _damaged(path, f"its header would have {end - LENGTH_BYTES} bytes")
    if end > size:
        raise _damaged(path, f"it has {size} bytes, but its header alone would end at {end}")
    if end < DIGEST_END:
        raise _damaged(path, "its header is too short to hold a checksum")
    return end


def _pairs(path: str, fd: int) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of the header's JSON object, one at a time."""
    at, end = LENGTH_BYTES, _header_end(path, fd)
    decode, utf8, text = json.JSONDecoder().raw_decode, codecs.getincrementaldecoder("utf-8")(), ""
    try:
        while True:
            try:
                name, place = decode(text, 1)
                if not isinstance(name, str) or text[place] != ":":
                    raise ValueError("expected a name and a colon")
                value, place = decode(text, place + 1)
                more = text[place] == ","
            except (ValueError, IndexError):  # perhaps only because the text goes on
                if at == end:
                    raise
                # the longer the value, the more at a time, or the work would grow with the square of its length
                chunk = memoryview(bytearray(min(max(HEADER_CHUNK_BYTES, len(text)), end - at)))
                if read_at(fd, chunk, at) != len(chunk):
                    raise ValueError("it became shorter while it was read") from None
                at += len(chunk)
                text += utf8.decode(chunk, at == end)
                continue
            yield name, value
            text = text[place:]
            if not more:
                break
        if text[:1] != "}" or text[1:].strip() or at != end:
            raise ValueError("no object, or more than one")
    except (ValueError, IndexError, RecursionError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error


def _entry(field: dict[str, Any], base: int) -> Entry:
    start, end = field["data_offsets"]
    shape = tuple(field["shape"])
    if not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError("sizes that are not natural numbers")
    if end - start != prod(shape) * ITEM_BYTES[field["dtype"]]:
        raise ValueError("a tensor whose bytes do not fit its shape")
    return Entry(field["dtype"], shape, base + start, end - start)


def _verify(path: str, fd: int) -> Whole:
    start = _header_end(path, fd)
    opening = bytearray(DIGEST_END)
    read_at(fd, memoryview(opening), 0)
    if opening[LENGTH_BYTES:DIGEST_AT] != OPENING:
        raise _damaged(path, "its header has no checksum of edgerev's")
    found = bytes(opening[DIGEST_AT:])
    digest = sha256(opening[:DIGEST_AT] + NO_DIGEST)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    at = DIGEST_END
    while count := read_at(fd, buffer, at):
        digest.update(buffer[:count])
        at += count
    if digest.hexdigest().encode() != found:
        raise _damaged(path, "its contents do not match its checksum")
    whole = Whole(path, fd, _metadata(path, fd))
    end = start
    try:
        for name, entry in whole.entries():
            if entry.offset != end:
                raise ValueError(f"tensor {name} does not start where the one before it ends")
            end += entry.nbytes
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, f"its header cannot be read ({error})") from error
    if end != at:
        raise _damaged(path, f"it has {at} bytes, but its tensors end at {end}")
    return whole


def _metadata(path: str, fd: int) -> dict[str, str]:
    _, metadata = next(_pairs(path, fd))
    del metadata["sha256"]
    if not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged(path, "its header cannot be read (metadata that is not text)")
    return metadata

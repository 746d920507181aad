"""Readers of IDX, NPY, NPZ and CSV that hand out blocks of samples and never hold a whole array.

IDX is the format of Y. LeCun's MNIST page: two zero bytes, a code of the type, the number of dimensions, the
dimensions as big-endian uint32, the values. NPZ members are read through `zipfile`, since `numpy.load` returns whole
arrays. What this does badly: an array in Fortran order is refused, for its samples are not contiguous.
"""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np

from edgerev.data.blocks import BLOCK_BYTES, Block, Part, reading, usable
from edgerev.data.csvfile import open_csv
from edgerev.data.sources import Source
from edgerev.errors import DataError

MAX_SAMPLE_BYTES = 1 << 28
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@contextmanager
def open_part(source: Source, label: str | Sequence[str] | None) -> Iterator[Part]:
    """Open a source for streaming.

    Parameters
    ----------
    source : Source
        The file or pair of files.
    label : str, sequence of str or None
        The target column or columns of a CSV; None for no targets in any format.

    Yields
    ------
    Part
        To be consumed before leaving the context.

    Raises
    ------
    DataError
        If the source cannot be read or its values cannot be used.
    """
    with ExitStack() as stack:
        if source.kind == "csv":
            yield open_csv(stack, source.samples, label)
        else:
            yield _pair(*_open_arrays(stack, source, label is not None))


class _Array(NamedTuple):
    """An array in an open file, about to be read from its first value."""

    name: str
    file: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape[1:])

    def rows(self, per_block: int) -> Iterator[np.ndarray]:
        for start in range(0, self.shape[0], per_block):
            count = min(per_block, self.shape[0] - start)
            block = np.empty((count, *self.shape[1:]), self.dtype)
            with reading(self.name):
                done = _fill(self.file, block.reshape(-1).view(np.uint8).data)
            if done < block.nbytes:
                raise DataError(
                    f"{self.name} ends after {start + done // self.row_bytes} of the {self.shape[0]} entries that its "
                    "header promises; expected all; copy or download it again"
                )
            yield block
        with reading(self.name):
            # Reading past the end is also what makes gzip and zip compare their checksums.
            rest = self.file.read(1)
        if rest:
            raise DataError(f"{self.name} is longer than its header says; expected its end; save it again")


def _fill(file: IO[bytes], view: memoryview) -> int:
    done = 0
    while done < view.nbytes:
        chunk = file.read(min(view.nbytes - done, BLOCK_BYTES))
        if not chunk:
            break
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return done


def _open_arrays(stack: ExitStack, source: Source, labelled: bool) -> tuple[_Array, _Array | None]:
    if source.kind == "npz":
        with reading(str(source.samples)):
            archive = stack.enter_context(zipfile.ZipFile(source.samples))
        keys = source.keys if labelled else source.keys[:1]
        arrays = [_open_member(stack, archive, source.samples, key) for key in keys]
    elif source.kind == "npy" and labelled and source.targets is None:
        raise DataError(
            f"{source.samples} holds samples without targets; expected x*.npy with its targets in y*.npy; rename both"
        )
    elif source.kind == "npy":
        arrays = [_npy_header(str(path), _open(stack, path)) for path in _files(source, labelled)]
    else:
        dims = (3, 1)
        files = _files(source, labelled)
        arrays = [_idx_header(str(path), _open(stack, path), n) for path, n in zip(files, dims, strict=False)]
    return arrays[0], (arrays[1] if labelled else None)


def _files(source: Source, labelled: bool) -> list[Path]:
    return source.files if labelled else source.files[:1]


def _open(stack: ExitStack, path: Path) -> IO[bytes]:
    with reading(str(path)):
        file: IO[bytes] = stack.enter_context(path.open("rb"))
        if path.suffix == ".gz":
            return cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=file)))
        return file


def _open_member(stack: ExitStack, archive: zipfile.ZipFile, path: Path, key: str) -> _Array:
    name = f"{path} ({key})"
    if key + ".npy" not in archive.namelist():
        keys = ", ".join(member.removesuffix(".npy") for member in archive.namelist())
        raise DataError(f"{path} has no array {key}; expected it beside {keys}; save it with np.savez(..., {key}=...)")
    with reading(name):
        file = stack.enter_context(archive.open(key + ".npy"))
    return _npy_header(name, file)


def _npy_header(name: str, file: IO[bytes]) -> _Array:
    with reading(name):
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"NPY version {version}")
    if dtype.hasobject:
        raise DataError(f"{name} holds pickled objects; expected numbers (pickles are never loaded); save an array")
    if fortran and len(shape) > 1:
        raise DataError(
            f"{name} is in Fortran order; expected one sample after the other; save np.ascontiguousarray(array)"
        )
    return _Array(name, file, shape, dtype)


def _idx_header(name: str, file: IO[bytes], ndim: int) -> _Array:
    with reading(name):
        magic = file.read(4)
        sizes = file.read(4 * ndim)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or magic[3] != ndim:
        raise DataError(
            f"{name} starts with 0x{magic.hex()}; expected the IDX magic 0x000008{ndim:02x} (uint8, {ndim} "
            "dimensions); copy or download it again"
        )
    if len(sizes) < 4 * ndim:
        raise DataError(f"{name} ends within its header; expected {ndim} sizes; copy or download it again")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    return _Array(name, file, shape, np.dtype(_IDX_TYPES[magic[2]]))


def _pair(samples: _Array, targets: _Array | None) -> Part:
    shape, dtype = _sample_type(samples)
    target_shape, target_dtype = (None, "int32") if targets is None else _target_type(targets)
    if targets is not None and targets.shape[0] != samples.shape[0]:
        raise DataError(
            f"{samples.name} has {samples.shape[0]} samples but {targets.name} has {targets.shape[0]} targets; "
            "expected as many of both; check that they belong together"
        )
    return Part(samples.name, shape, dtype, target_shape, target_dtype, (), _array_blocks(samples, shape, targets))


def _sample_type(array: _Array) -> tuple[tuple[int, ...], str]:
    if array.dtype.kind not in "buif":
        raise DataError(f"{array.name} holds {array.dtype}; expected integers or floats; convert it")
    if not 2 <= len(array.shape) <= 4 or min(array.shape[1:]) < 1:
        raise DataError(
            f"{array.name} has the shape {array.shape}; expected (samples, features), (samples, time, channels) or "
            "(samples, height, width[, channels]); reshape it"
        )
    if array.row_bytes > MAX_SAMPLE_BYTES:
        raise DataError(
            f"{array.name} has samples of {array.row_bytes} bytes (shape {array.shape}); expected at most "
            f"{MAX_SAMPLE_BYTES}; the header may be damaged: save it again"
        )
    shape = array.shape[1:]
    if len(shape) == 2 and array.dtype == np.uint8:
        shape = (*shape, 1)
    return shape, "uint8" if array.dtype == np.uint8 else "float32"


def _target_type(array: _Array) -> tuple[tuple[int, ...], str]:
    kind, ndim = array.dtype.kind, len(array.shape)
    if kind not in "buifU" or (kind == "U" and ndim != 1) or ndim == 0 or min(array.shape) < 0 or array.row_bytes < 1:
        raise DataError(
            f"{array.name} holds {array.dtype} of shape {array.shape}; expected (samples,) of class labels, or floats "
            "of shape (samples, outputs); convert it"
        )
    if ndim == 1 and kind != "f":
        return (), "int32"
    return array.shape[1:] or (1,), "float32"


def _array_blocks(samples: _Array, shape: tuple[int, ...], targets: _Array | None) -> Iterator[Block]:
    per_block = max(1, BLOCK_BYTES // max(samples.row_bytes, targets.row_bytes if targets else 1))
    target_blocks = None if targets is None else targets.rows(per_block)
    start = 0
    for block in samples.rows(per_block):
        values = usable(block, _place(samples.name, start)).reshape(len(block), *shape)
        if targets is None or target_blocks is None:
            yield values, None
        else:
            yield values, _targets(targets, next(target_blocks), start)
        start += len(block)
    # One more step lets the targets compare their end and checksum, as the samples did.
    for _ in target_blocks or ():
        pass


def _targets(array: _Array, block: np.ndarray, start: int) -> np.ndarray:
    if _target_type(array)[1] == "int32":
        return block
    values = block if block.dtype.kind == "f" else block.astype(np.float32)
    return usable(values, _place(array.name, start)).reshape(len(block), -1)


def _place(name: str, start: int) -> Callable[[tuple[int, ...]], str]:
    def place(where: tuple[int, ...]) -> str:
        column = where[1] if len(where) == 2 else where[1:]
        return f"{name}, row {start + where[0]}, column {column if where[1:] else 0}"

    return place

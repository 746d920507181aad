"""Samples in an NPZ file, as NumPy's `savez` writes it. Importing this imports NumPy."""

from __future__ import annotations

import io
import math
import zipfile
from array import array
from typing import Any, NamedTuple

import numpy as np

from edgerev.errors import DataError

NAMES = ("x", "y", "key")
HEADER_BYTES = 4096  # most of an array's header, far more than NumPy writes


class Arrays(NamedTuple):
    """The arrays of a file.

    Attributes
    ----------
    x : float32 numbers of all samples, one after another
    size : number of samples
    labels : class names or numbers, or None
    keys : the sender's names, or None
    """

    x: array
    size: int
    labels: list | None
    keys: list | None


def read_npz(data: bytes, elements: int, most_bytes: int) -> Arrays:
    """Return the arrays of an NPZ file.

    Parameters
    ----------
    data : the file
    elements : numbers of a sample
    most_bytes : of all arrays; a file that promises more is refused before it is unpacked

    Raises
    ------
    DataError
        It is no NPZ file, is damaged or too large, or its arrays do not fit.
    """
    try:
        found = _read(data, most_bytes)
    except Exception as error:  # neither zipfile nor NumPy says all that they raise for damaged data
        raise DataError(
            f"the body is not an NPZ file ({str(error)[:200]}); expected arrays x, and at will y and key; write it "
            "with numpy.savez"
        ) from error
    x = found["x"]
    if x.dtype.kind not in "biuf" or x.ndim < 1 or x.size != len(x) * elements:
        raise DataError(f"x is {x.dtype} {x.shape}; expected numbers, {elements} for each sample; change it")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(values).all():
        raise DataError("x has values that are not finite; expected float32 numbers; change them")
    labels, keys = (_column(name, found.get(name), kinds, len(x)) for name, kinds in (("y", "iuU"), ("key", "U")))
    return Arrays(array("f", values.tobytes()), len(x), labels, keys)


def _read(data: bytes, most_bytes: int) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if "x" not in names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
            raise ValueError(f"it holds {', '.join(names)[:100] or 'nothing'}")
        promised = sum(member.file_size for member in members)
        if promised > most_bytes:
            raise ValueError(f"{promised} bytes once unpacked; {most_bytes} are the most")
        if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
            raise ValueError("it is packed by another method than deflate")
        return {name: _array(archive.read(member)) for name, member in zip(names, members)}


def _array(content: bytes) -> Any:
    """Return the array of an NPY file that is whole; objects, which could run code, are refused."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, by_column, dtype = read(file, HEADER_BYTES)
    start, count = file.tell(), math.prod(shape)
    if dtype.hasobject or len(content) - start != count * dtype.itemsize:
        raise ValueError(f"{dtype} {shape} in {len(content) - start} bytes")
    flat = np.frombuffer(content, dtype, count, start) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if by_column else "C")


def _column(name: str, column: Any, kinds: str, count: int) -> list | None:
    if column is None:
        return None
    if column.dtype.kind not in kinds or column.shape != (count,):
        raise DataError(
            f"{name} is {column.dtype} {column.shape}; expected one for each of {count} samples, as numpy.savez writes "
            "integers or texts; change it"
        )
    return column.tolist()

"""What every reader of a format hands out: blocks of samples and targets, checked and in the cache's types."""

from __future__ import annotations

import csv
import gzip
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from edgerev.errors import DataError

BLOCK_BYTES = 1 << 18

Block = tuple[np.ndarray, "np.ndarray | None"]


class Part(NamedTuple):
    """One source, opened: what its samples look like, and blocks of samples and targets.

    A block's samples are `(n, *shape)` uint8 or float32; its targets `(n,)` labels of any integer or string type if
    `target_dtype` is int32, else `(n, *target_shape)` float32, or None. `columns` names the features of a CSV.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    target_shape: tuple[int, ...] | None
    target_dtype: str
    columns: tuple[str, ...]
    blocks: Iterator[Block]


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what the readers of the standard library raise into an error that names the file.

    Parameters
    ----------
    name : str
        Of the file, for the message.

    Raises
    ------
    DataError
        In place of any error while reading, unpacking or decoding.
    """
    try:
        yield
    except (
        EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, csv.Error, ValueError,
        tokenize.TokenError, SyntaxError,  # of a .npy header, which NumPy tokenizes where it cannot parse it
    ) as error:
        raise DataError(
            f"{name} is damaged, cut short or not what its name says ({error}); expected a whole file; copy, download "
            "or save it again"
        ) from error
    except (NotImplementedError, RuntimeError) as error:
        raise DataError(f"{name} cannot be unpacked ({error}); expected deflate or nothing; save it so") from error
    except OSError as error:
        raise DataError(f"cannot read {name} ({error}); expected a readable file; check it") from error


def usable(block: np.ndarray, place: Callable[[tuple[int, ...]], str]) -> np.ndarray:
    """Give a block of numbers as uint8 or finite float32.

    Parameters
    ----------
    block : ndarray
        `(rows, ...)` of integers or floats, C-contiguous.
    place : callable
        Turns the indices of a value in the block into words for the message.

    Returns
    -------
    ndarray
        The block itself if uint8, else a float32 copy.

    Raises
    ------
    DataError
        If a value is NaN, infinite or beyond float32.
    """
    if block.dtype == np.uint8:
        return block
    with np.errstate(over="ignore", invalid="ignore"):
        values = block.astype(np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), block.shape))
        raise DataError(
            f"{place(where)} is {block[where]}; expected a number that is finite in float32; remove or repair the "
            "sample"
        )
    return values

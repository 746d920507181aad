"""A data set as fixed-size records on disk, read by `pread` into the caller's buffer.

The samples lie end to end in one region of the file and their targets (a class id, or a row of floats) in a second
one. Two regions rather than a target behind each sample: choosing the samples of some classes then reads 4 bytes
per sample instead of the whole set, the page cache holds a thousand targets per page, and a conversion that learns
the ids of the classes at the end of its single pass writes the targets last. The price is a second system call per
sample. Nothing is kept in memory per sample, neither targets nor the choice of a subset.

Numbers are in the machine's byte order, for the machine that converts a set is the one that reads it.
"""

from __future__ import annotations

import copy
import os
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from math import prod

from edgerev.data.index import MAX_PLACES, Index, SharedFile
from edgerev.errors import DataError, UsageError
from edgerev.files import read_at

ITEM_BYTES = {"uint8": 1, "float32": 4, "int32": 4}
CHUNK_RECORDS = 16384


def differing_column(expected: Sequence[str], found: Sequence[str]) -> tuple[str, str] | None:
    """Give the first pair of names at which two lists of columns differ, "(none)" where one ends; None if alike."""
    pairs = zip(chain(expected, ["(none)"]), chain(found, ["(none)"]), strict=False)
    return next((pair for pair in pairs if pair[0] != pair[1]), None)


class Records:
    """Samples and their targets in a file, in bounded memory.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    offset : int
        Where the first sample starts, in bytes.
    count : int
        Number of samples.
    shape : tuple of int
        Of one sample, channels last: `(features,)`, `(time, channels)` or `(height, width, channels)`.
    dtype : {'uint8', 'float32'}
        Of the samples.
    target_offset : int, optional
        Where the first target starts, in bytes; None if the set has no targets.
    target_shape : tuple of int
        Of one target; `()` for a class id.
    target_dtype : {'int32', 'float32'}
        int32 class ids from 0, or float32 values (several labels, or regression).
    classes : list of str, optional
        The name of each class id.
    columns : tuple of str
        The name of each feature, where the source names them.
    name : str, optional
        What messages call the set, such as the path that it was converted from; `path` by default.

    Raises
    ------
    UsageError
        If a shape, dtype or number makes no sense.
    DataError
        If the file cannot be opened or is shorter than the records it should hold.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        offset: int,
        count: int,
        shape: tuple[int, ...],
        dtype: str,
        *,
        target_offset: int | None = None,
        target_shape: tuple[int, ...] = (),
        target_dtype: str = "int32",
        classes: list[str] | None = None,
        columns: tuple[str, ...] = (),
        name: str | None = None,
    ):
        if dtype not in ("uint8", "float32") or target_dtype not in ("int32", "float32"):
            raise UsageError(
                f"records of {dtype} with targets of {target_dtype}; expected uint8 or float32 with int32 or float32; "
                "convert the source with open_dataset"
            )
        if offset < 0 or not 0 <= count <= MAX_PLACES or not shape or min(*shape, *target_shape, 1) < 1:
            raise UsageError(
                f"{count} records of shape {shape} (targets {target_shape}) at byte {offset}; expected positive "
                "sizes; check the arguments"
            )
        self.path = os.fspath(path)
        self.name = self.path if name is None else name
        self.offset = offset
        self.count = count
        self.shape = tuple(shape)
        self.dtype = dtype
        self.target_offset = target_offset
        self.target_shape = tuple(target_shape)
        self.target_dtype = target_dtype
        self.classes = classes
        self.columns = columns
        self.record_bytes = prod(shape) * ITEM_BYTES[dtype]
        self.target_bytes = 0 if target_offset is None else prod(target_shape) * ITEM_BYTES[target_dtype]
        self._file = SharedFile(self.path)
        self._index: Index | None = None
        self._check_size()

    def __len__(self) -> int:
        return self.count

    @property
    def outputs(self) -> int:
        """Classes, or values of one target."""
        return len(self.classes) if self.classes is not None else prod(self.target_shape)

    def read_into(self, index: int, view: memoryview, target: memoryview | None = None) -> None:
        """Read the bytes of one sample, and of its target at will.

        Parameters
        ----------
        index : int
            0 to count - 1.
        view : memoryview
            `record_bytes` bytes, writable, C-contiguous; written in place.
        target : memoryview, optional
            `target_bytes` bytes, as `view`.

        Raises
        ------
        IndexError
            If there is no such sample.
        UsageError
            If a view's size is wrong, or the set has no targets.
        DataError
            If the file became shorter or cannot be read.
        """
        place = self._place(index)
        self._read(self.offset, self.record_bytes, place, 1, view)
        if target is not None:
            self._read(self._targets(), self.target_bytes, place, 1, target)

    def read_target_into(self, index: int, view: memoryview) -> None:
        """Read the bytes of one target.

        Parameters
        ----------
        index : int
            0 to count - 1.
        view : memoryview
            `target_bytes` bytes, writable, C-contiguous; written in place.

        Raises
        ------
        IndexError
            If there is no such sample.
        UsageError
            If the view's size is wrong, or the set has no targets.
        DataError
            If the file became shorter or cannot be read.
        """
        self._read(self._targets(), self.target_bytes, self._place(index), 1, view)

    def read_block(self, start: int, count: int, view: memoryview) -> None:
        """Read the bytes of `count` samples in a row; as `read_into`, in one system call unless this is a subset."""
        self._read_block(self.offset, self.record_bytes, start, count, view)

    def read_targets(self, start: int, count: int, view: memoryview) -> None:
        """Read the bytes of `count` targets in a row; as `read_target_into`, for many."""
        self._read_block(self._targets(), self.target_bytes, start, count, view)

    def label(self, index: int) -> int:
        """Give the class id of one sample.

        Parameters
        ----------
        index : int
            0 to count - 1.

        Returns
        -------
        int
            The class id, a position in `classes`.

        Raises
        ------
        IndexError
            If there is no such sample.
        UsageError
            If the targets are not class ids.
        DataError
            If the file cannot be read.
        """
        self._need_labels()
        value = array("i", [0])
        self.read_target_into(index, memoryview(value))
        return value[0]

    def labels(self) -> Iterator[int]:
        """Give an iterator over the class ids of all samples, read in blocks; raises as `label`."""
        self._need_labels()
        return self._labels()

    def subset(self, labels: Collection[int], folder: str | os.PathLike[str] | None = None) -> Records:
        """Choose the samples of some classes, in their present order.

        The choice is 4 bytes per sample in an index file on disk without a name, gone when the subset is.

        Parameters
        ----------
        labels : collection of int
            The class ids wanted.
        folder : str or os.PathLike, optional
            Where the index file lies; next to the records by default.

        Returns
        -------
        Records
            A view of the same file, possibly of no samples.

        Raises
        ------
        UsageError
            If the targets are not class ids.
        DataError
            If the index file cannot be written or the records cannot be read.
        """
        wanted = frozenset(labels)
        return self.pick((index for index, label in enumerate(self.labels()) if label in wanted), folder)

    def pick(self, indices: Iterable[int], folder: str | os.PathLike[str] | None = None) -> Records:
        """Choose samples by their indices, in the order given; repeats are allowed.

        Parameters
        ----------
        indices : iterable of int
            Each 0 to count - 1; consumed in blocks, so a generator of any length is fine.
        folder : str or os.PathLike, optional
            Where the index file lies; next to the records by default.

        Returns
        -------
        Records
            A view of the same file.

        Raises
        ------
        IndexError
            If an index is out of range.
        DataError
            If the index file cannot be written.
        """
        where = os.path.dirname(os.path.abspath(self.path)) if folder is None else os.fspath(folder)
        index = Index(where, (self._place(index) for index in indices))
        view = copy.copy(self)
        view._index = index
        view.count = index.count
        return view

    def _check_size(self) -> None:
        need = self.offset + self.count * self.record_bytes
        if self.target_offset is not None:
            need = max(need, self.target_offset + self.count * self.target_bytes)
        size = os.fstat(self._file.fd).st_size
        if size < need:
            raise DataError(
                f"{self._file_name()} has {size} bytes; expected at least {need} for {self.count} records; convert it "
                "again"
            )

    def _file_name(self) -> str:
        """Name the file itself, where it is what a message is about."""
        return self.path if self.path == self.name else f"{self.path}, converted from {self.name},"

    def _targets(self) -> int:
        if self.target_offset is None:
            raise UsageError(f"{self.name} has no targets; expected labels; open it with the label column named")
        return self.target_offset

    def _need_labels(self) -> None:
        self._targets()
        if self.target_dtype != "int32":
            raise UsageError(
                f"the targets of {self.name} are {self.target_dtype} values; expected class ids; open the data set "
                "with a label column of classes"
            )

    def _place(self, index: int) -> int:
        """Where in the file a sample lies, in records."""
        if not 0 <= index < self.count:
            raise IndexError(f"sample {index} of a set of {self.count}")
        if self._index is None:
            return index
        return self._index[index]

    def _read(self, base: int, size: int, place: int, count: int, view: memoryview) -> None:
        if view.nbytes != count * size or view.readonly:
            raise UsageError(
                f"a buffer of {view.nbytes} bytes for {count} records of {size}; expected a writable one of "
                f"{count * size}; size it by record_bytes or target_bytes"
            )
        try:
            done = read_at(self._file.fd, view, base + place * size)
        except OSError as error:
            raise DataError(f"cannot read {self._file_name()} ({error}); expected records; check the disk") from error
        if done != view.nbytes:
            raise DataError(
                f"{self._file_name()} ended inside record {place + done // size}; expected {self.count} records; the "
                "file was cut short while in use: convert it again"
            )

    def _read_block(self, base: int, size: int, start: int, count: int, view: memoryview) -> None:
        if start < 0 or count < 0 or start + count > self.count:
            raise IndexError(f"samples {start} to {start + count} of a set of {self.count}")
        if self._index is None:
            self._read(base, size, start, count, view)
            return
        if view.nbytes != count * size:
            raise UsageError(f"a buffer of {view.nbytes} bytes; expected {count * size} for {count} records")
        whole = view.cast("B")
        for i in range(count):
            self._read(base, size, self._place(start + i), 1, whole[i * size : (i + 1) * size])

    def _labels(self) -> Iterator[int]:
        chunk = array("i", bytes(ITEM_BYTES["int32"] * min(self.count, CHUNK_RECORDS)))
        for start in range(0, self.count, CHUNK_RECORDS):
            count = min(CHUNK_RECORDS, self.count - start)
            self.read_targets(start, count, memoryview(chunk)[:count])
            yield from memoryview(chunk)[:count]

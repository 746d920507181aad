"""Opening a user's data: converted once into a file of records (the cache), and read from there ever after.

The cache may be deleted at any time; it is made again. Its name follows from the source's path and the label, and it
holds a stamp of the files' sizes and times of change: where that differs, a new one replaces it, so that the cache
does not grow with each change. Nothing here needs NumPy unless a conversion does.

File: 8 bytes magic, the header's offset (uint64), zeros up to byte 64, the regions of samples and targets, and at the
end the header in JSON. Numbers are in the machine's byte order.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edgerev.data.records import Records
from edgerev.data.sources import Splits, find
from edgerev.errors import DataError, UsageError
from edgerev.files import fsync_folder, open_exclusive, unlink_own
from edgerev.machine import cache_folder

MAGIC = b"EDGEREC\x03"
MAX_HEADER_BYTES = 1 << 26
HEAD = struct.Struct("=8sQ")
Label = str | Sequence[str] | None


class Dataset(NamedTuple):
    """The two parts of a data set.

    Attributes
    ----------
    digest : sha256 of all records in their order, in hexadecimal digits
    """

    train: Records
    test: Records | None
    digest: str = ""

    def part(self, name: str | None) -> tuple[str, list[Records]]:
        """Return the name and the records of a part: "train", "test" or "all"; None is the test part if there is one.

        Parameters
        ----------
        name : {'train', 'test', 'all'}, optional
            The part.

        Returns
        -------
        tuple of str and list of Records
            "all" for None where there is no test part.

        Raises
        ------
        UsageError
            There is no such part.
        """
        name = name or ("all" if self.test is None else "test")
        if name == "test" and self.test is None:
            raise UsageError(f"{self.train.name} has no test part; expected train.* and test.*; ask for all of it")
        parts: dict[str, list[Records | None]] = {
            "train": [self.train], "test": [self.test], "all": [self.train, self.test],
        }  # fmt: skip
        if name not in parts:
            raise UsageError(f"part {name!r}: expected one of {', '.join(parts)}; change it")
        return name, [records for records in parts[name] if records is not None]


def open_dataset(
    path: str | os.PathLike[str], *, label: Label = "label", cache: str | os.PathLike[str] | None = None
) -> Dataset:
    """Open a data set of any size, converting it on first use.

    Samples that are uint8 stay uint8; all other numbers become float32. An array of 2 dimensions holds feature rows
    `(features,)`; of 3, images `(height, width, 1)` if uint8, else signals `(time, channels)`; of 4,
    `(height, width, channels)`. Targets of one dimension that are integers or strings are class labels and become
    ids in sorted order, the same in both parts; floats, and rows of any type, become float32 targets.

    Parameters
    ----------
    path : str or os.PathLike
        An IDX, NPY, NPZ or CSV file, a folder of them (concatenated in the order of their names), or a folder with
        `train.*` and `test.*` or the folders `train` and `test`.
    label : str, sequence of str or None
        The label column of a CSV; several columns, or one in a list, for float32 targets. None reads any format
        without targets.
    cache : str or os.PathLike, optional
        Folder of the converted sets; `$XDG_CACHE_HOME/edgerev/data` by default.

    Returns
    -------
    Dataset
        The training part, and the test part or None.

    Raises
    ------
    DataError
        If the source cannot be read, is empty, holds numbers that are not finite in float32, or labels that do not
        fit together; or if the cache cannot be written.
    UsageError
        If `label` names no column.
    """
    if label is not None and (not label or not all(isinstance(name, str) and name for name in label)):
        raise UsageError(f"label is {label!r}; expected the name of a column, a list of names, or None; pass one")
    columns = label if label is None or isinstance(label, str) else tuple(label)
    splits = find(Path(path))
    stamp = _stamp(splits, columns)
    name = hashlib.sha256(json.dumps([os.path.realpath(path), columns]).encode()).hexdigest()
    target = (cache_folder() / "data" if cache is None else Path(cache)) / f"{name}.records"
    dataset = _open_converted(target, stamp, os.fspath(path))
    if dataset is None:
        _make(splits, columns, target, stamp)
        if _stamp(splits, columns) != stamp:
            target.unlink(missing_ok=True)
            raise DataError(f"{path} changed while it was read; expected it to stay as it is; try again")
        dataset = _open_converted(target, stamp, os.fspath(path))
    if dataset is None:
        raise DataError(f"{target} vanished while it was opened; expected to keep it; try again, or pass cache=")
    return dataset


def _stamp(splits: Splits, label: Label) -> str:
    """Return a digest of everything that decides a conversion's result."""
    facts: list[object] = [MAGIC.decode("latin-1"), sys.byteorder, label]
    for split, sources in splits.items():
        for source in sources:
            files = source.files[:1] if label is None else source.files
            facts.append((split, source.kind, source.keys, [_file_facts(path) for path in files]))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _file_facts(path: Path) -> tuple[str, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error}); expected a file; check that it is there") from error
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def _open_converted(path: Path, stamp: str, shown: str = "") -> Dataset | None:
    """Open a cache; None if there is none, it is not whole, or of other files."""
    try:
        with path.open("rb") as file:
            magic, at = HEAD.unpack(file.read(HEAD.size))
            file.seek(at)
            header = json.loads(file.read(MAX_HEADER_BYTES))
        if magic != MAGIC or header["stamp"] != stamp:
            return None
        parts = {
            name: Records(
                path,
                part["offset"],
                part["count"],
                tuple(part["shape"]),
                part["dtype"],
                target_offset=part["target_offset"],
                target_shape=tuple(part["target_shape"]),
                target_dtype=part["target_dtype"],
                classes=header["classes"],
                columns=tuple(header["columns"]),
                name=shown,
            )
            for name, part in header["splits"].items()
        }
        return Dataset(parts["train"], parts.get("test"), header["digest"])
    except (OSError, struct.error, ValueError, KeyError, TypeError, OverflowError, DataError, UsageError):
        return None


def _make(splits: Splits, label: Label, target: Path, stamp: str) -> None:
    """Convert into a temporary file and rename it, so that what has the name is whole."""
    from edgerev.data.convert import convert

    temporary = str(target.with_suffix(".part"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd = open_exclusive(temporary, wait=True)
        try:
            # Another process may have finished the same conversion while this one waited for the file.
            if _open_converted(target, stamp) is None:
                with os.fdopen(fd, "wb", closefd=False) as file:
                    convert(splits, label, stamp, file, str(target.parent))
                os.fsync(fd)
                os.replace(temporary, target)
                fsync_folder(str(target.parent))
        finally:
            unlink_own(fd, temporary)
            os.close(fd)
    except OSError as error:
        raise DataError(
            f"cannot write the converted data set {target} ({error}); expected room for all samples; free some "
            "space, or name another folder by cache= or XDG_CACHE_HOME"
        ) from error

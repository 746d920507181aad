"""Writing the file of records (the cache) from sources that are streamed block by block."""

from __future__ import annotations

import json
import re
import tempfile
from typing import IO, Any

import numpy as np

from edgerev.data.dataset import HEAD, MAGIC, Label
from edgerev.data.formats import Part, open_part
from edgerev.data.records import differing_column
from edgerev.data.sources import Source, Splits
from edgerev.errors import DataError

ALIGNMENT = 64
BLOCK_ITEMS = 65536
MAX_CLASSES = 65536
_INTEGER = re.compile(r"[+-]?[0-9]+")


class Labels:
    """Class ids, given by order of appearance while streaming and replaced by sorted ones at the end."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}
        self.classes: list[str] = []
        self.numeric = False

    def encode(self, block: np.ndarray) -> np.ndarray:
        """Give the provisional ids of a block of labels.

        Parameters
        ----------
        block : ndarray
            `(samples,)` of integers, booleans or strings.

        Returns
        -------
        ndarray
            `(samples,)` int32.

        Raises
        ------
        DataError
            If there are more distinct labels than a classifier could have.
        """
        names, inverse = np.unique(block, return_inverse=True)
        texts = (str(name) if block.dtype.kind == "U" else str(int(name)) for name in names)
        ids = np.array([self.seen.setdefault(text, len(self.seen)) for text in texts], np.int32)
        if len(self.seen) > MAX_CLASSES:
            raise DataError(
                f"more than {MAX_CLASSES} distinct labels; expected classes; for real-valued targets use floats, or "
                "name the CSV column in a list: label=['price']"
            )
        return ids[inverse.reshape(-1)]

    def fix(self) -> None:
        """Settle the classes, sorted as numbers if all are integers, else as text."""
        self.numeric = all(_INTEGER.fullmatch(text) for text in self.seen)
        self.classes = sorted({self._name(text) for text in self.seen}, key=int if self.numeric else str)

    def table(self) -> np.ndarray:
        """Map provisional ids to final ones.

        Returns
        -------
        ndarray
            `(labels seen,)` int32.

        Raises
        ------
        DataError
            If a label was seen that is not among the classes.
        """
        ids = {name: i for i, name in enumerate(self.classes)}
        found = [ids.get(self._name(text)) for text in self.seen]
        unknown = [text for text, place in zip(self.seen, found, strict=True) if place is None]
        if unknown:
            raise DataError(
                f"the test part has labels that the training part lacks: {', '.join(unknown[:5])}; expected only "
                f"{', '.join(self.classes[:20])}; add training samples of them, or leave them out"
            )
        return np.array(found, np.int32)

    def _name(self, text: str) -> str:
        # Files may write one number as 1 and 01.
        return str(int(text)) if self.numeric and _INTEGER.fullmatch(text) else text


def convert(splits: Splits, label: Label, file: IO[bytes], folder: str) -> None:
    """Stream all sources into one file of records.

    Parameters
    ----------
    splits : dict of str to list of Source
        'train' first.
    label : str, sequence of str or None
        The target column or columns of CSV files; None for no targets.
    file : binary file
        Empty; written from the start.
    folder : str
        Where targets wait, in a file without a name, until the samples before them are written.

    Raises
    ------
    DataError
        If the sources cannot be read or do not fit together.
    OSError
        If the file cannot be written.
    """
    file.write(bytes(ALIGNMENT))
    labels = Labels()
    first: Part | None = None
    parts = {}
    for split in ("train", "test"):
        if split in splits:
            with tempfile.TemporaryFile(dir=folder) as waiting:
                parts[split], first = _write_split(splits[split], label, labels, first, file, waiting)
                if split == "train":
                    labels.fix()
                _write_targets(parts[split], labels, waiting, file)
    at = _align(file)
    classes = labels.classes if labels.seen else None
    columns = first.columns if first is not None else ()
    file.write(json.dumps({"classes": classes, "columns": columns, "splits": parts}).encode())
    file.seek(0)
    file.write(HEAD.pack(MAGIC, at))


def _write_split(
    sources: list[Source], label: Label, labels: Labels, first: Part | None, file: IO[bytes], waiting: IO[bytes]
) -> tuple[dict[str, Any], Part]:
    offset = _align(file)
    count = 0
    for source in sources:
        with open_part(source, label) as part:
            first = first or part
            _check_alike(first, part)
            for samples, targets in part.blocks:
                file.write(samples.data)
                count += len(samples)
                if targets is not None:
                    ids = labels.encode(targets) if part.target_dtype == "int32" else targets
                    waiting.write(ids.data)
    if first is None or count == 0:
        raise DataError(f"{sources[0].samples} holds no samples; expected at least one; check how it was made")
    facts = {"offset": offset, "count": count, "shape": first.shape, "dtype": first.dtype, "target_offset": None}
    return facts | {"target_shape": first.target_shape or (), "target_dtype": first.target_dtype}, first


def _write_targets(part: dict[str, Any], labels: Labels, waiting: IO[bytes], file: IO[bytes]) -> None:
    if waiting.tell() == 0:
        return
    part["target_offset"] = _align(file)
    table = labels.table() if part["target_dtype"] == "int32" else None
    waiting.seek(0)
    while block := waiting.read(4 * BLOCK_ITEMS):
        file.write(block if table is None else table[np.frombuffer(block, np.int32)].data)


def _check_alike(first: Part, part: Part) -> None:
    facts = (
        ("samples of shape", first.shape, part.shape),
        ("samples of type", first.dtype, part.dtype),
        ("targets of type", first.target_dtype, part.target_dtype),
        ("targets of shape", first.target_shape, part.target_shape),
    )
    for what, expected, found in facts:
        if expected != found:
            raise DataError(
                f"{part.name} has {what} {found}; expected {expected} as in {first.name}; make all files alike"
            )
    differing = differing_column(first.columns, part.columns)
    if differing is not None:
        raise DataError(
            f"{part.name} has the column {differing[1]!r} where {first.name} has {differing[0]!r}; expected the same "
            "columns in the same order; make all files alike"
        )


def _align(file: IO[bytes]) -> int:
    """Pad to where the next region may start, and say where that is."""
    file.write(bytes(-file.tell() % ALIGNMENT))
    return file.tell()

"""Rows of a CSV or NPZ file as samples, in bounded memory; CSV needs no NumPy."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from edgerev.errors import DataError

NO_LABEL = ("", "nan")  # pandas writes the second for the first
Row = tuple[str, dict[str, Any]]  # where it is, for people, and the sample


def read_rows(path: str, elements: int, label: str, classes: Sequence[str], most_line: int) -> Iterator[Row]:
    """Yield the samples of a file whose name ends in .csv or .npz.

    Parameters
    ----------
    elements : values of a sample
    label : the column of a CSV that holds labels, if there is one; an NPZ has x and at will y
    classes : names that labels may be; other labels are class numbers
    most_line : most characters of a line of CSV

    Raises
    ------
    DataError
        The file is damaged, or not of samples of this size.
    OSError
        It cannot be read.
    """
    if path.endswith(".npz"):
        return _npz_rows(path, elements)
    return _csv_rows(path, elements, label, classes, most_line)


def _csv_rows(path: str, elements: int, label: str, classes: Sequence[str], most_line: int) -> Iterator[Row]:
    with _decoding(), open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(_bounded(file, most_line), strict=True)
        header = [name.strip() for name in next(reader, [])]
        target = header.index(label) if label in header else None
        if len(header) != elements + (target is not None) or len(set(header)) < len(header):
            raise DataError(
                f"a first line of {len(header)} names, {', '.join(header)[:200]!r}; expected {elements} different "
                f"ones, and at will {label!r}; add the line of names, or write the columns that the model takes"
            )
        for row in filter(None, reader):
            where = f"line {reader.line_num}"
            if len(row) != len(header):
                raise DataError(f"{where} has {len(row)} fields; expected {len(header)}, as many as columns; repair it")
            y = None if target is None else _class(row.pop(target).strip(), classes)
            try:
                x = [float(text) for text in row]
            except ValueError as error:
                raise DataError(f"{where}: {error}; expected numbers; repair it") from error
            yield where, {"x": x, "y": y}


def _class(text: str, classes: Sequence[str]) -> str | int | None:
    if text in classes:
        return text
    if text.lower() in NO_LABEL:
        return None
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text


def _bounded(file: Any, most: int) -> Iterator[str]:
    while line := file.readline(most + 1):
        if len(line) > most:
            raise DataError(f"a line of over {most} characters, request_bytes; expected a CSV file; check its format")
        yield line


@contextmanager
def _decoding() -> Iterator[None]:
    try:
        yield
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"not CSV ({error}); expected text in UTF-8, with commas; write it so") from error


def _npz_rows(path: str, elements: int) -> Iterator[Row]:
    import zipfile
    from pathlib import Path

    from edgerev.data.blocks import reading
    from edgerev.data.formats import open_part
    from edgerev.data.sources import Source

    with reading(path), zipfile.ZipFile(path) as archive:
        labelled = "y.npy" in archive.namelist()
    with open_part(Source("npz", Path(path)), "y" if labelled else None) as part:
        if math.prod(part.shape) != elements:
            raise DataError(f"samples of shape {part.shape}; expected {elements} values in each; reshape x")
        place = 0
        for x, y in part.blocks:
            labels = [None] * len(x) if y is None else y.tolist()
            for values, label in zip(x.reshape(len(x), -1), labels):
                yield f"row {place}", {"x": values.tolist(), "y": label}
                place += 1

"""Reading CSV as blocks of float32 features and targets.

The first line names the columns, the separator is a comma, the text is UTF-8. A line longer than `MAX_LINE` is
refused: it is what a file of another kind looks like, and it would have to be held in memory.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import numpy as np

from edgerev.data.blocks import BLOCK_BYTES, Block, Part, reading, usable
from edgerev.data.sources import MAX_LINE
from edgerev.errors import DataError

NO_LABEL = ("", "nan")  # pandas writes the second for the first
Line = tuple[int, list[str]]


def open_csv(stack: ExitStack, path: Path, label: str | Sequence[str] | None) -> Part:
    """Open a CSV file for streaming.

    Parameters
    ----------
    stack : ExitStack
        Closes the file.
    path : Path
        The file.
    label : str, sequence of str or None
        One column of class labels, several of float32 targets, or none of them.

    Returns
    -------
    Part
        All other columns are features, in the order of the file.

    Raises
    ------
    DataError
        If the header or a line cannot be used.
    """
    name = str(path)
    with reading(name):
        file = stack.enter_context(path.open(newline="", encoding="utf-8-sig"))
    lines = _lines(name, file)
    header = [column.strip() for column in next(lines, (0, []))[1]]
    wanted = [label] if isinstance(label, str) else list(label or ())
    _check_header(name, header, wanted)
    targets = [header.index(column) for column in wanted]
    features = [i for i in range(len(header)) if i not in targets]
    columns = tuple(header[i] for i in features)
    if isinstance(label, str):
        blocks = _labelled_blocks(name, lines, header, features, targets[0])
        return Part(name, (len(features),), "float32", (), "int32", columns, blocks)
    blocks = _float_blocks(name, lines, header, features, targets)
    shape = (len(targets),) if targets else None
    return Part(name, (len(features),), "float32", shape, "float32" if targets else "int32", columns, blocks)


def _way_to_columns(header: list[str]) -> str:
    """Return what to do about a column that is not there."""
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        return "the columns seem not to be separated by commas; write the file with commas"
    return (
        'name one of these as the label (data.label = "NAME" in the configuration, or --label NAME), or add the line '
        "of names if it is missing"
    )


def _check_header(name: str, header: list[str], wanted: list[str]) -> None:
    if not header:
        raise DataError(f"{name} is empty; expected a line with the names of the columns; add it")
    shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
    missing = [column for column in wanted if column not in header]
    if missing:
        raise DataError(
            f"{name} has no column {', '.join(missing)}; expected it among its columns {shown}; "
            + _way_to_columns(header)
        )
    twice = sorted({column for column in header if header.count(column) > 1}) if len(set(header)) < len(header) else []
    if twice:
        raise DataError(f"{name} has several columns named {twice[0]!r}; expected distinct names; rename them")
    if len(header) == len(wanted):
        raise DataError(f"{name} has the columns {shown} and no other; expected features besides the label; add them")


def _lines(name: str, file: TextIO) -> Iterator[Line]:
    """Give the fields of each line that is not blank, with the line's number."""
    with reading(name):
        reader = csv.reader(_bounded(name, file), strict=True)
        for row in reader:
            if row:
                yield reader.line_num, row


def _bounded(name: str, file: TextIO) -> Iterator[str]:
    while line := file.readline(MAX_LINE):
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise DataError(f"{name} has a line of over {MAX_LINE} characters; expected a CSV file; check its format")
        yield line


def _chunks(name: str, lines: Iterator[Line], header: list[str], size: int) -> Iterator[list[Line]]:
    chunk = []
    for number, row in lines:
        if len(row) != len(header):
            raise DataError(
                f"{name}, line {number} has {len(row)} fields; expected {len(header)}, as many as columns; repair or "
                "remove the line"
            )
        chunk.append((number, row))
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _labelled_blocks(
    name: str, lines: Iterator[Line], header: list[str], features: list[int], target: int
) -> Iterator[Block]:
    for chunk in _chunks(name, lines, header, _chunk_size(header)):
        labels = [row[target].strip() for _, row in chunk]
        missing = next((place for place, text in enumerate(labels) if text.lower() in NO_LABEL), None)
        if missing is not None:
            number = chunk[missing][0]
            raise DataError(f"{name}, line {number} has no {header[target]}; expected a label; fill or remove the line")
        yield _numbers(name, chunk, header, features), np.array(labels)


def _float_blocks(
    name: str, lines: Iterator[Line], header: list[str], features: list[int], targets: list[int]
) -> Iterator[Block]:
    for chunk in _chunks(name, lines, header, _chunk_size(header)):
        yield _numbers(name, chunk, header, features), _numbers(name, chunk, header, targets) if targets else None


def _chunk_size(header: list[str]) -> int:
    # A field is a string object of some 60 bytes until it is a number.
    return max(1, BLOCK_BYTES // (64 * len(header)))


def _numbers(name: str, chunk: list[Line], header: list[str], columns: list[int]) -> np.ndarray:
    block = np.empty((len(chunk), len(columns)), np.float64)
    for i, (number, row) in enumerate(chunk):
        try:
            block[i] = [float(row[column]) for column in columns]
        except ValueError:
            column = next(column for column in columns if not _is_number(row[column]))
            raise DataError(
                f"{name}, line {number}, column {header[column]} is {row[column][:40]!r}; expected a number; repair or "
                "remove the line, or the column if it holds text"
            ) from None
    return usable(block, lambda where: f"{name}, line {chunk[where[0]][0]}, column {header[columns[where[1]]]}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Finding out what a path given as a data set is: which files, in which format, and which split each belongs to."""

from __future__ import annotations

import csv
import os
import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from edgerev.errors import DataError

SUPPORTED = (
    "expected .csv, .npz (keys x and y), x*.npy beside y*.npy, or the IDX files train-images-idx3-ubyte(.gz) and so on"
)
IDX_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
MAX_LINE = 1 << 22
_SUFFIXES = (".csv", ".npz", ".npy")


class Source(NamedTuple):
    """One input of a conversion: a file, or a pair of files with samples and targets."""

    kind: str
    samples: Path
    targets: Path | None = None
    keys: tuple[str, str] = ("x", "y")

    @property
    def files(self) -> list[Path]:
        """All files it reads."""
        return [path for path in (self.samples, self.targets) if path is not None]


Splits = dict[str, list[Source]]


def find(path: Path) -> Splits:
    """List the sources of each split.

    Parameters
    ----------
    path : Path
        A file or a folder.

    Returns
    -------
    dict of str to list of Source
        'train', and 'test' if the source has one.

    Raises
    ------
    DataError
        If nothing there can be read as a data set, or it is ambiguous.
    """
    if path.is_file():
        return _find_in_file(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist; expected a file or a folder with a data set; check the path")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    strange = [entry.name for entry in entries if re.search(r"-idx\d-ubyte(\.gz)?$", entry.name) and not _kind(entry)]
    if strange:
        raise DataError(
            f"{path} has {strange[0]}, which belongs to no split; expected names that begin with "
            f"{', '.join(IDX_SPLITS)}, as train-images-idx3-ubyte; rename it"
        )
    if any(entry.is_dir() and entry.name in ("train", "test") for entry in entries):
        splits = {entry.name: _only_train(entry) for entry in entries if entry.name in ("train", "test")}
    else:
        splits = _find_among(path, [entry for entry in entries if entry.is_file() and _kind(entry)])
    if "train" not in splits:
        raise DataError(f"{path} has a test part alone; expected a training part as well; add it, or rename the file")
    return splits


def column_names(path: str | os.PathLike[str]) -> list[str]:
    """Name the columns of a data set's first CSV file.

    Parameters
    ----------
    path : str or os.PathLike
        A file or a folder.

    Returns
    -------
    list of str
        Empty for other formats, and for a file that cannot be read: whoever opens it will say why.
    """
    first = find(Path(path))["train"][0]
    if first.kind != "csv":
        return []
    try:
        with first.samples.open(newline="", encoding="utf-8-sig") as file:
            return [name.strip() for name in next(csv.reader([file.readline(MAX_LINE)]), [])]
    except (OSError, ValueError, csv.Error):
        return []


def _find_in_file(path: Path) -> Splits:
    kind = _kind(path)
    if kind is None:
        raise DataError(f"{path} has an unsupported name or extension; {SUPPORTED}; convert or rename it")
    if kind == "npz":
        return _find_in_npz(path)
    return {"train": [_source(path, kind)]}


def _find_in_npz(path: Path) -> Splits:
    try:
        with zipfile.ZipFile(path) as archive:
            keys = sorted(name.removesuffix(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no readable NPZ file ({error}); expected a zip of arrays; save it again") from error
    if "x" in keys:
        return {"train": [Source("npz", path)]}
    if "x_train" in keys:
        splits = [split for split in ("train", "test") if f"x_{split}" in keys]
        return {split: [Source("npz", path, keys=(f"x_{split}", f"y_{split}"))] for split in splits}
    raise DataError(
        f"{path} has the keys {', '.join(keys) or '(none)'}; expected x and y, or x_train, y_train, x_test and y_test; "
        "save it with these names"
    )


def _find_among(folder: Path, files: list[Path]) -> Splits:
    """Group the data files of a folder by split, each split in the order of the names."""
    heads = [path for path in files if not _is_partner(path)]
    if not heads:
        raise DataError(f"{folder} has no samples in a supported format; {SUPPORTED}; check the folder")
    if len(heads) == 1 and heads[0].suffix == ".npz":
        return _find_in_npz(heads[0])
    splits: Splits = {}
    for path in heads:
        splits.setdefault(_split(path), []).append(_source(path, _kind(path) or ""))
    if "" in splits:
        if len(splits) > 1:
            raise DataError(
                f"{folder} has {splits[''][0].samples.name} beside files named after a split; expected either train.* "
                "and test.* alone or neither; move the others away"
            )
        splits = {"train": splits[""]}
    for split, sources in splits.items():
        if len({source.kind for source in sources}) > 1:
            names = ", ".join(source.samples.name for source in sources[:5])
            raise DataError(f"the {split} part of {folder} mixes formats ({names}); expected one; move the others away")
    return splits


def _only_train(folder: Path) -> list[Source]:
    splits = find(folder)
    if set(splits) != {"train"}:
        raise DataError(f"{folder} is itself split into train and test; expected one part; pass that folder alone")
    return splits["train"]


def _kind(path: Path) -> str | None:
    if path.suffix in _SUFFIXES:
        return path.suffix[1:]
    name = path.name.removesuffix(".gz")
    if any(name in (f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte") for stem in IDX_SPLITS):
        return "idx"
    return None


def _is_partner(path: Path) -> bool:
    """Whether a file holds only the targets of another."""
    return "-labels-idx1-" in path.name or (path.suffix == ".npy" and path.name.startswith("y"))


def _split(path: Path) -> str:
    if _kind(path) == "idx":
        return IDX_SPLITS[path.name.split("-")[0]]
    stem = path.stem.removeprefix("x_") if path.suffix == ".npy" else path.stem
    return stem if stem in ("train", "test") else ""


def _source(path: Path, kind: str) -> Source:
    if kind == "npy":
        if _is_partner(path):
            raise DataError(f"{path} holds targets alone; expected samples in x*.npy; pass these or the folder of both")
        return Source(kind, path, path.with_name("y" + path.name[1:]) if path.name.startswith("x") else None)
    if kind == "idx":
        if _is_partner(path):
            raise DataError(f"{path} holds labels alone; expected images; pass the folder that has both")
        plain = path.name.removesuffix(".gz").replace("-images-idx3-", "-labels-idx1-")
        pair = [path.with_name(name) for name in (plain, plain + ".gz")]
        return Source(kind, path, pair[0] if pair[0].exists() else pair[1])
    return Source(kind, path)

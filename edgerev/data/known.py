"""Data sets that `edgerev data fetch` knows: where they are, and what is in their files.

A digest is of what a file holds unpacked, for mirrors may pack the same content anew.
"""

from __future__ import annotations

from typing import NamedTuple


class RemoteFile(NamedTuple):
    """A file of a data set.

    Attributes
    ----------
    name : its name on every mirror, and here; `.gz` is unpacked to verify it
    sha256 : of its content, unpacked, in hexadecimal digits
    content_bytes : size of that
    """

    name: str
    sha256: str
    content_bytes: int


class Known(NamedTuple):
    """A data set.

    Attributes
    ----------
    title : what it is
    licence : of its data
    mirrors : URLs of folders, tried in turn
    files : all of them
    """

    title: str
    licence: str
    mirrors: tuple[str, ...]
    files: tuple[RemoteFile, ...]


KNOWN = {
    "mnist": Known(
        "70,000 handwritten digits, 28 x 28 (Y. LeCun, C. Cortes, C. Burges)",
        "CC BY-SA 3.0",
        ("https://storage.googleapis.com/cvdf-datasets/mnist/", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
        (
            RemoteFile(
                "train-images-idx3-ubyte.gz", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                47_040_016,
            ),
            RemoteFile(
                "train-labels-idx1-ubyte.gz", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                60_008,
            ),
            RemoteFile(
                "t10k-images-idx3-ubyte.gz", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                7_840_016,
            ),
            RemoteFile(
                "t10k-labels-idx1-ubyte.gz", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                10_008,
            ),
        ),
    ),
}  # fmt: skip

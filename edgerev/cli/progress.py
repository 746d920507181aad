"""Progress on a terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(total: int, title: str) -> tqdm:
    """Return a bar of `total` samples on standard error, which shows itself on a terminal only."""
    return tqdm(total=total, desc=title, unit=" samples", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)


def transfer(title: str) -> tqdm:
    """Return a bar of bytes on standard error, whose `total` and title are set as they become known."""
    hidden = not sys.stderr.isatty()
    return tqdm(desc=title, unit="B", unit_scale=True, file=sys.stderr, disable=hidden, leave=False)

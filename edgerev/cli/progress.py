"""Progress on a terminal."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(total: int, title: str) -> tqdm:
    """Return a bar of `total` samples on standard error, which shows itself on a terminal only."""
    return tqdm(total=total, desc=title, unit=" samples", file=sys.stderr, disable=not sys.stderr.isatty(), leave=False)

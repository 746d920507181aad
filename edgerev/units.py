"""How byte counts are read and written."""

from __future__ import annotations

import re

from edgerev.errors import UsageError

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
UNITS |= {f"{letter}IB": UNITS[letter] for letter in "KMGT"} | {"B": 1, "TB": 10**12}


def parse_bytes(text: str) -> int:
    """Read a size such as ``48MiB``, ``64M`` or ``1.5G``.

    Parameters
    ----------
    text : str
        A number and a unit: K, M, G, T and KiB, MiB, ... are powers of 1024; kB, MB, ... are powers of 1000.

    Raises
    ------
    UsageError
        If it is not a positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        raise UsageError(f"{text!r} is not a size: give a positive number and a unit, as in 64M, 48MiB or 1.5G")
    return size


def format_bytes(size: int) -> str:
    """Write a byte count for people, in powers of 1024 and four digits at most.

    Parameters
    ----------
    size : int
        Bytes.
    """
    value = float(size)
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(value) >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" or value >= 100 else f"{value:.1f} {units[0]}"

"""Checks of numbers that users set: they must be what a program can hold, an int32 or a finite float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgerev.errors import UsageError

INT32_MAX = 2**31 - 1
FLOAT32_MAX = (2 - 2**-23) * 2.0**127
TINY = 2.0**-126  # the smallest normal float32; what is smaller may become 0
BELOW_ONE = 1 - 2.0**-24  # the largest float32 below 1; what lies between becomes 1


def whole(name: str, value: Any, low: int, high: int, error: type[UsageError] = UsageError) -> int:
    """Return a setting as an int.

    Parameters
    ----------
    name : what the message calls it
    low, high : smallest and largest value
    error : raised if it is no whole number in this range
    """
    if not _is(value, int, "Integral") or not low <= int(value) <= high:
        raise error(f"{name} {value!r}: expected a whole number, {low} .. {high}; change it")
    return int(value)


def finite32(name: str, value: Any, low: float, high: float, error: type[UsageError] = UsageError) -> float:
    """Return a setting as a float that a float32 can hold; see `whole`."""
    if not _is(value, (int, float), "Real") or not low <= value <= high:  # NaN is not between any two
        raise error(f"{name} {value!r}: expected a finite number, {low:.8g} .. {high:.8g}; change it")
    return float(value)


def _is(value: Any, plain: type | tuple[type, ...], kind: str) -> bool:
    """Return whether a value is a number of a kind, other than a bool."""
    if isinstance(value, plain):
        return not isinstance(value, bool)
    import numbers  # only for NumPy's and other libraries' numbers: it takes memory that a device does without

    return isinstance(value, getattr(numbers, kind))


def settle(
    part: Any, error: type[UsageError] = UsageError, **ranges: tuple[Callable[..., int | float], float, float],
) -> None:
    """Check fields of a `Value`, and keep them as plain numbers.

    Parameters
    ----------
    ranges : for each field `whole` or `finite32`, with the smallest and the largest value
    """
    for name, (check, low, high) in ranges.items():
        value = check(f"{type(part).__name__}: {name}", getattr(part, name), low, high, error)
        object.__setattr__(part, name, value)


def of_type(name: str, value: Any, kind: type | tuple[type, ...], example: str, error: type[UsageError]) -> None:
    """Raise `error` unless `value` is of `kind`; the message shows an example of what is."""
    if not isinstance(value, kind):
        raise error(f"{name} {value!r}: expected such as {example}, not {type(value).__name__}; pass one")

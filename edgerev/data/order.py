"""The order of an epoch as a function of (seed, epoch, position), so that no shuffled list is kept or stored.

A generalised Feistel network over Z_a x Z_b, a x b >= count, with cycle walking for the few values past the end
(Black and Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, methods 2 and 3). It shuffles training
data; it is no cipher: its round function is a mixer (Steele et al., "Fast Splittable Pseudorandom Number
Generators", 2014) without any claim of secrecy, and for a handful of samples it does not reach every permutation
equally often.

The order is part of the meaning of a checkpoint. A changed constant here would make a resumed epoch read other
samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

from edgerev.errors import UsageError

# With 4, pairs of positions in sets of ten samples are visibly uneven over many epochs; with 6 they are not.
ROUNDS = 6
_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_FACTOR = 0xD6E8FEB86659FD93


class Permutation:
    """A pseudo-random bijection of `range(count)` in constant memory.

    Parameters
    ----------
    count : int
        Number of samples, 0 to 2^64 - 1.
    seed : int
        Of the run, 0 to 2^64 - 1.
    epoch : int
        Each epoch has an order of its own, 0 to 2^64 - 1.

    Raises
    ------
    UsageError
        If an argument is not an integer in that range.

    Examples
    --------
    >>> sorted(Permutation(5, seed=1, epoch=0))
    [0, 1, 2, 3, 4]
    """

    __slots__ = ("_keys", "_left", "_right", "count", "epoch", "seed")

    def __init__(self, count: int, seed: int, epoch: int):
        for name, value in (("count", count), ("seed", seed), ("epoch", epoch)):
            _check(name, value)
        self.count = count
        self.seed = seed
        self.epoch = epoch
        self._left = isqrt(max(count - 1, 0)) + 1
        self._right = -(-count // self._left)
        self._keys = _round_keys(seed, epoch)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> int:
        """Give the sample at a position of the epoch, 0 to count - 1; IndexError outside."""
        if not 0 <= position < self.count:
            raise IndexError(f"position {position} is outside an epoch of {self.count} samples")
        value = self._encipher(position)
        while value >= self.count:
            value = self._encipher(value)
        return value

    def __iter__(self) -> Iterator[int]:
        return (self[position] for position in range(self.count))

    def _encipher(self, value: int) -> int:
        here, there = self._left, self._right
        right, left = divmod(value, here)
        for key in self._keys:
            mixed = (right ^ key) * _FACTOR & _MASK
            left, right = right, (left + (mixed ^ mixed >> 32)) % here
            here, there = there, here
        return left + right * self._left


def shuffled(count: int, seed: int, stream: int) -> list[int]:
    """Give a pseudo-random order of `range(count)` as a list; unlike `Permutation`, even for a handful it is even.

    Parameters
    ----------
    count : int
        At least 0; each takes some memory.
    seed, stream : int
        0 to 2^64 - 1; each stream of a seed has an order of its own.

    Returns
    -------
    list of int
        Every number once.

    Raises
    ------
    UsageError
        If an argument is not an integer in its range.
    """
    for name, value in (("count", count), ("seed", seed), ("stream", stream)):
        _check(name, value)
    # Keys of SplitMix64 differ from each other, for it is a bijection: there are no ties.
    state = _mix(_mix(seed) + stream & _MASK)
    return sorted(range(count), key=lambda place: _mix(state + _GAMMA * (place + 1) & _MASK))


def _check(name: str, value: int) -> None:
    if not isinstance(value, int) or not 0 <= value <= _MASK:
        raise UsageError(f"{name} is {value!r}; expected an integer from 0 to 2^64 - 1; pass such a number")


def _round_keys(seed: int, epoch: int) -> tuple[int, ...]:
    # SplitMix64 over the seed, then over the epoch, so that (1, 2) and (2, 1) have nothing in common.
    state = _mix(_mix(seed) + epoch & _MASK)
    return tuple(_mix(state + _GAMMA * (i + 1) & _MASK) for i in range(ROUNDS))


def _mix(value: int) -> int:
    value = value + _GAMMA & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31

"""Nets by name: the reference nets ``mlp<N>``, ``har<N>``, ``vis<N>``, and defaults for digits, sensors and images.

The reference nets have `N` blocks of two layers at half width with a ReLU between them, as in the comparison with
peers. The defaults take the shape of the data.
"""

from __future__ import annotations

import re

from edgerev.errors import NetError
from edgerev.layers import Conv1d, Conv2d, Dense, Depthwise, Layer, Pointwise, ReLU, RMSNorm, Shape
from edgerev.net import Block, Head, Net, Squeeze, StateType

REFERENCE: dict[str, tuple[Shape, Layer, tuple[Layer, ...]]] = {
    "mlp": ((64,), Dense(128), (Dense(64), ReLU(), Dense(64))),
    "har": ((128, 9), Conv1d(64, 5), (Conv1d(32, 5), ReLU(), Conv1d(32, 5))),
    "vis": ((32, 32, 3), Conv2d(64, 3), (Conv2d(32, 3), ReLU(), Conv2d(32, 3))),
}
REFERENCE_NAME = re.compile(r"(mlp|har|vis)([1-9][0-9]{0,4})")
DEFAULTS = {"digits": (8, 8, 1), "sensors": (128, 3), "images": (28, 28, 1), "table": (16,)}


def check_name(name: str) -> None:
    """Raise NetError unless a preset has that name."""
    if not REFERENCE_NAME.fullmatch(name) and name not in DEFAULTS:
        from difflib import get_close_matches

        close = get_close_matches(name, DEFAULTS, n=1)
        raise NetError(
            f"no preset {name!r}; expected mlp<N>, har<N>, vis<N> with a number of blocks, such as mlp16, or one of "
            + ", ".join(DEFAULTS) + (f"; did you mean {close[0]!r}?" if close else "")
        )  # fmt: skip


def preset(
    name: str, input_shape: Shape | None = None, outputs: int | None = None, *, state: StateType = "int32",
    head: str = "linear",
) -> Net:
    """Return a net by name.

    Parameters
    ----------
    name : ``mlp16``, ``har12``, ``vis8``, ... or ``digits``, ``sensors``, ``images``, ``table``
    input_shape : shape of one sample, channels last; the preset's own when left out
    outputs : classes, labels or values; 10 when left out
    state : see `Net`
    head : "linear" or "ridge"

    Raises
    ------
    NetError
        No preset has that name, or the shape does not suit it.
    """
    check_name(name)
    answer = Head(10 if outputs is None else outputs, kind=head)  # type: ignore[arg-type]
    found = REFERENCE_NAME.fullmatch(name)
    if found:
        shape, stem, function = REFERENCE[found[1]]
        return Net(input_shape or shape, stem, (Block(function, repeat=int(found[2])),), answer, state)
    shape = tuple(input_shape or DEFAULTS[name])
    if len(shape) != len(DEFAULTS[name]):
        fitting = ", ".join(other for other, like in DEFAULTS.items() if len(like) == len(shape))
        raise NetError(
            f"preset {name!r} is for samples like {DEFAULTS[name]}, not {shape}; choose another preset"
            + (f": {fitting}" if fitting else "")
        )
    makers = {"digits": _digits, "sensors": _sensors, "images": _images, "table": _table}
    return makers[name](shape, answer, state)


def _digits(shape: Shape, head: Head, state: StateType) -> Net:
    """Small images whose positions matter: few blocks, features kept by position."""
    conv = (Conv2d(16), ReLU(), Conv2d(16))
    flat = head.replace(pool="flatten")
    return Net(shape, Conv2d(32), (Block(conv, repeat=2),), flat, state)


def _sensors(shape: Shape, head: Head, state: StateType) -> Net:
    """Windows of signals: halve the length where it is even, then average over time."""
    first = (RMSNorm(), Conv1d(16, 5), ReLU(), Conv1d(16, 5))
    parts: list[Block | Squeeze] = [Block(first, repeat=2)]
    if shape[0] % 2 == 0:
        deep = (RMSNorm(), Depthwise(5), Pointwise(64), ReLU(), Pointwise(32))
        parts += [Squeeze(), Block(deep, repeat=2)]
    return Net(shape, Conv1d(32, 5), tuple(parts), head, state)


def _images(shape: Shape, head: Head, state: StateType) -> Net:
    """Images of a few dozen pixels: two sizes by space-to-depth, then average over positions."""
    height, width = shape[0] % 4, shape[1] % 4
    wide = (RMSNorm(), Conv2d(32), ReLU(), Conv2d(32))
    deep = (RMSNorm(), Depthwise(3), Pointwise(64), ReLU(), Pointwise(128))
    if height or width:
        return Net(shape, Conv2d(64), (Block(wide, repeat=3),), head, state)
    parts = (Squeeze(), Block(wide, repeat=2), Squeeze(), Block(deep, repeat=2))
    return Net(shape, Conv2d(16), parts, head, state)


def _table(shape: Shape, head: Head, state: StateType) -> Net:
    """Rows of features."""
    function = (RMSNorm(), Dense(64), ReLU(), Dense(64))
    return Net(shape, Dense(128), (Block(function, repeat=3),), head, state)

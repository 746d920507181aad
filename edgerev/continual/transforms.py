"""What an experience does to its samples: a fixed order of their values, or a turn of their images.

NumPy is imported when a transform is first applied: a plan, and a device that learns samples as they are, need none.
"""

from __future__ import annotations

from math import cos, isfinite, prod, radians, sin
from typing import TYPE_CHECKING, Any, Protocol

from edgerev.errors import DataError, UsageError
from edgerev.numbers import whole
from edgerev.value import Value

if TYPE_CHECKING:
    import numpy as np

# Places in the image are rounded to this share of a pixel. What sine and cosine leave in the last bits, which differs
# between machines, is gone then, and quarter turns are exact.
GRID = 1 << 20
MOST_SIDE = 1 << 15


class Transform(Protocol):
    """What turns the samples of a data set into those of an experience."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return transformed samples: `(samples, *shape)`, of the same shape and type as `x`, which is left as is."""


class Permutation(Value):
    """A fixed order of the values of a sample, the same for all samples.

    Parameters
    ----------
    order : sequence of int
        For each place in the result, flattened, the place that its value comes from; every place once.

    Raises
    ------
    UsageError
        `order` is no permutation.

    References
    ----------
    Goodfellow et al. 2013, "An empirical investigation of catastrophic forgetting in gradient-based neural networks"
    (there "input reformatting"); Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks".
    """

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        order = tuple(self.order)
        if not order or sorted(order) != list(range(len(order))):
            raise UsageError(
                f"an order of {len(order)} values: expected every place from 0 to {len(order) - 1} once; pass a "
                "permutation"
            )
        object.__setattr__(self, "order", order)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        import numpy

        _check_values(x, len(self.order))
        return x.reshape(len(x), -1)[:, numpy.asarray(self.order, numpy.intp)].reshape(x.shape)


class Rotation(Value):
    """A turn of images about their centre, counterclockwise; bilinear, zero where the image does not reach.

    The places and weights of the four pixels that each pixel is made of are computed once, at the first use.

    Parameters
    ----------
    shape : sequence of int
        Of one image: `(height, width)` or `(height, width, channels)`.
    degrees : float
        The angle.

    Raises
    ------
    UsageError
        These are no images, or the angle is not finite.
    """

    shape: tuple[int, ...]
    degrees: float

    def __post_init__(self) -> None:
        shape = tuple(self.shape)
        if len(shape) not in (2, 3):
            raise UsageError(
                f"samples of shape {shape} cannot be turned; expected (height, width) or (height, width, channels); "
                "reshape them to images"
            )
        shape = tuple(whole("a side of an image", side, 1, MOST_SIDE) for side in shape)
        if not isfinite(self.degrees):
            raise UsageError(f"an angle of {self.degrees}: expected finite degrees; change it")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "degrees", float(self.degrees))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        import numpy

        if x.shape[1:] != self.shape:
            raise DataError(
                f"samples of shape {x.shape[1:]} for a rotation of {self.shape}; expected the same; make the plan "
                "with the shape of the samples"
            )
        places, weights = self._table()
        pixels = self.shape[0] * self.shape[1]
        channels = prod(self.shape) // pixels
        padded = numpy.zeros((len(x), pixels + 1, channels), numpy.float32)
        padded[:, :pixels] = x.reshape(len(x), pixels, channels)
        turned = numpy.zeros((len(x), pixels, channels), numpy.float32)
        for place, weight in zip(places, weights):
            turned += padded[:, place] * weight[:, None]
        if x.dtype.kind in "ui":
            numpy.rint(turned, out=turned)
        return turned.astype(x.dtype).reshape(x.shape)

    def _table(self) -> tuple[Any, Any]:
        """Return places `(4, pixels)` and weights `(4, pixels)`; the place after the last pixel is one that is 0."""
        if "_made" not in self.__dict__:
            object.__setattr__(self, "_made", _bilinear(self.shape[0], self.shape[1], self.degrees))
        return self.__dict__["_made"]


def _bilinear(height: int, width: int, degrees: float) -> tuple[Any, Any]:
    import numpy

    turn = radians(degrees % 360)
    down, right = numpy.mgrid[:height, :width].reshape(2, -1) - numpy.array([[(height - 1) / 2], [(width - 1) / 2]])
    rows = numpy.rint((right * sin(turn) + down * cos(turn) + (height - 1) / 2) * GRID) / GRID
    columns = numpy.rint((right * cos(turn) - down * sin(turn) + (width - 1) / 2) * GRID) / GRID
    places, weights = [], []
    for row_step in (0, 1):
        for column_step in (0, 1):
            row, column = numpy.floor(rows) + row_step, numpy.floor(columns) + column_step
            weight = (1 - abs(rows - row)) * (1 - abs(columns - column))
            there = (row >= 0) & (row < height) & (column >= 0) & (column < width) & (weight > 0)
            places.append(numpy.where(there, row * width + column, height * width).astype(numpy.intp))
            weights.append(numpy.where(there, weight, 0).astype(numpy.float32))
    return numpy.stack(places), numpy.stack(weights)


def _check_values(x: np.ndarray, size: int) -> None:
    if prod(x.shape[1:]) != size:
        raise DataError(
            f"samples of {prod(x.shape[1:])} values for an order of {size}; expected as many; make the plan with the "
            "size of the samples"
        )

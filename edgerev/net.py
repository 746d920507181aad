"""The net as a user describes it: an invertible backbone between a stem and a head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from edgerev.errors import NetError
from edgerev.layers import Adapter, Conv1d, Conv2d, Dense, Layer, Pointwise, Shape, layer_from_dict
from edgerev.numbers import FLOAT32_MAX, INT32_MAX, TINY, finite32, of_type, settle, whole
from edgerev.value import Value

StateType = Literal["int32", "int16", "float32"]


class Block(Value):
    """A coupling block: ``y1 = x1 + F(x2)``, ``y2 = x2 + G(y1)`` (RevNet, Gomez et al. 2017, eq. 6).

    F and G are the layers given here times `Net.branch_scale`.

    Parameters
    ----------
    F, G : layers that keep the shape; G is like F (with weights of its own) when left out
    repeat : blocks of this kind in a row, each with weights of its own
    """

    F: tuple[Layer, ...]
    G: tuple[Layer, ...] = ()
    repeat: int = 1

    def __post_init__(self) -> None:
        for letter in ("F", "G"):
            layers = getattr(self, letter)
            of_type(f"Block: {letter}", layers, (tuple, list), "(Dense(8), ReLU(), Dense(8))", NetError)
            for layer in layers:
                of_type(f"Block: a layer of {letter}", layer, Layer, "Dense(8)", NetError)
        object.__setattr__(self, "F", tuple(self.F))
        object.__setattr__(self, "G", tuple(self.G) or self.F)
        settle(self, NetError, repeat=(whole, 1, INT32_MAX))

    def to_dict(self) -> dict:
        """Return the block as plain data."""
        return {
            "F": [layer.to_dict() for layer in self.F], "G": [layer.to_dict() for layer in self.G],
            "repeat": self.repeat,
        }


class Squeeze(Value):
    """Space to depth: halves width (and height), and multiplies channels by 2 (or 4); invertible."""

    def to_dict(self) -> dict:
        """Return the squeeze as plain data."""
        return {"squeeze": 2}


class Head(Value):
    """What turns the backbone's output into answers.

    Parameters
    ----------
    outputs : classes, labels or values of one task; a head in closed form can meet at most so many classes
    pool : "average" over positions, "flatten" to keep them, or a number n: averages over n cells along time, or over
        n x n cells of an image
    kind : "linear", trained by gradient; "ridge" (regression) and "prototype" (class means under one covariance) answer
        in closed form from sums over samples, while a linear head still leads the gradient into the backbone
    ridge : strength of the ridge, for one sample; of whole features, in units of 127
    tasks : tasks that have answers of their own, at most
    sums : type of the closed form's sums: "float64", or "int32" and "int64" of features that are made whole numbers in
        -127 .. 127, whose sums are exact and do not depend on the order of samples
    rectify : whether negative values of the state count as 0 before they are averaged
    expansion : layers with random weights that are never trained, between the backbone and the closed form
    """

    outputs: int
    pool: Literal["average", "flatten"] | int = "average"
    kind: Literal["linear", "ridge", "prototype"] = "linear"
    ridge: float = 1e-3
    tasks: int = 1
    sums: Literal["float64", "int32", "int64"] = "float64"
    rectify: bool = False
    expansion: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        settle(
            self, NetError, outputs=(whole, 1, INT32_MAX), ridge=(finite32, TINY, FLOAT32_MAX),
            tasks=(whole, 1, INT32_MAX),
        )
        if self.pool not in ("average", "flatten"):
            settle(self, NetError, pool=(whole, 1, INT32_MAX))
        for name, known in (("kind", ("linear", "ridge", "prototype")), ("sums", ("float64", "int32", "int64"))):
            if getattr(self, name) not in known:
                raise NetError(f"Head: {name} {getattr(self, name)!r}: expected one of {', '.join(known)}; change it")
        whole("Head: columns", self.columns, 1, INT32_MAX, NetError)
        of_type("Head: expansion", self.expansion, (tuple, list), "(Conv2d(24, 7), ReLU())", NetError)
        for layer in self.expansion:
            of_type("Head: a layer of the expansion", layer, Layer, "Conv2d(24, 7)", NetError)
            if isinstance(layer, Adapter):
                raise NetError("Head: an adapter in an expansion is never trained; expected it in F or G; move it")
        object.__setattr__(self, "expansion", tuple(self.expansion))
        if self.expansion and not self.closed_form:
            raise NetError("Head: an expansion has weights that are never trained; it needs kind ridge or prototype")

    @property
    def columns(self) -> int:
        """Outputs of all tasks together."""
        return self.outputs * self.tasks

    @property
    def closed_form(self) -> bool:
        """Whether answers come from sums."""
        return self.kind != "linear"

    def to_dict(self) -> dict:
        """Return the head as plain data."""
        return {**super().to_dict(), "expansion": [layer.to_dict() for layer in self.expansion]}

    @classmethod
    def from_dict(cls, data: dict) -> Head:
        """Return the head that `to_dict` described."""
        return cls(**{**data, "expansion": tuple(map(layer_from_dict, data.get("expansion", ())))})


class Function(NamedTuple):
    """A residual function at its place: ``state[target] += branch_scale * layers(state[source])``."""

    name: str
    layers: tuple[Layer, ...]
    shape: Shape
    source: int
    target: int


class Net(Value):
    """A reversible network.

    Parameters
    ----------
    input_shape : one sample, channels last: ``(features,)``, ``(time, channels)`` or ``(height, width, channels)``
    stem : a dense or convolution layer with an even number of channels; its halves are the state
    backbone : blocks and squeezes
    head : the head
    state : "int32" (grid of 2**-20, exact), "int16" (grid of 2**-10, exact, half the bytes) or "float32" (not exact)

    Raises
    ------
    NetError
        The parts do not fit together; the message says which.
    """

    input_shape: Shape
    stem: Layer
    backbone: tuple[Block | Squeeze, ...]
    head: Head
    state: StateType = "int32"

    def __post_init__(self) -> None:
        of_type("input_shape", self.input_shape, (tuple, list), "(28, 28, 1)", NetError)
        of_type("backbone", self.backbone, (tuple, list), "(Block((Dense(8),)),)", NetError)
        for part in self.backbone:
            of_type("a part of the backbone", part, (Block, Squeeze), "Block((Dense(8),)) or Squeeze()", NetError)
        of_type("head", self.head, Head, "Head(10)", NetError)
        if not 1 <= len(self.input_shape) <= 3:
            raise NetError(f"input_shape {self.input_shape}: expected one to three sizes; change it")
        sizes = (whole("input_shape: size", size, 1, INT32_MAX, NetError) for size in self.input_shape)
        object.__setattr__(self, "input_shape", tuple(sizes))
        object.__setattr__(self, "backbone", tuple(self.backbone))
        if not isinstance(self.stem, (Dense, Conv1d, Conv2d, Pointwise)):
            raise NetError(f"stem {self.stem}: expected Dense, Conv1d, Conv2d or Pointwise")
        if self.state not in ("int32", "int16", "float32"):
            raise NetError(f"state {self.state!r}: expected int32, int16 or float32")
        shape = self.stem.output_shape(self.input_shape)
        if shape[-1] % 2:
            raise NetError(f"stem {self.stem}: an odd number of channels cannot be split in halves; use an even one")
        for _ in self.functions():
            pass
        whole("head: features", self.closed_features, 1, INT32_MAX, NetError)

    @property
    def half_shape(self) -> Shape:
        """Shape of one half of the state at the start."""
        shape = self.stem.output_shape(self.input_shape)
        return (*shape[:-1], shape[-1] // 2)

    def stages(self) -> Iterator[Shape]:
        """Yield the shape of one half of the state at the start and after each squeeze."""
        shape = self.half_shape
        yield shape
        for part in self.backbone:
            if isinstance(part, Squeeze):
                shape = squeezed(shape)
                yield shape

    def functions(self) -> Iterator[Function | Squeeze]:
        """Yield residual functions and squeezes in the order of the forward pass, checking shapes."""
        shape, index = self.half_shape, 0
        for part in self.backbone:
            if isinstance(part, Squeeze):
                shape = squeezed(shape)
                yield part
                continue
            for _ in range(part.repeat):
                for letter, layers, source in (("F", part.F, 1), ("G", part.G, 0)):
                    name = f"block{index}.{letter}"
                    check_keeps_shape(name, layers, shape)
                    yield Function(name, layers, shape, source, 1 - source)
                index += 1

    @property
    def depth(self) -> int:
        """Number of residual functions."""
        return sum(2 * part.repeat for part in self.backbone if isinstance(part, Block))

    @property
    def branch_scale(self) -> float:
        """Factor on every residual function: 1 / sqrt(number of functions).

        With it the variance of the state grows by at most a factor e over all functions, and one learning rate suits
        every depth (depth-muP; Yang et al. 2023, "Tensor programs VI", table 1).
        """
        return 1 / math.sqrt(max(self.depth, 1))

    @property
    def exit_shape(self) -> Shape:
        """Shape of one half of the state at the end."""
        *_, shape = self.stages()
        return shape

    def cells(self, shape: Shape) -> tuple[int, int]:
        """Return the rows and columns of cells over whose positions the head averages samples of `shape`.

        Raises
        ------
        NetError
            There are more cells than positions.
        """
        height, width, _ = (1,) * (3 - len(shape)) + tuple(shape)
        if self.head.pool == "flatten":
            return height, width
        number = 1 if self.head.pool == "average" else self.head.pool
        rows = number if len(shape) == 3 else 1
        if rows > height or number > width:
            raise NetError(f"pool {number}: samples of shape {shape} have fewer positions there; take a smaller one")
        return rows, number

    @property
    def features(self) -> int:
        """Number of features that the head sees."""
        rows, columns = self.cells(self.exit_shape)
        return rows * columns * 2 * self.exit_shape[-1]

    @property
    def closed_features(self) -> int:
        """Number of features that the sums of a head in closed form see."""
        if not self.head.expansion:
            return self.features
        shape: Shape = (*self.exit_shape[:-1], 2 * self.exit_shape[-1])
        for layer in self.head.expansion:
            shape = layer.output_shape(shape)
        rows, columns = self.cells(shape)
        return rows * columns * shape[-1]

    def to_dict(self) -> dict:
        """Return the net as plain data, for JSON; `from_dict` reads it."""
        return {
            "input_shape": list(self.input_shape), "stem": self.stem.to_dict(),
            "backbone": [part.to_dict() for part in self.backbone],
            "head": self.head.to_dict(), "state": self.state,
        }

    @classmethod
    def from_dict(cls, data: dict) -> Net:
        """Return the net that `to_dict` described."""
        parts: list[Block | Squeeze] = []
        for part in data["backbone"]:
            if "squeeze" in part:
                parts.append(Squeeze())
            else:
                F, G = (tuple(map(layer_from_dict, part.get(letter, ()))) for letter in "FG")
                parts.append(Block(F, G, part.get("repeat", 1)))
        return cls(
            tuple(data["input_shape"]), layer_from_dict(data["stem"]), tuple(parts),
            Head.from_dict(data["head"]),
            data.get("state", "int32"),
        )


def squeezed(shape: Shape) -> Shape:
    """Return the shape after space-to-depth.

    Raises
    ------
    NetError
        A size is odd, or there is no space.
    """
    if len(shape) == 1:
        raise NetError("squeeze: features have no positions to move into channels; leave the squeeze out")
    if any(size % 2 for size in shape[:-1]):
        raise NetError(f"squeeze: sizes {shape[:-1]} must be even")
    return (*(size // 2 for size in shape[:-1]), shape[-1] * 2 ** (len(shape) - 1))


def check_keeps_shape(name: str, layers: Sequence[Layer], shape: Shape) -> None:
    """Raise NetError unless `layers` take `shape` to itself."""
    if not layers:
        raise NetError(f"{name}: a residual function needs at least one layer")
    result = shape
    for index, layer in enumerate(layers):
        try:
            result = layer.output_shape(result)
        except NetError as error:
            raise NetError(f"{name}.{index}: {error}") from error
    if result != shape:
        raise NetError(f"{name}: a residual function must keep the shape {shape} of its half, not make it {result}")

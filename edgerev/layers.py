"""Layers of stems and residual functions: what they are, not how they run (`edgerev.lower_layers` does that).

Shapes are those of one sample, channels last: ``(features,)``, ``(time, channels)`` or ``(height, width, channels)``.
"""

from __future__ import annotations

from typing import ClassVar

from edgerev.errors import NetError
from edgerev.numbers import BELOW_ONE, FLOAT32_MAX, INT32_MAX, TINY, finite32, settle, whole
from edgerev.value import Value

Shape = tuple[int, ...]


class Layer(Value):
    """Base of all layers.

    Attributes
    ----------
    word : how files name the layer
    """

    word: ClassVar[str]

    def output_shape(self, shape: Shape) -> Shape:
        """Return the shape of the output for an input of `shape`; raise NetError where that cannot be."""
        return shape

    def to_dict(self) -> dict:
        """Return the layer as plain data; `layer_from_dict` reads it."""
        return {"layer": self.word, **super().to_dict()}


def _need(condition: bool, layer: Layer, problem: str) -> None:
    if not condition:
        raise NetError(f"{layer}: {problem}")


class Dense(Layer):
    """Every output feature from every input feature; for samples of shape ``(features,)``."""

    word = "dense"
    channels: int

    def __post_init__(self) -> None:
        settle(self, NetError, channels=(whole, 1, INT32_MAX))

    def output_shape(self, shape: Shape) -> Shape:
        _need(len(shape) == 1, self, f"expects samples of shape (features,), not {shape}; use a convolution")
        return (self.channels,)


class _Convolution(Layer):
    channels: int
    kernel: int = 3
    dimensions: ClassVar[int] = 0

    def __post_init__(self) -> None:
        settle(self, NetError, channels=(whole, 1, INT32_MAX), kernel=(whole, 1, INT32_MAX))
        _need(self.kernel % 2 == 1, self, "the kernel must be odd, so that sizes are kept")

    def output_shape(self, shape: Shape) -> Shape:
        _need(len(shape) == self.dimensions + 1, self, f"does not fit samples of shape {shape}")
        return (*shape[:-1], self.channels)


class Conv1d(_Convolution):
    """Convolution over time, zero-padded to keep the length; for ``(time, channels)``."""

    word = "conv1d"
    dimensions = 1


class Conv2d(_Convolution):
    """Convolution over space, zero-padded to keep the size; for ``(height, width, channels)``."""

    word = "conv2d"
    dimensions = 2


class Pointwise(Layer):
    """Convolution with a kernel of one position."""

    word = "pointwise"
    channels: int

    def __post_init__(self) -> None:
        settle(self, NetError, channels=(whole, 1, INT32_MAX))

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.channels)


class Depthwise(Layer):
    """Convolution of each channel by itself, zero-padded to keep the size."""

    word = "depthwise"
    kernel: int = 3

    def __post_init__(self) -> None:
        settle(self, NetError, kernel=(whole, 1, INT32_MAX))
        _need(self.kernel % 2 == 1, self, "the kernel must be odd, so that sizes are kept")

    def output_shape(self, shape: Shape) -> Shape:
        _need(len(shape) > 1, self, f"expects (time, channels) or (height, width, channels), not {shape}")
        return shape


class ReLU(Layer):
    """``max(x, 0)``."""

    word = "relu"


class GELU(Layer):
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016)."""

    word = "gelu"


class SiLU(Layer):
    """``x * sigmoid(x)`` (Elfwing, Uchibe, Doya 2018)."""

    word = "silu"


class RMSNorm(Layer):
    """Each position divided by the root mean square of its channels (Zhang and Sennrich 2019), times a gain."""

    word = "rmsnorm"
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        settle(self, NetError, epsilon=(finite32, TINY, FLOAT32_MAX))


class GroupNorm(Layer):
    """Each group of channels of a sample to mean 0 and variance 1 (Wu and He 2018), times a gain, plus a bias."""

    word = "groupnorm"
    groups: int = 1
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        settle(self, NetError, groups=(whole, 1, INT32_MAX), epsilon=(finite32, TINY, FLOAT32_MAX))

    def output_shape(self, shape: Shape) -> Shape:
        _need(shape[-1] % self.groups == 0, self, f"groups must divide the {shape[-1]} channels")
        return shape


class Dropout(Layer):
    """While training, each element is 0 with chance `rate`, else scaled by ``1 / (1 - rate)``."""

    word = "dropout"
    rate: float = 0.1

    def __post_init__(self) -> None:
        settle(self, NetError, rate=(finite32, 0, BELOW_ONE))


class Adapter(Layer):
    """A bottleneck beside the identity, ``x + up(relu(down(x)))``, of which each task has its own; starts at x.

    References
    ----------
    Rebuffi, Bilen, Vedaldi 2017, "Learning multiple visual domains with residual adapters", eq. 1; Houlsby et al. 2019,
    "Parameter-efficient transfer learning", section 2.1.
    """

    word = "adapter"
    rank: int = 4

    def __post_init__(self) -> None:
        settle(self, NetError, rank=(whole, 1, INT32_MAX))


LAYERS: dict[str, type[Layer]] = {
    kind.word: kind
    for kind in (Dense, Conv1d, Conv2d, Pointwise, Depthwise, ReLU, GELU, SiLU, RMSNorm, GroupNorm, Dropout, Adapter)
}


def layer_from_dict(data: dict) -> Layer:
    """Return the layer that `Layer.to_dict` described.

    Raises
    ------
    NetError
        No layer has that name, or it has no such option.
    """
    word = data.get("layer")
    if word not in LAYERS:
        raise NetError(f"unknown layer {word!r}; expected one of {', '.join(LAYERS)}")
    kind = LAYERS[word]
    options = {key: value for key, value in data.items() if key != "layer"}
    unknown = sorted(options.keys() - kind._fields)
    if unknown:
        raise NetError(f"layer {word!r} has no option {', '.join(unknown)}; it has {', '.join(kind._fields) or 'none'}")
    try:
        return kind(**options)
    except TypeError as error:
        raise NetError(f"layer {word!r}: {error}") from error

"""How each layer becomes instructions: its parameters, its forward pass and its two gradients.

A layer knows nothing of couplings or schedules; `edgerev.lower_function` strings layers together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edgerev import layers
from edgerev.kernels.layout import (
    GRAIN,
    NO_TENSOR,
    WINOGRAD_BLOCK,
    WINOGRAD_LINE_BLOCK,
    WINOGRAD_OUTPUTS,
    WINOGRAD_PAD,
    Activation,
    NormKind,
    Op,
)
from edgerev.program import Program, Region

Shape3 = tuple[int, int, int]


def shape3(shape: layers.Shape) -> Shape3:
    """Return a sample's shape as (height, width, channels)."""
    height, width, channels = (1,) * (3 - len(shape)) + tuple(shape)
    return height, width, channels


class ParameterSpec(NamedTuple):
    """A parameter that a layer needs.

    Attributes
    ----------
    bound : initial values are uniform in +-bound, or all `constant` where bound is 0
    decays : whether weight decay applies (to matrices, not to biases and gains)
    """

    name: str
    shape: tuple[int, ...]
    bound: float
    constant: float
    decays: bool


class FusedSGD(NamedTuple):
    """A layer's gradient that goes straight into its update."""

    scalars: int
    decay: float


Gradient = list[int] | FusedSGD  # a tensor for each parameter of a layer, or none


class Context(NamedTuple):
    """What lowering a layer needs to know of its surroundings.

    Attributes
    ----------
    chunk, capacity : samples that scratch tensors hold, and those that stored activations hold
    threads : most threads that run it; some instructions need scratch for each
    once : whether the samples come all at once, not chunk by chunk
    train : whether dropout is on
    streams : number of the first random stream that the layers may draw from, one for each layer
    stored : name under which activations stay until the backward pass; empty when they are computed again
    """

    program: Program
    chunk: int
    capacity: int
    counters: int
    barrier: int
    threads: int
    once: bool
    train: bool
    stored: str = ""
    streams: int = 0

    def scratch(self, name: str, shape: tuple[int, ...], halo: tuple[int, int] = (0, 0)) -> int:
        """Return a float32 workspace tensor of the samples at hand."""
        return self.program.tensor(name, shape, Region.WORKSPACE, capacity=self.chunk, halo=halo)

    def shared(self, name: str, shape: tuple[int, ...]) -> int:
        """Return a float32 workspace tensor that does not depend on the samples."""
        return self.program.tensor(name, shape, Region.WORKSPACE)

    def activation(self, name: str, shape: tuple[int, ...], halo: tuple[int, int] = (0, 0)) -> int:
        """Return a tensor that the backward pass needs: stored if the schedule says so, else scratch."""
        if not self.stored:
            return self.scratch(name, shape, halo)
        return self.program.tensor(
            f"{self.stored}.{name}", shape, Region.STORED, capacity=self.capacity, halo=halo
        )


class LoweredLayer:
    """Base: a layer at its place, for inputs of a known shape.

    Attributes
    ----------
    halo : zeros that it needs around its input, and around the gradient of its output
    in_place : the output lies on the input (forward)
    in_place_backward : the gradient of the input lies on the gradient of the output
    only_training : outside of training the output is the input
    rectifies : a ReLU
    per_task : whether each task has parameters of its own
    """

    halo: tuple[int, int] = (0, 0)
    in_place = False
    in_place_backward = True
    only_training = False
    rectifies = False
    per_task = False

    def __init__(self, layer: layers.Layer, shape: layers.Shape, index: int | str) -> None:
        self.layer, self.index = layer, index
        self.inputs = shape3(shape)
        self.outputs = shape3(layer.output_shape(shape))

    def parameters(self) -> list[ParameterSpec]:
        return []

    def prepare(self, context: Context, weights: list[int], forward: bool, backward: bool) -> None:
        """Emit what `forward` and `input_gradient` need of the weights; most layers take them as they are."""

    def forward(self, context: Context, x: int, y: int, weights: list[int]) -> None:
        raise NotImplementedError

    def weight_gradient(self, context: Context, x: int, dy: int, gradients: list[int]) -> None:
        """Emit the gradient of the parameters; layers without parameters emit nothing."""

    def input_gradient(self, context: Context, x: int, dy: int, dx: int, weights: list[int]) -> None:
        raise NotImplementedError


class Convolution(LoweredLayer):
    """Dense, pointwise, conv1d, conv2d: products, which can also apply a ReLU or its mask, and add to what is there."""

    in_place_backward = False

    def __init__(self, layer: layers.Layer, shape: layers.Shape, index: int | str) -> None:
        super().__init__(layer, shape, index)
        size = getattr(layer, "kernel", 1)
        self.kernel = (size, size) if isinstance(layer, layers.Conv2d) else (1, size)
        self.halo = (self.kernel[0] // 2, self.kernel[1] // 2)
        self.sizes = {"kernel_h": self.kernel[0], "kernel_w": self.kernel[1]}
        self.filter = minimal_filter(self.kernel, self.inputs, self.outputs[2])

    def parameters(self) -> list[ParameterSpec]:
        taps, channels, columns = self.kernel[0] * self.kernel[1], self.inputs[2], self.outputs[2]
        # He et al. 2015: variance 2 / fan_in, as a uniform distribution
        bound = math.sqrt(6 / (taps * channels))
        return [
            ParameterSpec("weight", (taps, channels, columns), bound, 0.0, True),
            ParameterSpec("bias", (columns,), 0.0, 0.0, False),
        ]

    def prepare(self, context: Context, weights: list[int], forward: bool, backward: bool) -> None:
        if not context.once:
            if forward and self.filter:
                self._mapped(context, weights[0], emit=True)
            if backward:
                self._mapped(context, weights[0], flipped=True, emit=True)

    def _mapped(self, context: Context, weight: int, *, flipped: bool = False, emit: bool) -> int:
        """Return the tensor of the weights as the products want them, `flipped` for the gradient of the input.

        Emit what writes it where the samples come all at once: then it is still in the cache when it is used.
        """
        program, (taps, channels, columns) = context.program, self.parameters()[0].shape
        if flipped:
            channels, columns, source = columns, channels, weight
            weight = context.shared(f"flipped{self.index}", (taps, channels, columns))
            if emit:
                program.emit(Op.FLIP, weight, source)
        if self.filter is None:
            return weight
        shape = (self.filter.positions, channels * columns + WINOGRAD_PAD)
        mapped = context.shared(f"u{self.index}{'.flipped' * flipped}", shape)
        if emit:
            program.emit(Op.WINOGRAD_WEIGHTS, mapped, weight, **self.sizes)
        return mapped

    def _work(self, context: Context, *, gradient: bool) -> int:
        assert self.filter is not None
        size = self.filter.work(self.inputs[2], self.outputs[2], context.threads, gradient)
        return context.shared(f"work{self.index}{'.gradient' * gradient}", (size,))

    def forward(self, context: Context, x: int, y: int, weights: list[int], *, relu: bool = False) -> None:
        if self.filter:
            mapped = self._mapped(context, weights[0], emit=context.once)
            operands = (y, self._work(context, gradient=False), x, mapped, weights[1])
            context.program.emit(Op.WINOGRAD, *operands, **self.sizes, relu=relu)
        else:
            context.program.emit(Op.CONV, y, x, *weights, **self.sizes, relu=relu)

    def weight_gradient(self, context: Context, x: int, dy: int, gradients: list[int]) -> None:
        if self.filter:
            work = self._work(context, gradient=True)
            context.program.emit(Op.WINOGRAD_WGRAD, *gradients, work, x, dy, context.barrier, **self.sizes)
        else:
            context.program.emit(Op.CONV_WGRAD, *gradients, x, dy, **self.sizes)

    def update(self, context: Context, x: int, dy: int, weights: list[int], sgd: FusedSGD) -> None:
        """Emit the gradient of the parameters and their update in one."""
        context.program.emit(Op.CONV_SGD, *weights, x, dy, sgd.scalars, **self.sizes, decay=sgd.decay)

    def input_gradient(
        self, context: Context, x: int, dy: int, dx: int, weights: list[int], *, mask: int = NO_TENSOR,
        add: bool = False,
    ) -> None:
        mapped = self._mapped(context, weights[0], flipped=True, emit=context.once)
        if self.filter:
            operands = (dx, self._work(context, gradient=False), dy, mapped)
            context.program.emit(Op.WINOGRAD, *operands, NO_TENSOR, mask, **self.sizes, add=add)
        else:
            context.program.emit(Op.CONV, dx, dy, mapped, NO_TENSOR, mask, **self.sizes, add=add)


class MinimalFilter(NamedTuple):
    """How a convolution is computed by Winograd's minimal filtering (`edgerev.kernels.winograd`).

    Attributes
    ----------
    positions : products of one tile and one pair of channels
    tiles : tiles of a sample
    both : whether tiles reach in both directions of an image
    """

    positions: int
    tiles: int
    both: bool

    def work(self, channels: int, columns: int, threads: int, gradient: bool) -> int:
        """Return the float32 of scratch that WINOGRAD or WINOGRAD_WGRAD needs."""
        if not gradient:
            return threads * self.positions * (WINOGRAD_BLOCK * (channels + columns) + 2 * WINOGRAD_PAD)
        tiles = threads * (WINOGRAD_BLOCK if self.both else WINOGRAD_LINE_BLOCK)
        sums = max(1, tiles // self.tiles) * (channels * columns + WINOGRAD_PAD)
        return self.positions * (tiles * (channels + columns) + 2 * WINOGRAD_PAD + sums)


def minimal_filter(kernel: tuple[int, int], inputs: tuple[int, int, int], columns: int) -> MinimalFilter | None:
    """Return the minimal filter for a convolution, or None where direct products are faster or none fits.

    Kernels of 3x3, 1x3 and 1x5; sizes that tiles of 4 fill; channels that fill vectors; and enough tiles to pay for
    mapping the weights and the sample's gradient of them.
    """
    height, width, channels = inputs
    both = kernel == (3, 3)
    if not both and kernel not in ((1, 3), (1, 5)):
        return None
    if width % WINOGRAD_OUTPUTS or (height % WINOGRAD_OUTPUTS if both else height != 1):
        return None
    tiles = width // WINOGRAD_OUTPUTS * (height // WINOGRAD_OUTPUTS if both else 1)
    if channels % GRAIN or columns % GRAIN or tiles < WINOGRAD_BLOCK:
        return None
    size = WINOGRAD_OUTPUTS + kernel[1] - 1
    return MinimalFilter(size * size if both else size, tiles, both)


class _Depthwise(LoweredLayer):
    in_place_backward = False

    def __init__(self, layer: layers.Depthwise, shape: layers.Shape, index: int) -> None:
        super().__init__(layer, shape, index)
        self.kernel = (layer.kernel if len(shape) == 3 else 1, layer.kernel)
        self.halo = (self.kernel[0] // 2, self.kernel[1] // 2)
        self.sizes = {"kernel_h": self.kernel[0], "kernel_w": self.kernel[1]}

    def parameters(self) -> list[ParameterSpec]:
        taps, channels = self.kernel[0] * self.kernel[1], self.inputs[2]
        return [
            ParameterSpec("weight", (taps, 1, channels), math.sqrt(6 / taps), 0.0, True),
            ParameterSpec("bias", (channels,), 0.0, 0.0, False),
        ]

    def forward(self, context: Context, x: int, y: int, weights: list[int]) -> None:
        context.program.emit(Op.DEPTHWISE, y, x, *weights, **self.sizes)

    def weight_gradient(self, context: Context, x: int, dy: int, gradients: list[int]) -> None:
        context.program.emit(Op.DEPTHWISE_WGRAD, *gradients, x, dy, **self.sizes)

    def input_gradient(self, context: Context, x: int, dy: int, dx: int, weights: list[int]) -> None:
        context.program.emit(Op.DEPTHWISE, dx, dy, weights[0], **self.sizes, flipped=1)


_KINDS = {layers.ReLU: Activation.RELU, layers.GELU: Activation.GELU, layers.SiLU: Activation.SILU}


class _Activation(LoweredLayer):
    def __init__(self, layer: layers.Layer, shape: layers.Shape, index: int) -> None:
        super().__init__(layer, shape, index)
        self.kind = _KINDS[type(layer)]
        # ReLU's gradient needs only the sign, which its output has too
        self.in_place = self.rectifies = self.kind == Activation.RELU

    def forward(self, context: Context, x: int, y: int, weights: list[int]) -> None:
        context.program.emit(Op.ACTIVATION, y, x, kind=self.kind)

    def input_gradient(self, context: Context, x: int, dy: int, dx: int, weights: list[int]) -> None:
        context.program.emit(Op.ACTIVATION_GRAD, dx, x, dy, kind=self.kind)


class _Norm(LoweredLayer):
    def __init__(self, layer: layers.RMSNorm | layers.GroupNorm, shape: layers.Shape, index: int) -> None:
        super().__init__(layer, shape, index)
        self.epsilon = layer.epsilon
        self.groups = layer.groups if isinstance(layer, layers.GroupNorm) else 0
        self.kind = NormKind.GROUP if self.groups else NormKind.RMS

    def parameters(self) -> list[ParameterSpec]:
        gain = ParameterSpec("gain", (self.inputs[2],), 0.0, 1.0, False)
        bias = ParameterSpec("bias", (self.inputs[2],), 0.0, 0.0, False)
        return [gain, bias] if self.groups else [gain]

    def _stats(self, context: Context) -> int:
        height, width, _ = self.inputs
        shape = (1, 1, 2 * self.groups) if self.groups else (height, width, 1)
        return context.activation(f"stats{self.index}", shape)

    def forward(self, context: Context, x: int, y: int, weights: list[int]) -> None:
        context.program.emit(
            Op.NORM, y, self._stats(context), x, *weights, kind=self.kind, groups=self.groups, epsilon=self.epsilon
        )

    def weight_gradient(self, context: Context, x: int, dy: int, gradients: list[int]) -> None:
        operands = gradients if self.groups else [*gradients, -1]
        context.program.emit(
            Op.NORM_WGRAD, *operands, x, dy, self._stats(context), kind=self.kind, groups=self.groups
        )

    def input_gradient(self, context: Context, x: int, dy: int, dx: int, weights: list[int]) -> None:
        context.program.emit(
            Op.NORM_GRAD, dx, x, dy, weights[0], self._stats(context), kind=self.kind, groups=self.groups
        )


class _Dropout(LoweredLayer):
    only_training = True

    def forward(self, context: Context, x: int, y: int, weights: list[int]) -> None:
        self._emit(context, x, y)

    def input_gradient(self, context: Context, x: int, dy: int, dx: int, weights: list[int]) -> None:
        self._emit(context, dy, dx)

    def _emit(self, context: Context, x: int, y: int) -> None:
        assert isinstance(self.layer, layers.Dropout)
        assert isinstance(self.index, int)
        stream = context.streams + self.index
        context.program.emit(Op.DROPOUT, y, x, context.counters, rate=self.layer.rate, stream=stream)


LOWERED: dict[type[layers.Layer], type[LoweredLayer]] = {
    layers.Dense: Convolution, layers.Pointwise: Convolution, layers.Conv1d: Convolution,
    layers.Conv2d: Convolution, layers.Depthwise: _Depthwise, layers.ReLU: _Activation, layers.GELU: _Activation,
    layers.SiLU: _Activation, layers.RMSNorm: _Norm, layers.GroupNorm: _Norm, layers.Dropout: _Dropout,
}

"""A sequence of layers as instructions: a residual function, a stem or a head, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from edgerev import layers
from edgerev.kernels.layout import NO_TENSOR, Op
from edgerev.lower_adapter import Adapter, lower_layer
from edgerev.lower_layers import Context, Convolution, FusedSGD, Gradient, LoweredLayer
from edgerev.program import Program, Region


class Parameter(NamedTuple):
    """A trainable tensor of the net.

    Attributes
    ----------
    moments, memory : what the optimizer and what consolidation (importance, anchor, path) keep for it
    bound, constant : see `edgerev.lower_layers.ParameterSpec`
    """

    tensor: int
    moments: tuple[int, ...]
    memory: tuple[int, ...]
    decays: bool
    bound: float
    constant: float


@cache
def _lower_layers(sequence: tuple[layers.Layer, ...], shape: layers.Shape) -> list[LoweredLayer]:
    """Return layers in a row, lowered once for all residual functions that are alike."""
    found = []
    for index, layer in enumerate(sequence):
        found.append(lower_layer(layer, shape, index))
        shape = layer.output_shape(shape)
    return found


class Sequential:
    """Layers in a row at their place in the net.

    Parameters
    ----------
    name : prefix of its tensors
    moments, memory : values that the optimizer and consolidation keep for each parameter
    streams : number of the first random stream that its dropout layers may use
    gain : factor on the bounds of the initial weights
    """

    def __init__(
        self, program: Program, name: str, sequence: Sequence[layers.Layer], shape: layers.Shape, *, moments: int = 0,
        memory: int = 0, streams: int = 0, gain: float = 1.0,
    ) -> None:
        self.program, self.name = program, name
        self.streams = streams
        self.layers = _lower_layers(tuple(sequence), tuple(shape))
        self.parameters: list[list[Parameter]] = []
        for lowered in self.layers:
            self.parameters.append(self._register(lowered, moments, memory, gain))

    def _register(self, lowered: LoweredLayer, moments: int, memory: int, gain: float) -> list[Parameter]:
        found = []
        for spec in lowered.parameters():
            name = f"{self.name}.{lowered.index}.{spec.name}"
            tensor = self.program.tensor(name, spec.shape, Region.PARAMETERS)
            kept = tuple(
                self.program.tensor(f"{name}.moment{k + 1}", spec.shape, Region.OPTIMIZER) for k in range(moments)
            )
            own = 0 if lowered.per_task else memory  # of another task's there is nothing to hold
            remembered = tuple(
                self.program.tensor(f"{name}.{word}", spec.shape, Region.CONSOLIDATION)
                for word in ("importance", "anchor", "path")[:own]
            )
            found.append(Parameter(tensor, kept, remembered, spec.decays, spec.bound * gain, spec.constant))
        return found

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Shape of what comes out of the last layer."""
        return self.layers[-1].outputs

    def own_parameters(self) -> Iterator[Parameter]:
        """Yield the parameters that each task has for itself."""
        for lowered, found in zip(self.layers, self.parameters):
            if lowered.per_task:
                yield from found

    def prepare(self, context: Context, *, forward: bool = True, backward: bool = False) -> None:
        """Emit what is the same for all samples: weights as `forward` and `backward` want them."""
        for index, lowered in enumerate(self.layers):
            lowered.prepare(context, self._weights(index), forward, backward)

    def forward(self, context: Context, x: int) -> list[int]:
        """Emit the forward pass; return the input and each layer's output."""
        context, activations = context._replace(streams=self.streams), [x]
        for index, lowered in enumerate(self.layers):
            if self._passes(lowered, context) or self._fused(index):
                activations.append(activations[-1])
                continue
            if lowered.in_place:
                y = activations[-1]
            else:
                y = self._activation_tensor(context, index + 1)
            if isinstance(lowered, Convolution):
                lowered.forward(context, activations[-1], y, self._weights(index), relu=self._fused(index + 1))
            else:
                lowered.forward(context, activations[-1], y, self._weights(index))
            activations.append(y)
        return activations

    def input(self, context: Context) -> int:
        """Return a tensor for the input, with the halo that the first layers need."""
        return self._activation_tensor(context, 0)

    def output_gradient(self, context: Context) -> int:
        """Return a tensor for the gradient of the output, with the halo that the last layers need."""
        return self._gradient_tensor(context, len(self.layers))

    def backward(
        self, context: Context, activations: list[int], dy: int, gradients: list[Gradient], dx: int = NO_TENSOR, *,
        add: bool = False,
    ) -> None:
        """Emit both gradients of every layer, last layer first.

        Parameters
        ----------
        dx : tensor for the gradient of the input, or none
        add : whether to add to what `dx` holds
        """
        context = context._replace(streams=self.streams)
        for index in reversed(range(len(self.layers))):
            lowered, x = self.layers[index], activations[index]
            if self._passes(lowered, context) or self._masked(index + 1):
                continue
            if isinstance(lowered, Convolution):
                inner = dx if index == 0 else self._gradient_tensor(context, index)
                if inner != NO_TENSOR:  # before the weights change
                    mask = x if self._masked(index) else NO_TENSOR
                    lowered.input_gradient(
                        context, x, dy, inner, self._weights(index), mask=mask, add=add and index == 0
                    )
                self._weight_gradient(index, context, x, dy, gradients)
                if index == 0:
                    return
            elif isinstance(lowered, Adapter):
                inner, slopes = dy, gradients[index]
                assert isinstance(slopes, list)
                lowered.backward(context, x, dy, self._weights(index), slopes)
            else:
                inner = dy if lowered.in_place_backward else self._gradient_tensor(context, index)
                self._weight_gradient(index, context, x, dy, gradients)
                lowered.input_gradient(context, x, dy, inner, self._weights(index))
            dy = inner
        self.program.emit(Op.ACCUMULATE if add else Op.COPY, dx, dy)

    def _weight_gradient(self, index: int, context: Context, x: int, dy: int, gradients: list[Gradient]) -> None:
        lowered, gradient = self.layers[index], gradients[index]
        if isinstance(gradient, FusedSGD):
            assert isinstance(lowered, Convolution)
            lowered.update(context, x, dy, self._weights(index), gradient)
        else:
            lowered.weight_gradient(context, x, dy, gradient)

    def _fused(self, index: int) -> bool:
        """Return whether layer `index` is a ReLU that the product before it applies."""
        return index < len(self.layers) and self.layers[index].rectifies and self._is_product(index - 1)

    def _masked(self, index: int) -> bool:
        """Return whether layer `index` is a product that also takes its gradient through the ReLU before it."""
        return index > 0 and self._is_product(index) and self.layers[index - 1].rectifies

    def _is_product(self, index: int) -> bool:
        return 0 <= index < len(self.layers) and isinstance(self.layers[index], Convolution)

    def _weights(self, index: int) -> list[int]:
        return [parameter.tensor for parameter in self.parameters[index]]

    @staticmethod
    def _passes(lowered: LoweredLayer, context: Context) -> bool:
        return lowered.only_training and not context.train

    def _activation_tensor(self, context: Context, index: int) -> int:
        """Return the tensor of the activation before layer `index`, as the next layer that moves data wants it."""
        halo = (0, 0)
        for lowered in self.layers[index:]:
            if not lowered.in_place and not self._passes(lowered, context):
                halo = lowered.halo
                break
        shape = self.layers[index].inputs if index < len(self.layers) else self.layers[-1].outputs
        return context.activation(f"x{index}", shape, halo)

    def _gradient_tensor(self, context: Context, index: int) -> int:
        """Return the tensor of the gradient before layer `index`, as the next layer backwards wants it."""
        halo = (0, 0)
        for lowered in reversed(self.layers[:index]):
            if not lowered.in_place_backward:
                halo = lowered.halo
                break
        shape = self.layers[index].inputs if index < len(self.layers) else self.layers[-1].outputs
        return context.scratch(f"dx{index}", shape, halo)

"""A sequence of layers as instructions: a residual function, a stem or a head, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from edgerev import layers
from edgerev.kernels.layout import Op
from edgerev.lower_layers import Context, LoweredLayer, lower_layer
from edgerev.program import Program, Region


class Parameter(NamedTuple):
    """A trainable tensor of the net."""

    tensor: int
    moments: tuple[int, ...]
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
    streams : number of the first random stream that its dropout layers may use
    gain : factor on the bounds of the initial weights
    """

    def __init__(
        self, program: Program, name: str, sequence: Sequence[layers.Layer], shape: layers.Shape, *, moments: int,
        streams: int = 0, gain: float = 1.0,
    ) -> None:
        self.program, self.name = program, name
        self.streams = streams
        self.layers = _lower_layers(tuple(sequence), tuple(shape))
        self.parameters: list[list[Parameter]] = []
        for lowered in self.layers:
            self.parameters.append(self._register(lowered, moments, gain))

    def _register(self, lowered: LoweredLayer, moments: int, gain: float) -> list[Parameter]:
        found = []
        for spec in lowered.parameters():
            name = f"{self.name}.{lowered.index}.{spec.name}"
            tensor = self.program.tensor(name, spec.shape, Region.PARAMETERS)
            kept = tuple(
                self.program.tensor(f"{name}.moment{k + 1}", spec.shape, Region.OPTIMIZER) for k in range(moments)
            )
            found.append(Parameter(tensor, kept, spec.decays, spec.bound * gain, spec.constant))
        return found

    def forward(self, context: Context, x: int) -> list[int]:
        """Emit the forward pass; return the input and each layer's output."""
        context, activations = replace(context, streams=self.streams), [x]
        for index, lowered in enumerate(self.layers):
            if self._passes(lowered, context):
                activations.append(activations[-1])
                continue
            if lowered.in_place:
                y = activations[-1]
            else:
                y = self._activation_tensor(context, index + 1)
            weights = [parameter.tensor for parameter in self.parameters[index]]
            lowered.forward(context, activations[-1], y, weights)
            activations.append(y)
        return activations

    def input(self, context: Context) -> int:
        """Return a tensor for the input, with the halo that the first layers need."""
        return self._activation_tensor(context, 0)

    def output_gradient(self, context: Context) -> int:
        """Return a tensor for the gradient of the output, with the halo that the last layers need."""
        return self._gradient_tensor(context, len(self.layers))

    def backward(
        self, context: Context, activations: list[int], dy: int, gradients: list[list[int]], accumulate: bool,
        *, input_gradient: bool = True,
    ) -> int:
        """Emit both gradients of every layer, last layer first; return the gradient of the input."""
        context = replace(context, streams=self.streams)
        for index in reversed(range(len(self.layers))):
            lowered, x = self.layers[index], activations[index]
            if self._passes(lowered, context):
                continue
            lowered.weight_gradient(context, x, dy, gradients[index], accumulate)
            if index == 0 and not input_gradient:
                break
            dx = dy if lowered.in_place_backward else self._gradient_tensor(context, index)
            lowered.input_gradient(context, x, dy, dx, [parameter.tensor for parameter in self.parameters[index]])
            dy = dx
        return dy

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
        tensor = context.activation(f"x{index}", shape, halo)
        if any(halo):
            self.program.emit(Op.HALO, tensor)
        return tensor

    def _gradient_tensor(self, context: Context, index: int) -> int:
        """Return the tensor of the gradient before layer `index`, as the next layer backwards wants it."""
        halo = (0, 0)
        for lowered in reversed(self.layers[:index]):
            if not lowered.in_place_backward:
                halo = lowered.halo
                break
        shape = self.layers[index].inputs if index < len(self.layers) else self.layers[-1].outputs
        tensor = context.scratch(f"dx{index}", shape, halo)
        if any(halo):
            self.program.emit(Op.HALO, tensor)
        return tensor

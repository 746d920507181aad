"""The layer of which each task has its own, and how every layer is lowered."""

from __future__ import annotations

from edgerev import layers
from edgerev.kernels.layout import Op
from edgerev.lower_layers import LOWERED, Context, Convolution, LoweredLayer, ParameterSpec


class Adapter(LoweredLayer):
    """Two products beside the identity: its gradients are emitted together, for one needs the other's scratch."""

    per_task = True

    def __init__(self, layer: layers.Adapter, shape: layers.Shape, index: int) -> None:
        super().__init__(layer, shape, index)
        hidden = (*shape[:-1], layer.rank)
        self._down = Convolution(layers.Pointwise(layer.rank), shape, f"{index}.down")
        self._up = Convolution(layers.Pointwise(shape[-1]), hidden, f"{index}.up")

    def parameters(self) -> list[ParameterSpec]:
        down, up = self._down.parameters(), self._up.parameters()
        return [spec._replace(name=f"down.{spec.name}") for spec in down] + [
            up[0]._replace(name="up.weight", bound=0.0), up[1]._replace(name="up.bias")  # starts as the identity
        ]

    def prepare(self, context: Context, weights: list[int], forward: bool, backward: bool) -> None:
        for part, own in self._parts(weights):
            part.prepare(context, own, forward, backward)

    def _parts(self, weights: list[int]) -> tuple[tuple[Convolution, list[int]], ...]:
        return (self._down, weights[:2]), (self._up, weights[2:])

    def _hidden(self, context: Context) -> int:
        return context.activation(f"adapter{self.index}", self._down.outputs)

    def forward(self, context: Context, x: int, y: int, weights: list[int]) -> None:
        hidden = self._hidden(context)
        self._down.forward(context, x, hidden, weights[:2], relu=True)
        self._up.forward(context, hidden, y, weights[2:])
        context.program.emit(Op.ACCUMULATE, y, x)

    def backward(
        self, context: Context, x: int, dy: int, weights: list[int], gradients: list[int]
    ) -> None:
        """Emit both gradients; that of the input lies on `dy`."""
        hidden, inner = self._hidden(context), context.scratch(f"dadapter{self.index}", self._down.outputs)
        self._up.weight_gradient(context, hidden, dy, gradients[2:])
        self._up.input_gradient(context, hidden, dy, inner, weights[2:], mask=hidden)
        self._down.weight_gradient(context, x, inner, gradients[:2])
        self._down.input_gradient(context, x, inner, dy, weights[:2], add=True)


def lower_layer(layer: layers.Layer, shape: layers.Shape, index: int) -> LoweredLayer:
    """Return `layer` ready to be emitted, for inputs of `shape`."""
    if isinstance(layer, layers.Adapter):
        return Adapter(layer, shape, index)
    return LOWERED[type(layer)](layer, shape, index)

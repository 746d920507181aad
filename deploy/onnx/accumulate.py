"""Nodes of a training step whose updates are left to an optimizer of the runtime: gradients go to its accumulators.

What our runtime adds to a gradient before the optimizer sees it is part of the graph, for each batch: clipping, the
pull of a consolidation, and for SGD, where it is an addend too, the decay of weights, and the factor of a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgerev.deploy.onnx.backward import kernel_gradients
from edgerev.deploy.onnx.forward import FLOAT
from edgerev.deploy.onnx.update import gradient, scaled
from edgerev.kernels import layout
from edgerev.kernels.layout import Op, UpdateKind

if TYPE_CHECKING:
    from edgerev.deploy.onnx.writer import Call

DOMAIN = "com.microsoft"
RESET = "lazy_reset_grad"  # whether the accumulators start anew


def _schedule(call: Call) -> None:
    """Leave the rate to the optimizer, and take whether its accumulators start anew."""
    call.writer.slots[layout.V_CLIP] = call.graph.constant(1)
    call.graph.input(RESET, "?", (1,))


def _advance(call: Call) -> None:
    """Leave the count of steps to the optimizer."""


def _accumulate(call: Call, name: str, value: str) -> None:
    """Add a gradient to the accumulator of a parameter, in place."""
    number, writer = call.number(name), call.writer
    buffer = f"{call.tensor(name).name}_grad.accumulation.buffer"
    call.graph.input(buffer, "f4", writer.layout(number).onnx_shape)
    done = writer.accumulated[number] = call.add("InPlaceAccumulatorV2", buffer, value, RESET, domain=DOMAIN)
    writer.await_value(call.add("Cast", done, to=FLOAT), 1)


def _update(call: Call) -> None:
    found = gradient(call)
    if call["kind"] == UpdateKind.SGD:
        if call["decay"]:
            found = call.add("Add", found, scaled(call, call.read("w"), call["decay"]))
        found = scaled(call, found, call["scale"])
    _accumulate(call, "w", found)


def _conv_sgd(call: Call) -> None:
    for name, found, decay in zip("wb", kernel_gradients(call), (call["decay"], 0.0)):
        if decay:
            found = call.add("Add", found, scaled(call, call.read(name), decay))
        _accumulate(call, name, found)


ACCUMULATE: dict[Op, Callable[[Call], None]] = {
    Op.SCHEDULE: _schedule, Op.ADVANCE: _advance, Op.UPDATE: _update, Op.CONV_SGD: _conv_sgd,
}  # fmt: skip

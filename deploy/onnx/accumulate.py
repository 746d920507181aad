"""Nodes of a training step whose updates are left to an optimizer of the runtime: gradients go to its accumulators.

What our runtime adds to a gradient before the optimizer sees it is part of the graph, for each batch: clipping, the
pull of a consolidation, and for SGD, where it is an addend too, the decay of weights, and the factor of a module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgerev.deploy.onnx.backward import kernel_gradients
from edgerev.deploy.onnx.forward import FLOAT, raised, spatial
from edgerev.deploy.onnx.update import gradient, own_columns, scaled
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


def _kernel_gradients(call: Call, name: str) -> list[str]:
    """Return the gradients of a kernel, called `name`, and of its bias, by an operator that takes a third of the time.

    Plain runtimes do not have it. It wants to see a kernel only for its shape, where it is not to pass the gradient on.
    """
    own, shape = call.rank("x"), call.writer.layout(call.number(name)).onnx_shape
    axes = len(shape) - 2
    if not axes:
        return list(kernel_gradients(call))
    x, dy = (raised(call, call.read(operand), own, axes) for operand in ("x", "dy"))
    kernel = call.graph.constant(np.zeros(shape, "f4"))
    group = call.tensor("x").shape[2] if call.step.op == Op.DEPTHWISE_WGRAD else 1
    return call.graph.add_several(
        "ConvGrad", dy, x, kernel, outputs=2, left_out=1, domain=DOMAIN, group=group, strides=[1] * axes,
        dilations=[1] * axes, **spatial(call, axes),
    )


def _kernel_gradient(call: Call) -> None:
    for name, found in zip(("dw", "db"), _kernel_gradients(call, "dw")):
        call.write(name, found)


def _update(call: Call) -> None:
    found = gradient(call)
    if call["kind"] == UpdateKind.SGD:
        if call["decay"]:
            found = call.add("Add", found, scaled(call, call.read("w"), call["decay"]))
        found = scaled(call, found, call["scale"])
    own = own_columns(call)
    _accumulate(call, "w", call.add("Where", own, found, call.graph.constant(0)) if own else found)


def _conv_sgd(call: Call) -> None:
    for name, found, decay in zip("wb", _kernel_gradients(call, "w"), (call["decay"], 0.0)):
        if decay:
            found = call.add("Add", found, scaled(call, call.read(name), decay))
        _accumulate(call, name, found)


ACCUMULATE: dict[Op, Callable[[Call], None]] = {
    Op.SCHEDULE: _schedule, Op.ADVANCE: _advance, Op.UPDATE: _update, Op.CONV_SGD: _conv_sgd,
    **dict.fromkeys((Op.CONV_WGRAD, Op.WINOGRAD_WGRAD, Op.DEPTHWISE_WGRAD), _kernel_gradient),
}  # fmt: skip

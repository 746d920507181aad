"""Nodes of the backward pass: gradients with respect to inputs and to parameters.

The gradient of a kernel is a convolution too: of the samples with the gradient of the output as the kernel, batch and
channels having changed places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgerev.deploy.onnx.forward import canonical, gelu_inner, grouped, positive, raised, reshape, spatial
from edgerev.deploy.onnx.parameters import kernel_rank
from edgerev.kernels.layout import Activation, NormKind, Op

if TYPE_CHECKING:
    from edgerev.deploy.onnx.writer import Call


def summed(call: Call, values: str, axes: int) -> str:
    """Return the sum over the batch and all positions, for each channel."""
    return call.graph.reduce("ReduceSum", values, [0, *range(2, 2 + axes)])


def kernel_gradients(call: Call) -> tuple[str, str]:
    """Return the gradients of a kernel and of its bias."""
    x, dy, own = call.read("x"), call.read("dy"), call.rank("x")
    db = summed(call, dy, own)
    axes = kernel_rank((call["kernel_h"], call["kernel_w"]), call.tensor("x").shape)
    if axes == 0:
        return call.add("MatMul", call.add("Transpose", x, perm=[1, 0]), dy), db
    order = [1, 0, *range(2, 2 + axes)]
    x, dy = (call.add("Transpose", raised(call, value, own, axes), perm=order) for value in (x, dy))
    dw = call.add("Conv", x, dy, **positions(call, axes))
    return call.add("Transpose", dw, perm=order), db


def positions(call: Call, axes: int) -> dict[str, list[int]]:
    """Return the attributes of a convolution whose kernel is a whole sample, once for each tap."""
    sizes = list(call.tensor("dy").shape[:2])[2 - axes :]
    return {"kernel_shape": sizes, "pads": spatial(call, axes)["pads"]}


def _conv_wgrad(call: Call) -> None:
    for name, gradient in zip(("dw", "db"), kernel_gradients(call)):
        call.write(name, gradient)


def _depthwise_wgrad(call: Call) -> None:
    own, channels = call.rank("x"), call.tensor("x").shape[2]
    axes = kernel_rank((call["kernel_h"], call["kernel_w"]), call.tensor("x").shape, depthwise=True)
    order = [1, 0, *range(2, 2 + axes)]
    x, dy = (
        call.add("Transpose", raised(call, call.read(name), own, axes), perm=order) for name in ("x", "dy")
    )
    sizes = positions(call, axes)
    x = reshape(call, x, [1, -1, *sizes["kernel_shape"]])  # all samples of a channel are one group
    dw = call.add("Conv", x, dy, group=channels, **sizes)
    call.write("dw", reshape(call, dw, [channels, 1, *spatial(call, axes)["kernel_shape"]]))
    call.write("db", summed(call, call.read("dy"), own))


def _activation_grad(call: Call) -> None:
    x, one = call.read("x"), call.graph.constant(1)
    if call["kind"] == Activation.RELU:
        slope = positive(call, x)
    elif call["kind"] == Activation.SILU:
        s = call.add("Sigmoid", x)
        slope = call.add("Mul", s, call.add("Add", one, call.add("Mul", x, call.add("Sub", one, s))))
    else:
        slope = _gelu_slope(call, x, one)
    call.write("dx", call.add("Mul", slope, call.read("dy")))


def _gelu_slope(call: Call, x: str, one: str) -> str:
    """Return ``(1 + t) / 2 + x / 2 (1 - t^2) sqrt(2 / pi) (1 + 3 * 0.044715 x^2)``."""
    graph, t = call.graph, gelu_inner(call, x)
    inner = call.add("Add", one, call.add("Mul", call.add("Mul", x, x), graph.constant(3 * 0.044715)))
    inner = call.add("Mul", inner, call.add("Mul", x, graph.constant(0.5 * (2 / 3.141592653589793) ** 0.5)))
    inner = call.add("Mul", inner, call.add("Sub", one, call.add("Mul", t, t)))
    return call.add("Add", call.add("Mul", call.add("Add", one, t), graph.constant(0.5)), inner)


def normalised(call: Call) -> tuple[str, str]:
    """Return x before gain and bias, in groups if there are any, and 1 / its deviation."""
    mean, r = call.writer.pairs[call.number("stats")]
    x = call.add("Sub", grouped(call, "x"), mean) if mean else call.read("x")
    return call.add("Mul", x, r), r


def _norm_grad(call: Call) -> None:
    (xhat, r), graph, group = normalised(call), call.graph, call["kind"] == NormKind.GROUP
    shape, axis = canonical(call.tensor("dy")), [2 if group else 1]
    h = call.add("Mul", call.read("dy"), call.channelwise(call.read("gamma"), call.rank("dy")))
    if group:
        h = reshape(call, h, [0, call["groups"], -1])
    along = graph.reduce("ReduceMean", call.add("Mul", h, xhat), axis, keepdims=True)
    dx = call.add("Sub", h, call.add("Mul", xhat, along))
    if group:
        dx = call.add("Sub", dx, graph.reduce("ReduceMean", h, axis, keepdims=True))
    dx = call.add("Mul", dx, r)
    call.write("dx", reshape(call, dx, shape) if group else dx)


def _norm_wgrad(call: Call) -> None:
    xhat, _ = normalised(call)
    if call["kind"] == NormKind.GROUP:
        xhat = reshape(call, xhat, canonical(call.tensor("x")))
    dy, axes = call.read("dy"), call.rank("x")
    call.write("dgamma", summed(call, call.add("Mul", dy, xhat), axes))
    if call.has("dbeta"):
        call.write("dbeta", summed(call, dy, axes))


BACKWARD: dict[Op, Callable[[Call], None]] = {
    Op.CONV_WGRAD: _conv_wgrad, Op.WINOGRAD_WGRAD: _conv_wgrad, Op.DEPTHWISE_WGRAD: _depthwise_wgrad,
    Op.ACTIVATION_GRAD: _activation_grad, Op.NORM_GRAD: _norm_grad, Op.NORM_WGRAD: _norm_wgrad,
}  # fmt: skip

"""Nodes of the forward and the inverse pass: an entry for each instruction of the backbone."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from edgerev.deploy.onnx.parameters import kernel_rank, rank
from edgerev.errors import ExportError
from edgerev.kernels.layout import FRACTION_BITS, Activation, DType, NormKind, Op
from edgerev.program import Instruction, Program, Region, Tensor

if TYPE_CHECKING:
    from edgerev.deploy.onnx.writer import Call

FLOAT, INT32 = 1, 6  # numbers of types in ONNX


def _nothing(call: Call) -> None:
    """Leave out what has no meaning outside of our own runtime: CHECK, whose statuses no graph records."""


def canonical(tensor: Tensor) -> list[int]:
    """Return the shape of the value of a tensor, for Reshape: 0 takes over the size of the batch."""
    height, width, channels = tensor.shape
    return [0, channels, *(height, width)[2 - rank(tensor.shape) :]]


def reshape(call: Call, x: str, shape: list[int]) -> str:
    """Return a value in another shape, in which 0 stands for the size that the axis has."""
    return call.add("Reshape", x, call.graph.integers(*shape))


# -- input ---------------------------------------------------------------------------------------------------------


def _read_input(call: Call) -> None:
    raw, y = call.tensor("raw").shape, call.tensor("y").shape
    if call["augment"] and (call["shift"] or call["flip"] or call["noise"] or raw != y):
        raise ExportError("augmentation cannot be written as ONNX; expected none; lower the net without it")
    x = reshape(call, call.read("raw"), [0, *raw])
    if raw[:2] != y[:2]:
        starts = [(raw[axis] - y[axis]) // 2 for axis in (0, 1)]
        stops = [start + y[axis] for axis, start in enumerate(starts)]
        x = call.add("Slice", x, *(call.graph.integers(*part) for part in (starts, stops, (1, 2))))
    x = call.add("Mul", call.add("Sub", x, call.read("mean")), call.read("scale"))
    x = call.add("Transpose", x, perm=[0, 3, 1, 2])
    call.write("y", reshape(call, x, canonical(call.tensor("y"))))


# -- products ------------------------------------------------------------------------------------------------------


def raised(call: Call, x: str, axes: int, to: int) -> str:
    """Return samples with `to` positional axes, of which the first may be of one position."""
    return call.add("Unsqueeze", x, call.graph.integers(*range(2, 2 + to - axes))) if to > axes else x


def lowered(call: Call, y: str, axes: int, to: int) -> str:
    """Take off again what `raised` added."""
    return call.add("Squeeze", y, call.graph.integers(*range(2, 2 + axes - to))) if axes > to else y


def spatial(call: Call, axes: int) -> dict[str, list[int]]:
    """Return the attributes of a convolution that keeps the size."""
    kernel = [call["kernel_h"], call["kernel_w"]][2 - axes :]
    return {"kernel_shape": kernel, "pads": [size // 2 for size in kernel] * 2}


def product(call: Call, x: str, w: str) -> str:
    """Return the convolution of `x`, with the bias if there is one."""
    own, kernel = call.rank("x"), (call["kernel_h"], call["kernel_w"])
    axes, bias = kernel_rank(kernel, call.tensor("x").shape), [call.read("b")] if call.has("b") else []
    if axes == 0:
        return call.add("Gemm", x, w, *bias) if bias else call.add("MatMul", x, w)
    y = call.add("Conv", raised(call, x, own, axes), w, *bias, **spatial(call, axes))
    return lowered(call, y, axes, own)


def positive(call: Call, x: str) -> str:
    """Return 1 where x is positive, else 0; faster than a Where."""
    return call.add("Sign", call.add("Relu", x))


def _convolution(call: Call, weights: str) -> None:
    y = product(call, call.read("x"), call.read(weights))
    if call["add"]:
        y = call.add("Add", y, call.read("y"))
    if call["relu"]:
        y = call.add("Relu", y)
    if call.has("mask"):
        y = call.add("Mul", y, positive(call, call.read("mask")))
    call.write("y", y)


def _conv(call: Call) -> None:
    _convolution(call, "w")


def _winograd(call: Call) -> None:
    _convolution(call, "u")


def _winograd_weights(call: Call) -> None:
    """Let the product see the kernel itself: how it is computed is the runtime's choice."""
    call.write("u", call.read("w"))


def _flip(call: Call) -> None:
    w, axes = call.read("w"), call.writer.layout(call.number("w")).rank
    w = call.add("Transpose", w, perm=[1, 0, *range(2, 2 + axes)])
    call.write("flipped", backwards(call, w, axes))


def backwards(call: Call, w: str, axes: int) -> str:
    """Return a kernel read from its end."""
    if not axes:
        return w
    last, before_first = [-1] * axes, [-(2**31)] * axes
    parts = (last, before_first, range(2, 2 + axes), last)
    return call.add("Slice", w, *(call.graph.integers(*part) for part in parts))


def _depthwise(call: Call) -> None:
    own, channels = call.rank("x"), call.tensor("x").shape[2]
    axes = kernel_rank((call["kernel_h"], call["kernel_w"]), call.tensor("x").shape, depthwise=True)
    w, bias = call.read("w"), [call.read("b")] if call.has("b") else []
    if call["flipped"]:
        w = backwards(call, w, axes)
    y = call.add("Conv", raised(call, call.read("x"), own, axes), w, *bias, group=channels, **spatial(call, axes))
    call.write("y", lowered(call, y, axes, own))


# -- layers without products ---------------------------------------------------------------------------------------


def gelu_inner(call: Call, x: str) -> str:
    """Return the tanh of the GELU."""
    cube = call.add("Mul", call.add("Mul", x, x), x)
    inner = call.add("Add", x, call.add("Mul", cube, call.graph.constant(0.044715)))
    return call.add("Tanh", call.add("Mul", inner, call.graph.constant((2 / 3.141592653589793) ** 0.5)))


def _activation(call: Call) -> None:
    x = call.read("x")
    if call["kind"] == Activation.RELU:
        y = call.add("Relu", x)
    elif call["kind"] == Activation.SILU:
        y = call.add("Mul", x, call.add("Sigmoid", x))
    else:
        half = call.add("Mul", x, call.graph.constant(0.5))
        y = call.add("Mul", half, call.add("Add", gelu_inner(call, x), call.graph.constant(1)))
    call.write("y", y)


def grouped(call: Call, name: str) -> str:
    """Return samples as (batch, groups, all values of the group)."""
    tensor = call.tensor(name)
    return reshape(call, call.read(name), [0, call["groups"], prod(tensor.shape) // call["groups"]])


def _norm(call: Call) -> None:
    graph, axes = call.graph, call.rank("x")
    group, epsilon = call["kind"] == NormKind.GROUP, graph.constant(call["epsilon"])
    if group:
        x = grouped(call, "x")
        mean = graph.reduce("ReduceMean", x, [2], keepdims=True)
        x = call.add("Sub", x, mean)
    else:
        x, mean = call.read("x"), ""
    squares = graph.reduce("ReduceMean", call.add("Mul", x, x), [2 if group else 1], keepdims=True)
    r = call.add("Reciprocal", call.add("Sqrt", call.add("Add", squares, epsilon)))
    call.writer.pairs[call.number("stats")] = (mean, r)
    y = call.add("Mul", x, r)
    if group:
        y = reshape(call, y, canonical(call.tensor("x")))
    y = call.add("Mul", y, call.channelwise(call.read("gamma"), axes))
    if call.has("beta"):
        y = call.add("Add", y, call.channelwise(call.read("beta"), axes))
    call.write("y", y)


def mask_name(program: Program, step: Instruction) -> str:
    """Return the name of the input that holds the mask of a DROPOUT."""
    return f"{program.blocks[step.block]}.dropout{step.parameters['stream']}"


def _dropout(call: Call) -> None:
    """Multiply by a mask that the caller draws: 0 or 1 / (1 - rate), shaped like a sample of ours."""
    shape, writer = call.tensor("x").shape, call.writer
    name = mask_name(writer.program, call.step)
    if name not in writer.masks:
        writer.masks[name] = call["rate"]
        call.graph.input(name, "f4", (call.graph.samples, *shape))
    mask = call.add("Transpose", name, perm=[0, 3, 1, 2])
    call.write("y", call.add("Mul", call.read("x"), reshape(call, mask, canonical(call.tensor("x")))))


# -- state ---------------------------------------------------------------------------------------------------------


def real(call: Call, name: str, factor: float = 1.0, tie: str = "") -> str:
    """Return a state, or its gradient, as real numbers times `factor`."""
    tensor, value = call.tensor(name), call.read(name)
    if tensor.dtype != DType.F32:
        value, factor = call.add("Cast", value, to=FLOAT), factor * 2.0 ** -FRACTION_BITS[tensor.dtype]
    if factor == 1 and not tie:
        return value
    constant = call.graph.constant(factor)
    return call.add("Mul", value, call.add("Add", constant, tie) if tie else constant)


def _load(call: Call) -> None:
    tie = call.writer.tie if call.tensor("s").region is Region.STATE else ""
    value, number = real(call, "s", call["scale"], tie), call.number("y")
    width, whole = call.tensor("s").shape[2], call.tensor("y").shape[2]
    if width == whole:
        return call.write("y", value)
    parts = call.writer.parts.setdefault(number, {})
    parts[call["channel"]] = value
    if len(parts) * width == whole:
        call.write("y", call.add("Concat", *(parts[channel] for channel in sorted(parts)), axis=1))
        del call.writer.parts[number]
    return None


def _couple(call: Call) -> None:
    tensor, t, graph = call.tensor("s"), call.read("t"), call.graph
    width, channel = tensor.shape[2], call["channel"]
    if width < call.tensor("t").shape[2]:
        t = call.add("Slice", t, *(graph.integers(at) for at in (channel, channel + width, 1)))
    factor = call["scale"]
    if tensor.dtype != DType.F32:
        factor *= 2.0 ** FRACTION_BITS[tensor.dtype]
    if factor != 1:
        t = call.add("Mul", t, graph.constant(factor))
    if tensor.dtype != DType.F32:
        t = call.add("Cast", call.add("Round", t), to=INT32)
    if call["sign"]:
        t = call.add("Add" if call["sign"] > 0 else "Sub", call.read("s"), t)
    call.write("s", t)


def _squeeze(call: Call) -> None:
    large, small = (call.tensor(name).shape for name in ("yx" if call["inverse"] else "xy"))
    height, width, fh, fw = *small[:2], large[0] // small[0], large[1] // small[1]
    if call["inverse"]:
        x = reshape(call, call.read("x"), [0, fh, fw, large[2], height, width])
        x = call.add("Transpose", x, perm=[0, 3, 4, 1, 5, 2])
    else:
        x = reshape(call, call.read("x"), [0, large[2], height, fh, width, fw])
        x = call.add("Transpose", x, perm=[0, 3, 5, 1, 2, 4])
    call.write("y", reshape(call, x, canonical(call.tensor("y"))))


def _copy(call: Call) -> None:
    call.write("y", call.read("x"))


def _accumulate(call: Call) -> None:
    call.write("g", call.add("Add", call.read("g"), call.read("t")))


FORWARD: dict[Op, Callable[[Call], None]] = {
    Op.CHECK: _nothing, Op.INPUT: _read_input, Op.CONV: _conv, Op.WINOGRAD: _winograd,
    Op.WINOGRAD_WEIGHTS: _winograd_weights, Op.FLIP: _flip, Op.DEPTHWISE: _depthwise, Op.ACTIVATION: _activation,
    Op.NORM: _norm, Op.DROPOUT: _dropout, Op.LOAD: _load, Op.COUPLE: _couple, Op.SQUEEZE: _squeeze, Op.COPY: _copy,
    Op.ACCUMULATE: _accumulate,
}  # fmt: skip

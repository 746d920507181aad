"""Nodes of the head: features, loss, probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgerev.deploy.onnx.forward import FLOAT, canonical, real, reshape
from edgerev.kernels.layout import LEVELS, DType, LossKind, Op

if TYPE_CHECKING:
    from edgerev.deploy.onnx.writer import Call

_SOFTMAX = (LossKind.CROSS_ENTROPY, LossKind.SOFT_CROSS_ENTROPY)


# -- features ------------------------------------------------------------------------------------------------------


def means(call: Call, height: int, width: int) -> np.ndarray:
    """Return the weight of each position (row by row) in the mean of each cell: ``(cells, positions)`` float32."""
    rows, columns = call["rows"], call["columns"]
    found = np.zeros((rows * columns, height, width), "f4")
    for cell, weights in enumerate(found):
        r, c = divmod(cell, columns)
        part = weights[r * height // rows : (r + 1) * height // rows, c * width // columns : (c + 1) * width // columns]
        part[...] = np.float32(1) / np.float32(part.size)
    return found.reshape(rows * columns, -1)


def _pool(call: Call) -> None:
    halves = []
    for name in ("s1", "s2"):
        if call.has(name):
            height, width, channels = call.tensor(name).shape
            half, cells = real(call, name), call["rows"] * call["columns"]
            if call["rectify"]:
                half = call.add("Relu", half)
            if cells == 1 and height * width > 1:
                half = call.graph.reduce("ReduceMean", half, range(2, 2 + call.rank(name)))
            elif height * width > 1:
                half = reshape(call, half, [0, channels, height * width])
                if cells < height * width:
                    half = call.add("MatMul", half, call.graph.constant(means(call, height, width).T))
                half = reshape(call, call.add("Transpose", half, perm=[0, 2, 1]), [0, cells * channels])
            halves.append(half)
    call.write("features", call.add("Concat", *halves, axis=1) if len(halves) > 1 else halves[0])


def _pool_grad(call: Call) -> None:
    cells, whole = call["rows"] * call["columns"], call.read("dfeatures")
    for index, (gradient, state) in enumerate((("g1", "s1"), ("g2", "s2"))):
        height, width, channels = call.tensor(gradient).shape
        size = cells * channels
        part = call.add("Slice", whole, *(call.graph.integers(at) for at in (index * size, (index + 1) * size, 1)))
        if height * width > 1:
            part = call.add("Transpose", reshape(call, part, [0, cells, channels]), perm=[0, 2, 1])
            if cells < height * width:
                part = call.add("MatMul", part, call.graph.constant(means(call, height, width)))
            part = reshape(call, part, canonical(call.tensor(gradient)))
        if call["rectify"]:
            kind = "f4" if call.tensor(state).dtype == DType.F32 else "i4"
            positive = call.add("Greater", call.read(state), call.graph.constant(0, kind))
            part = call.add("Where", positive, part, call.graph.constant(0))
        call.write(gradient, part)


def _quantise(call: Call) -> None:
    low, high = (call.writer.values(call.tensor(name).name).astype("f4") for name in ("low", "high"))
    middle, reach = (low + high) / 2, (high - low) / 2
    known = high > low
    factor = np.where(known, np.float32(LEVELS) / np.where(known, reach, 1), 0).astype("f4")
    levels = call.add("Sub", call.read("f"), call.graph.constant(np.where(known, middle, 0)))
    levels = call.add("Round", call.add("Mul", levels, call.graph.constant(factor)))
    call.write("f", call.add("Clip", levels, call.graph.constant(-LEVELS), call.graph.constant(LEVELS)))


# -- loss ----------------------------------------------------------------------------------------------------------


def own_columns(call: Call, values: str) -> str:
    """Return the columns of the task at hand, all if none is given."""
    if call.task < 0:
        return values
    first = call.task * call["outputs"]
    return call.add("Slice", values, *(call.graph.integers(at) for at in (first, first + call["outputs"], 1)))


def all_columns(call: Call, values: str, columns: int) -> str:
    """Return the columns of the task at hand among zeros for the other tasks."""
    if call.task < 0:
        return values
    before = call.task * call["outputs"]
    after = columns - before - call["outputs"]
    return call.add("Pad", values, call.graph.integers(0, before, 0, after))


def _loss(call: Call) -> None:
    columns = call.tensor("z").shape[2]
    z, target = own_columns(call, call.read("z")), call.read("target")
    if call["kind"] != LossKind.CROSS_ENTROPY:
        target = own_columns(call, target)
    weights = call.read("weights") if call.has("weights") else ""
    size = columns if call.task < 0 else call["outputs"]
    losses, dz = _LOSSES[LossKind(call["kind"])](call, z, target, weights, size)
    if call.graph.batch is None:
        first = call.add("Slice", call.add("Shape", z), *(call.graph.integers(at) for at in (0, 1)))
        n = call.add("Cast", first, to=FLOAT)
    else:
        n = call.graph.constant(call.graph.batch)
    call.write("losses", losses)  # of each sample; the share of right answers is not in the graph
    call.write("dz", all_columns(call, call.add("Div", dz, n), columns))


def _cross_entropy(call: Call, z: str, y: str, weights: str, size: int) -> tuple[str, str]:
    """Return each sample's loss, and the gradient with respect to z."""
    graph, e = call.graph, call["smoothing"]
    log_p = call.add("LogSoftmax", z, axis=1)
    low, high = np.float32(e / size), np.float32(1 - e + e / size)
    wanted = call.add("OneHot", y, graph.integers(size), graph.constant([low, high]), axis=1)
    losses = call.add("Neg", graph.reduce("ReduceSum", call.add("Mul", wanted, log_p), [1]))
    dz = call.add("Sub", call.add("Exp", log_p), wanted)
    if weights:
        weight = call.add("Gather", weights, y)
        losses = call.add("Mul", losses, weight)
        dz = call.add("Mul", dz, call.add("Unsqueeze", weight, graph.integers(1)))
    return losses, dz


def _soft_cross_entropy(call: Call, z: str, t: str, weights: str, size: int) -> tuple[str, str]:
    graph, log_p = call.graph, call.add("LogSoftmax", z, axis=1)
    share = call.add("Mul", t, weights) if weights else t
    losses = call.add("Neg", graph.reduce("ReduceSum", call.add("Mul", share, log_p), [1]))
    total = graph.reduce("ReduceSum", share, [1], keepdims=True)
    return losses, call.add("Sub", call.add("Mul", call.add("Exp", log_p), total), share)


def _binary_cross_entropy(call: Call, z: str, t: str, weights: str, size: int) -> tuple[str, str]:
    graph, e = call.graph, call["smoothing"]
    if e:
        t = call.add("Add", call.add("Mul", t, graph.constant(1 - e)), graph.constant(e / 2))
    tail = call.add("Log", call.add("Add", call.add("Exp", call.add("Neg", call.add("Abs", z))), graph.constant(1)))
    each = call.add("Add", call.add("Sub", call.add("Relu", z), call.add("Mul", z, t)), tail)
    dz = call.add("Mul", call.add("Sub", call.add("Sigmoid", z), t), graph.constant(1 / size))
    if weights:
        each, dz = call.add("Mul", each, weights), call.add("Mul", dz, weights)
    return graph.reduce("ReduceMean", each, [1]), dz


def _mean_squared_error(call: Call, z: str, t: str, weights: str, size: int) -> tuple[str, str]:
    graph, off = call.graph, call.add("Sub", z, t)
    weighted = call.add("Mul", off, weights) if weights else off
    each = call.add("Mul", off, weighted)
    return graph.reduce("ReduceMean", each, [1]), call.add("Mul", weighted, graph.constant(2 / size))


_LOSSES: dict[LossKind, Callable[[Call, str, str, str, int], tuple[str, str]]] = {
    LossKind.CROSS_ENTROPY: _cross_entropy, LossKind.BINARY_CROSS_ENTROPY: _binary_cross_entropy,
    LossKind.MEAN_SQUARED_ERROR: _mean_squared_error, LossKind.SOFT_CROSS_ENTROPY: _soft_cross_entropy,
}  # fmt: skip


def _report(call: Call) -> None:
    call.write("report", call.graph.reduce("ReduceMean", call.read("losses"), [0]))


def _probability(call: Call) -> None:
    z = own_columns(call, call.read("z"))
    if call["kind"] in _SOFTMAX:
        z = call.add("Softmax", z, axis=1)
    elif call["kind"] == LossKind.BINARY_CROSS_ENTROPY:
        z = call.add("Sigmoid", z)
    call.write("p", all_columns(call, z, call.tensor("z").shape[2]))


HEAD: dict[Op, Callable[[Call], None]] = {
    Op.POOL: _pool, Op.POOL_GRAD: _pool_grad, Op.QUANTISE: _quantise, Op.LOSS: _loss, Op.REPORT: _report,
    Op.PROBABILITY: _probability,
}  # fmt: skip

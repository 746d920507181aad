"""Nodes of the optimizer: from gradients to new parameters.

The numbers in the tensor ``scalars`` are values of their own here: the learning rate is an input of the graph, the
powers of AdamW's betas are state that goes in and out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from edgerev.deploy.onnx.backward import kernel_gradients
from edgerev.kernels import layout
from edgerev.kernels.layout import ClipKind, Op, UpdateKind

if TYPE_CHECKING:
    from edgerev.deploy.onnx.writer import Call

POWERS = {layout.V_POWER1: "scalars.power1", layout.V_POWER2: "scalars.power2"}  # names of their inputs


def _schedule(call: Call) -> None:
    """Take the rate from the caller, whose schedule it is, and correct the moments' bias for this step."""
    graph, slots = call.graph, call.writer.slots
    slots[layout.V_RATE] = graph.input("learning_rate", "f4", ())
    slots[layout.V_CLIP] = graph.constant(1)
    if not call["beta1"] and not call["beta2"]:
        return
    powers = call.writer.values("scalars")
    for power, correction, beta in (
        (layout.V_POWER1, layout.V_CORRECTION1, "beta1"), (layout.V_POWER2, layout.V_CORRECTION2, "beta2"),
    ):
        name = graph.input(graph.initializer(POWERS[power], powers[power : power + 1].reshape(())), "f4", ())
        after = call.add("Mul", name, graph.constant(call[beta]))
        slots[power] = after  # ADVANCE's result: nothing in between looks at it
        slots[correction] = call.add("Reciprocal", call.add("Sub", graph.constant(1), after))


def _advance(call: Call) -> None:
    """Leave the count of steps to the caller; the powers are there already."""


def _grad_norm(call: Call) -> None:
    squares, slots = call.add("ReduceSumSquare", call.read("g"), keepdims=0), call.writer.slots  # over all axes
    slots[call["slot"]] = squares if call["reset"] else call.add("Add", slots[call["slot"]], squares)


def _clip(call: Call) -> None:
    graph, slots, limit = call.graph, call.writer.slots, call.graph.constant(call["limit"])
    if call["kind"] == ClipKind.ADAPTIVE:
        size = call.add("Max", call.add("Sqrt", slots[layout.V_WEIGHT_SQUARES]), graph.constant(1e-3))
        limit = call.add("Mul", size, limit)
    norm = call.add("Sqrt", slots[layout.V_GRAD_SQUARES])
    shrunk = call.add("Where", call.add("Greater", norm, limit), call.add("Div", limit, norm), graph.constant(1))
    slots[layout.V_CLIP] = shrunk


def scaled(call: Call, value: str, factor: float) -> str:
    """Return a value times a number."""
    return call.add("Mul", value, call.graph.constant(factor)) if factor != 1 else value


def _averaged(call: Call, moment: str, value: str, beta: float) -> str:
    return call.add("Add", scaled(call, moment, beta), scaled(call, value, 1 - beta))


def gradient(call: Call) -> str:
    """Return the gradient of an update, clipped, with the pull towards the anchor added."""
    g = call.read("g")
    if call["clip"]:
        g = call.add("Mul", g, call.writer.slots[layout.V_CLIP])
    if call.has("importance"):
        pull = call.add("Mul", call.read("importance"), call.add("Sub", call.read("w"), call.read("anchor")))
        g = call.add("Add", g, scaled(call, pull, call["strength"]))
    return g


def own_columns(call: Call) -> str | None:
    """Return which columns of the weights are those of the task at hand, or None where all change."""
    if not call["outputs"] or call.task < 0:
        return None
    return call.graph.constant(np.arange(call.tensor("w").shape[2]) // call["outputs"] == call.task, "?")


def _update(call: Call) -> None:
    before = {name: call.read(name) for name in ("w", "m", "v", "path") if call.has(name)}
    _update_all(call)
    own = own_columns(call)
    if own is not None:
        for name, old in before.items():
            call.write(name, call.add("Where", own, call.read(name), old))


def _update_all(call: Call) -> None:
    raw, w, g = call.read("g"), call.read("w"), gradient(call)
    rate = scaled(call, call.writer.slots[layout.V_RATE], call["scale"])
    new = call.add("Sub", *_UPDATES[UpdateKind(call["kind"])](call, w, g, rate))
    call.write("w", new)
    if call.has("path"):
        moved = call.add("Mul", raw, call.add("Sub", new, w))
        call.write("path", call.add("Sub", call.read("path"), moved))


def _sgd(call: Call, w: str, g: str, rate: str) -> tuple[str, str]:
    """Return what to take off which weights."""
    change = g = call.add("Add", g, scaled(call, w, call["decay"])) if call["decay"] else g
    if call.has("m"):
        m = call.add("Add", scaled(call, call.read("m"), call["beta1"]), g)
        call.write("m", m)
        change = call.add("Add", g, scaled(call, m, call["beta1"])) if call["nesterov"] else m
    return w, call.add("Mul", change, rate)


def _adamw(call: Call, w: str, g: str, rate: str) -> tuple[str, str]:
    slots = call.writer.slots
    if call["decay"]:
        w = call.add("Sub", w, call.add("Mul", w, scaled(call, rate, call["decay"])))
    m = _averaged(call, call.read("m"), g, call["beta1"])
    v = _averaged(call, call.read("v"), call.add("Mul", g, g), call["beta2"])
    call.write("m", m)
    call.write("v", v)
    root = call.add("Sqrt", call.add("Mul", v, slots[layout.V_CORRECTION2]))
    change = call.add("Mul", m, slots[layout.V_CORRECTION1])
    change = call.add("Div", change, call.add("Add", root, call.graph.constant(call["epsilon"])))
    return w, call.add("Mul", change, rate)


def _lion(call: Call, w: str, g: str, rate: str) -> tuple[str, str]:
    m = call.read("m")
    change = call.add("Sign", _averaged(call, m, g, call["beta1"]))
    if call["decay"]:
        change = call.add("Add", change, scaled(call, w, call["decay"]))
    call.write("m", _averaged(call, m, g, call["beta2"]))
    return w, call.add("Mul", change, rate)


_UPDATES: dict[UpdateKind, Callable[[Call, str, str, str], tuple[str, str]]] = {
    UpdateKind.SGD: _sgd, UpdateKind.ADAMW: _adamw, UpdateKind.LION: _lion,
}  # fmt: skip


def _conv_sgd(call: Call) -> None:
    rate = call.writer.slots[layout.V_RATE]
    for name, gradient, decay in zip("wb", kernel_gradients(call), (call["decay"], 0.0)):
        w = call.read(name)
        if decay:
            gradient = call.add("Add", gradient, scaled(call, w, decay))
        call.write(name, call.add("Sub", w, call.add("Mul", gradient, rate)))


UPDATE: dict[Op, Callable[[Call], None]] = {
    Op.SCHEDULE: _schedule, Op.ADVANCE: _advance, Op.GRAD_NORM: _grad_norm, Op.CLIP: _clip, Op.UPDATE: _update,
    Op.CONV_SGD: _conv_sgd,
}  # fmt: skip

"""From rows of a program to nodes: one symbolic run, in which every tensor is the name of its newest value.

A program writes in place; here each write makes a new value, so nothing is overwritten before its last use. Samples
are channels first, without axes of one position: ``(N, C)``, ``(N, C, width)`` or ``(N, C, height, width)``. A fixed
point state of 16 bits is computed in int32, for few runtimes add int16.

**Order.** A runtime may run what it can at any time, and the rebuilt states depend on no gradient: left alone, it
undoes all couplings first and holds every activation. So each function is tied to the one before it: the factor of
its first LOAD has a zero added that is made of what that one updated. The zero is ``Cast(t * t < -1)``, which is 0 for
NaN too, and which no optimizer of graphs knows to be constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from edgerev.deploy.onnx.backward import BACKWARD
from edgerev.deploy.onnx.forward import FORWARD
from edgerev.deploy.onnx.graph import Graph
from edgerev.deploy.onnx.head import HEAD
from edgerev.deploy.onnx.parameters import Layout, layouts, plain, rank
from edgerev.deploy.onnx.update import UPDATE
from edgerev.errors import ExportError
from edgerev.kernels.layout import C_TASK, NO_TENSOR, OP, ROW, UPDATES, DType, Op
from edgerev.program import Instruction, Program, Region, Tensor

LASTING = (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION)
# Written by one function's backward pass: what the next function's is to wait for.
_AWAITED = (*LASTING, Region.ACCUMULATOR, Region.STATE_GRADIENT)

Entries = Mapping[Op, Callable[["Call"], None]]
ENTRIES: Entries = {**FORWARD, **BACKWARD, **HEAD, **UPDATE}


def _changed(step: Instruction) -> list[int]:
    """Return the lasting tensors that an instruction writes."""
    if step.op not in UPDATES:
        return []
    outputs = [step.operands.get(name, NO_TENSOR) for name in ("w", "b", "m", "v", "path")]
    return [number for number in outputs if number != NO_TENSOR]


def _all_changed(steps: Iterable[Instruction]) -> list[int]:
    return list(dict.fromkeys(number for step in steps for number in _changed(step)))


class Writer:
    """Writes sections of a program into a graph.

    Parameters
    ----------
    values : gives the numbers of a lasting tensor, flat, in the program's order
    counters : those of the learner: they decide what SKIP leaves out, and which task is at hand
    ports : input of the graph, or any other value, for tensors that the sections read before they write them
    entries : what writes each instruction

    Attributes
    ----------
    newest : name of the newest value of each tensor
    written : lasting tensors that the sections change, in their order
    entered : lasting tensors that the sections read, with their numbers as initial values
    slots : name of the newest value of each number in the tensor `scalars`
    masks : inputs for dropout masks, with the rate of each
    accumulated : what says that the gradient of a parameter was added to its accumulator, where that is done
    """

    def __init__(
        self, graph: Graph, program: Program, values: Callable[[str], np.ndarray], counters: list[int],
        ports: dict[int, str], entries: Entries = ENTRIES,
    ) -> None:
        self.graph, self.program, self.values, self.counters = graph, program, values, counters
        self.newest, self._entries = dict(ports), entries
        self.layouts = layouts(program)
        self.written: list[int] = []
        self.entered: list[int] = []
        self.slots: dict[int, str] = {}
        self.masks: dict[str, float] = {}
        self.accumulated: dict[int, str] = {}
        self.parts: dict[int, dict[int, str]] = {}
        self.pairs: dict[int, tuple[str, str]] = {}
        self.tie = ""
        self._backward, self._block = False, -1
        self._awaited: list[str] = []
        self._tensors: dict[int, Tensor] = {}

    def run(self, section: str) -> None:
        """Write the nodes of a section."""
        self._backward, self._block, self.tie = False, -1, ""
        steps = list(self.steps(section))
        self.written += _all_changed(steps)
        for step in steps:
            self.write_step(step)

    def write_step(self, step: Instruction) -> None:
        """Write the nodes of one instruction."""
        self._enter(step)
        self._entries[step.op](Call(self, step))

    def changed(self, section: str) -> list[int]:
        """Return the lasting tensors that a section changes, in its order."""
        return _all_changed(self.steps(section))

    def steps(self, section: str) -> Iterator[Instruction]:
        """Yield the instructions that a run would carry out."""
        index, last = self.program.sections[section]
        while index < last:
            number = self.program.rows[index * ROW + OP]
            if number not in self._entries and number != Op.SKIP:
                name = Op(number).name if number in list(Op) else str(number)
                raise ExportError(
                    f"the instruction {name} of section {section} cannot be written as ONNX; expected those of a net "
                    "that sees the whole batch at once; choose another format"
                )
            step = self.program.decode(index)
            index += 1
            if step.op == Op.SKIP:
                skipped = self.counters[int(step.parameters["slot"])] > step.parameters["most"]
                index += int(step.parameters["rows"]) * skipped
            elif step.first:
                raise ExportError(
                    f"row {index - 1} starts at sample {step.first}; expected 0; lower the net with one micro-batch"
                )
            else:
                yield step

    def _enter(self, step: Instruction) -> None:
        """Name what comes after the block at hand, and tie its backward pass to the one before."""
        self._backward = self._backward or step.op == Op.LOSS
        if step.block >= 0 and step.block != self._block:
            if self._backward and self._awaited:
                self.tie = self._zero(self._awaited)
                self._awaited = []
            self._block = step.block
        target = next(iter(step.operands.values()), NO_TENSOR)
        names = [self.program.blocks[step.block].replace(".", "/")] if step.block >= 0 else []
        names += ["backward"] * self._backward
        names += [self.program.names[target].split("@")[0]] if target != NO_TENSOR else []
        self.graph.scope = "/".join(names)

    def _zero(self, awaited: list[str]) -> str:
        """Return a scalar 0 that cannot be computed before all values that are awaited."""
        graph, graph.scope = self.graph, "tie"
        total = graph.add("Sum", *awaited) if len(awaited) > 1 else awaited[0]
        below = graph.add("Less", graph.add("Mul", total, total), graph.constant(-1))
        return graph.add("Cast", below, to=1)

    # -- values -----------------------------------------------------------------------------------------------

    def tensor(self, number: int) -> Tensor:
        if number not in self._tensors:
            self._tensors[number] = self.program.decode_tensor(number)
        return self._tensors[number]

    def layout(self, number: int) -> Layout:
        return self.layouts.get(number) or plain(self.tensor(number))

    def read(self, number: int) -> str:
        """Return the newest value of a tensor; one that lasts enters the graph when it is first read."""
        if number not in self.newest:
            self.newest[number] = self._enters(number)
        return self.newest[number]

    def _enters(self, number: int) -> str:
        tensor = self.tensor(number)
        if tensor.region not in LASTING or tensor.dtype != DType.F32:
            raise ExportError(
                f"{tensor.name} is read before it is written; expected a parameter; this is a fault of edgerev"
            )
        self.entered.append(number)
        layout = self.layout(number)
        self.graph.initializer(tensor.name, layout.to_onnx(self.values(tensor.name)))
        if number in self.written:
            self.graph.input(tensor.name, "f4", layout.onnx_shape)
        return tensor.name

    def write(self, number: int, value: str) -> None:
        """Make `value` the newest one of a tensor."""
        self.newest[number] = value
        region = self.tensor(number).region
        if self._backward and region in _AWAITED:
            axes = 2 + rank(self.tensor(number).shape)
            if region != Region.STATE_GRADIENT:
                axes = len(self.layout(number).onnx_shape)
            self.await_value(value, axes)

    def await_value(self, value: str, axes: int) -> None:
        """Let the next function's backward pass wait for a value, which has so many axes."""
        self._awaited.append(self.graph.add("GatherND", value, self.graph.integers(*[0] * axes)))


class Call:
    """One instruction for its entry: operands by name, parameters by index, and the graph to add to."""

    def __init__(self, writer: Writer, step: Instruction) -> None:
        self.writer, self.step, self.graph = writer, step, writer.graph
        self.add = writer.graph.add

    def __getitem__(self, parameter: str) -> Any:
        return self.step.parameters[parameter]

    def has(self, name: str) -> bool:
        return self.step.operands.get(name, NO_TENSOR) != NO_TENSOR

    def number(self, name: str) -> int:
        return self.step.operands[name]

    def tensor(self, name: str) -> Tensor:
        return self.writer.tensor(self.number(name))

    def rank(self, name: str) -> int:
        """Return how many positional axes the value of an operand has."""
        return rank(self.tensor(name).shape)

    def read(self, name: str) -> str:
        return self.writer.read(self.number(name))

    def write(self, name: str, value: str) -> None:
        if self.has(name):
            self.writer.write(self.number(name), value)

    def channelwise(self, vector: str, axes: int) -> str:
        """Return a vector of channels, so that it goes with samples of `axes` positional axes."""
        return self.add("Unsqueeze", vector, self.graph.integers(*range(1, axes + 1))) if axes else vector

    @property
    def task(self) -> int:
        """The task at hand, or -1."""
        return self.writer.counters[C_TASK] - 1

"""The formats: which sections become a graph, and what goes in and out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgerev import __version__
from edgerev.deploy.onnx.graph import Graph
from edgerev.deploy.onnx.parameters import rank
from edgerev.deploy.onnx.update import POWERS
from edgerev.deploy.onnx.writer import ENTRIES, Entries, Writer
from edgerev.errors import UsageError
from edgerev.files import write_whole
from edgerev.kernels.layout import FRACTION_BITS, DType
from edgerev.learner import Learner
from edgerev.lower import lower
from edgerev.lower_layers import shape3
from edgerev.lower_tensors import STATE_TYPES
from edgerev.net import Net
from edgerev.numbers import INT32_MAX, whole
from edgerev.recipe import Augment, Schedule
from edgerev.runtime import Runtime

if TYPE_CHECKING:
    import onnx

NEXT = ".next"  # after the name of a parameter or of optimizer state: its value after the step
_CODES = {"f": "f4", "q": "i8", "i": "i4", "h": "i2", "d": "f8"}


def array_of(runtime: Runtime, name: str) -> np.ndarray:
    """Return a copy of a tensor of the arena, flat."""
    view = runtime.view(name)
    return np.frombuffer(view, _CODES[view.format]).copy()


def grid_step(net: Net) -> float:
    """Return what 1 in the state of a net's graphs stands for."""
    dtype = STATE_TYPES[net.state]
    return 1.0 if dtype == DType.F32 else 2.0 ** -FRACTION_BITS[dtype]


class Export:
    """One learner on its way into a graph."""

    def __init__(
        self, learner: Learner, format: str, opset: int, batch: int | None, entries: Entries = ENTRIES
    ) -> None:
        self.learner, self.net = learner, learner.net
        size = 1 if batch is None else batch
        recipe = learner.recipe.replace(batch=size)
        if format in ("train-step", "ort-training"):  # whoever feeds the samples augments them
            recipe = recipe.replace(augment=Augment())
        self.program = lower(learner.net, recipe, Schedule(size, size))
        self.graph = Graph(f"edgerev {format}", opset, batch)
        counters = list(learner.runtime.view("counters"))
        self.writer = Writer(self.graph, self.program, self.values, counters, {}, entries)
        self.metadata: dict[str, Any] = {
            "format": format, "classes": learner.classes, "net": learner.net.to_dict(), "loss": recipe.loss.number.name,
            "mean": self.values("input.mean").tolist(), "scale": self.values("input.scale").tolist(),
            "step": grid_step(self.net), "task": learner.task,
        }  # fmt: skip

    def values(self, name: str) -> np.ndarray:
        return array_of(self.learner.runtime, name)

    def shape(self, *sizes: int) -> tuple[int | str, ...]:
        return (self.graph.samples, *sizes)

    # -- ports ------------------------------------------------------------------------------------------------

    def take_samples(self) -> None:
        """Let samples come in as our runtime takes them: channels last, not standardised."""
        number = self.program.find("raw")
        shape = self.program.decode_tensor(number).shape[3 - len(self.net.input_shape) :]
        self.writer.newest[number] = self.graph.input("x", "f4", self.shape(*shape))

    def take_targets(self) -> None:
        number = self.program.find("target")
        tensor = self.program.decode_tensor(number)
        is_class = tensor.dtype != DType.F32
        shape = self.shape() if is_class else self.shape(tensor.shape[2])
        self.writer.newest[number] = self.graph.input("y", "i8" if is_class else "f4", shape)

    def states(self, stage: int) -> tuple[list[int], tuple[int, ...], str]:
        """Return both halves of the state at a stage, their joint shape channels last, and its type in ONNX."""
        halves = [self.program.find(f"state.{half}@{stage}") for half in (0, 1)]
        shape = list(self.net.stages())[stage]
        dtype = "f4" if self.net.state == "float32" else "i4"
        return halves, (*shape[:-1], 2 * shape[-1]), dtype

    def give_state(self, name: str, stage: int) -> None:
        """Let both halves of the state leave, joined along channels, in steps of the grid."""
        halves, shape, dtype = self.states(stage)
        self.graph.scope = name
        add, full = self.graph.add, shape3(shape)
        value = add("Concat", *(self.writer.read(half) for half in halves), axis=1)
        axes = rank(full)
        value = add("Transpose", value, perm=[0, *range(2, 2 + axes), 1])
        value = add("Reshape", value, self.graph.integers(0, *shape))
        self.graph.output(name, value, dtype, self.shape(*shape))

    def take_state(self, name: str, stage: int) -> None:
        halves, shape, dtype = self.states(stage)
        self.graph.scope = name
        add, full = self.graph.add, shape3(shape)
        axes, width = rank(full), full[2] // 2
        value = self.graph.input(name, dtype, self.shape(*shape))
        # as rows of channels: a Reshape after the Transpose keeps runtimes from moving that behind a norm, whose sums
        # would then run in another order than those of `forward`
        value = add("Reshape", value, self.graph.integers(0, -1, full[2]))
        value = add("Transpose", value, perm=[0, 2, 1])
        value = add("Reshape", value, self.graph.integers(0, full[2], *full[2 - axes : 2]))
        for half, number in enumerate(halves):
            ends = (half * width, (half + 1) * width, 1)
            self.writer.newest[number] = add("Slice", value, *(self.graph.integers(end) for end in ends))

    # -- formats ----------------------------------------------------------------------------------------------

    def inference(self) -> None:
        self.take_samples()
        for section in ("encode", "forward", "read_out"):
            self.writer.run(section)
        value = self.writer.read(self.program.find("probability"))
        self.graph.output("probability", value, "f4", self.shape(self.net.head.columns))

    def forward(self) -> None:
        self.take_samples()
        self.writer.run("encode")
        self.give_state("entry", 0)
        self.writer.run("forward")
        self.give_state("exit", len(list(self.net.stages())) - 1)

    def inverse(self) -> None:
        self.take_state("exit", len(list(self.net.stages())) - 1)
        self.writer.run("inverse")
        self.give_state("entry", 0)

    def train_step(self) -> None:
        self.take_samples()
        self.take_targets()
        writer, graph = self.writer, self.graph
        writer.run("train")
        graph.scope = ""
        graph.output("loss", writer.read(self.program.find("report")), "f4", ())
        for slot, name in POWERS.items():
            if slot in writer.slots:
                graph.output(name + NEXT, writer.slots[slot], "f4", ())
        for number in writer.written:
            name = self.program.names[number]
            graph.output(name + NEXT, writer.newest[number], "f4", writer.layout(number).onnx_shape)
        self.metadata["dropout"] = writer.masks
        self.metadata["rate"] = self.learner.recipe.optimizer.rate


FORMATS: dict[str, Callable[[Export], None]] = {
    "onnx": Export.inference, "inverse": Export.inverse, "forward": Export.forward, "train-step": Export.train_step,
}  # fmt: skip


def make(learner: Learner, format: str, *, opset: int = 18, batch: int | None = None) -> onnx.ModelProto:
    """Return a learner's model in one of the `FORMATS`.

    Parameters
    ----------
    learner : its state is not changed, but a head in closed form is solved if it has to be
    format : "onnx" (samples to probabilities), "forward" (samples to the states at the backbone's entry and exit),
        "inverse" (the state at the exit to that at the entry), "train-step" (one step of training)
    opset : 17 or 18
    batch : samples of each run, or None to leave it open

    Raises
    ------
    UsageError
        There is no such format or opset, or the batch is out of range.
    ExportError
        The package onnx is missing, or the net cannot be written.
    CheckpointError
        A failed step left the model half updated, or a parameter is not finite.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r}: expected one of {', '.join(FORMATS)}; choose one of them")
    if batch is not None:
        whole("batch", batch, 1, INT32_MAX)
    if format == "onnx":
        learner.settle()
    export = Export(learner, format, opset, batch)
    learner.export("the graph", lambda _: FORMATS[format](export))
    metadata = {f"edgerev.{key}": json.dumps(value) for key, value in export.metadata.items()}
    return export.graph.build(metadata, __version__)


def export(learner: Learner, path: str, format: str, *, opset: int = 18, batch: int | None = None) -> int:
    """Write a learner's model to a file, which is as it was if that fails; return its bytes. See `make`."""
    data = make(learner, format, opset=opset, batch=batch).SerializeToString()
    write_whole(path, [data])
    return len(data)

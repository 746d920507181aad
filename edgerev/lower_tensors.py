"""The tensors of a net that stay: input and output, parameters, state; made once, before any instruction."""

from __future__ import annotations

from collections.abc import Iterator

from edgerev import layers
from edgerev.errors import NetError, UsageError
from edgerev.kernels import layout
from edgerev.kernels.layout import DType
from edgerev.lower_function import Sequential
from edgerev.lower_layers import shape3
from edgerev.net import Function, Net, Squeeze
from edgerev.program import Program, Region
from edgerev.recipe import Recipe, Schedule

STATE_TYPES = {"int32": DType.I32, "int16": DType.I16, "float32": DType.F32}


class NetTensors:
    """Numbers of the tensors of one net in one program.

    Attributes
    ----------
    stem, functions, head : their layers with their parameters, functions by name
    states, state_gradients : the pair of halves for each size that squeezes give the state
    stored : names of the functions whose activations stay
    """

    def __init__(self, program: Program, net: Net, recipe: Recipe, schedule: Schedule) -> None:
        self.program, self.net, self.recipe, self.schedule = program, net, recipe, schedule
        self._control()
        self._input_output()
        self._modules()
        self._state()

    def _control(self) -> None:
        tensor, region = self.program.tensor, Region.CONTROL
        self.counters = tensor("counters", (layout.COUNTERS_SIZE,), region, dtype=DType.I64)
        self.scalars = tensor("scalars", (layout.SCALARS_SIZE,), region)
        self.report = tensor("report", (layout.REPORT_SIZE,), region)
        tensor("status", (layout.MAX_THREADS, layout.STATUS_LINE), region, dtype=DType.I32)
        self.barrier = tensor("barrier", (layout.BARRIER_SIZE,), region, dtype=DType.I32)

    def _input_output(self) -> None:
        tensor, batch, net = self.program.tensor, self.recipe.batch, self.net
        shape, outputs = shape3(net.input_shape), net.head.outputs
        crop = self.recipe.augment.crop
        spatial = len(net.input_shape) - 1
        if (crop or self.recipe.augment.shift or self.recipe.augment.flip) and not spatial:
            raise UsageError("augmentation by shift, flip or crop needs samples with positions; leave it out")
        raw = (shape[0] + 2 * crop * (spatial == 2), shape[1] + 2 * crop, shape[2])
        self.raw = tensor("raw", raw, Region.IO, capacity=batch)
        labels = self.recipe.loss.labels
        self.target = tensor(
            "target", (1 if labels else outputs,), Region.IO, dtype=DType.I32 if labels else DType.F32, capacity=batch
        )
        self.losses = tensor("losses", (2,), Region.IO, capacity=batch)
        self.probability = tensor("probability", (outputs,), Region.IO, capacity=batch)
        self.mean = tensor("input.mean", (shape[2],), Region.PARAMETERS)
        self.scale = tensor("input.scale", (shape[2],), Region.PARAMETERS)
        weights = self.recipe.loss.weights
        if weights is not None and len(weights) != outputs:
            raise UsageError(f"loss has {len(weights)} weights, the head {outputs} outputs; give one for each")
        self.loss_weights = -1 if weights is None else tensor("loss.weights", (outputs,), Region.PARAMETERS)

    def _modules(self) -> None:
        """Register the parameters of stem, residual functions and head."""
        net, moments = self.net, self.recipe.optimizer.moments
        self.parts: list[Function | Squeeze] = list(net.functions())
        functions = [part for part in self.parts if isinstance(part, Function)]
        if self.schedule.stored > len(functions):
            raise UsageError(f"{self.schedule}: the net has only {len(functions)} residual functions")
        stream = 1

        def sequential(
            name: str, sequence: tuple[layers.Layer, ...], shape: layers.Shape, gain: float = 1.0
        ) -> Sequential:
            nonlocal stream
            made = Sequential(self.program, name, sequence, shape, moments=moments, streams=stream, gain=gain)
            stream += len(sequence)
            return made

        half = 0.5**0.5  # no rectifier follows stem and head: variance 1 / fan_in (LeCun et al. 1998)
        self.stem = sequential("stem", (net.stem,), net.input_shape, half)
        self.functions = {part.name: sequential(part.name, part.layers, part.shape) for part in functions}
        self.stored = {part.name for part in functions[: self.schedule.stored]}
        self.head = sequential("head", (layers.Dense(net.head.outputs),), (net.features,), half)
        if net.head.kind == "ridge":
            if not self.recipe.loss.labels:
                raise NetError("a ridge head answers with classes; use the loss CrossEntropy, or a linear head")
            size, outputs = net.features, net.head.outputs
            tensor = self.program.tensor
            self.ridge = [tensor("ridge.weight", (size, outputs), Region.PARAMETERS)]
            self.ridge.append(tensor("ridge.bias", (outputs,), Region.PARAMETERS))
            self.sums = [
                tensor(f"ridge.{name}", shape, Region.CONSOLIDATION, dtype=dtype)
                for name, shape, dtype in (
                    ("gram", (size + 1, size + 1), DType.F64), ("moments", (size + 1, outputs), DType.F64),
                    ("counts", (outputs,), DType.I64),
                )
            ]

    def _state(self) -> None:
        """Make the pair of halves and of their gradients, once for each size that squeezes give them."""
        dtype, capacity = STATE_TYPES[self.net.state], self.schedule.micro_batch
        self.states: list[tuple[int, int]] = []
        self.state_gradients: list[tuple[int, int]] = []
        for stage, shape in enumerate(map(shape3, self.net.stages())):
            for pairs, region, kind in (
                (self.states, Region.STATE, dtype), (self.state_gradients, Region.STATE_GRADIENT, DType.F32),
            ):
                pair = [
                    self.program.tensor(
                        f"{region.value}.{half}@{stage}", shape, region, dtype=kind, capacity=capacity,
                        alias=pairs[0][half] if stage else None,
                    )
                    for half in (0, 1)
                ]
                pairs.append((pair[0], pair[1]))

    def modules(self) -> Iterator[tuple[str, Sequential]]:
        yield "stem", self.stem
        yield from self.functions.items()
        yield "head", self.head

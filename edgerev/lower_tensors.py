"""The tensors of a net that stay: input and output, parameters, state; made once, before any instruction."""

from __future__ import annotations

from collections.abc import Iterator

from edgerev import layers
from edgerev.errors import NetError, UsageError
from edgerev.kernels import layout
from edgerev.kernels.layout import DType
from edgerev.lower_function import Parameter, Sequential
from edgerev.lower_layers import shape3
from edgerev.net import Function, Net, Squeeze
from edgerev.program import Program, Region
from edgerev.recipe import Recipe, Schedule

SUM_TYPES = {"int32": DType.I32, "int64": DType.I64, "float64": DType.F64}
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
        shape, columns = shape3(net.input_shape), net.head.columns
        crop = self.recipe.augment.crop
        spatial = len(net.input_shape) - 1
        if (crop or self.recipe.augment.shift or self.recipe.augment.flip) and not spatial:
            raise UsageError("augmentation by shift, flip or crop needs samples with positions; leave it out")
        raw = (shape[0] + 2 * crop * (spatial == 2), shape[1] + 2 * crop, shape[2])
        self.raw = tensor("raw", raw, Region.IO, capacity=batch)
        labels = self.recipe.loss.labels
        self.target = tensor(
            "target", (1 if labels else columns,), Region.IO, dtype=DType.I32 if labels else DType.F32, capacity=batch
        )
        self.losses = tensor("losses", (2,), Region.IO, capacity=batch)
        self.probability = tensor("probability", (columns,), Region.IO, capacity=batch)
        self.mean = tensor("input.mean", (shape[2],), Region.PARAMETERS)
        self.scale = tensor("input.scale", (shape[2],), Region.PARAMETERS)
        weights, outputs = self.recipe.loss.weights, net.head.outputs
        if weights is not None and (len(weights) != outputs or columns != outputs):
            raise UsageError(
                f"loss has {len(weights)} weights, the head {columns} outputs; expected one for each; give as many"
            )
        self.loss_weights = -1 if weights is None else tensor("loss.weights", (outputs,), Region.PARAMETERS)

    def _modules(self) -> None:
        """Register the parameters of stem, residual functions and head."""
        net, moments = self.net, self.recipe.optimizer.moments
        memory = self.recipe.consolidation.values if self.recipe.consolidation else 0
        self.parts: list[Function | Squeeze] = list(net.functions())
        functions = [part for part in self.parts if isinstance(part, Function)]
        if self.schedule.stored > len(functions):
            raise UsageError(f"{self.schedule}: the net has only {len(functions)} residual functions")
        stream = 1

        def sequential(
            name: str, sequence: tuple[layers.Layer, ...], shape: layers.Shape, gain: float = 1.0
        ) -> Sequential:
            nonlocal stream
            made = Sequential(
                self.program, name, sequence, shape, moments=moments, memory=memory, streams=stream, gain=gain
            )
            stream += len(sequence)
            return made

        half = 0.5**0.5  # no rectifier follows stem and head: variance 1 / fan_in (LeCun et al. 1998)
        self.stem = sequential("stem", (net.stem,), net.input_shape, half)
        self.functions = {part.name: sequential(part.name, part.layers, part.shape) for part in functions}
        self.stored = {part.name for part in functions[: self.schedule.stored]}
        self.head = sequential("head", (layers.Dense(net.head.columns),), (net.features,), half)
        self.banks = self._banks()
        self._closed_form()

    def _closed_form(self) -> None:
        """Make what a head in closed form needs: weights, sums, the range of each feature, and a fixed expansion."""
        net, head, tensor = self.net, self.net.head, self.program.tensor
        self.closed: list[int] = []
        self.sums: list[int] = []
        self.value_range: list[int] = []
        self.expansion: Sequential | None = None
        if not head.closed_form:
            return
        if not self.recipe.loss.labels:
            raise NetError(f"a {head.kind} head answers with classes; use the loss CrossEntropy, or a linear head")
        if head.expansion:
            shape = (*net.exit_shape[:-1], 2 * net.exit_shape[-1])
            self.expansion = Sequential(self.program, "expansion", head.expansion, shape)
        size, columns = net.closed_features, head.columns
        self.closed = [
            tensor("ridge.weight", (size, columns), Region.PARAMETERS),
            tensor("ridge.bias", (columns,), Region.PARAMETERS),
        ]
        if head.sums != "float64":
            self.value_range = [tensor(f"ridge.{end}", (size,), Region.PARAMETERS) for end in ("low", "high")]
        dtype = SUM_TYPES[head.sums]
        self.sums = [
            tensor("ridge.gram", ((size + 1) * (size + 2) // 2,), Region.CONSOLIDATION, dtype=dtype),
            tensor("ridge.moments", (size + 1, columns), Region.CONSOLIDATION, dtype=dtype),
            tensor("ridge.counts", (columns,), Region.CONSOLIDATION, dtype=DType.I64),
        ]

    def _banks(self) -> list[tuple[int, Parameter]]:
        """Make a place for each task's own weights."""
        tasks = self.net.head.tasks
        own = [parameter for _, module in self.modules() for parameter in module.own_parameters()]
        return [
            (
                self.program.tensor(
                    f"{self.program.names[parameter.tensor]}.tasks",
                    (tasks, self.program.decode_tensor(parameter.tensor).size), Region.PARAMETERS,
                ),
                parameter,
            )
            for parameter in own
        ]  # fmt: skip

    def modules(self) -> Iterator[tuple[str, Sequential]]:
        """Yield name and layers of everything that is trained, from the stem to the head."""
        yield "stem", self.stem
        yield from self.functions.items()
        yield "head", self.head

    def parameters(self) -> Iterator[Parameter]:
        """Yield all trainable parameters, from the stem to the head."""
        for _, module in self.modules():
            for found in module.parameters:
                yield from found

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

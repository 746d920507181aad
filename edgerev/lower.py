"""From a net to a program: forward, loss, inverse and backward, update.

The order within one step, per residual function and last function first: rebuild its input and inner activations and
take it off the state, the gradients layer by layer, then the update of its parameters, which happens after their last
use in the step. So one function's gradient is alive at a time, unless something needs all of them before the first
update (`edgerev.lower_update`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import chain

from edgerev.continual.consolidation import EWC
from edgerev.kernels.layout import ConsolidationKind, Op
from edgerev.lower_head import HeadLowering
from edgerev.lower_layers import Context
from edgerev.lower_tensors import NetTensors
from edgerev.lower_update import Updater
from edgerev.net import Function, Net, Squeeze
from edgerev.numbers import FLOAT32_MAX
from edgerev.program import Program, Region
from edgerev.recipe import Recipe, Schedule

FIRST_INIT_STREAM = 1 << 20  # streams of initial weights; those below belong to augmentation and dropout


def lower(net: Net, recipe: Recipe, schedule: Schedule) -> Program:
    """Return the program of `net`.

    Its sections are init; train; encode (to the state at the backbone's entry), forward, read_out, inverse; for a head
    in closed form those of `edgerev.lower_head`; for consolidation fade and fisher (EWC), and consolidate. All but
    train see at most one micro-batch, and fisher one sample.

    Raises
    ------
    NetError, UsageError
        Net and recipe do not fit each other.
    """
    lowering = Lowering(net, recipe, schedule)
    lowering.emit_sections()
    del lowering.head  # each knows the other: all of it would stay until the next collection
    return lowering.program


class Lowering:
    """One lowering under way: the program so far, and where the net's tensors are."""

    def __init__(self, net: Net, recipe: Recipe, schedule: Schedule) -> None:
        self.net, self.recipe, self.schedule = net, recipe, schedule
        self.program = Program(recipe.batch, schedule.threads)
        self.tensors = NetTensors(self.program, net, recipe, schedule)
        self.updater = Updater(self.tensors)
        self.head = HeadLowering(self.program, self.tensors, self.updater, schedule, self._context, self._chunks)
        self._parts = list(net.functions())
        self._scale = net.branch_scale
        self._signatures: dict[tuple, str] = {}
        self._kept: dict[str, list[int]] = {}

    # -- sections ---------------------------------------------------------------------------------------------

    def emit_sections(self) -> None:
        """Emit every section; see `lower`."""
        program = self.program
        with program.section("init"):
            self._initialise()
        with program.section("train"):
            self._train()
        with program.samples(0, self.schedule.micro_batch):
            with program.section("encode"):
                self._encode(train=False)
                program.emit(Op.CHECK)
            with program.section("forward"):
                self._forward(train=False)
                program.emit(Op.CHECK)
            with program.section("read_out"):
                self.head.read_out()
            with program.section("inverse"):
                self._inverse()
                program.emit(Op.CHECK)
        if self.net.head.closed_form:
            self.head.closed_form_sections()
        if self.recipe.consolidation is not None:
            self._consolidation_sections()
        if self.tensors.banks:
            self._bank_sections()

    def _initialise(self) -> None:
        emit, counters = self.program.emit, self.tensors.counters
        emit(Op.INIT, self.tensors.scalars, counters, value=1.0)
        emit(Op.INIT, self.tensors.mean, counters, value=0.0)
        emit(Op.INIT, self.tensors.scale, counters, value=1.0)
        stream = FIRST_INIT_STREAM
        fixed = [] if self.tensors.expansion is None else [self.tensors.expansion]
        for module in chain((module for _, module in self.tensors.modules()), fixed):
            for parameter in (parameter for found in module.parameters for parameter in found):
                value = parameter.bound or parameter.constant
                emit(Op.INIT, parameter.tensor, counters, random=parameter.bound > 0, value=value, stream=stream)
                stream += 1
                for tensor in (*parameter.moments, *parameter.memory[::2]):
                    emit(Op.ZERO, tensor)
                for anchor in parameter.memory[1:2]:
                    emit(Op.CONSOLIDATE, -1, anchor, -1, parameter.tensor, kind=ConsolidationKind.EWC)
        self.program.trainable = sum(
            self.program.decode_tensor(parameter.tensor).size for parameter in self.tensors.parameters()
        )
        if self.net.head.closed_form:
            self.head.no_answers()
            self.head.no_sums()
        for tensor, value in zip(self.tensors.value_range, (FLOAT32_MAX, -FLOAT32_MAX)):
            emit(Op.INIT, tensor, counters, value=value)  # no range yet
        for bank, parameter in self.tensors.banks:
            value = parameter.bound or parameter.constant
            emit(Op.INIT, bank, counters, random=parameter.bound > 0, value=value, stream=stream)
            stream += 1

    def _train(self) -> None:
        optimizer, program, rates = self.recipe.optimizer, self.program, self.recipe.rate_schedule
        constants = optimizer.constants()
        betas = {name: constants.get(name, 0.0) if optimizer.moments == 2 else 0.0 for name in ("beta1", "beta2")}
        program.emit(
            Op.SCHEDULE, self.tensors.scalars, self.tensors.counters, kind=rates.number, rate=optimizer.rate,
            warmup=rates.warmup, total=rates.steps, floor=rates.floor, **betas,
        )
        for _ in self._micro_batches():
            self._encode(train=True)
            self._forward(train=True)
            self.head.loss_and_gradient()
            self._backward()
            self._stem_backward()
        program.emit(Op.REPORT, self.tensors.report, self.tensors.losses)
        if self.updater.deferred:
            self.updater.commit()
        program.emit(Op.ADVANCE, self.tensors.scalars, self.tensors.counters, **betas)

    def _micro_batches(self) -> Iterator[None]:
        for first in range(0, self.recipe.batch, self.schedule.micro_batch):
            with self.program.samples(first, self.schedule.micro_batch):
                yield

    def _workspace(self, key: str) -> AbstractContextManager[None]:
        return self.program.scope(Region.WORKSPACE, key)

    def _chunks(self) -> AbstractContextManager[None]:
        """Let the instructions emitted inside run once for each chunk of the micro-batch at hand."""
        return self.program.repeat(self.schedule.chunk)

    def _context(self, train: bool, stored: str = "") -> Context:
        schedule = self.schedule
        capacity, once = schedule.micro_batch if stored else schedule.chunk, schedule.chunk == schedule.micro_batch
        return Context(
            self.program, schedule.chunk, capacity, self.tensors.counters, self.tensors.barrier, schedule.threads,
            once, train, stored,
        )

    # -- forward ----------------------------------------------------------------------------------------------

    def _input(self, context: Context) -> int:
        augment, tensors = self.recipe.augment, self.tensors
        x = self.tensors.stem.input(context)
        self.program.emit(
            Op.INPUT, x, tensors.raw, tensors.mean, tensors.scale, tensors.counters, augment=context.train,
            shift=augment.shift, flip=augment.flip, noise=augment.noise,
        )
        return x

    def _encode(self, *, train: bool) -> None:
        """From raw samples to the state at the backbone's entry."""
        context = self._context(train)
        half = self.net.half_shape[-1]
        with self.program.block("stem"), self._workspace(f"stem/{train}"):
            self.tensors.stem.prepare(context)
            with self._chunks():
                output = self.tensors.stem.forward(context, self._input(context))[-1]
                for side, state in enumerate(self.tensors.states[0]):
                    self.program.emit(Op.COUPLE, state, output, sign=0, channel=side * half)

    def _forward(self, *, train: bool) -> None:
        stage = 0
        self._kept = {}
        for part in self._parts:
            if isinstance(part, Squeeze):
                self._squeeze(self.tensors.states, stage, inverse=False)
                stage += 1
                continue
            with self.program.block(part.name):
                self._couple(part, stage, train=train, sign=1)

    def _couple(self, part: Function, stage: int, *, train: bool, sign: int) -> None:
        """Emit ``state[target] += sign * F(state[source])``."""
        stored = part.name if train and part.name in self.tensors.stored else ""
        context, module = self._context(train, stored), self.tensors.functions[part.name]
        with self._workspace(f"{self._signature(part)}/couple/{train}/{bool(stored)}"):
            module.prepare(context)
            with self._chunks():
                activations = self._function(part, context, stage, sign)
        if stored:
            self._kept[part.name] = activations

    def _function(self, part: Function, context: Context, stage: int, sign: int) -> list[int]:
        """Emit the residual function and its coupling for the samples at hand; return its activations."""
        module, states = self.tensors.functions[part.name], self.tensors.states[stage]
        x = module.input(context)
        self.program.emit(Op.LOAD, x, states[part.source])
        activations = module.forward(context, x)
        self.program.emit(Op.COUPLE, states[part.target], activations[-1], sign=sign, scale=self._scale)
        return activations

    def _inverse(self) -> None:
        stage = len(self.tensors.states) - 1
        for part in reversed(self._parts):
            if isinstance(part, Squeeze):
                stage -= 1
                self._squeeze(self.tensors.states, stage, inverse=True)
                continue
            with self.program.block(part.name):
                self._couple(part, stage, train=False, sign=-1)

    def _squeeze(self, pairs: list[tuple[int, int]], stage: int, *, inverse: bool) -> None:
        """Take both halves from the size of `stage` to that of the next stage, or back."""
        wide, deep = pairs[stage], pairs[stage + 1]
        source, target = (deep, wide) if inverse else (wide, deep)
        shape = self.program.decode_tensor(target[0])
        with self._workspace(f"squeeze/{shape.shape}/{shape.dtype}/{inverse}"), self._chunks():
            moved = self.program.tensor(
                "moved", shape.shape, Region.WORKSPACE, dtype=shape.dtype, capacity=self.schedule.chunk
            )
            for half in (0, 1):
                self.program.emit(Op.SQUEEZE, moved, source[half], inverse=inverse)
                self.program.emit(Op.COPY, target[half], moved)

    # -- backward ---------------------------------------------------------------------------------------------

    def _signature(self, part: Function) -> str:
        """Return a short name that residual functions of one structure share, and with it their scratch."""
        return self._signatures.setdefault((part.layers, part.shape), f"function{len(self._signatures)}")

    def _backward(self) -> None:
        stage, left = len(self.tensors.states) - 1, len(self.tensors.functions)
        for part in reversed(self._parts):
            if isinstance(part, Squeeze):
                stage -= 1
                with self.updater.unless_frozen(left):
                    if left > len(self.tensors.stored):  # stored functions do not look at the state any more
                        self._squeeze(self.tensors.states, stage, inverse=True)
                    self._squeeze(self.tensors.state_gradients, stage, inverse=True)
                continue
            left -= 1
            with self.program.block(part.name), self.updater.unless_frozen(left + 1):
                self._function_backward(part, stage)

    def _function_backward(self, part: Function, stage: int) -> None:
        """Take one function off the state, pass its gradient on, and update its parameters."""
        program, module, key = self.program, self.tensors.functions[part.name], self._signature(part)
        stored, slopes = self._kept.get(part.name), self.tensors.state_gradients[stage]
        context = self._context(train=True, stored=part.name if stored else "")
        with (
            self.updater.gradient(part.name, key, module) as gradients,
            self._workspace(f"{key}/backward/{stored is not None}"),
        ):
            module.prepare(context, forward=stored is None, backward=True)
            with self._chunks():
                activations = stored or self._function(part, context, stage, -1)
                dy = module.output_gradient(context)
                program.emit(Op.LOAD, dy, slopes[part.target], scale=self._scale)
                module.backward(context, activations, dy, gradients, slopes[part.source], add=True)

    def _stem_backward(self) -> None:
        program, stem = self.program, self.tensors.stem
        context, half = self._context(train=True), self.net.half_shape[-1]
        with (
            program.block("stem"), self.updater.unless_frozen(0),
            self.updater.gradient("stem", "stem", stem) as gradients, self._workspace("stem/backward"), self._chunks(),
        ):
            x = self._input(context)
            dy = stem.output_gradient(context)
            for side, slope in enumerate(self.tensors.state_gradients[0]):
                program.emit(Op.LOAD, dy, slope, channel=side * half)
            stem.backward(context, [x], dy, gradients)

    # -- remembering ------------------------------------------------------------------------------------------

    def _consolidation_sections(self) -> None:
        program, consolidation = self.program, self.recipe.consolidation
        assert consolidation is not None
        remembered = [parameter for parameter in self.tensors.parameters() if parameter.memory]
        if isinstance(consolidation, EWC):
            with program.section("fade"):
                for parameter in remembered:
                    program.emit(Op.FADE, parameter.memory[0], self.tensors.scalars, factor=consolidation.decay)
            with program.section("fisher"), program.samples(0, self.schedule.micro_batch), self.updater.estimation():
                self._encode(train=True)
                self._forward(train=True)
                self.head.loss_and_gradient()
                self._backward()
                self._stem_backward()
            program.most_samples["fisher"] = 1  # squares of the gradient of one sample, not of a mean
        with program.section("consolidate"):
            for parameter in remembered:
                importance, anchor, path = (*parameter.memory, -1)[:3]
                program.emit(
                    Op.CONSOLIDATE, importance, anchor, path, parameter.tensor, kind=consolidation.number,
                    damping=getattr(consolidation, "damping", 0.0),
                )

    def _bank_sections(self) -> None:
        """Emit what puts away the weights that the task at hand has for itself, and what takes them out again.

        Their moments start anew: those of another task's gradients would move them.
        """
        for section, store in (("put_away", 1), ("take_out", 0)):
            with self.program.section(section):
                for bank, parameter in self.tensors.banks:
                    self.program.emit(Op.EXCHANGE, bank, parameter.tensor, self.tensors.counters, store=store)
                    for moment in () if store else parameter.moments:
                        self.program.emit(Op.ZERO, moment)

"""The head: from the state at the backbone's exit to answers; by gradient, and in closed form from running sums."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from edgerev.kernels.layout import LEVELS, NEVER_SEEN, DType, Op, SolveKind
from edgerev.lower_layers import Context
from edgerev.lower_tensors import NetTensors
from edgerev.lower_update import Updater
from edgerev.numbers import FLOAT32_MAX
from edgerev.program import Program, Region
from edgerev.recipe import Schedule


class HeadLowering:
    """Emits what comes after the backbone.

    Parameters
    ----------
    chunks : lets the instructions emitted inside run once for each chunk of the micro-batch at hand
    """

    def __init__(
        self, program: Program, tensors: NetTensors, updater: Updater, schedule: Schedule,
        context: Callable[..., Context], chunks: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.program, self.tensors, self.updater, self.schedule = program, tensors, updater, schedule
        self._context, self._chunks = context, chunks
        self.net, self.recipe = tensors.net, tensors.recipe
        self._head = self.net.head

    def _scratch(self, name: str, size: int) -> int:
        return self.program.tensor(name, (size,), Region.WORKSPACE, capacity=self.schedule.micro_batch)

    # -- by gradient ------------------------------------------------------------------------------------------

    def _pool(self) -> int:
        features = self._scratch("features", self.net.features)
        rows, columns = self.net.cells(self.net.exit_shape)
        self.program.emit(
            Op.POOL, features, *self.tensors.states[-1], rows=rows, columns=columns, rectify=self._head.rectify
        )
        return features

    def loss_and_gradient(self) -> None:
        """Emit the loss, its gradient with respect to the state, and the update of the linear head."""
        program, tensors, head = self.program, self.tensors, self.tensors.head
        size = self.schedule.micro_batch
        context = Context(
            program, size, size, tensors.counters, tensors.barrier, self.schedule.threads, once=True, train=True
        )
        rows, columns = self.net.cells(self.net.exit_shape)
        with (
            program.block("head"), program.scope(Region.WORKSPACE, "head"),
            self.updater.gradient("head", "head", head) as gradients,
        ):
            head.prepare(context, backward=True)
            features = self._pool()
            logits = head.forward(context, features)[-1]
            slope = head.output_gradient(context)
            program.emit(
                Op.LOSS, slope, tensors.losses, logits, tensors.target, tensors.loss_weights, tensors.counters,
                kind=self.recipe.loss.number, smoothing=getattr(self.recipe.loss, "smoothing", 0.0),
                outputs=self._head.outputs,
            )
            program.emit(Op.CHECK)
            dfeatures = context.scratch("dfeatures", (self.net.features,))
            head.backward(context, [features], slope, gradients, dfeatures)
            program.emit(
                Op.POOL_GRAD, *tensors.state_gradients[-1], dfeatures, *tensors.states[-1], rows=rows, columns=columns,
                rectify=self._head.rectify,
            )

    # -- answers ----------------------------------------------------------------------------------------------

    def read_out(self) -> None:
        """Emit answers from the state at the backbone's exit."""
        program, tensors = self.program, self.tensors
        with program.block("head"), program.scope(Region.WORKSPACE, "read_out"):
            logits = self._scratch("logits", self._head.columns)
            if self._head.closed_form:
                features, weights = self._closed_features(), tensors.closed
            else:
                features, weights = self._pool(), [parameter.tensor for parameter in tensors.head.parameters[0]]
            program.emit(Op.CONV, logits, features, *weights, kernel_h=1, kernel_w=1)
            program.emit(
                Op.PROBABILITY, tensors.probability, logits, tensors.counters, kind=self.recipe.loss.number,
                outputs=self._head.outputs,
            )
            program.emit(Op.CHECK)

    # -- in closed form ---------------------------------------------------------------------------------------

    def _raw_features(self) -> int:
        """Emit the features of the closed form as they are before they become whole numbers."""
        expansion = self.tensors.expansion
        if expansion is None:
            return self._pool()
        program, half = self.program, self.tensors.states[-1]
        features = self._scratch("expanded", self.net.closed_features)
        context, channels = self._context(train=False), self.net.exit_shape[-1]
        sizes = expansion.output_shape[-len(self.net.exit_shape) :]  # without the height of 1 that a signal gets
        rows, columns = self.net.cells(sizes)
        expansion.prepare(context)
        with self._chunks():
            x = expansion.input(context)
            for side in (0, 1):
                program.emit(Op.LOAD, x, half[side], channel=side * channels)
            y = expansion.forward(context, x)[-1]
            program.emit(Op.POOL, features, y, rows=rows, columns=columns)
        return features

    def _closed_features(self) -> int:
        features = self._raw_features()
        if self.tensors.value_range:
            self.program.emit(Op.QUANTISE, features, *self.tensors.value_range)
        return features

    def no_answers(self) -> None:
        """Emit weights that give every class the score of one never seen."""
        weight, bias = self.tensors.closed
        self.program.emit(Op.ZERO, weight)
        self.program.emit(Op.INIT, bias, self.tensors.counters, value=NEVER_SEEN)

    def no_sums(self) -> None:
        """Emit sums of no samples."""
        for tensor in self.tensors.sums:
            self.program.emit(Op.ZERO, tensor)

    def closed_form_sections(self) -> None:
        """Emit the sections ridge_reset, ridge_release, ridge_add, ridge_solve, ridge_fade, and ridge_range."""
        program, tensors, head, sums = self.program, self.tensors, self._head, self.tensors.sums
        with program.section("ridge_reset"):
            self.no_answers()
            self.no_sums()
        with program.section("ridge_release"):
            self.no_sums()
        with program.samples(0, self.schedule.micro_batch), program.block("head"):
            with program.section("ridge_add"), program.scope(Region.WORKSPACE, "ridge_add"):
                features = self._closed_features()
                program.emit(
                    Op.RIDGE_SUMS, *sums, features, tensors.target, tensors.counters, tensors.barrier,
                    outputs=head.outputs,
                )
                program.emit(Op.CHECK)
            if tensors.value_range:
                with program.section("ridge_range"), program.scope(Region.WORKSPACE, "ridge_range"):
                    program.emit(Op.RANGE, *tensors.value_range, self._raw_features())
        with program.section("ridge_solve"), program.block("head"), program.scope(Region.WORKSPACE, "ridge_solve"):
            size = self.net.closed_features
            work = program.tensor(
                "work", ((size + 1) * (size + 2) // 2 + size + 1,), Region.WORKSPACE, dtype=DType.F64
            )
            unit = LEVELS**2 if tensors.value_range else 1  # a whole number stands for its share of LEVELS
            program.emit(
                Op.RIDGE_SOLVE, *tensors.closed, work, *sums[:2], strength=min(head.ridge * unit, FLOAT32_MAX),
                kind=SolveKind[head.kind.upper()],
            )
            program.emit(Op.CHECK)
        if not tensors.value_range:
            with program.section("ridge_fade"):
                for tensor in sums[:2]:
                    program.emit(Op.FADE, tensor, tensors.scalars)

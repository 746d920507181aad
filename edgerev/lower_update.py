"""From gradients to new parameters: at once, function by function, or all together at the end of a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from edgerev.errors import UsageError
from edgerev.kernels import layout
from edgerev.kernels.layout import ClipKind, Op
from edgerev.lower_function import Parameter, Sequential
from edgerev.lower_layers import Convolution, FusedSGD, Gradient, LoweredLayer
from edgerev.lower_tensors import NetTensors
from edgerev.optimizers import SGD
from edgerev.program import Region


class Updater:
    """Provides tensors for gradients, and emits clipping and updates.

    Attributes
    ----------
    deferred : whether something needs all gradients before the first update: an atomic step, clipping by the global
        norm, or a state that holds only part of the batch. Costs 4 bytes for each parameter.
    """

    def __init__(self, tensors: NetTensors) -> None:
        self.tensors, self.program, self.recipe = tensors, tensors.program, tensors.recipe
        clip, schedule = self.recipe.clip, tensors.schedule
        self.deferred = (
            self.recipe.atomic or schedule.micro_batch < self.recipe.batch
            or (clip is not None and clip.kind == "global")
        )
        self._gradients: dict[str, list[Gradient]] = {}
        self._estimating = False
        rates, count = self.recipe.rates, len(tensors.functions) + 2
        if rates and len(rates) != count:
            raise UsageError(
                f"rates has {len(rates)} factors; expected {count}, one for the stem, each residual function and the "
                "head; give as many"
            )
        self._rates = dict(zip((name for name, _ in tensors.modules()), rates))

    @contextmanager
    def gradient(self, name: str, key: str, module: Sequential) -> Iterator[list[Gradient]]:
        """Provide tensors for a module's gradient; on leaving, update its parameters unless that is deferred."""
        if self.deferred and not self._estimating:
            if name not in self._gradients:
                self._gradients[name] = self._gradient_tensors(f"{name}.", Region.ACCUMULATOR, module)
            yield self._gradients[name]
            return
        with self.program.scope(Region.GRADIENT, key):
            gradients = self._gradient_tensors("", Region.GRADIENT, module)
            yield gradients
            with self.program.samples(0, self.recipe.batch):
                if self._estimating:
                    self._add_to_fisher(module, gradients)
                else:
                    if self.recipe.clip is not None:
                        self._norm(gradients, reset=True)
                        self.program.emit(Op.CHECK)
                        self._clip_function(module)
                    self._update(name, module, gradients)
                self.program.emit(Op.CHECK)

    @contextmanager
    def estimation(self) -> Iterator[None]:
        """Let gradients inside add to the Fisher information instead of changing parameters."""
        self._estimating = True
        yield
        self._estimating = False

    def _add_to_fisher(self, module: Sequential, gradients: list[Gradient]) -> None:
        for found, slopes in zip(module.parameters, gradients):
            assert isinstance(slopes, list)  # consolidation keeps gradients out of registers
            for parameter, slope in zip(found, slopes):
                if parameter.memory:
                    self.program.emit(Op.FISHER, parameter.memory[0], slope, self.tensors.scalars)

    def _at_once(self, lowered: LoweredLayer) -> FusedSGD | None:
        """Return how a layer's gradient becomes its update without being written, or None."""
        optimizer, schedule = self.recipe.optimizer, self.tensors.schedule
        if not (isinstance(lowered, Convolution) and lowered.filter is None and isinstance(optimizer, SGD)):
            return None
        if self.deferred or self.recipe.clip or optimizer.moments or schedule.chunk < self.recipe.batch:
            return None
        if self.recipe.consolidation or self.recipe.rates or self.tensors.net.head.tasks > 1:
            return None
        return FusedSGD(self.tensors.scalars, optimizer.weight_decay)

    def _gradient_tensors(self, prefix: str, region: Region, module: Sequential) -> list[Gradient]:
        return [
            self._at_once(module.layers[index]) or [
                self.program.tensor(f"{prefix}{index}.{k}.gradient", self._shape(parameter.tensor), region)
                for k, parameter in enumerate(found)
            ]
            for index, found in enumerate(module.parameters)
        ]  # fmt: skip

    def _shape(self, tensor: int) -> tuple[int, int, int]:
        return self.program.decode_tensor(tensor).shape

    def unless_frozen(self, module: int) -> AbstractContextManager[None]:
        """Leave out the instructions emitted inside where this module, counted from the stem, is kept as it is."""
        return self.program.unless(self.tensors.counters, layout.C_FROZEN, module)

    def _norm(self, gradients: list[Gradient], *, reset: bool) -> None:
        """Add up the squares of a module's gradient, which also finds values that are not finite."""
        for gradient in (gradient for found in gradients if isinstance(found, list) for gradient in found):
            self.program.emit(Op.GRAD_NORM, self.tensors.scalars, gradient, slot=layout.V_GRAD_SQUARES, reset=reset)
            reset = False

    def _clip_function(self, module: Sequential) -> None:
        clip = self.recipe.clip
        if clip is None or clip.kind == "global":
            return
        if clip.kind == "adaptive":
            tensors = [parameter.tensor for found in module.parameters for parameter in found]
            for index, tensor in enumerate(tensors):
                self.program.emit(
                    Op.GRAD_NORM, self.tensors.scalars, tensor, slot=layout.V_WEIGHT_SQUARES, reset=index == 0
                )
        kind = ClipKind.ADAPTIVE if clip.kind == "adaptive" else ClipKind.NORM
        self.program.emit(Op.CLIP, self.tensors.scalars, kind=kind, limit=clip.limit)

    def _update(self, name: str, module: Sequential, gradients: list[Gradient]) -> None:
        for lowered, found, slopes in zip(module.layers, module.parameters, gradients):
            if isinstance(slopes, FusedSGD) or not found:
                continue
            shared = self.tensors.banks and not lowered.per_task and name != "head"
            with self.program.unless(self.tensors.counters, layout.C_ADAPTERS, 0) if shared else nullcontext():
                self._update_layer(name, found, slopes)

    def _update_layer(self, name: str, found: list[Parameter], slopes: list[int]) -> None:
        optimizer, consolidation = self.recipe.optimizer, self.recipe.consolidation
        for parameter, slope in zip(found, slopes):
            moments = (*parameter.moments, -1, -1)[:2]
            importance, anchor, path = (*parameter.memory, -1, -1, -1)[:3]
            constants = dict(optimizer.constants())
            if not parameter.decays:
                constants["decay"] = 0.0
            self.program.emit(
                Op.UPDATE, parameter.tensor, *moments, path, slope, self.tensors.scalars, importance, anchor,
                kind=optimizer.number, scale=self._rates.get(name, 1.0), clip=self.recipe.clip is not None,
                strength=consolidation.pull if consolidation and parameter.memory else 0.0,
                outputs=self.tensors.net.head.outputs if name == "head" and self.tensors.net.head.tasks > 1 else 0,
                **constants,
            )

    def commit(self) -> None:
        """Check all gradients, then update everything: nothing is touched unless all is finite."""
        modules = [(name, module, self._gradients[name]) for name, module in self.tensors.modules()]
        clip = self.recipe.clip
        for index, (name, _, gradients) in enumerate(reversed(modules)):  # the order in which a failure spreads
            with self.program.block(name), self.unless_frozen(len(modules) - 1 - index):
                self._norm(gradients, reset=index == 0)
        self.program.emit(Op.CHECK)
        if clip is not None and clip.kind == "global":
            self.program.emit(Op.CLIP, self.tensors.scalars, kind=ClipKind.NORM, limit=clip.limit)
        for index, (name, module, gradients) in enumerate(modules):
            with self.program.block(name), self.unless_frozen(index):
                if clip is not None and clip.kind != "global":
                    self._norm(gradients, reset=True)
                    self._clip_function(module)
                self._update(name, module, gradients)

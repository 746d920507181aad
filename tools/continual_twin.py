"""The plain residual twin of the net that trains by gradient: the same methods, accuracies and memory in torch.

Torch lives in an environment of its own, so a twin lives in a process of its own, fed by files; see `plain_twin`.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy

from edgerev import Learner
from edgerev.program import Region
from edgerev.tools.bench_peers import Worker
from edgerev.tools.bench_step import WARM_UP_STEPS, fill_batch
from edgerev.tools.child import measured_alone
from edgerev.tools.continual_base import Stream
from edgerev.tools.continual_baselines import Joint
from edgerev.tools.continual_gradient import Gradient
from edgerev.tools.memory import peak_rss_bytes

SCRIPT = Path(__file__).with_name("plain_twin.py")
BLOCKS = (1, 4, 16)  # depths at which memory is compared


class Twin:
    """A plain residual net with a learner's initial weights, in a process of its own, and a learner's verbs.

    Parameters
    ----------
    learner : its net and weights are copied
    python : Python of an environment with torch
    """

    def __init__(self, learner: Learner, python: str) -> None:
        self.task: int | None = None
        self.outputs, self.batch, self.parameters = learner.net.head.outputs, learner.recipe.batch, learner.parameters
        stack = ExitStack()
        self._end = weakref.finalize(self, stack.close)
        self.folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edgerev-twin-"))
        numpy.savez(os.path.join(self.folder, "weights.npz"), **_weights(learner))
        numbers = [repr(learner.recipe.optimizer.rate), repr(learner.net.branch_scale)]
        self._worker = stack.enter_context(Worker("torch", [python, str(SCRIPT), self.folder, *numbers], 1))

    def learn_many(self, x: numpy.ndarray, y: numpy.ndarray) -> None:
        """Train on samples in their order."""
        self._save(x=x, y=y.astype("i8"))
        self._ask("learn", columns=self._columns(), batch=self.batch)

    def predict_many(self, x: numpy.ndarray) -> numpy.ndarray:
        """Return the likeliest target of each sample."""
        self._save(x=x)
        self._ask("predict", columns=self._columns())
        return numpy.load(os.path.join(self.folder, "answers.npy"))

    def measure(self) -> dict[str, int]:
        """Train on random samples, and return bytes; see `plain_twin`."""
        return self._ask("measure", batch=self.batch)

    def _columns(self) -> list[int | None]:
        return [None] if self.task is None else [self.task * self.outputs, (self.task + 1) * self.outputs]

    def _save(self, **arrays: numpy.ndarray) -> None:
        for name, array in arrays.items():
            numpy.save(os.path.join(self.folder, name + ".npy"), array)

    def _ask(self, verb: str, **options: Any) -> dict[str, Any]:
        return self._worker.ask(json.dumps({"do": verb, **options}))


def _weights(learner: Learner) -> dict[str, Any]:
    program, found = learner.runtime.program, {}
    for number, (name, region) in enumerate(zip(program.names, program.regions)):
        if region is Region.PARAMETERS and name.endswith((".weight", ".bias")):
            shape = [size for size in program.decode_tensor(number).shape if size > 1 or name.endswith(".weight")]
            found[name] = numpy.array(learner.runtime.view(number), "f4").reshape(shape[-2:])
    return found


class PlainFineTuning(Gradient):
    """Baseline: the twin goes on training."""

    learner: Any

    def _made(self, **options: Any) -> Any:
        self.reversible = super()._made(**options)
        return Twin(self.reversible, self.settings["torch"])

    @property
    def state_bytes(self) -> int:
        """Bytes of the optimizer's moments."""
        return 8 * self.reversible.parameters

    @property
    def arena_bytes(self) -> int:
        """Bytes that a step holds: parameters, gradients, moments, and what is saved for the backward pass."""
        answer = self.learner.measure()
        return answer["saved_bytes"] + answer["held_bytes"]


class PlainJoint(PlainFineTuning, Joint):
    """Baseline: the twin learns all data at once."""


def memory_figures(stream: Stream, settings: dict[str, Any]) -> list[dict[str, int]]:
    """Return bytes by depth, reversible and plain, for the batch and widths of `settings`.

    Returns
    -------
    list of dict
        For each number of `blocks`: `parameters` of either; `activation_bytes` and `arena_bytes` as planned, which is
        all that training takes, and `peak_rss_bytes` of a process that trains; and for the twin `plain_saved_bytes`
        (for the backward pass; its temporary tensors are not counted), `plain_held_bytes` (parameters, gradients,
        moments) and `plain_peak_rss_bytes`.
    """
    rows = []
    for blocks in BLOCKS:
        own = {**settings, "blocks": blocks}
        learner = Gradient(stream, own, 0).learner
        plain = Twin(learner, settings["torch"]).measure()
        alone: dict[str, Any] = {
            "shape": stream.shape, "setting": stream.setting, "outputs": stream.outputs, "settings": own,
        }  # fmt: skip
        rows.append({
            "blocks": blocks, "parameters": learner.parameters, "activation_bytes": learner.plan.activation_bytes,
            "arena_bytes": learner.plan.arena_bytes,
            "peak_rss_bytes": measured_alone("edgerev.tools.continual_twin:own_peak", **alone),
            **{"plain_" + name: size for name, size in plain.items()},
        })  # fmt: skip
    return rows


def own_peak(shape: list[int], setting: str, outputs: int, settings: dict[str, Any]) -> int:
    """Train on random samples; return the most memory that the process had."""
    learner = Gradient(Stream(tuple(shape), setting, outputs, 1), settings, 0).learner
    fill_batch(learner.runtime, outputs)
    for _ in range(WARM_UP_STEPS + 1):
        learner.step(settings["batch"])
    return peak_rss_bytes()

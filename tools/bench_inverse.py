"""How exactly the inverse reconstructs the state at the backbone's entry."""

from __future__ import annotations

from typing import Any

import numpy

from edgerev.learner import Learner
from edgerev.net import StateType
from edgerev.optimizers import SGD
from edgerev.presets import preset


def inverse_error(
    name: str, *, batch: int = 16, steps: int = 200, state: StateType = "int32", seed: int = 0
) -> dict[str, Any]:
    """Return the error of ``invert(transform(x))``, fresh and after training on random labels.

    Parameters
    ----------
    name : preset
    batch : samples of the batch that is reconstructed, and of each training step
    steps : training steps between the two measurements

    Returns
    -------
    dict
        `max_abs_error` (the larger of both measurements), `state_bits_equal` (of both), and each by itself.
    """
    net = preset(name, state=state)
    learner = Learner(net, optimizer=SGD(1e-3, momentum=0.9), batch=batch, seed=seed)
    random = numpy.random.default_rng(seed)
    x = random.normal(size=(batch, *net.input_shape)).astype("f4")
    fresh = _error(learner, x)
    loss = []
    for _ in range(steps):
        samples = random.normal(size=x.shape).astype("f4")
        loss.append(learner.learn_many(samples, random.integers(0, net.head.outputs, batch)).loss)
    trained = _error(learner, x)
    return {
        "preset": name, "state": state, "batch": batch, "steps": steps,
        "max_abs_error": max(fresh[0], trained[0]), "state_bits_equal": fresh[1] and trained[1],
        "fresh_max_abs_error": fresh[0], "trained_max_abs_error": trained[0],
        "first_loss": loss[0] if loss else None, "last_loss": loss[-1] if loss else None,
    }  # fmt: skip


def _error(learner: Learner, x: numpy.ndarray) -> tuple[float, bool]:
    """Return the largest error of the inverse, and whether all bytes of the state came back."""
    views = [learner.runtime.view(f"state.{half}@0") for half in (0, 1)]
    entry = learner.encode(x)
    before = b"".join(bytes(view) for view in views)
    back = learner.invert(learner.transform(x))
    after = b"".join(bytes(view) for view in views)
    return float(numpy.abs(back - entry).max()), before == after

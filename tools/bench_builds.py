"""The training step with kernels of several builds, in one process: ahead of time beside the JIT, older targets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgerev.deploy.cross import link_library
from edgerev.kernels.library import Kernels, compile_here, open_library
from edgerev.kernels.targets import host_target
from edgerev.optimizers import SGD
from edgerev.presets import preset
from edgerev.recipe import Recipe
from edgerev.runtime import Runtime
from edgerev.schedule import choose
from edgerev.tools.bench_step import WARM_UP_STEPS, fill_batch
from edgerev.tools.timing import alternate


def build_figures(
    names: Sequence[str], *, targets: Sequence[str] = (), batch: int = 16, rounds: int = 7, seconds: float = 0.3
) -> dict[str, Any]:
    """Return the time of a training step with the kernels compiled here, and with each target's library.

    Parameters
    ----------
    names : presets
    targets : whose libraries to measure; this machine must be able to run them; if none, its own target's
    rounds, seconds : bursts of steps that take turns, and how long each lasts; the fastest counts

    Returns
    -------
    dict
        `nets`, a list of `preset`, `batch`, `jit_ms` and `builds`: `target`, `step_ms`, `ratio` to the JIT's time.

    Raises
    ------
    UsageError, KernelError
        There is no such target, or it cannot be compiled or linked.
    """
    targets = list(targets) or [host_target().name]
    with tempfile.TemporaryDirectory() as folder:
        kernels = [compile_here(host_target())]
        for name in targets:
            path = link_library(name, Path(folder) / f"{name}.so")
            kernels.append(open_library(str(path), name))
        nets = [_net_figures(name, kernels, batch, rounds, seconds) for name in names]
    return {"nets": nets}


def _net_figures(name: str, kernels: Sequence[Kernels], batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    steps = [_step(name, batch, build) for build in kernels]
    jit, *others = (min(times) for times in alternate(steps, rounds, seconds))
    builds = [
        {"target": build.target, "step_ms": time * 1e3, "ratio": time / jit} for build, time in zip(kernels[1:], others)
    ]
    return {"preset": name, "batch": batch, "jit_ms": jit * 1e3, "builds": builds}


def _step(name: str, batch: int, kernels: Kernels) -> Callable[[], None]:
    net, recipe = preset(name), Recipe(batch, SGD(1e-3))
    choice = choose(net, recipe, budget=None, schedule="reversible", threads=1, data_bytes=0)
    runtime = Runtime(choice.program, choice.plan, kernels=kernels)
    runtime.run("init", 1)
    fill_batch(runtime, net.head.outputs)
    for _ in range(WARM_UP_STEPS):
        runtime.run("train", batch)
    return lambda: runtime.run("train", batch)

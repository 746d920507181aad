"""The training step of a reference net: its time, its share of the machine's peak, and where the time goes."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from edgerev.kernels.layout import Op
from edgerev.learner import Learner
from edgerev.net import StateType
from edgerev.optimizers import SGD
from edgerev.presets import preset
from edgerev.runtime import Runtime
from edgerev.tools.cost import Cost, instruction_cost, section_cost
from edgerev.tools.memory import peak_rss_bytes
from edgerev.tools.peaks import peak_flops
from edgerev.tools.timing import alternate, row_seconds

WARM_UP_STEPS = 3


def step_learner(
    name: str, *, batch: int, threads: int = 1, schedule: str = "reversible", state: StateType = "int32"
) -> Learner:
    """Return a learner of a preset by plain SGD, warmed up, with a random batch in its arena, ready for `step`.

    Parameters
    ----------
    name : preset
    schedule : "reversible" or "stored"
    """
    net = preset(name, state=state)
    learner = Learner(net, optimizer=SGD(1e-3), batch=batch, threads=threads, schedule=schedule)
    fill_batch(learner.runtime, net.head.outputs)
    for _ in range(WARM_UP_STEPS):
        learner.step(batch)
    return learner


def fill_batch(runtime: Runtime, classes: int, seed: int = 0) -> None:
    """Put random samples and labels into the arena; without NumPy, whose memory would count as the step's."""
    numbers = random.Random(seed)
    raw, target = runtime.view("raw"), runtime.view("target")
    for index in range(len(raw)):
        raw[index] = numbers.gauss(0, 1)
    for index in range(len(target)):
        target[index] = numbers.randrange(classes)


def step_figures(
    name: str, *, batch: int = 16, threads: int = 1, schedule: str = "reversible", state: StateType = "int32",
    rounds: int = 7, seconds: float = 0.3, profile: bool = False,
) -> dict[str, Any]:
    """Return time, FLOPs and memory of one training step, and with `profile` its time by kind of instruction.

    Parameters
    ----------
    name : preset
    schedule : "reversible" or "stored"
    rounds, seconds : bursts of steps, and how long each lasts; the fastest counts

    Returns
    -------
    dict
        `step_ms`; `flops` of product-sums, recomputation included, `gflops` in a second, `peak_gflops` of pure
        register arithmetic with as many threads and `peak_fraction` of it (above 1 where minimal filtering saves more
        than all else costs); `arena_bytes`; `peak_rss_bytes` of this process, Python included.
    """
    learner = step_learner(name, batch=batch, threads=threads, schedule=schedule, state=state)
    seconds_each = min(alternate([lambda: learner.step(batch)], rounds, seconds)[0])
    resident = peak_rss_bytes()  # before anything is measured that is no part of a step
    flops = section_cost(learner.runtime.program, "train", batch).flops
    peak = peak_flops(threads)
    figures = {
        "preset": name, "batch": batch, "threads": threads, "schedule": schedule, "state": state,
        "step_ms": seconds_each * 1e3, "flops": flops, "gflops": flops / seconds_each / 1e9,
        "peak_gflops": peak / 1e9, "peak_fraction": flops / seconds_each / peak,
        "arena_bytes": learner.plan.arena_bytes, "activation_bytes": learner.plan.activation_bytes,
        "peak_rss_bytes": resident,
    }  # fmt: skip
    if profile:
        figures["profile"] = step_profile(learner, rounds * seconds)
    return figures


def step_profile(learner: Learner, seconds: float) -> list[dict[str, Any]]:
    """Return what each kind of instruction takes of a training step, the most first.

    Parameters
    ----------
    seconds : how long to go on measuring

    Returns
    -------
    list of dict
        `kind`, `count` of its rows (those in a REPEAT once for each round), `ms` of all of them, `share` of the sum
        over all kinds, `flops`, `moved_bytes`, `gflops` in a second (None without product-sums).
    """
    runtime, batch = learner.runtime, learner.recipe.batch
    program = runtime.program
    times = row_seconds(runtime, ["train"], batch, seconds)
    total, count = Counter[Op](), Counter[Op]()
    costs: dict[Op, Cost] = {}
    for (row, offset), time in times.items():
        kind, cost = program.decode(row).op, instruction_cost(program, row, batch, offset)
        before = costs.get(kind, Cost(0, 0))
        costs[kind] = Cost(before.flops + cost.flops, before.moved_bytes + cost.moved_bytes)
        total[kind] += time  # type: ignore[assignment]  # a counter of seconds
        count[kind] += 1
    whole = max(sum(total.values()), 1e-12)
    return [
        {
            "kind": kind.name.lower(), "count": count[kind], "ms": time * 1e3, "share": time / whole,
            "flops": costs[kind].flops, "moved_bytes": costs[kind].moved_bytes,
            "gflops": costs[kind].flops / time / 1e9 if costs[kind].flops and time else None,
        }
        for kind, time in total.most_common()
    ]  # fmt: skip

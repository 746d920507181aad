"""What a plan costs before it runs: a step's time, and the memory of the process."""

from __future__ import annotations

from typing import Any, NamedTuple

from edgerev.schedule import Choice
from edgerev.tools.boards import SPREAD
from edgerev.tools.time_model import Machine, section_seconds

TENSOR_BYTES = 230  # of a process for each tensor of a program: its name, and where it is found
THREAD_BYTES = 140_000  # for each thread of a team: its stack, and the queues


class Estimated(NamedTuple):
    """What a step is estimated to take, and what the process is; None where its memory was not measured.

    Attributes
    ----------
    kinds : seconds of a step by kind of row
    """

    step_ms: float
    peak_rss_bytes: int | None
    kinds: dict[str, float]


def estimate(machine: Machine, choice: Choice, batch: int, threads: int = 1) -> Estimated:
    """Return the time of a training step of a whole batch, and the memory of a process that trains from buffers.

    Parameters
    ----------
    batch : samples of the step
    threads : threads that run it

    Raises
    ------
    UsageError
        The machine was not calibrated with so many threads.
    """
    step = section_seconds(machine, choice.program, "train", batch, threads)
    peak = None
    if machine.process_bytes:
        beside = TENSOR_BYTES * len(choice.program.names) + THREAD_BYTES * (threads if threads > 1 else 0)
        peak = machine.process_bytes + choice.plan.arena_bytes + beside
    return Estimated(step.seconds * 1e3, peak, step.kinds)


def estimate_figures(machine: Machine, choice: Choice, batch: int, threads: int = 1) -> dict[str, Any]:
    """Return an estimate as plain data, with what it rests on.

    Parameters
    ----------
    batch, threads : see `estimate`

    Returns
    -------
    dict
        `machine`, `measured` (whether it was, or is made of data sheets), `source`, `threads`, `step_ms`, `least_ms`
        and `most_ms` (None where it was measured), `peak_rss_bytes`.
    """
    found = estimate(machine, choice, batch, threads)
    return {
        "machine": machine.name, "measured": machine.measured, "source": machine.source, "threads": threads,
        "step_ms": found.step_ms, "least_ms": None if machine.measured else found.step_ms / SPREAD,
        "most_ms": None if machine.measured else found.step_ms * SPREAD, "peak_rss_bytes": found.peak_rss_bytes,
    }

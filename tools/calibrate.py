"""Calibrate the model of time and memory for this machine: two seconds of small rows, and one small process.

Each row is timed as the fastest of several calls, all rows taking turns; the prices of a kind of row are those, none
below zero, that come nearest to its rows' times in relative terms (coordinate descent on the normal equations).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import accumulate, chain
from typing import NamedTuple

import numpy

from edgerev.errors import UsageError
from edgerev.files import write_whole
from edgerev.kernels import layout, library
from edgerev.kernels.library import Kernels
from edgerev.machine import cache_folder, read_fields
from edgerev.recipe import Schedule
from edgerev.tools.plan_worker import Job, workers
from edgerev.tools.probes import BURST, COPIES, Prober, probe_nets
from edgerev.tools.time_model import (
    ANY,
    FEATURES,
    Machine,
    from_json,
    price,
    row_features,
    section_seconds,
    to_json,
)
from edgerev.tools.timing import burst, empty_seconds

EMPTY_CALLS = 30  # of each net, of which the fastest counts
CLOCK = 2e-8  # seconds below which times are not told apart
COPY_SIZES = tuple(1 << power for power in (16, 19, 21, 22, 23, 24, 25))
PASSES, TEAM_PASSES = 10, 30  # over all rows, at most
WHOLE_STEPS = 25  # of each net, to see what going from row to row costs
SHORT_STEP = 1e-3  # seconds of a step in which that is seen
SWEEPS = 300  # of coordinate descent
APART = 1088  # equal low bits of two addresses make some processors wait
FREE = "schedule 0"  # a kind of row with next to no work


class _Probe(NamedTuple):
    prober: Prober
    row: int
    offset: int
    copies: int
    kind: str
    features: list[float]


def calibrate(seconds: float = 2.0, threads: Sequence[int] = ()) -> Machine:
    """Return what the model needs to know of this machine.

    Parameters
    ----------
    seconds : about how long to measure rows; starting a process for its memory comes on top
    threads : numbers of threads; one, and as many as there are processors, if left out
    """
    teams = sorted({1, *(threads or (min(layout.MAX_THREADS, len(os.sched_getaffinity(0))),))})
    share = seconds / (len(teams) + 1)  # of each team; the single thread, with more to measure, has two
    start = time.perf_counter()
    probers = [Prober(net, recipe) for net, recipe in probe_nets()]
    rates = list(accumulate((_copy_bandwidth(size) for size in reversed(COPY_SIZES)), max))
    probes = [probe for prober in probers for probe in _probes(prober)]
    end = max(start + 1.8 * share, time.perf_counter() + 0.2 * seconds)  # however slow the preparation was
    machine = Machine(
        _processor(), True, _prices(probes, _row_times(probes, end, PASSES)), 0.0,
        [[float(size), rate] for size, rate in zip(COPY_SIZES, reversed(rates))],
        {"1": empty_seconds(probers[0].runtime)}, {"1": 0.0}, {}, 0, kernels_digest(library.load()),
    )  # fmt: skip
    machine = machine._replace(row_seconds=_switching(machine, probers))
    for team in teams[1:]:
        machine = _with_team(machine, team, share)
    return machine._replace(process_bytes=measure_process())


def _probes(prober: Prober) -> list[_Probe]:
    found = []
    for row, offset in prober.rows():
        guess = min(prober.call_seconds(row, offset, 1) for _ in range(2))
        copies = max(1, min(COPIES, int(BURST / guess)))
        found.append(_Probe(prober, row, offset, copies, *row_features(prober.program, row, prober.batch, offset)))
    return found


def _row_times(probes: Sequence[_Probe], end: float, passes: int) -> list[float]:
    """Return the seconds of each row: the fastest of passes until `end`, less an empty call; infinity if none was."""
    best = [float("inf")] * len(probes)
    for _ in range(passes):
        for place, probe in enumerate(probes):
            if time.perf_counter() > end:
                break
            best[place] = min(best[place], probe.prober.call_seconds(probe.row, probe.offset, probe.copies))
    empty = {id(probe.prober): _empty_seconds(probe.prober) for probe in probes}
    return [max(0.0, taken - empty[id(probe.prober)]) / probe.copies for probe, taken in zip(probes, best)]


def _empty_seconds(prober: Prober) -> float:
    return min(prober.call_seconds(0, 0, 0) for _ in range(EMPTY_CALLS))


def _prices(probes: Sequence[_Probe], seconds: Sequence[float]) -> dict[str, list[float]]:
    kinds: dict[str, list[int]] = {}
    for place, probe in enumerate(probes):
        if seconds[place] < float("inf"):
            kinds.setdefault(probe.kind, []).append(place)
    return {
        kind: _fit([probes[place].features for place in places], [seconds[place] for place in places])
        for kind, places in [(ANY, [*chain(*kinds.values())]), *sorted(kinds.items())]
    }


def _fit(features: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Return the prices, none negative, with the least squares of relative errors."""
    times = numpy.array(seconds)
    weights = 1 / (times + CLOCK)
    scaled = numpy.array(features) * weights[:, None]
    size = numpy.maximum(numpy.linalg.norm(scaled, axis=0), 1e-30)
    matrix = scaled / size
    gram, moments = matrix.T @ matrix, matrix.T @ (times * weights)
    found = numpy.zeros(len(FEATURES))
    for _ in range(SWEEPS):
        for place in range(len(found)):
            if gram[place, place] > 0:
                step = (moments[place] - gram[place] @ found) / gram[place, place]
                found[place] = max(0.0, found[place] + step)
    return (found / size).tolist()


def _switching(machine: Machine, probers: Sequence[Prober]) -> float:
    """Return what a row costs in a step beyond what it costs when it is run again and again."""
    found = []
    for prober in probers:
        estimate = section_seconds(machine, prober.program, "train", prober.batch)
        if estimate.seconds < SHORT_STEP:
            step = partial(prober.runtime.run, "train", prober.batch)
            taken = min(burst(step, 1e-9) for _ in range(WHOLE_STEPS))
            found.append((taken - estimate.seconds) / estimate.rows)
    return max(0.0, float(numpy.median(found)))


def _with_team(machine: Machine, threads: int, seconds: float) -> Machine:
    """Return the machine with what a team of threads costs, and what it leaves of each kind's time."""
    end = time.perf_counter() + seconds
    chosen = list(probe_nets())[2::3]
    # the same program for both: some kinds of row have scratch for each thread
    alone, team = ([Prober(*pair, size, threads) for pair in chosen] for size in (1, threads))
    one = [probe for prober in alone for probe in _probes(prober)]
    by_prober = dict(zip(map(id, alone), team))
    many = [probe._replace(prober=by_prober[id(probe.prober)]) for probe in one]
    found = _row_times([*one, *many], end, TEAM_PASSES)
    works: dict[str, list[float]] = {}
    pairs = list(zip(one, found[: len(one)], found[len(one) :]))
    barrier = min(both - single for probe, single, both in pairs if probe.kind == FREE)
    for probe, single, both in pairs:
        constant = price(machine.prices, probe.kind)[0]
        if constant + CLOCK < single and both < float("inf"):
            for kind in (probe.kind, ANY):
                sums = works.setdefault(kind, [0.0, 0.0])
                sums[0] += single - constant
                sums[1] += both - constant - barrier
    name = str(threads)
    shares = {kind: min(1.0, max(1 / threads, both / single)) for kind, (single, both) in works.items()}
    return machine._replace(
        run_seconds={**machine.run_seconds, name: empty_seconds(team[0].runtime)},
        barrier_seconds={**machine.barrier_seconds, name: max(0.0, barrier)},
        shares={**machine.shares, name: shares},
    )


def _copy_bandwidth(moved_bytes: int) -> float:
    half = moved_bytes // 2
    source, target = ctypes.create_string_buffer(half), ctypes.create_string_buffer(half + APART)
    place = ctypes.byref(target, APART)
    return moved_bytes / min(burst(lambda: ctypes.memmove(place, source, half), 2e-4) for _ in range(6))


def _processor() -> str:
    fields = read_fields("/proc/cpuinfo")
    return fields.get("model name") or fields.get("Model") or fields.get("Hardware") or os.uname().machine


def kernels_digest(kernels: Kernels) -> str:
    """Return what names the kernels: their target and a digest of what they were compiled from or to.

    Parameters
    ----------
    kernels : those that run
    """
    if kernels.path:
        with open(kernels.path, "rb") as file:
            return f"{kernels.target}-{hashlib.sha256(file.read()).hexdigest()[:24]}"
    from edgerev.kernels.objects import object_path
    from edgerev.kernels.targets import named

    return object_path(named(kernels.target)).stem


def measure_process() -> int:
    """Return the peak resident memory, less its arena, of a process that trains a small net from plain buffers."""
    net, recipe = next(iter(probe_nets()))
    with workers([Job(net, recipe, Schedule(recipe.batch, recipe.batch), 0, 1, False)]) as (worker,):
        found = worker.ask(1e-9)
    return found["peak_rss_bytes"] - found["arena_bytes"]


def known_machine(*, anew: bool = False) -> Machine:
    """Return the calibration of this machine: that kept in the cache, or a new one, which is then kept.

    Parameters
    ----------
    anew : take a new one in any case
    """
    digest = kernels_digest(library.load())
    path = cache_folder() / "calibration" / f"{digest}.json"
    with suppress(OSError, ValueError, UsageError):
        if not anew:
            return from_json(json.loads(path.read_text()), str(path))
    machine = calibrate()
    with suppress(OSError):  # a cache that cannot be written costs its purpose only
        path.parent.mkdir(parents=True, exist_ok=True)
        write_machine(machine, str(path))
    return machine


def write_machine(machine: Machine, path: str) -> None:
    """Write a calibration as JSON, whole or not at all."""
    write_whole(path, [json.dumps(to_json(machine), indent=1).encode()])


def read_machine(path: str) -> Machine:
    """Return the calibration in a file; UsageError if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            figures = json.load(file)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); expected what `edgerev plan --calibrate -o {path}` writes"
        ) from error
    return from_json(figures, path)

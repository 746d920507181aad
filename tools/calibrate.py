"""Calibrate the model of time and memory for this machine: two seconds of small rows, and one small process.

Each thread's share of a row is timed alone, by its processor time, so other work on the machine hardly matters: the
fastest of several calls, all rows taking turns. The prices of a kind of row are those, none below zero, that come
nearest to its rows' times in relative terms (coordinate descent on the normal equations).
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
from edgerev.tools.probes import BURST, COPIES, Prober, deep_net, probe_nets
from edgerev.tools.time_model import (
    ANY,
    Machine,
    from_json,
    row_features,
    section_seconds,
    to_json,
)
from edgerev.tools.timing import burst, empty_seconds

EMPTY_CALLS = 30  # of each net, of which the fastest counts
CLOCK = 2e-8  # seconds below which times are not told apart
COPY_SIZES = tuple(1 << power for power in (16, 19, 21, 22, 23, 24, 25))
PASSES = 1, 10  # over all rows, at least and at most
STEPS = 60  # of each net, of which the fastest counts
SWEEPS = 300  # of coordinate descent
SHORTEST_COPYING, COPYINGS = 1 << 23, 6  # bytes of a measurement, and how often it is made
APART = 1088  # equal low bits of two addresses make some processors wait


class _Probe(NamedTuple):
    prober: Prober
    row: int
    offset: int
    copies: int
    threads: int
    kind: str
    features: list[float]


def calibrate(seconds: float = 2.0, threads: Sequence[int] = ()) -> Machine:
    """Return what the model needs to know of this machine.

    Parameters
    ----------
    seconds : about how much of the processor's time to take, all told; on an idle machine that is the time it takes
    threads : numbers of threads, besides one
    """
    start, teams = time.thread_time(), sorted({1, *threads})
    rates = list(accumulate((_copy_bandwidth(size) for size in reversed(COPY_SIZES)), max))
    bandwidth = [[float(size), rate] for size, rate in zip(COPY_SIZES, reversed(rates))]
    machine = Machine(_processor(), True, {}, {}, {}, {}, bandwidth, 0, kernels_digest(library.load()))
    for place, team in enumerate(teams, 1):
        probers = [Prober(net, recipe, team) for net, recipe in probe_nets()]
        machine = _with_team(machine, probers, team, start + 0.75 * seconds * place / len(teams))
    return machine._replace(process_bytes=measure_process())


def _with_team(machine: Machine, probers: Sequence[Prober], threads: int, end: float) -> Machine:
    """Return the machine with the prices for so many threads, and what it costs to let them work together."""
    probes = [probe for prober in probers for probe in _probes(prober, threads)]
    prices = {**machine.prices, str(threads): _prices(probes, _row_times(probes, end))}
    return _with_steps(machine._replace(prices=prices), [*probers, Prober(*deep_net(), threads)], threads)


def _with_steps(machine: Machine, probers: Sequence[Prober], threads: int) -> Machine:
    """Return the machine with what a step costs beyond its rows: for itself, for each row, and for each byte."""
    name = str(threads)

    def replaced(run: float, row: float, byte: float) -> Machine:
        return machine._replace(
            run_seconds={**machine.run_seconds, name: run}, row_seconds={**machine.row_seconds, name: row},
            byte_seconds={**machine.byte_seconds, name: byte},
        )  # fmt: skip

    run = empty_seconds(probers[0].runtime) if threads > 1 else 0.0  # waking a team varies too much to be told apart
    rows = replaced(run, 0.0, 0.0)
    features, beyond, taken = [], [], []
    for prober in probers:
        estimate = section_seconds(rows, prober.program, "train", prober.batch, threads)
        step = partial(prober.runtime.run, "train", prober.batch)
        taken.append(min(burst(step, 1e-9) for _ in range(STEPS)))
        beyond.append(max(0.0, taken[-1] - estimate.seconds))
        features.append([float(threads == 1), float(estimate.rows), float(estimate.touched_bytes)])
    call, row, byte = _fit(features, beyond, taken)
    return replaced(run + call, row, byte)


def _probes(prober: Prober, threads: int) -> list[_Probe]:
    found = []
    for row, offset in prober.rows():
        guess = min(prober.call_seconds(row, offset, 1) for _ in range(2))
        copies = max(1, min(COPIES, int(BURST / guess)))
        kind, features = row_features(prober.program, row, prober.batch, offset)
        found.append(_Probe(prober, row, offset, copies, threads, kind, features))
    return found


def _row_times(probes: Sequence[_Probe], end: float) -> list[float]:
    """Return the seconds of each row for its slowest thread, each the fastest of passes until `end`."""
    best = [[float("inf")] * probe.threads for probe in probes]
    for done in range(PASSES[1]):
        for probe, times in zip(probes, best):
            if done >= PASSES[0] and time.thread_time() > end:
                break
            for thread in range(probe.threads):
                taken = probe.prober.call_seconds(probe.row, probe.offset, probe.copies, thread)
                times[thread] = min(times[thread], taken)
    empty = {id(probe.prober): _empty_seconds(probe.prober) for probe in probes}
    return [
        max(0.0, max(times) - empty[id(probe.prober)]) / probe.copies for probe, times in zip(probes, best)
    ]


def _empty_seconds(prober: Prober) -> float:
    return min(prober.call_seconds(0, 0, 0) for _ in range(EMPTY_CALLS))


def _prices(probes: Sequence[_Probe], seconds: Sequence[float]) -> dict[str, list[float]]:
    kinds: dict[str, list[int]] = {}
    for place, probe in enumerate(probes):
        kinds.setdefault(probe.kind, []).append(place)
    return {
        kind: _fit([probes[place].features for place in places], [seconds[place] for place in places])
        for kind, places in [(ANY, [*chain(*kinds.values())]), *sorted(kinds.items())]
    }


def _fit(features: Sequence[Sequence[float]], seconds: Sequence[float], of: Sequence[float] = ()) -> list[float]:
    """Return the prices, none negative, with the least squares of errors relative to the seconds, or to others."""
    times = numpy.array(seconds)
    weights = 1 / (numpy.array(of or seconds) + CLOCK)
    scaled = numpy.array(features) * weights[:, None]
    size = numpy.maximum(numpy.linalg.norm(scaled, axis=0), 1e-30)
    matrix = scaled / size
    gram, moments = matrix.T @ matrix, matrix.T @ (times * weights)
    found = numpy.zeros(len(gram))
    for _ in range(SWEEPS):
        for place in range(len(found)):
            if gram[place, place] > 0:
                step = (moments[place] - gram[place] @ found) / gram[place, place]
                found[place] = max(0.0, found[place] + step)
    return (found / size).tolist()


def _copy_bandwidth(moved_bytes: int) -> float:
    half, times = moved_bytes // 2, max(1, SHORTEST_COPYING // moved_bytes)
    source, target = ctypes.create_string_buffer(half), ctypes.create_string_buffer(half + APART)
    place, best = ctypes.byref(target, APART), float("inf")
    for _ in range(COPYINGS):
        before = time.thread_time()
        for _ in range(times):
            ctypes.memmove(place, source, half)
        best = min(best, time.thread_time() - before)
    return moved_bytes * times / best


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


def known_machine(threads: int = 1, *, anew: bool = False) -> Machine:
    """Return the calibration of this machine: that kept in the cache, or a new one, which is then kept.

    Parameters
    ----------
    threads : what it is to have prices for, besides one thread and as many as there are processors
    anew : take a new one in any case
    """
    path = cache_folder() / "calibration" / f"{kernels_digest(library.load())}.json"
    kept = None if anew else kept_machine(str(path), threads)
    if kept is not None:
        return kept
    machine = calibrate(threads=[threads, min(layout.MAX_THREADS, len(os.sched_getaffinity(0)))])
    with suppress(OSError):  # a cache that cannot be written costs its purpose only
        path.parent.mkdir(parents=True, exist_ok=True)
        write_machine(machine, str(path))
    return machine


def kept_machine(path: str, threads: int) -> Machine | None:
    """Return the calibration in a file if it is there, of this processor, and for so many threads."""
    try:
        found = read_machine(path)
    except UsageError:
        return None
    return found if found.name == _processor() and str(threads) in found.prices else None


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

"""What a machine's own sensors say about energy: RAPL counters of x86 processors, power sensors such as INA3221.

Counters tell joules since some start; sensors tell watts at a moment, which are read again and again and summed over
time, so what rises and falls between two looks is missed. Both measure the whole package or board, not one process.
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from edgerev.machine import read_number, read_text

LOOK_SECONDS = 0.05


class Meter(NamedTuple):
    """A sensor that can be read.

    Attributes
    ----------
    name : what it measures, as the system names it
    path : its file
    counts : whether it counts microjoules; else it tells microwatts
    wraps : microjoules after which a counter begins anew; 0 for none
    """

    name: str
    path: str
    counts: bool
    wraps: int = 0


def meters(root: str = "/") -> list[Meter]:
    """Return the sensors that can be read, outermost only: a package holds its cores.

    Parameters
    ----------
    root : where ``sys`` lies
    """
    found = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/class/powercap/intel-rapl:[0-9]"))):
        path = os.path.join(folder, "energy_uj")
        if read_number(path) is not None:
            name = read_text(os.path.join(folder, "name")) or os.path.basename(folder)
            found.append(Meter(name, path, True, read_number(os.path.join(folder, "max_energy_range_uj")) or 0))
    for path in sorted(glob.glob(os.path.join(root, "sys/class/hwmon/hwmon[0-9]*/power1_input"))):
        if read_number(path) is not None:
            folder = os.path.dirname(path)
            found.append(Meter(read_text(os.path.join(folder, "name")) or os.path.basename(folder), path, False))
    return found


class Energy:
    """Joules by sensor, while `measured` lasts and after it."""

    def __init__(self) -> None:
        self.joules: dict[str, float] = {}


@contextmanager
def measured(sensors: list[Meter]) -> Iterator[Energy]:
    """Measure what a block takes; what is read in it is complete after it."""
    energy, over = Energy(), threading.Event()
    last = {meter: (time.perf_counter(), read_number(meter.path) or 0) for meter in sensors}

    def look() -> None:
        for meter in sensors:
            now, (then, before) = (time.perf_counter(), read_number(meter.path) or 0), last[meter]
            if meter.counts:
                micro = float((now[1] - before) % meter.wraps if meter.wraps else max(now[1] - before, 0))
            else:
                micro = (now[0] - then) * (now[1] + before) / 2
            energy.joules[meter.name] = energy.joules.get(meter.name, 0.0) + micro / 1e6
            last[meter] = now

    def follow() -> None:
        while not over.wait(LOOK_SECONDS):
            look()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield energy
    finally:
        over.set()
        thread.join()
        look()

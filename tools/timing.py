"""Time calls: bursts that are long enough to be seen, alternating where things are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgerev.errors import EdgerevError, UsageError
from edgerev.kernels import layout
from edgerev.runtime import Runtime
from edgerev.tools.cost import visits

EMPTY_CALLS = 200


def burst(call: Callable[[], object], seconds: float) -> float:
    """Call for at least `seconds`, once at least; return the mean seconds of one call."""
    start = time.perf_counter()
    end, count = start + seconds, 0
    while True:
        call()
        count += 1
        now = time.perf_counter()
        if now >= end:
            return (now - start) / count


def alternate(calls: Sequence[Callable[[], object]], rounds: int, seconds: float) -> list[list[float]]:
    """Return the seconds of one call for each of `rounds` bursts of each call, all taking turns.

    Taking turns lets a drift of the machine's speed strike all of them alike.

    Raises
    ------
    UsageError
        There is not at least one round of a positive time.
    """
    check_rounds(rounds, seconds)
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, found):
            times.append(burst(call, seconds))
    return found


def check_rounds(rounds: int, seconds: float) -> None:
    """Raise UsageError unless there is at least one round of a positive time."""
    if rounds < 1 or not seconds > 0:
        raise UsageError(f"rounds {rounds}, seconds {seconds}: expected at least 1 round and a positive time")


def empty_seconds(runtime: Runtime) -> float:
    """Return the seconds of a call that runs no row: what every measured call costs beside its rows."""
    return min(burst(lambda: runtime.run_rows(0, 0, 1), 1e-5) for _ in range(EMPTY_CALLS))


def row_seconds(runtime: Runtime, sections: Sequence[str], n: int, seconds: float) -> dict[tuple[int, int], float]:
    """Return the seconds of each row of some sections: the fastest of many passes, less the cost of an empty call.

    Rows are run one at a time and in their order, so each finds the data and the caches as in a run of the section.
    Rows inside a REPEAT have a time for each of its rounds: the keys are those of `edgerev.tools.cost.visits`.

    Parameters
    ----------
    n : samples
    seconds : how long to go on with passes; there are three at least

    Raises
    ------
    EdgerevError
        A CHECK found something wrong: times of such data would mean nothing.
    """
    program = runtime.program
    order = [visit for section in sections for visit in visits(program, section, n)]
    best = dict.fromkeys(order, float("inf"))
    run, clock, rows = runtime.run_rows, time.perf_counter, program.rows

    def timed(first: int, last: int, offset: int) -> float:
        place = first * layout.ROW + layout.FIRST
        rows[place] += offset  # as REPEAT does
        try:
            start = clock()
            failed = run(first, last, n)
            taken = clock() - start
        finally:
            rows[place] -= offset
        if failed:
            raise EdgerevError(
                f"row {first} found a status while it was timed; expected a run without; choose another preset"
            )
        return taken

    end, passes = clock() + seconds, 0
    while passes < 3 or clock() < end:
        for row, offset in order:
            best[row, offset] = min(best[row, offset], timed(row, row + 1, offset))
        passes += 1
    empty = min(timed(0, 0, 0) for _ in range(EMPTY_CALLS))  # not a burst: reading the clock costs as much as a row
    return {visit: max(taken - empty, 0.0) for visit, taken in best.items()}

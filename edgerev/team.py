"""Threads that run a program together and wait for the next run in between."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

Call = Callable[[int, int, int, int], int]  # first row, last row + 1, samples, thread -> failing thread + 1, or 0


class Team:
    """One native thread for each share of the work; the caller only waits.

    The caller does none of the work, so that an interrupt cannot leave the others alone at a barrier: whatever happens
    to the caller, a run that has begun is finished.

    Parameters
    ----------
    call : runs rows as one of the threads; must not hold what owns the team, or neither is ever freed
    threads : how many
    """

    def __init__(self, call: Call, threads: int) -> None:
        self._call, self._threads = call, threads
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._jobs: list[SimpleQueue] = [SimpleQueue() for _ in range(self._threads)]
        self._done: SimpleQueue = SimpleQueue()
        self._results = [(0, 0)] * self._threads
        self._number = 0
        for thread, jobs in enumerate(self._jobs):
            arguments = (self._call, thread, jobs, self._done, self._results)
            threading.Thread(target=_serve, args=arguments, daemon=True).start()

    def run(self, first: int, last: int, n: int) -> int:
        """Run rows with all threads; return the failing thread + 1, or 0."""
        if os.getpid() != self._process:
            self._start()  # a fork copies the memory, but no threads
        self._number += 1
        job = (self._number, first, last, n)
        interrupt: BaseException | None = None
        sent = False
        while not sent or any(number != self._number for number, _ in self._results):
            try:
                if not sent:
                    for jobs in self._jobs:
                        jobs.put(job)  # after an interrupt some get it twice, and ignore the second
                    sent = True
                self._done.get(timeout=1)
            except Empty:
                continue
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
        return max(failed for _, failed in self._results)

    def close(self) -> None:
        """Let the threads end."""
        for jobs in self._jobs:
            jobs.put(None)


def _serve(call: Call, thread: int, jobs: SimpleQueue, done: SimpleQueue, results: list[tuple[int, int]]) -> None:
    _pin(thread, len(results))
    while (job := jobs.get()) is not None:
        number, first, last, n = job
        if number != results[thread][0]:
            results[thread] = (number, call(first, last, n, thread))
        done.put(None)


def _pin(thread: int, threads: int) -> None:
    """Keep this thread on a processor of its own, since unpinned ones often share one; where forbidden, let it be.

    Only where the team has all processors: else several teams would all take the first ones.
    """
    try:
        processors = sorted(os.sched_getaffinity(0))
        if len(processors) == threads:
            os.sched_setaffinity(0, {processors[thread]})
    except OSError:
        pass

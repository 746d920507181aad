"""Training steps of any net under a schedule, in a process of their own: ``python -m edgerev.tools.plan_worker``.

Standard input starts with a `Job` (pickled, from this program itself). Each line after it is a number of seconds,
answered by a line of JSON: the mean milliseconds of a step, the bytes of the arena and the peak of resident memory.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from edgerev.errors import EdgerevError
from edgerev.net import Net
from edgerev.recipe import Recipe, Schedule
from edgerev.runtime import Runtime
from edgerev.schedule import choose
from edgerev.tools.bench_step import WARM_UP_STEPS, fill_batch
from edgerev.tools.child import module_command
from edgerev.tools.memory import peak_rss_bytes
from edgerev.tools.timing import burst


class Job(NamedTuple):
    """What is to be trained; see `choose`."""

    net: Net
    recipe: Recipe
    schedule: Schedule
    data_bytes: int
    threads: int
    guard: bool


class Worker:
    """A process that trains, for as long as it is asked; see `workers`."""

    def __init__(self, job: Job) -> None:
        command = module_command("edgerev.tools.plan_worker")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._send(pickle.dumps(job))

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:  # it has failed, and `ask` will say why
            pass

    def ask(self, seconds: float) -> dict[str, Any]:
        """Return the figures of a burst of steps; EdgerevError if the process failed."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._send(f"{seconds}\n".encode())
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().decode(errors="replace")
            raise EdgerevError(f"measuring a schedule failed; expected a training step:\n{said[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        """Let the process end."""
        self._process.communicate()


@contextmanager
def workers(jobs: list[Job]) -> Iterator[list[Worker]]:
    """Start a process for each job; all have ended afterwards."""
    started: list[Worker] = []
    try:
        for job in jobs:
            started.append(Worker(job))
        yield started
    finally:
        for worker in started:
            worker.close()


def main() -> int:
    """Serve steps of a job until the input ends."""
    job: Job = pickle.load(sys.stdin.buffer)
    choice = choose(
        job.net, job.recipe, schedule=job.schedule, data_bytes=job.data_bytes, threads=job.threads, guard=job.guard
    )
    runtime, batch = Runtime(choice.program, choice.plan, job.threads), job.recipe.batch
    del choice
    fill_batch(runtime, job.net.head.outputs)
    target = runtime.view("target")
    if target.format == "f":  # within 0 .. 1, as every loss takes them
        for index in range(len(target)):
            target[index] = index % 2
    runtime.run("init", 1)
    for _ in range(WARM_UP_STEPS):
        runtime.run("train", batch)
    for line in sys.stdin.buffer:
        step_ms = burst(lambda: runtime.run("train", batch), float(line)) * 1e3
        figures = {"step_ms": step_ms, "arena_bytes": len(runtime.arena), "peak_rss_bytes": peak_rss_bytes()}
        print(json.dumps(figures), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

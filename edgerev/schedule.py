"""Choose the fastest schedule whose plan fits a budget.

Storing activations saves the recomputation, so as many functions as fit are stored; where not even the reversible
schedule fits, first the workspace is cut into chunks of samples, then the state; only then is the budget refused.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from edgerev.arena import Plan, plan
from edgerev.errors import BudgetError, NetError, UsageError
from edgerev.lower import lower
from edgerev.net import Block, Function, Net
from edgerev.numbers import of_type, whole
from edgerev.program import MOST_TENSOR_BYTES, Program
from edgerev.recipe import Recipe, Schedule
from edgerev.units import parse_bytes

CHUNK_BYTES = 192 << 10  # activations of one residual function: with its gradients and weights they fit 512 KiB


class Choice(NamedTuple):
    """A schedule with the program and the plan that it leads to."""

    schedule: Schedule
    program: Program
    plan: Plan


def choose(
    net: Net, recipe: Recipe, *, budget: int | str | None = None, schedule: str | Schedule | None = None,
    data_bytes: int = 0, threads: int = 1, guard: bool = False,
) -> Choice:
    """Return the fastest schedule that fits.

    Parameters
    ----------
    budget : most bytes of the arena, also as text ("8MiB"); None takes `schedule` as it is
    schedule : "reversible" (also when left out), "stored", or a `Schedule`; only without a budget
    data_bytes : bytes set aside for samples on their way from disk
    threads : most threads that will run it
    guard : whether the last accepted model's parameters have a place as well

    Raises
    ------
    UsageError
        Both a budget and a schedule, or a schedule that there is not.
    BudgetError
        No schedule fits; the message has the bytes needed, the bytes given and what would fit.
    """
    of_type("net", net, Net, 'preset("mlp16")', NetError)
    if budget is not None and schedule is not None:
        raise UsageError(
            f"budget {budget} and schedule {schedule}: expected one of them, for a budget chooses the schedule; leave "
            "one out"
        )
    schedule = "reversible" if schedule is None else schedule
    of_type("schedule", schedule, (str, Schedule), '"reversible"', UsageError)
    if isinstance(schedule, str) and schedule not in ("reversible", "stored"):
        raise UsageError(f"schedule {schedule!r}: expected reversible or stored, or a budget")
    if isinstance(schedule, Schedule) and schedule.micro_batch > recipe.batch:
        raise UsageError(f"{schedule}: expected a micro_batch of at most the batch, {recipe.batch}; lower it")
    whole("data_bytes", data_bytes, 0, MOST_TENSOR_BYTES)
    budget = parse_bytes(budget) if isinstance(budget, str) else budget
    if budget is not None:
        whole("budget", budget, 1, sys.maxsize)
    search = _Search(net, recipe, data_bytes, threads, guard)
    if budget is not None:
        schedule = search.fastest(budget)
    elif isinstance(schedule, str):
        schedule = search.usual(recipe.batch).replace(stored=net.depth if schedule == "stored" else 0)
    program = lower(net, recipe, schedule)
    return Choice(schedule, program, plan(program, data_bytes, guard))


def schedules(
    net: Net, recipe: Recipe, *, data_bytes: int = 0, threads: int = 1, guard: bool = False, mixed: int = 3
) -> Iterator[Schedule]:
    """Yield the schedules that a budget chooses from, fast ones first.

    Parameters
    ----------
    data_bytes, threads, guard : see `choose`
    mixed : how many of those that store some functions
    """
    search = _Search(net, recipe, data_bytes, threads, guard)
    usual = search.usual(recipe.batch)
    for part in range(mixed + 1, 0, -1):
        yield usual.replace(stored=net.depth * part // (mixed + 1))
    yield from (sized.schedule for sized in search.smaller())


class _Sized(NamedTuple):
    """A schedule with the bytes of its arena: all that is kept of an attempt, whose tables may be megabytes."""

    schedule: Schedule
    arena_bytes: int


class _Search:
    def __init__(self, net: Net, recipe: Recipe, data_bytes: int, threads: int, guard: bool) -> None:
        self.net, self.recipe, self.threads = net, recipe, threads
        self.aside = data_bytes, guard

    def attempt(self, schedule: Schedule, net: Net | None = None) -> _Sized:
        program = lower(net or self.net, self.recipe, schedule)
        return _Sized(schedule, plan(program, *self.aside).arena_bytes)

    def usual(self, micro_batch: int) -> Schedule:
        """Return the reversible schedule whose chunks are as large as a cache likes."""
        return Schedule(micro_batch, usual_chunk(self.net, micro_batch, self.threads), threads=self.threads)

    def fastest(self, budget: int) -> Schedule:
        """Return the fastest schedule that fits; BudgetError if none does."""
        usual = self.usual(self.recipe.batch)
        # first, for storing all may take less than storing most: nothing is computed again, so the program is shorter
        stored = usual.replace(stored=self.net.depth)
        if self.attempt(stored).arena_bytes <= budget:
            return stored
        smallest = self.attempt(usual)
        if smallest.arena_bytes <= budget:
            return self.most_stored(usual, budget)
        for sized in self.smaller():
            if sized.arena_bytes <= budget:
                return sized.schedule
            smallest = min(smallest, sized, key=attrgetter("arena_bytes"))
        raise BudgetError(
            f"the smallest plan needs {smallest.arena_bytes:,d} bytes (micro-batches of "
            f"{smallest.schedule.micro_batch}, chunks of {smallest.schedule.chunk}); the budget is {budget:,d}. "
            + self.advice(budget, smallest.schedule)
        )

    def most_stored(self, reversible: Schedule, budget: int) -> Schedule:
        """Return the schedule with as many stored functions as fit, if not all of them do."""
        low, high = 0, max(self.net.depth - 1, 0)
        while low < high:
            middle = (low + high + 1) // 2
            if self.attempt(reversible.replace(stored=middle)).arena_bytes <= budget:
                low = middle
            else:
                high = middle - 1
        return reversible.replace(stored=low)

    def smaller(self) -> Iterator[_Sized]:
        """Yield schedules from fast to slow, as long as they become smaller.

        A smaller chunk takes less workspace and a longer program, and a smaller micro-batch less state: the bytes are
        convex in both, so once they grow they go on growing.
        """
        last: _Sized | None = None
        for micro_batch in _halvings(self.recipe.batch):
            best: _Sized | None = None
            usual = self.usual(micro_batch)
            for chunk in _divisors(micro_batch, usual.chunk):
                sized = self.attempt(usual.replace(chunk=chunk))
                if best is not None and sized.arena_bytes > best.arena_bytes:
                    break
                best = sized
                yield sized
            assert best is not None
            if last is not None and best.arena_bytes > last.arena_bytes:
                break
            if micro_batch < self.recipe.batch:  # the whole batch needs no accumulator, so it is no measure
                last = best

    def advice(self, budget: int, schedule: Schedule) -> str:
        """Return which part of the net would fit."""
        parts = [
            part
            for whole in self.net.backbone
            for part in ([whole.replace(repeat=1)] * whole.repeat if isinstance(whole, Block) else [whole])
        ]
        low, high = 0, len(parts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            try:
                shorter = self.net.replace(backbone=tuple(parts[:middle]))
                fits = self.attempt(schedule, shorter).arena_bytes <= budget
            except NetError:
                fits = False
            low, high = (middle, high) if fits else (low, middle - 1)
        if low == 0:
            return "Not even one block fits; take fewer channels, or a larger budget."
        return f"The first {low} of its {len(parts)} blocks and squeezes would fit; shorten the net or raise the budget"


def _halvings(batch: int) -> list[int]:
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _divisors(number: int, most: int) -> list[int]:
    return [divisor for divisor in range(most, 0, -1) if number % divisor == 0]


def usual_chunk(net: Net, micro_batch: int, threads: int) -> int:
    """Return how many samples go through a residual function at a time: as many as the processors' caches hold.

    What passes between the layers is then read where it was just written, and the workspace is small.
    """
    largest = 1
    for part in net.functions():
        if isinstance(part, Function):
            shape, size = part.shape, math.prod(part.shape)
            for layer in part.layers:
                shape = layer.output_shape(shape)
                size += math.prod(shape)
            largest = max(largest, 4 * size)
    return _divisors(micro_batch, max(1, min(micro_batch, threads * CHUNK_BYTES // largest)))[0]

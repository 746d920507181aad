"""Choose the fastest schedule whose plan fits a budget.

Storing activations saves the recomputation, so as many functions as fit are stored; where not even the reversible
schedule fits, first the workspace is cut into chunks of samples, then the state; only then is the budget refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from edgerev.arena import Plan, plan
from edgerev.errors import BudgetError, NetError, UsageError
from edgerev.lower import lower
from edgerev.net import Block, Net, Squeeze
from edgerev.program import Program
from edgerev.recipe import Recipe, Schedule
from edgerev.tools.memory import parse_bytes


class Choice(NamedTuple):
    """A schedule with the program and the plan that it leads to."""

    schedule: Schedule
    program: Program
    plan: Plan


def choose(
    net: Net, recipe: Recipe, *, budget: int | str | None = None, schedule: str | Schedule = "reversible",
    data_bytes: int = 0,
) -> Choice:
    """Return the fastest schedule that fits.

    Parameters
    ----------
    budget : most bytes of the arena, also as text ("8MiB"); None takes `schedule` as it is
    schedule : "reversible", "stored", or a `Schedule`; only without a budget
    data_bytes : bytes set aside for samples on their way from disk

    Raises
    ------
    BudgetError
        No schedule fits; the message has the bytes needed, the bytes given and what would fit.
    """
    if isinstance(schedule, str) and schedule not in ("reversible", "stored"):
        raise UsageError(f"schedule {schedule!r}: expected reversible or stored, or a budget")
    budget = parse_bytes(budget) if isinstance(budget, str) else budget
    search = _Search(net, recipe, data_bytes)
    batch, functions = recipe.batch, search.functions
    if budget is None:
        if isinstance(schedule, str):
            schedule = Schedule(batch, batch, functions if schedule == "stored" else 0)
        return search.attempt(schedule)
    reversible = search.attempt(Schedule(batch, batch))
    if reversible.plan.arena_bytes <= budget:
        return search.most_stored(reversible, budget)
    smallest = reversible
    for choice in search.smaller():
        if choice.plan.arena_bytes <= budget:
            return choice
        smallest = min(smallest, choice, key=_size)
    raise BudgetError(
        f"the smallest plan needs {smallest.plan.arena_bytes} bytes ({smallest.schedule}); the budget is {budget}. "
        + search.advice(budget, smallest.schedule)
    )


class _Search:
    def __init__(self, net: Net, recipe: Recipe, data_bytes: int) -> None:
        self.net, self.recipe, self.data_bytes = net, recipe, data_bytes
        self.functions = sum(not isinstance(part, Squeeze) for part in net.functions())

    def attempt(self, schedule: Schedule, net: Net | None = None) -> Choice:
        program = lower(net or self.net, self.recipe, schedule)
        return Choice(schedule, program, plan(program, self.data_bytes))

    def most_stored(self, reversible: Choice, budget: int) -> Choice:
        """Return the choice with as many stored functions as fit; storing more never takes less."""
        best, low, high = reversible, 0, self.functions
        while low < high:
            middle = (low + high + 1) // 2
            choice = self.attempt(replace(reversible.schedule, stored=middle))
            if choice.plan.arena_bytes <= budget:
                best, low = choice, middle
            else:
                high = middle - 1
        return best

    def smaller(self) -> Iterator[Choice]:
        """Yield schedules from fast to slow, as long as they become smaller.

        A smaller chunk takes less workspace and a longer program, and a smaller micro-batch less state: the bytes are
        convex in both, so once they grow they go on growing.
        """
        last: Choice | None = None
        for micro_batch in _halvings(self.recipe.batch):
            best: Choice | None = None
            for chunk in _divisors(micro_batch):
                choice = self.attempt(Schedule(micro_batch, chunk))
                if best is not None and _size(choice) > _size(best):
                    break
                best = choice
                yield choice
            assert best is not None
            if last is not None and _size(best) > _size(last):
                break
            if micro_batch < self.recipe.batch:  # the whole batch needs no accumulator, so it is no measure
                last = best

    def advice(self, budget: int, schedule: Schedule) -> str:
        """Return which part of the net would fit."""
        parts = [
            part
            for whole in self.net.backbone
            for part in ([replace(whole, repeat=1)] * whole.repeat if isinstance(whole, Block) else [whole])
        ]
        low, high = 0, len(parts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            try:
                shorter = replace(self.net, backbone=tuple(parts[:middle]))
                fits = self.attempt(schedule, shorter).plan.arena_bytes <= budget
            except NetError:
                fits = False
            low, high = (middle, high) if fits else (low, middle - 1)
        if low == 0:
            return "Not even one block fits; take fewer channels, or a larger budget."
        return f"The first {low} of its {len(parts)} blocks and squeezes would fit; shorten the net or raise the budget"


def _size(choice: Choice) -> int:
    return choice.plan.arena_bytes


def _halvings(batch: int) -> list[int]:
    sizes = [batch]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]

"""A schedule in words: which one was chosen, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgerev.schedule import choose, usual_chunk
from edgerev.units import parse_bytes

if TYPE_CHECKING:
    from edgerev.net import Net
    from edgerev.position import MemoryRequest
    from edgerev.recipe import Recipe
    from edgerev.schedule import Choice


def schedule_text(choice: Choice, net: Net, recipe: Recipe, asked: MemoryRequest) -> str:
    """Return which schedule was chosen, why, and what a reversible one would take where it is another.

    Parameters
    ----------
    net, recipe, asked : what it was chosen for
    """
    text = choice.schedule.name(net.depth) + _cut(choice, net, recipe) + _reason(choice, net, asked)
    return f"{text}; {_reversible(choice, net, recipe)}" if choice.schedule.stored else text


def _cut(choice: Choice, net: Net, recipe: Recipe) -> str:
    """Return into what a step is cut, where that is not for the caches alone."""
    schedule = choice.schedule
    if schedule.micro_batch < recipe.batch:
        return f" in micro-batches of {schedule.micro_batch} and chunks of {schedule.chunk}"
    if schedule.chunk < usual_chunk(net, schedule.micro_batch, schedule.threads):
        return f" in chunks of {schedule.chunk}"
    return ""


def _reason(choice: Choice, net: Net, asked: MemoryRequest) -> str:
    if asked.budget is None:
        return ", as asked for" if asked.schedule else ", the default without a budget"
    budget = parse_bytes(asked.budget) if isinstance(asked.budget, str) else asked.budget
    fits = f"{choice.plan.arena_bytes:,d} B fit into the budget of {budget:,d} B"
    stored, depth = choice.schedule.stored, net.depth
    if stored:
        of = "" if stored == depth else f" of {stored} of {depth} residual functions"
        return f": activations{of} are kept, for {fits}"
    return f": {fits}" + (", and kept activations would not" if depth else "")


def _reversible(choice: Choice, net: Net, recipe: Recipe) -> str:
    """Return what the schedule would take that keeps no activations, all else being equal."""
    from edgerev.program import Region
    from edgerev.tools.cost import section_cost

    plan = choice.plan
    other = choose(
        net, recipe, schedule=choice.schedule.replace(stored=0), data_bytes=plan.regions[Region.DATA][1],
        guard=plan.guard_bytes > 0,
    )  # fmt: skip
    less, more = (section_cost(program, "train", recipe.batch).flops for program in (choice.program, other.program))
    return f"reversible would take {other.plan.arena_bytes:,d} B and {more / less:.2f} times the FLOPs"

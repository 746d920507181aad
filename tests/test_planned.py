"""What is said of a schedule: which one it is, why, and what a reversible one would take; each number is checked."""

import re

import pytest
import toys

from edgerev.cli.planned import schedule_text
from edgerev.layers import Dense
from edgerev.net import Head, Net
from edgerev.position import MemoryRequest
from edgerev.presets import preset
from edgerev.recipe import Recipe, Schedule
from edgerev.schedule import choose
from edgerev.tools.cost import section_cost

RECIPE = Recipe(batch=16)
MLP4 = preset("mlp4")


def said(net, budget=None, schedule=None, **more):
    """Return what is said of the choice, and the choice."""
    choice = choose(net, RECIPE, budget=budget, schedule=schedule, **more)
    return schedule_text(choice, net, RECIPE, MemoryRequest(budget, schedule)), choice


def reversible(net, kept, **more):
    """Return what must be said of the reversible schedule beside one that keeps activations."""
    choice = choose(net, RECIPE, schedule=kept.schedule.replace(stored=0), **more)
    ratio = section_cost(choice.program, "train", 16).flops / section_cost(kept.program, "train", 16).flops
    assert ratio > 1
    return f"reversible would take {choice.plan.arena_bytes:,d} B and {ratio:.2f} times the FLOPs"


def arena(net, **options):
    return choose(net, RECIPE, **options).plan.arena_bytes


@pytest.mark.parametrize("more", [{}, {"data_bytes": 5000}, {"guard": True}, {"threads": 2}])
def test_all_fits(more):
    text, choice = said(MLP4, budget=1 << 20, **more)
    fits = f"{choice.plan.arena_bytes:,d} B fit into the budget of 1,048,576 B"
    assert text == f"stored: activations are kept, for {fits}; {reversible(MLP4, choice, **more)}"
    assert said(MLP4, budget="1MiB", **more)[0] == text


def test_some_fit():
    budget = (arena(MLP4) + arena(MLP4, schedule="stored")) // 2
    text, choice = said(MLP4, budget=budget)
    assert 0 < choice.schedule.stored < 8
    assert text.startswith(f"mixed: activations of {choice.schedule.stored} of 8 residual functions are kept, for ")
    assert text.endswith(f" B fit into the budget of {budget:,d} B; {reversible(MLP4, choice)}")


def test_none_fits():
    net, size = preset("vis2"), arena(preset("vis2"))
    text, choice = said(net, budget=size)
    assert text == f"reversible: {size:,d} B fit into the budget of {size:,d} B, and kept activations would not"
    assert choice.schedule == choose(net, RECIPE).schedule
    text, choice = said(net, budget=size // 2)
    schedule = choice.schedule
    assert text.startswith(f"reversible in micro-batches of {schedule.micro_batch} and chunks of {schedule.chunk}: ")


def test_chunks_alone():
    assert said(MLP4, schedule=Schedule(16, 4))[0] == "reversible in chunks of 4, as asked for"


def test_without_a_budget():
    assert said(MLP4)[0] == "reversible, the default without a budget"
    assert said(MLP4, schedule="reversible")[0] == "reversible, as asked for"
    text, choice = said(MLP4, schedule="stored")
    assert text == f"stored, as asked for; {reversible(MLP4, choice)}"


def test_nothing_to_keep():
    net = Net((8,), Dense(16), (), Head(3))
    assert re.fullmatch(r"reversible: [\d,]+ B fit into the budget of 1,048,576 B", said(net, budget=1 << 20)[0])


def test_plan_and_train_say_the_same(cli, tmp_path):
    """In lines that are not long."""
    toys.tree_set(tmp_path / "data")
    (tmp_path / "config.toml").write_text(toys.CONFIG.replace("batch = 8", 'batch = 8\nbudget = "1MiB"'))
    words = ["--data", tmp_path / "data"]
    planned = cli("plan", "--config", tmp_path / "config.toml", *words).out
    trained = cli("train", tmp_path / "config.toml", *words, "-o", tmp_path / "model.edgerev").out
    found = [re.search(r"^schedule (.*\n(?:   .*\n)*)", text, flags=re.M)[1] for text in (planned, trained)]
    assert found[0].split() == found[1].split()
    assert found[0].split()[:4] == ["stored:", "activations", "are", "kept,"]
    assert max(map(len, f"{planned}{trained}".splitlines())) <= 100

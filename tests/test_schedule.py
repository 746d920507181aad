"""Budgets: the plan keeps to them, they never change a bit, and too small ones are refused with a way out."""

import json
import re

import numpy as np
import pytest
import toys

import harness
from edgerev.errors import BudgetError, UsageError
from edgerev.layers import Conv1d, Conv2d, Dense, ReLU
from edgerev.learner import Learner
from edgerev.machine import Memory
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import AdamW, Clip
from edgerev.presets import preset
from edgerev.recipe import Augment, Recipe, Schedule
from edgerev.schedule import choose

CONV, DEEP = (Conv2d(24), ReLU(), Conv2d(4)), (Conv2d(32), ReLU(), Conv2d(16))
IMAGES = Net((16, 16, 1), Conv2d(8), (Block(CONV, repeat=2), Squeeze(), Block(DEEP)), Head(6))
DENSE = Net((4,), Dense(96), (Block((Dense(64), ReLU(), Dense(48)), repeat=2),), Head(3))
SIGNAL = Net((128, 2), Conv1d(16, 3), (Block((Conv1d(32, 5), ReLU(), Conv1d(8, 5)), repeat=2),), Head(3), "int16")
CASES = {
    "images": (IMAGES, Recipe(8, AdamW(1e-2), augment=Augment(shift=1, flip=True, noise=0.1))),
    "dense": (DENSE, Recipe(96, AdamW(1e-2), clip=Clip(0.5))),
    "signal": (SIGNAL, Recipe(6, clip=Clip(0.5, "global"), atomic=True)),
}


def arena(net, recipe, budget=None, **options):
    return choose(net, recipe, budget=budget, **options).plan.arena_bytes


def smallest(net, recipe):
    """Return the smallest budget that is not refused."""
    with pytest.raises(BudgetError) as caught:
        choose(net, recipe, budget=1)
    return int(re.search(r"needs ([\d,]+) bytes", str(caught.value))[1].replace(",", ""))


def samples(net, count):
    random = np.random.default_rng(0)
    return random.normal(size=(count, *net.input_shape)).astype("f4"), random.integers(0, 3, count)


def learner_for(net, recipe, **options):
    keys = ("batch", "optimizer", "clip", "augment", "atomic")
    return Learner(net, **{key: getattr(recipe, key) for key in keys}, **options)


@pytest.mark.parametrize("name", CASES)
def test_no_budget_changes_a_bit(name):
    net, recipe = CASES[name]
    x, y = samples(net, recipe.batch + recipe.batch // 2 + 1)
    ref = learner_for(net, recipe)
    report = ref.learn_many(x, y)
    least, most = smallest(net, recipe), arena(net, recipe, schedule="stored")
    found = {}
    for budget in np.linspace(least, most, 14).astype(int).tolist():
        learner = learner_for(net, recipe, budget=budget)
        assert len(learner.runtime.arena) == learner.plan.arena_bytes <= budget
        if learner.schedule not in found:
            found[learner.schedule] = learner.plan.arena_bytes
            assert learner.learn_many(x, y) == report
            assert harness.lasting_bytes(learner.runtime) == harness.lasting_bytes(ref.runtime)
            assert (learner.predict_proba_many(x) == ref.predict_proba_many(x)).all()
    assert len(found) > 3
    assert 2 * sum(getattr(part, "repeat", 0) for part in net.backbone) in {schedule.stored for schedule in found}
    assert len({schedule.chunk for schedule in found}) > 1
    assert any(schedule.stored > 0 for schedule in found)


def test_the_state_is_split_where_chunks_are_not_enough():
    net, recipe = Net((16, 16, 3), Conv2d(64), (Block((Conv2d(32),)),), Head(3)), Recipe(batch=16)
    least = smallest(net, recipe)
    budgets = (1 << 30, arena(net, recipe) - 1, least)
    whole, chunked, split = (choose(net, recipe, budget=size).schedule for size in budgets)
    assert whole == Schedule(16, 2, 2)
    assert split.micro_batch < 16
    assert (chunked.micro_batch, chunked.chunk) == (16, 1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 5, 12])
def test_no_smaller_schedule_is_overlooked(name, batch):
    """The search stops once sizes grow; here is a look at all of them."""
    net, recipe = CASES[name][0], Recipe(batch)
    sizes = [
        arena(net, recipe, schedule=Schedule(micro_batch, chunk))
        for micro_batch in {-(-batch // 2**power) for power in range(5)}
        for chunk in range(1, micro_batch + 1) if micro_batch % chunk == 0
    ]  # fmt: skip
    assert smallest(net, recipe) == min(sizes)


@pytest.mark.parametrize("name", CASES)
def test_more_is_stored_the_more_there_is(name):
    net, recipe = CASES[name]
    budgets = np.linspace(arena(net, recipe), arena(net, recipe, schedule="stored"), 9).astype(int).tolist()
    stored = [choose(net, recipe, budget=budget).schedule.stored for budget in budgets]
    assert stored == sorted(stored)
    assert stored[0] < stored[-1] == len([part for part in net.functions() if not isinstance(part, Squeeze)])
    assert choose(net, recipe, budget=1 << 40).schedule.stored == stored[-1]


def test_what_the_budget_buys_is_all_that_fits():
    """One more stored function would be too much."""
    net, recipe = CASES["images"]
    most = arena(net, recipe, schedule="stored")
    choice = choose(net, recipe, budget=(arena(net, recipe) + most) // 2)
    more = Schedule(8, 8, choice.schedule.stored + 1)
    assert arena(net, recipe, schedule=more) > (arena(net, recipe) + most) // 2 >= choice.plan.arena_bytes


@pytest.mark.parametrize("name", CASES)
def test_too_small_a_budget_is_refused_with_a_way_out(name):
    net, recipe = CASES[name]
    least = smallest(net, recipe)
    with pytest.raises(BudgetError) as caught:
        choose(net, recipe, budget=least - 1)
    text = str(caught.value)
    assert f"needs {least:,d} bytes" in text
    assert arena(net, recipe, least) == least
    assert f"; the budget is {least - 1:,d}. " in text
    blocks = int(re.search(r"The first (\d+) of its \d+ blocks and squeezes would fit", text)[1])
    parts = [part for part in net.backbone for _ in range(getattr(part, "repeat", 1))][:blocks]
    shorter = tuple(Block(part.F, part.G) if isinstance(part, Block) else part for part in parts)
    assert arena(Net(net.input_shape, net.stem, shorter, net.head, net.state), recipe, least - 1) < least
    assert "shorten the net or raise the budget" in text
    with pytest.raises(BudgetError, match="Not even one block fits; take fewer channels, or a larger budget"):
        choose(net, recipe, budget=1)
    assert BudgetError.exit_code == 2


def test_budgets_as_text_and_bad_ones():
    net, recipe = CASES["dense"]
    assert choose(net, recipe, budget="8MiB").schedule == choose(net, recipe, budget=8 << 20).schedule
    assert Learner(net, budget="500kB").plan.arena_bytes <= 500_000
    for bad in ("8 apples", "-1", "", "0"):
        with pytest.raises(UsageError, match="is not a size: give a positive number and a unit"):
            choose(net, recipe, budget=bad)
    with pytest.raises(UsageError, match="schedule 'fast': expected reversible or stored, or a budget"):
        choose(net, recipe, schedule="fast")


def test_a_budget_and_a_schedule_exclude_each_other():
    net, recipe = CASES["dense"]
    for schedule in ("stored", "reversible", Schedule(8, 8)):
        with pytest.raises(UsageError, match=r"budget 8MiB and schedule .*: expected one of them.*; leave one out"):
            choose(net, recipe, budget="8MiB", schedule=schedule)


def test_storing_everything_may_take_less_than_storing_most():
    net, recipe = preset("mlp4"), Recipe(1)
    stored = arena(net, recipe, schedule="stored")
    assert stored < arena(net, recipe, schedule=Schedule(1, 1, 7))
    assert choose(net, recipe, budget=stored).schedule.stored == net.depth == 8
    assert choose(net, recipe, budget="1GiB").schedule.stored == 8


def test_the_name_of_a_schedule():
    assert [Schedule(4, 2, stored).name(8) for stored in (0, 1, 7, 8)] == ["reversible", "mixed", "mixed", "stored"]


def test_an_arena_larger_than_what_is_available_is_refused(monkeypatch):
    net, recipe = CASES["dense"]
    size = arena(net, recipe)
    for there, fits in ((size - 1, False), (size, True)):
        monkeypatch.setattr("edgerev.runtime.read_memory", lambda: Memory(1 << 40, there, None))  # noqa: B023
        if fits:
            learner_for(net, recipe)
            continue
        with pytest.raises(BudgetError, match=rf"needs {size:,d} bytes, but only {there:,d} are available; set"):
            learner_for(net, recipe)


def test_no_page_of_the_arena_is_missing_when_the_first_step_comes():
    runtime = learner_for(*CASES["dense"]).runtime
    with open("/proc/self/pagemap", "rb") as file:
        file.seek(runtime._base // 4096 * 8)
        entries = np.frombuffer(file.read(len(runtime.arena) // 4096 * 8), "u8")
    assert (entries >> np.uint64(63)).all()


def test_staging_for_data_counts():
    net, recipe = CASES["dense"]
    assert arena(net, recipe, data_bytes=1000) == arena(net, recipe) + 1024
    with pytest.raises(BudgetError):
        choose(net, recipe, budget=smallest(net, recipe), data_bytes=1000)


# -- edgerev plan --------------------------------------------------------------------------------------------------


def plan(cli, *arguments):
    done = cli("plan", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_plan_prints_the_schedule_of_a_budget(cli):
    free = plan(cli, "--preset", "vis8", "--batch", 16)
    assert free["schedule"] == {"micro_batch": 16, "chunk": 1, "stored": 0, "threads": 1}
    assert free["arena_bytes"] == sum(free["regions"].values())
    regions = ("state", "state_gradient", "stored", "workspace")
    assert free["activation_bytes"] == sum(free["regions"][name] for name in regions)
    rich = plan(cli, "--preset", "vis8", "--batch", 16, "--budget", "1GiB")
    poor = plan(cli, "--preset", "vis8", "--batch", 16, "--budget", "6MiB")
    assert rich["schedule"]["stored"] == 16
    assert poor["schedule"]["micro_batch"] < 16
    assert poor["arena_bytes"] <= 6 << 20 < free["arena_bytes"] < rich["arena_bytes"] <= 1 << 30
    text = cli("plan", "--preset", "vis8", "--batch", 16, "--budget", "6MiB").out
    assert f"{poor['arena_bytes']:,d} B" in text
    assert re.search(r"schedule +reversible in micro-batches of \d+ and chunks of \d+: [\d,]+ B fit into the", text)
    assert cli("plan", "--preset", "vis8", "--budget", "1kB").code == 2


@pytest.mark.parametrize("more", ["budget = '1MB'", "threads = 2", "schedule = 'stored'"])
@pytest.mark.parametrize("kind", ["rows", "images"])
def test_the_training_plan_is_the_planned_one(kind, more, cli, tmp_path):
    """`plan --config --data` tells what `train` will take to the byte, with samples on their way from disk."""
    config, data = tmp_path / "config.toml", tmp_path / "data"
    net = toys.CONFIG if kind == "rows" else '[net]\npreset = "digits"\n[train]\nepochs = 1\nbatch = 8\n'
    config.write_text(net.replace("batch = 8", f"batch = 8\n{more}"))
    if kind == "rows":
        toys.tree_set(data)
    else:
        data.mkdir()
        toys.write_npz(data / "train.npz", *toys.images())
    planned = plan(cli, "--config", config, "--data", data)
    done = cli("train", config, "--data", data, "-o", tmp_path / "model.edgerev", "--json")
    trained = json.loads(done.out)
    assert (trained["arena_bytes"], trained["regions"]) == (planned["arena_bytes"], planned["regions"])
    assert (planned["regions"]["data"] > 0) == (kind == "images")
    shape, outputs = ("4", 3) if kind == "rows" else ("8x8x1", 6)
    without = plan(cli, "--config", config, "--input", shape, "--outputs", outputs)["regions"]
    assert without["data"] == 0
    assert "--data goes with --config" in cli("plan", "--preset", "mlp4", "--data", data).err

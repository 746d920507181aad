"""The picture of the arena: lives and phases that are true to the program, on a grid too, and drawn."""

import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradients import nets, recipes

from edgerev.kernels.layout import UPDATES, Op
from edgerev.optimizers import SGD, AdamW
from edgerev.presets import preset
from edgerev.program import Region
from edgerev.recipe import Recipe, Schedule
from edgerev.schedule import choose
from edgerev.tools.arena_picture import (
    COLUMNS,
    FILLED,
    FORWARD,
    GRADIENT,
    INVERSE,
    LABEL,
    LINES,
    LOSS,
    MOST_LIVES,
    UPDATE,
    Life,
    coarse_phases,
    lives,
    on_grid,
    phases,
    plot_arena,
)
from edgerev.units import format_bytes


def planned(name, schedule="reversible", batch=16):
    return choose(preset(name), Recipe(batch=batch), schedule=schedule)


def check_lives(choice):
    """Nothing that lives at one time overlaps; all is in its region; every use of a tensor is in one of its lives."""
    program, plan = choice.program, choice.plan
    found = lives(program, plan)
    for life in found:
        start, size = plan.regions[life.region]
        assert start <= life.low < life.high <= start + size
        assert life.region in FILLED
    ordered = sorted(found, key=lambda life: life.low)
    for place, life in enumerate(ordered):
        for other in ordered[place + 1 :]:
            if other.low >= life.high:
                break
            same = (life.low, life.high) == (other.low, other.high)  # of one tensor, or of one after the other
            assert life.died < other.born or other.died < life.born, (same, life, other)
    covered = {}
    for life in found:
        covered.setdefault(life.low, []).append((life.born, life.died))
    for row in range(*program.sections["train"]):
        for number in program.decode(row).operands.values():
            if number >= 0 and program.regions[number] in FILLED:
                assert any(born <= row <= died for born, died in covered[plan.offsets[number]])


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(net=nets(), recipe=recipes(), data=st.data())
def test_lives_of_random_nets(net, recipe, data):
    recipe, _ = recipe
    micro_batch = data.draw(st.integers(1, recipe.batch))
    chunk = data.draw(st.sampled_from([size for size in range(1, micro_batch + 1) if micro_batch % size == 0]))
    stored = data.draw(st.integers(0, net.depth)) if chunk == micro_batch else 0
    choice = choose(net, recipe, schedule=Schedule(micro_batch, chunk, stored))
    check_lives(choice)
    check_phases(choice.program)


@pytest.mark.parametrize("schedule", ["reversible", "stored"])
@pytest.mark.parametrize("name", ["mlp4", "vis2", "images"])
def test_lives_of_presets(name, schedule):
    check_lives(planned(name, schedule))


def check_phases(program):
    """They cover the section once and in order; what changes parameters is update, what follows is coarse too."""
    spans = phases(program)
    first, last = program.sections["train"]
    assert [span.start for span in spans] == [first, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == last
    assert all(before.phase != after.phase for before, after in pairwise(spans))
    coarse = coarse_phases(spans)
    assert (coarse[0].start, coarse[-1].stop) == (first, last)
    assert all(before.stop == after.start for before, after in pairwise(coarse))
    return spans


@pytest.mark.parametrize(("name", "schedule"), [("mlp4", "reversible"), ("vis2", "reversible"), ("mlp4", "stored")])
def test_phases(name, schedule):
    program = planned(name, schedule).program
    spans = check_phases(program)
    assert [span.phase for span in spans[:2]] == [FORWARD, LOSS]
    assert (INVERSE in {span.phase for span in spans}) == (schedule == "reversible")
    for span in spans[2:]:
        ops = {program.decode(row).op for row in range(span.start, span.stop)}
        assert (span.phase == UPDATE) == bool(ops & set(UPDATES))
        assert span.phase in (INVERSE, UPDATE) or Op.COUPLE not in ops
    assert len(coarse_phases(spans)) == 3


def test_micro_batches_go_forward_again():
    choice = choose(preset("har2"), Recipe(batch=8), schedule=Schedule(4, 4))
    coarse = [span.phase for span in coarse_phases(phases(choice.program))]
    assert coarse[:2] == coarse[3:5] == [FORWARD, LOSS]
    assert GRADIENT in coarse[2]
    assert coarse[2] == coarse[5]


LIVES = st.builds(
    lambda region, low, size, born, length: Life(region, low, low + size, born, born + length),
    st.sampled_from([Region.STATE, Region.WORKSPACE]), st.integers(0, 90_000), st.integers(1, 9_000),
    st.integers(0, 4_000), st.integers(0, 900),
)  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(found=st.lists(LIVES, max_size=20))
def test_a_grid_covers_what_lives_and_no_cell_more(found):
    rows, span = (0, 5_000), (0, 99_000)
    joined = on_grid(found, rows, span)
    width, height = -(-5_000 // COLUMNS), -(-99_000 // LINES)

    def cells(lives):
        return {
            (life.region, x, y)
            for life in lives
            for x in range(life.born // width, life.died // width + 1)
            for y in range(life.low // height, (life.high - 1) // height + 1)
        }

    assert cells(joined) == cells(found)
    for place, life in enumerate(joined):
        for other in joined[place + 1 :]:
            apart = life.died < other.born or other.died < life.born or life.low != other.low
            assert apart or life.region is not other.region


def test_a_thousand_blocks_are_few_rectangles():
    choice = planned("mlp1000", "stored")
    found = lives(choice.program, choice.plan)
    rows, span = choice.program.sections["train"], (0, choice.plan.arena_bytes)
    assert len(found) > 5 * MOST_LIVES
    assert len(on_grid(found, rows, span)) < MOST_LIVES / 4


# -- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--preset", "mlp4"], ["--preset", "vis2", "--schedule", "stored"]])
def test_plot(options, cli, tmp_path):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "arena.svg"
    command = ["plan", *options, "--plot", plot]
    done = cli(*command)
    assert (done.code, done.err) == (0, "")
    assert "arena" in done.out
    assert "<svg" in plot.read_text()
    again = cli(*command)
    assert (again.code, again.out) == (2, "")
    assert "is there already; expected a new name; add --force" in again.err
    assert cli(*command, "--force").code == 0


@pytest.fixture
def drawing(tmp_path, monkeypatch):
    """Give a function that draws a choice, and returns the figure."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    def draw(choice):
        drawn = []
        figure = lambda **how: drawn.append(Figure(**how)) or drawn[0]  # noqa: E731
        monkeypatch.setattr("edgerev.tools.arena_picture.plotter", lambda: figure)
        plot_arena(choice, "a net", str(tmp_path / "arena.svg"))
        return drawn[0]

    return draw


@pytest.mark.parametrize(("name", "optimizer", "titles"), [
    ("table", AdamW(), ["what each step fills anew, {anew}: the bracket below, enlarged", "the whole arena, {whole}"]),
    ("vis2", SGD(), ["the whole arena, {whole}"]),
])  # fmt: skip
def test_pictures_say_what_they_are_of(name, optimizer, titles, drawing):
    choice = choose(preset(name), Recipe(batch=16, optimizer=optimizer))
    plan, pictures = choice.plan, drawing(choice).axes[1:]
    low, high = plan.regions[FILLED[0]][0], sum(plan.regions[FILLED[-1]])
    sizes = {"anew": format_bytes(high - low), "whole": format_bytes(plan.arena_bytes)}
    assert [axis.get_title("left") for axis in pictures] == [title.format(**sizes) for title in titles]
    for axis in pictures:
        scale = 1 << 20 if "MiB" in axis.get_ylabel() else 1 << 10
        assert axis.get_ylabel().startswith("place in the arena, ")
        brackets = [list(line.get_ydata()) for line in axis.lines]
        assert brackets == ([[low / scale, high / scale]] if len(pictures) == 2 else [])
    bounds = (low, high) if len(pictures) == 2 else (0, plan.arena_bytes)
    assert pictures[0].get_ylim() == tuple(bound / scale for bound in bounds)


@pytest.mark.parametrize("schedule", ["reversible", "stored"])
@pytest.mark.parametrize("name", ["table", "digits", "mlp4", "vis2", "vis8"])
@pytest.mark.parametrize("optimizer", [SGD(), AdamW()])
def test_names_lie_within_their_regions(name, schedule, optimizer, drawing):
    """So that none overlaps another, however small the regions."""
    choice = choose(preset(name), Recipe(batch=16, optimizer=optimizer), schedule=schedule)
    figure = drawing(choice)
    named = set()
    regions = {region.value: place for region, place in choice.plan.regions.items()}
    pictures = figure.axes[1:]
    for axis in pictures:
        scale = 1 << 20 if "MiB" in axis.get_ylabel() else 1 << 10
        for text in axis.texts:
            start, size = regions[text.get_text()]
            low, high = axis.transData.transform([(0, start / scale), (0, (start + size) / scale)])[:, 1]
            box, pad = text.get_window_extent(), 1.5 * figure.dpi / 72  # of what is white around it
            assert low <= box.y0 - pad < box.y1 + pad <= high, text.get_text()
            least = LABEL * len(pictures) * axis.get_window_extent().height
            assert box.height + 2 * pad <= least  # so a region that is just high enough for a name holds it
            named.add(text.get_text())
    large = {name for name, (_, size) in regions.items() if size > 0.2 * choice.plan.arena_bytes}
    assert large <= named


def test_plot_needs_matplotlib(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = cli("plan", "--preset", "mlp4", "--plot", tmp_path / "arena.svg")
    assert (done.code, done.out) == (2, "")
    assert "pip install 'edgerev[plot]'" in done.err

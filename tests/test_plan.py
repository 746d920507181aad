"""The planner against lifetimes found anew, naively; programs as data: bytes and listing."""

from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gradients import nets, recipes

from edgerev import lower as lowering
from edgerev.arena import plan
from edgerev.errors import EdgerevError
from edgerev.kernels import layout
from edgerev.kernels.layout import ALIGNMENT, DType, Op
from edgerev.layers import Conv1d, Conv2d, Dense, Dropout, ReLU
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD
from edgerev.program import SCOPED, Program, Region
from edgerev.recipe import Recipe, Schedule


class Recorded(Program):
    """A program that remembers every run of every scope, also those that the planner does not look at."""

    def __init__(self, batch, threads=1):
        super().__init__(batch, threads)
        self.runs = []

    @contextmanager
    def scope(self, region, key):
        start = len(self)
        with super().scope(region, key):
            yield
        self.runs.append((region, key, start, len(self)))


def lives(program):
    """Return (tensor, first row, last row) for each life of each scratch tensor; what stays lives all the time."""
    found = [
        (number, -1, len(program))
        for number, region in enumerate(program.regions)
        if region not in SCOPED and number not in program.aliases
    ]
    for region, key, start, stop in program.runs:
        uses = {}
        for row in range(start, stop):
            for number in program.decode(row).operands.values():
                if number >= 0 and program.regions[number] is region and program.scope_of(number) == key:
                    uses.setdefault(number, []).append(row)
        for loop in loops(program, start, stop):
            for rows in uses.values():
                if any(row in loop for row in rows) and not all(row in loop for row in rows):
                    rows += [loop.start, loop.stop - 1]  # the other rounds need it too
        found += [(number, min(rows), max(rows)) for number, rows in uses.items()]
    return found


def loops(program, start, stop):
    """Return the rows of the body of each REPEAT."""
    steps = ((row, program.decode(row)) for row in range(start, stop))
    return [range(row + 1, row + 1 + step.parameters["rows"]) for row, step in steps if step.op == Op.REPEAT]


def check_plan(program):
    """Nothing alive at the same time overlaps; all is aligned and in its region; regions follow one another."""
    made = plan(program)
    end = 0
    for start, size in made.regions.values():
        assert start == end
        end += size
    assert end == made.arena_bytes
    span = {}
    for number, region in enumerate(program.regions):
        offset, size = made.offsets[number], program.decode_tensor(number).nbytes
        first, length = made.regions[region]
        assert offset % ALIGNMENT == 0
        assert first <= offset <= offset + size <= first + length
        span[number] = (offset, offset + size)
    for number, target in program.aliases.items():
        assert made.offsets[number] == made.offsets[target]
        assert span[number][1] <= span[target][1]
    alive = sorted(lives(program), key=lambda life: span[life[0]])
    for index, (number, born, died) in enumerate(alive):
        for other, other_born, other_died in alive[index + 1 :]:
            if span[other][0] >= span[number][1]:
                break  # they are sorted by where they start
            apart = died < other_born or other_died < born or number == other
            assert apart, f"{program.names[number]} and {program.names[other]} overlap"
    return made


def used_once(program):
    """Every scratch operand of a row was asked for in a scope that is open there."""
    for row in range(len(program)):
        for number in program.decode(row).operands.values():
            if number >= 0 and program.regions[number] in SCOPED:
                scope = (program.regions[number], program.scope_of(number))
                assert any(run[:2] == scope and run[2] <= row < run[3] for run in program.runs)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_random_programs(data):
    """Scopes of several keys, some of them twice; tensors of all sizes used in any order; things that stay."""
    program = Recorded(batch=4)
    kept = []
    for index, region in enumerate(data.draw(st.lists(st.sampled_from(list(Region)[1:6]), max_size=5))):
        size, dtype = data.draw(st.integers(1, 70)), data.draw(st.sampled_from(DType))
        kept.append(program.tensor(f"kept{index}", (size,), region, dtype=dtype))
    shapes = {}
    for _ in range(data.draw(st.integers(1, 6))):
        region, key = data.draw(st.sampled_from(SCOPED)), data.draw(st.sampled_from("abc"))
        if (region, key) not in shapes:
            sizes = data.draw(st.lists(st.integers(1, 200), min_size=1, max_size=7))
            uses = st.tuples(st.integers(0, len(sizes) - 1), st.integers(0, len(sizes) - 1))
            shapes[region, key] = sizes, data.draw(st.lists(uses, min_size=1, max_size=12))
        sizes, order = shapes[region, key]
        with program.scope(region, key):
            for pair in order:
                tensors = [program.tensor(f"t{at}", (sizes[at],), region, capacity=at % 3) for at in pair]
                program.emit(Op.COPY, *tensors)
                if kept:
                    program.emit(Op.COPY, kept[0], tensors[0])
    if kept:
        first = program.decode_tensor(kept[0])
        program.tensor("alias", first.shape, first.region, dtype=first.dtype, alias=kept[0])
    used_once(program)
    check_plan(program)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(net=nets(), recipe=recipes(), data=st.data())
def test_random_nets(net, recipe, data):
    recipe, _ = recipe
    micro_batch = data.draw(st.integers(1, recipe.batch))
    chunk = data.draw(st.sampled_from([size for size in range(1, micro_batch + 1) if micro_batch % size == 0]))
    functions = sum(not isinstance(part, Squeeze) for part in net.functions())
    stored = data.draw(st.integers(0, functions)) if chunk == micro_batch else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lowering, "Program", Recorded)
        program = lowering.lower(net, recipe, Schedule(micro_batch, chunk, stored))
    used_once(program)
    check_plan(program)


def test_scratch_needs_a_scope():
    with pytest.raises(EdgerevError, match="outside a scope"):
        Program(1).tensor("x", (1,), Region.WORKSPACE)


# -- memory does not grow with depth -------------------------------------------------------------------------------


def planned(kind, depth, schedule=None, recipe=None):
    stem, F, shape = {
        "dense": (Dense(128), (Dense(64), ReLU(), Dense(64)), (64,)),
        "conv1d": (Conv1d(64, 5), (Conv1d(32, 5), ReLU(), Conv1d(32, 5)), (128, 9)),
        "conv2d": (Conv2d(64, 3), (Conv2d(32, 3), ReLU(), Conv2d(32, 3)), (32, 32, 3)),
    }[kind]
    net = Net(shape, stem, (Block(F, repeat=depth),), Head(10))
    return plan(lowering.lower(net, recipe or Recipe(batch=16), schedule or Schedule(16, 16)))


@pytest.mark.parametrize("kind", ["dense", "conv1d", "conv2d"])
def test_activation_bytes_do_not_depend_on_depth(kind):
    plans = [planned(kind, depth) for depth in (4, 40, 400)]
    assert len({made.activation_bytes for made in plans}) == 1
    assert len({made.regions[Region.GRADIENT][1] for made in plans}) == 1
    assert [made.regions[Region.STORED][1] for made in plans] == [0, 0, 0]
    assert [made.regions[Region.ACCUMULATOR][1] for made in plans] == [0, 0, 0]
    state = {"dense": 128, "conv1d": 64 * 128, "conv2d": 64 * 32 * 32}[kind] * 16 * 4
    assert plans[0].regions[Region.STATE][1] == plans[0].regions[Region.STATE_GRADIENT][1] == state


def test_what_schedules_cost():
    """Chunks shrink the workspace alone; micro-batches also the state, at a gradient for each parameter."""
    whole, chunked = planned("conv1d", 4), planned("conv1d", 4, Schedule(16, 2))
    split, stored = planned("conv1d", 4, Schedule(4, 4)), planned("conv1d", 4, Schedule(16, 16, 8))
    assert chunked.regions[Region.WORKSPACE][1] < whole.regions[Region.WORKSPACE][1] / 2
    assert chunked.regions[Region.STATE][1] == whole.regions[Region.STATE][1] == 4 * split.regions[Region.STATE][1]
    assert split.regions[Region.ACCUMULATOR][1] >= split.regions[Region.PARAMETERS][1] * 0.9
    assert stored.activation_bytes > whole.activation_bytes
    assert planned("conv1d", 4, recipe=Recipe(batch=16, atomic=True)).regions[Region.ACCUMULATOR][1] > 0


# -- programs as data ----------------------------------------------------------------------------------------------

LISTING = """\
read_out:
  head
       # pool            features=features<f32:2x1x1x4> s1=state.0@0<i32:2x1x1x2> s2=state.1@0<i32:2x1x1x2> \
rows=1 columns=1 rectify=0
       # conv            y=logits<f32:2x1x1x3> x=features<f32:2x1x1x4> w=head.0.weight<f32:1x4x3> \
b=head.0.bias<f32:1x1x3> kernel_h=1 kernel_w=1 relu=0 add=0
       # probability     p=probability<f32:2x1x1x3> z=logits<f32:2x1x1x3> counters=counters<i64:1x1x5> \
kind=0 outputs=3
       # check
inverse:
  block0.G
"""


def test_the_listing_is_readable():
    net = Net((3,), Dense(4), (Block((Dense(2),)),), Head(3))
    program = lowering.lower(net, Recipe(batch=2, optimizer=SGD(0.5)), Schedule(2, 1))
    lines = list(program.listing())
    text = "\n".join(line[:4] + "   #" + line[10:] if line[:10].strip().isdigit() else line for line in lines)
    assert LISTING in text + "\n"
    assert sum(line[:10].strip().isdigit() for line in lines) == len(program)
    assert any(line.split()[1:] == ["repeat", "rows=4", "size=1"] for line in lines)
    assert any("rate=0.5" in line for line in lines)


def test_every_dropout_layer_and_every_parameter_draws_from_a_stream_of_its_own():
    layers = (Dropout(0.1), Dense(2), Dropout(0.2), Dropout(0.3))
    net = Net((3,), Dense(4), (Block(layers, repeat=3),), Head(3))
    program = lowering.lower(net, Recipe(batch=2), Schedule(2, 1))
    steps = [program.decode(row) for row in range(len(program))]
    masks = {step.parameters["stream"] for step in steps if step.op == Op.DROPOUT}
    assert len(masks) == 3 * 2 * 3
    weights = [step.parameters["stream"] for step in steps if step.op == Op.INIT and step.parameters["random"]]
    assert len(set(weights)) == len(weights) == 1 + 6 + 1
    assert not masks & {0, *weights}  # 0 belongs to augmentation


def test_emit_refuses_what_the_signature_does_not_have():
    program = Program(1)
    with pytest.raises(EdgerevError, match="signature"):
        program.emit(Op.ZERO, 0, value=1)
    with pytest.raises(EdgerevError, match="signature"):
        program.emit(Op.ZERO, 0, 1)
    assert len(program) == 0
    assert all(len(s.outputs + s.inputs) <= layout.MAX_OPERANDS for s in layout.SIGNATURES.values())
    assert all(len(s.parameters) <= layout.MAX_PARAMETERS for s in layout.SIGNATURES.values())

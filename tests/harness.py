"""Run one program compiled and interpreted, from the same bytes, and compare tensors."""

import numpy as np

import naive
from edgerev.arena import plan
from edgerev.kernels import layout
from edgerev.kernels.layout import NO_TENSOR, DType, Op, Status
from edgerev.lower import lower
from edgerev.program import Program, Region
from edgerev.recipe import Schedule
from edgerev.runtime import Runtime
from naive import Memory

NUMPY = {DType.F32: "f4", DType.I32: "i4", DType.I16: "i2", DType.I64: "i8", DType.F64: "f8"}
GARBAGE = (Region.ACCUMULATOR, Region.GRADIENT, Region.STATE, Region.STATE_GRADIENT, Region.STORED, Region.WORKSPACE)

# Largest error of an output's elements, as a share of what is added up or passed through (`magnitude`); 0 means the
# same bits. 1e-6 is 16 roundings of float32 that all go the same way. Integers and what is only moved have none.
TIGHT = 1e-6
EXACT = (Op.FLIP, Op.COUPLE, Op.SQUEEZE, Op.COPY, Op.INIT, Op.ZERO)
TOLERANCES = {
    **dict.fromkeys(Op, TIGHT), **dict.fromkeys(EXACT, 0.0),
    Op.ACCUMULATE: 6e-8, Op.LOAD: 1.2e-7, Op.DROPOUT: 1.2e-7,  # one rounding, two roundings
    Op.NORM: 3e-6, Op.NORM_GRAD: 3e-6,  # two chains of additions over all positions, one inside the other
    Op.ACTIVATION_GRAD: 4e-6,  # the GELU's slope multiplies the 1e-7 of tanh by a cubic in x before it vanishes
    Op.WINOGRAD_WEIGHTS: 2e-6, Op.WINOGRAD: 2e-5, Op.WINOGRAD_WGRAD: 2e-5,  # sums of large terms that cancel
}  # fmt: skip
# 1 - power loses digits that nothing can bring back: 6e-8 / (1 - beta) for the betas up to 0.999
CORRECTIONS = 6e-5


def build(net, recipe, schedule=None, threads=1, seed=1):
    """Return a Runtime of `net` with initial weights."""
    schedule = (schedule or Schedule(recipe.batch, recipe.batch)).replace(threads=threads)
    runtime = start(lower(net, recipe, schedule), threads, seed)
    if recipe.loss.weights is not None:
        by_name(runtime, "loss.weights")[...] = recipe.loss.weights
    return runtime


def start(program, threads=1, seed=1):
    """Return a Runtime of a lowered net with initial weights."""
    runtime = Runtime(program, plan(program), threads)
    runtime.view("counters")[0] = seed
    runtime.run("init", 1)
    return runtime


def tensor(runtime, number, memory=None, *, whole=False):
    """Return a tensor of the arena (or of `memory`, a copy) as an array that shares its memory; `whole` with halo."""
    row = runtime.program.decode_tensor(number)
    start = runtime.plan.offsets[number]
    flat = np.frombuffer((runtime.arena if memory is None else memory)[start : start + row.nbytes], NUMPY[row.dtype])
    (height, width, channels), (pad_y, pad_x) = row.shape, row.halo
    samples = flat.reshape(max(row.capacity, 1), height + 2 * pad_y, width + 2 * pad_x, channels)
    interior = samples if whole else samples[:, pad_y : pad_y + height, pad_x : pad_x + width]
    return interior if row.capacity else interior[0]


def by_name(runtime, name):
    return tensor(runtime, runtime.program.find(name))


def set_batch(runtime, rng, n=None):
    """Fill the batch with random samples and targets; those from the n-th on hold what must not be looked at."""
    raw = by_name(runtime, "raw")
    raw[...] = rng.normal(size=raw.shape)
    target = by_name(runtime, "target")
    outputs = by_name(runtime, "probability").shape[-1]
    if target.dtype == np.int32:
        target[...] = rng.integers(0, outputs, target.shape)
    else:
        target[...] = rng.random(target.shape)
    if n is not None:
        raw[n:] = np.nan
        target[n:] = -1 if target.dtype == np.int32 else np.nan


def litter(runtime):
    """Fill all scratch with NaN (-1 in integers), so that reading what was never written is noticed."""
    for region in GARBAGE:
        memory = runtime.region(region)
        memory[:] = b"\xff" * len(memory)


def jitter(runtime, rng, scale=0.1):
    """Move every parameter away from its initial value, so that none stays 0 or 1."""
    for name, number in parameters(runtime):
        if name != "loss.weights":
            array = tensor(runtime, number)
            array += np.float32(scale) * rng.normal(size=array.shape).astype("f4")


def memory_of(runtime, dtype=np.float64):
    """Return the oracle's memory with what the arena holds now."""
    memory = Memory(runtime.program, dtype)
    for number in range(len(runtime.program.names)):
        memory[number][...] = tensor(runtime, number)
    return memory


def parameters(runtime):
    """Return name and number of every tensor among the parameters."""
    return in_region(runtime, Region.PARAMETERS)


def in_region(runtime, *regions):
    """Return name and number of every tensor in these regions."""
    return [
        (name, number)
        for number, (name, region) in enumerate(zip(runtime.program.names, runtime.program.regions))
        if region in regions
    ]


def parameter_bytes(runtime):
    return bytes(runtime.region(Region.PARAMETERS)) + bytes(runtime.region(Region.OPTIMIZER))


def lasting_bytes(runtime):
    """Return all that outlives a step: parameters, moments, sums, counters, and powers of the betas."""
    scalars = runtime.view("scalars")
    powers = bytes(scalars[layout.V_POWER1 : layout.V_POWER2 + 1])
    sums, counters = bytes(runtime.region(Region.CONSOLIDATION)), bytes(runtime.view("counters"))
    return parameter_bytes(runtime) + sums + counters + powers


def train(runtime, rng, steps, n=None):
    """Run `steps` training steps on random batches; return their losses."""
    losses = []
    for _ in range(steps):
        set_batch(runtime, rng, n)
        runtime.run("train", n or runtime.program.batch)
        losses.append(runtime.view("report")[0])
    return losses


# -- instruction by instruction ------------------------------------------------------------------------------------


def run_row(runtime, index, n):
    """Run one row compiled, with all threads; return whether a CHECK failed."""
    return runtime.run_rows(index, index + 1, n)


def compare_rows(runtime, section, n, tolerances=None):
    """Run a section row by row, compiled and interpreted from the same bytes each time, and compare all outputs.

    Also checks that a row writes nothing but the interiors of its outputs and the halo of the first, and that both find
    the same status. `tolerances` replaces some of TOLERANCES.
    """
    program, allowed = runtime.program, {**TOLERANCES, **(tolerances or {})}
    for index, offset in naive.unrolled(program, range(*program.sections[section]), n, memory_of(runtime)):
        place = index * layout.ROW + layout.FIRST
        program.rows[place] += offset  # as REPEAT would have it
        step = program.decode(index)
        if step.op != Op.CHECK:
            _compare_row(runtime, index, step, n, allowed[step.op])
        program.rows[place] -= offset


def _compare_row(runtime, index, step, n, tolerance):
    program = runtime.program
    where = f"row {index}, {step.op.name} of {program.blocks[step.block] if step.block >= 0 else 'the program'}"
    used = {name: number for name, number in step.operands.items() if number != NO_TENSOR}
    memory = Memory(program)
    before, statuses = memoryview(bytearray(runtime.arena)), []
    with np.errstate(all="ignore"):
        for number in used.values():
            memory[number][...] = tensor(runtime, number)
        call = naive.Call(step, index, memory, n, True, statuses)
        if call.count > 0:
            getattr(call, step.op.name.lower())()
        scale = magnitude(call) if call.count > 0 else 0.0
    run_row(runtime, index, n)
    assert statuses == found_statuses(runtime), where
    written = [*layout.SIGNATURES[step.op].outputs, *(["g"] if "importance" in used and step.op == Op.UPDATE else [])]
    for name in written:
        number = used.get(name, NO_TENSOR)
        if number == NO_TENSOR:
            continue
        if name != "work":  # scratch of the instruction's own
            compare(tensor(runtime, number), memory[number], tolerance, f"{where}: {program.names[number]}", scale)
        first = name == layout.SIGNATURES[step.op].outputs[0]
        whole = first and any(program.decode_tensor(number).halo)
        if whole:
            _check_halo(runtime, number, call, name)
        tensor(runtime, number, before, whole=whole)[...] = tensor(runtime, number, whole=whole)
    for name in ("status", "barrier"):
        number = program.find(name)
        tensor(runtime, number, before)[...] = tensor(runtime, number)
    changed = np.flatnonzero(np.frombuffer(before, "u1") != np.frombuffer(runtime.arena, "u1"))
    assert not changed.size, f"{where} wrote bytes {changed[:8]} ... that are not its own"


def _check_halo(runtime, number, call, name):
    row = runtime.program.decode_tensor(number)
    whole = tensor(runtime, number, whole=True)[call.samples(name)].copy()
    (height, width, _), (pad_y, pad_x) = row.shape, row.halo
    whole[:, pad_y : pad_y + height, pad_x : pad_x + width] = 0
    assert not whole.any(), f"halo of {row.name}"


def magnitude(call):
    """Return what the errors of an instruction are a share of: the sum of all magnitudes added up, not what is left."""
    op = call.step.op

    def largest(name):
        values = abs(call.read(name)) if call.has(name) else np.zeros(1)
        return values[np.isfinite(values)].max(initial=0)

    if op in (Op.CONV, Op.CONV_SGD, Op.DEPTHWISE, Op.CONV_WGRAD, Op.DEPTHWISE_WGRAD, Op.WINOGRAD, Op.WINOGRAD_WGRAD):
        memory = Memory(call.memory.program)
        memory.arrays = {number: abs(array) for number, array in call.memory.arrays.items()}
        if op == Op.WINOGRAD:
            matrix = naive.filter_map(call["kernel_w"])
            weights = naive.filtered(abs(call.unfiltered()), matrix, both=call["kernel_h"] > 1)
            memory[call.step.operands["u"]][0, :, : weights[0].size] = weights.reshape(len(weights), -1)
        if op == Op.CONV_SGD:
            memory.arrays[call.step.operands["scalars"]] *= -1  # a negative rate adds what the positive one takes off
        same = naive.Call(call.step, call.row, memory, call.n, True, [])
        getattr(same, op.name.lower())()
        names = [name for name in layout.SIGNATURES[op].outputs if name != "work" and same.has(name)]
        return max(np.nan_to_num(same.read(name), posinf=0).max() for name in names)
    if op in (Op.NORM, Op.NORM_GRAD, Op.NORM_WGRAD):
        stretched = largest("x") * largest("stats")  # values beside a large mean, or of a small variance
        if op == Op.NORM_WGRAD:
            return abs(call.read("dy")).sum((0, 1, 2)).max() * (1 + stretched) + max(map(largest, ("dgamma", "dbeta")))
        if op == Op.NORM_GRAD:
            return largest("dy") * largest("gamma") * largest("stats") * (1 + stretched)
        return max(stretched * largest("gamma") + largest("beta"), largest("stats"))
    passed = {Op.ACTIVATION: "x", Op.ACTIVATION_GRAD: "dy"}.get(op)
    return largest(passed) if passed else 0.0


def compare(comp, ref, tolerance, where="", scale=0.0):
    """Compare a compiled with an interpreted tensor: NaN where one is, else within a share of the largest value."""
    with np.errstate(over="ignore"):
        ref = np.asarray(ref).astype(comp.dtype)
    if comp.dtype.kind == "i" or tolerance == 0:
        if not np.array_equal(comp, ref, equal_nan=comp.dtype.kind == "f"):
            np.testing.assert_array_equal(comp, ref, err_msg=where)
        return
    if where.endswith("scalars"):  # a rate beside a sum of squares: each by its own size
        comp, ref = comp.reshape(-1), ref.reshape(-1)
        for slot in range(ref.size):
            limit = CORRECTIONS if slot in (layout.V_CORRECTION1, layout.V_CORRECTION2) else tolerance
            at_end = TIGHT / 10 if slot == layout.V_RATE else 1e-30  # of a cosine
            np.testing.assert_allclose(comp[slot], ref[slot], rtol=limit, atol=at_end, err_msg=f"{where} {slot}")
        return
    usual = np.isfinite(ref) & (ref > -1e30)  # -1e30 is the answer for classes never seen
    largest = max(abs(ref[usual]).max(initial="ridge" in where), scale)  # the ridge head's answers are near 0 and 1
    with np.errstate(invalid="ignore"):
        close = (abs(comp - ref) <= tolerance * largest) | (comp == ref) | (np.isnan(comp) & np.isnan(ref))
    if not close.all():  # NumPy's own comparison is slow, but says best what is wrong
        np.testing.assert_allclose(comp, ref, rtol=0, atol=tolerance * largest, err_msg=where)
        raise AssertionError(where)


def found_statuses(runtime):
    """Return (row, sample, status) of the first status that compiled code recorded, in a list, and forget it."""
    lines = np.array(runtime.status).reshape(-1, layout.STATUS_LINE)
    found = [
        (int(line[layout.S_ROW]), int(line[layout.S_SAMPLE]), Status(int(line[layout.S_CODE])))
        for line in lines if line[layout.S_CODE]
    ]  # fmt: skip
    for at in range(len(runtime.status)):
        runtime.status[at] = 0
    return found[:1]


def compare_sections(runtime, n, tolerances=None):
    """Compare all sections of a lowered net row by row: training, reading out, the inverse, the ridge head."""
    sections = ["train", "encode", "forward", "read_out", "inverse"]
    sections += [name for name in ("ridge_reset", "ridge_add", "ridge_solve") if name in runtime.program.sections]
    size = runtime.program.rows[runtime.program.sections["encode"][0] * layout.ROW + layout.COUNT]
    micro_batch = runtime.program.decode_tensor(runtime.program.find("state.0@0")).capacity
    assert size <= micro_batch
    for section in sections:
        compare_rows(runtime, section, n if section == "train" else min(n, micro_batch), tolerances)


class Bench:
    """A program written by hand: tensors with their values, then rows; `runtime` plans and fills it."""

    def __init__(self, batch=1, seed=0):
        self.program, self.values = Program(batch, layout.MAX_THREADS), {}
        self.random = np.random.default_rng(seed)
        for name, shape in (("status", (layout.MAX_THREADS, layout.STATUS_LINE)), ("barrier", (layout.BARRIER_SIZE,))):
            self.program.tensor(name, shape, Region.CONTROL, dtype=DType.I32)

    def add(self, name, *shape, capacity=None, dtype=DType.F32, halo=(0, 0), value=None):
        """Add a tensor for the whole batch (capacity 0: for none), random normal unless `value` is given."""
        capacity = self.program.batch if capacity is None else capacity
        number = self.program.tensor(name, shape, Region.IO, dtype=dtype, capacity=capacity, halo=halo)
        row = self.program.decode_tensor(number)
        full = ((capacity,) if capacity else ()) + row.shape
        value = self.random.normal(size=full) if value is None else np.reshape(value, np.shape(value))
        self.values[number] = np.broadcast_to(value if value.ndim < 2 else value.reshape(full), full)
        return number

    def counters(self, seed=1, step=0, task=-1):
        value = [seed, step, task + 1, 0, 0]
        return self.add("counters", layout.COUNTERS_SIZE, capacity=0, dtype=DType.I64, value=value)

    def scalars(self):
        return self.add("scalars", layout.SCALARS_SIZE, capacity=0, value=1.0)

    def runtime(self, *rows, threads=1):
        """Return a Runtime with the rows `(op, operands, parameters)` as section "run"."""
        with self.program.section("run"):
            for op, operands, parameters in rows:
                self.program.emit(op, *operands, **parameters)
        runtime = Runtime(self.program, plan(self.program), threads)
        with np.errstate(all="ignore"):
            for number, value in self.values.items():
                tensor(runtime, number)[...] = value
        return runtime

    def check(self, *rows, n=None, tolerances=None):
        """Compare all rows with the oracle; return the Runtime."""
        runtime = self.runtime(*rows)
        compare_rows(runtime, "run", n or self.program.batch, tolerances)
        return runtime

"""How long a program takes, from its rows alone: a model whose numbers `edgerev.tools.calibrate` measures.

A row's time is a sum over what it does (`FEATURES`), each with a price of its kind of row: a constant, product-sums,
elements that it reads and writes, and how products fill the registers. To that comes what its operands cost where
they have left the nearest cache since they were last used, and what going from row to row costs, with a barrier where
threads work together. Kinds that were not calibrated are priced like all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import ceil
from operator import mul
from typing import Any, NamedTuple

from edgerev.errors import UsageError
from edgerev.kernels import layout
from edgerev.kernels.layout import NO_TENSOR, Op
from edgerev.program import Instruction, Program
from edgerev.tools.cost import FLOPS, SCRATCH, Sight, visits

# One; flops; elements of samples read and written, of parameters; steps of k and register tiles of a product;
# elements in lines that do not fill vectors.
FEATURES = ("rows", "flops", "read", "written", "parameters", "steps", "tiles", "narrow")
PRODUCTS = (Op.CONV, Op.CONV_WGRAD, Op.CONV_SGD)
MINIMAL = (Op.WINOGRAD, Op.WINOGRAD_WGRAD)
TILE_ROWS, TILE_COLUMNS = 8, 32  # of the widest target; narrower ones take more of them, which the price then holds
ALIASED = 1024  # columns whose neighbours fall on the same lines of the nearest cache
ANY = "any"  # the kind of rows of which none was measured
NOT_COUNTED = (Op.CHECK, Op.REPEAT, Op.SKIP)


class Machine(NamedTuple):
    """What the model knows of a machine; as JSON, what `edgerev plan --calibrate` writes.

    Attributes
    ----------
    name : processor or board, for people
    measured : whether it was measured there, or made of data sheets
    prices : number of threads (as text, for JSON) to kind of row to the seconds of one of each of `FEATURES`
    row_seconds : going from one row to the next, and letting threads wait for one another, by number of threads
    byte_seconds : a byte of an operand in a step, beyond one that was just used, by number of threads
    run_seconds : calling the kernels, by number of threads
    bandwidth : [bytes, bytes in a second] of a copy that moves so many, smallest first
    process_bytes : resident memory of a process that trains, besides its arena; 0 where it was not measured
    source : kernels that were measured (`edgerev.tools.calibrate.kernels_digest`), or the data sheets
    """

    name: str
    measured: bool
    prices: dict[str, dict[str, list[float]]]
    row_seconds: dict[str, float]
    byte_seconds: dict[str, float]
    run_seconds: dict[str, float]
    bandwidth: list[list[float]]
    process_bytes: int
    source: str


def kind_of(step: Instruction, variant: str = "") -> str:
    """Return the kind of row that shares prices: its operation, with the size of its kernel or what it computes.

    Parameters
    ----------
    variant : what else makes it another kind
    """
    name, parameters = step.op.name.lower() + variant, step.parameters
    if "kernel_h" in parameters:
        return f"{name} {parameters['kernel_h']}x{parameters['kernel_w']}"
    return f"{name} {parameters['kind']}" if "kind" in parameters else name


def _variant(at: Sight) -> str:
    parameters = at.step.parameters
    if at.step.op in (Op.POOL, Op.POOL_GRAD) and parameters["rows"] * parameters["columns"] > 1:
        return " flat"
    if at.step.op == Op.FLIP and not at.tensor("flipped").shape[2] % ALIASED:
        return " aliased"
    return ""


def row_features(program: Program, row: int, n: int, offset: int = 0) -> tuple[str, list[float]]:
    """Return the kind of a row and its `FEATURES` in a run of `n` samples.

    Parameters
    ----------
    offset : samples by which a REPEAT has moved it on
    """
    step = program.decode(row)
    at = Sight(program, step, step.first + offset, min(n - step.first - offset, step.count))
    signature = layout.SIGNATURES[step.op]
    read = written = parameters = narrow = 0
    for name in (*signature.outputs, *signature.inputs):
        if name in SCRATCH or not at.has(name):
            continue
        elements, tensor = at.elements(name), at.tensor(name)
        if not tensor.capacity:
            parameters += elements
        elif name in signature.outputs:
            written += elements
        else:
            read += elements
        if tensor.shape[2] % layout.GRAIN and elements > 1:
            narrow += elements
    flops, steps, tiles = _products(at)
    return kind_of(step, _variant(at)), [1.0, flops, read, written, parameters, steps, tiles, narrow]


def _products(at: Sight) -> tuple[float, float, float]:
    """Return product-sums as they are computed, steps of k and register tiles."""
    step = at.step
    if step.op not in FLOPS:
        return 0.0, 0.0, 0.0
    flops = float(FLOPS[step.op](at))
    if step.op in MINIMAL:
        height, width = int(step.parameters["kernel_h"]), int(step.parameters["kernel_w"])
        out, both = layout.WINOGRAD_OUTPUTS, height > 1
        return flops * ((out + width - 1) / (out * width)) ** (2 if both else 1), 0.0, 0.0
    if step.op not in PRODUCTS:
        return flops, 0.0, 0.0
    taps = int(step.parameters["kernel_h"] * step.parameters["kernel_w"])
    output = at.tensor("y" if at.has("y") else "dy")
    columns, inner = output.shape[2], taps * at.tensor("x").shape[2]
    rows = at.elements("y" if at.has("y") else "dy") // columns
    if step.op != Op.CONV:
        rows, inner = inner, rows
    tiles = ceil(rows / TILE_ROWS) * ceil(columns / TILE_COLUMNS)
    return 2.0 * rows * inner * ceil(columns / layout.GRAIN) * layout.GRAIN, float(tiles * inner), float(tiles)


class Estimate(NamedTuple):
    """The seconds of a section, whole and by kind of row; how many rows it runs, and the bytes of their operands."""

    seconds: float
    rows: int
    touched_bytes: int
    kinds: dict[str, float]


def section_seconds(machine: Machine, program: Program, section: str, n: int, threads: int = 1) -> Estimate:
    """Return how long a run of a section should take.

    Parameters
    ----------
    n : samples
    threads : one of the numbers that the machine was calibrated with

    Raises
    ------
    UsageError
        It was not calibrated with so many.
    """
    team = str(threads)
    if team not in machine.prices:
        known = ", ".join(sorted(machine.prices, key=int))
        raise UsageError(f"threads {threads}: {machine.name} was calibrated with {known}; take one of these")
    kinds: dict[str, float] = {}
    known_rows: dict[tuple, tuple[str, float]] = {}
    count = touched = 0
    for row, offset, cold in cold_bytes(program, section, n):
        count += 1
        key = row_key(program, row, n, offset)
        if key not in known_rows:
            kind, features = row_features(program, row, n, offset)
            priced = sum(map(mul, price(machine.prices[team], kind), features))
            known_rows[key] = kind, priced + machine.row_seconds[team]
        kind, seconds = known_rows[key]
        size = sum(size for _, size in cold)
        extra = sum(size * slowness(machine.bandwidth, distance) for distance, size in cold) / threads
        kinds[kind] = kinds.get(kind, 0.0) + seconds + extra + size * machine.byte_seconds[team]
        touched += size
    return Estimate(machine.run_seconds[team] + sum(kinds.values()), count, touched, kinds)


def price(prices: dict[str, list[float]], kind: str) -> list[float]:
    """Return the prices of a kind: its own, those of its operation with another kernel, or those of any row."""
    if kind in prices:
        return prices[kind]
    operation = kind.split()[0]
    alike = (name for name in sorted(prices, reverse=True) if name.split()[0] == operation)
    return prices[next(alike, ANY)]


def slowness(bandwidth: Sequence[Sequence[float]], distance: float) -> float:
    """Return the seconds that a byte costs more than one in the nearest cache, after so many other bytes."""
    above = next((place for place, (size, _) in enumerate(bandwidth) if distance <= size), len(bandwidth))
    if above in (0, len(bandwidth)):
        rate = bandwidth[max(0, above - 1)][1]
    else:
        (low, high), (size, rate) = bandwidth[above - 1], bandwidth[above]
        rate = high + (rate - high) * (distance - low) / (size - low)
    return max(0.0, 1 / rate - 1 / bandwidth[0][1])


def row_key(program: Program, row: int, n: int, offset: int) -> tuple:
    """Return what rows that are alike have in common."""
    start = row * layout.ROW
    cells = program.rows[start : start + layout.ROW].tolist()
    first, count = cells[layout.FIRST] + offset, cells[layout.COUNT]
    shapes = tuple(
        None if number == NO_TENSOR else _shape(program, number)
        for number in cells[layout.OPERANDS : layout.PARAMETERS]
    )
    return cells[0], min(n - first, count), first > 0, shapes, tuple(cells[layout.PARAMETERS :])


def _shape(program: Program, number: int) -> bytes:
    start = number * layout.TENSOR_ROW
    return program.tensor_rows[start + 1 : start + layout.TENSOR_ROW].tobytes()


def cold_bytes(program: Program, section: str, n: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Yield each row that is visited, how far REPEAT moved it on, and (distance, bytes) of each operand.

    The distance is how many bytes were touched since the operand was, the section being run again and again; at most
    the bytes of all tensors that it touches.
    """
    visited = [
        (row, offset, _operands(program, row, n, offset))
        for row, offset in visits(program, section, n)
        if program.rows[row * layout.ROW] not in NOT_COUNTED
    ]
    sizes = [sum(operand[2] for operand in operands) for _, _, operands in visited]
    starts = [0, *accumulate(sizes)]
    everything = sum({place[:2]: place[2] for _, _, operands in visited for place in operands}.values())
    last = {place[:2]: start - starts[-1] for (_, _, operands), start in zip(visited, starts) for place in operands}
    for (row, offset, operands), start, size in zip(visited, starts, sizes):
        cold = []
        for number, first, used in operands:
            cold.append((min(start - last[number, first] + size, everything), used))
            last[number, first] = start
        yield row, offset, cold


def _operands(program: Program, row: int, n: int, offset: int) -> list[tuple[int, int, int]]:
    """Return (tensor, first sample in it, bytes used) for each operand of a row."""
    start = row * layout.ROW
    cells = program.rows[start : start + layout.PARAMETERS].tolist()
    first, used = cells[layout.FIRST] + offset, []
    count = min(n - first, cells[layout.COUNT])
    for number in cells[layout.OPERANDS :]:
        if number == NO_TENSOR:
            continue
        number = program.aliases.get(number, number)
        table = program.tensor_rows[number * layout.TENSOR_ROW : (number + 1) * layout.TENSOR_ROW]
        capacity, itemsize = table[layout.T_CAPACITY], layout.ITEMSIZE[layout.DType(table[layout.T_DTYPE])]
        elements = table[layout.T_STRIDE] * count if capacity else table[layout.T_SIZE]
        used.append((number, first % capacity if capacity else 0, elements * itemsize))
    return used


def to_json(machine: Machine) -> dict[str, Any]:
    """Return a machine as plain data."""
    return {"edgerev_machine": 1, **machine._asdict()}


def from_json(figures: Any, path: str) -> Machine:
    """Return the machine in plain data; UsageError if it is none.

    Parameters
    ----------
    path : where it comes from, for the message
    """
    try:
        if figures["edgerev_machine"] == 1:
            return Machine(**{name: figures[name] for name in Machine._fields})
    except (KeyError, TypeError):
        pass
    raise UsageError(f"{path} is no calibration; expected a file that `edgerev plan --calibrate -o {path}` wrote")

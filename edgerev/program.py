"""The program: a lowered net as data.

A program is a flat table of instructions over a table of tensors, in named sections (``train``, ``predict``, ...).
It says nothing about where tensors lie; the planner (`edgerev.arena`) writes the offsets. Rows are kept as packed
integers rather than objects: a net of a thousand blocks has tens of thousands of instructions, and the tables are
part of the memory that is promised. `edgerev.kernels.layout` defines the columns.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from operator import add
from typing import NamedTuple

from edgerev.errors import BudgetError, EdgerevError
from edgerev.kernels import layout
from edgerev.kernels.layout import NO_TENSOR, DType, Op

MOST_TENSOR_BYTES = 1 << 47  # what a process can address; sums of such sizes still fit an int64


class Region(str, Enum):
    """A named part of the arena, in the order in which they lie."""

    PROGRAM = "program"
    CONTROL = "control"
    PARAMETERS = "parameters"
    OPTIMIZER = "optimizer"
    CONSOLIDATION = "consolidation"
    ACCUMULATOR = "accumulator"
    GRADIENT = "gradient"
    STATE = "state"
    STATE_GRADIENT = "state_gradient"
    STORED = "stored"
    WORKSPACE = "workspace"
    IO = "io"
    DATA = "data"
    GUARD = "guard"


# Tensors of these regions live only from their first to their last use, so the planner lets them share bytes.
SCOPED = (Region.GRADIENT, Region.WORKSPACE)
# Tensors of these regions may be asked for again by name.
NAMED = (*SCOPED, Region.STORED)


class Tensor(NamedTuple):
    """One row of the tensor table, decoded."""

    name: str
    region: Region
    shape: tuple[int, int, int]
    dtype: DType
    capacity: int
    halo: tuple[int, int]
    stride: int
    size: int

    @property
    def nbytes(self) -> int:
        return self.size * layout.ITEMSIZE[self.dtype]


class Instruction(NamedTuple):
    """One row of the instruction table, decoded; operands and parameters by their names in the signature."""

    op: Op
    block: int
    first: int
    count: int  # type: ignore[assignment]  # shadows tuple.count, which nobody wants here
    operands: dict[str, int]
    parameters: dict[str, int | float]


class Scope(NamedTuple):
    """A run of instructions outside of which its region's scratch tensors are dead."""

    region: Region
    key: str
    start: int
    stop: int


class Program:
    """Tables of tensors and instructions, and the sections that can be run.

    Attributes
    ----------
    rows : array of int32, ``len(program) * layout.ROW`` long; a view of the arena once the program is loaded there
    tensor_rows : array of int64, ``len(program.names) * layout.TENSOR_ROW`` long
    names : name of each tensor
    blocks : name of each residual function (or stem, head), for messages
    sections : name to (first, last + 1) row
    most_samples : most samples for which each section may be run
    scopes : the first run of each kind of scope; later runs reuse its tensors
    aliases : tensors that lie where another one lies (the state after a squeeze)
    batch, threads : most samples and threads of one run
    trainable : numbers that training changes
    """

    def __init__(self, batch: int, threads: int = 1) -> None:
        self.batch, self.threads = batch, threads
        self.trainable = 0
        self.rows: array[int] | memoryview = array("i")
        self.tensor_rows = array("q")
        self.names: list[str] = []
        self.regions: list[Region] = []
        self.blocks: list[str] = []
        self.sections: dict[str, tuple[int, int]] = {}
        self.most_samples: dict[str, int] = {}
        self.scopes: list[Scope] = []
        self.aliases: dict[int, int] = {}
        self._scope_of: dict[int, str] = {}
        self._known: dict[tuple[Region, str, str], int] = {}
        self._scope = dict.fromkeys(SCOPED, "")
        self._scopes_seen: set[tuple[Region, str]] = set()
        self._block_numbers: dict[str, int] = {}
        self._block = -1
        self._range = (0, batch)

    def __len__(self) -> int:
        return len(self.rows) // layout.ROW

    # -- building ---------------------------------------------------------------------------------------------

    def tensor(
        self, name: str, shape: tuple[int, ...], region: Region, *, dtype: DType = DType.F32, capacity: int = 0,
        halo: tuple[int, int] = (0, 0), alias: int | None = None,
    ) -> int:
        """Add a tensor and return its number; inside a scope, scratch that the scope already has is found again.

        Parameters
        ----------
        shape : up to three numbers; shorter shapes are padded on the left with 1
        capacity : samples it holds, 0 for a tensor that does not depend on the batch
        alias : number of a tensor of as many bytes to lie upon
        """
        scope = self._scope.get(region, "")
        if region in NAMED and (region, scope, name) in self._known:
            return self._known[region, scope, name]
        height, width, channels = (1,) * (3 - len(shape)) + tuple(shape)
        stride = (height + 2 * halo[0]) * (width + 2 * halo[1]) * channels
        size = stride * max(capacity, 1)
        if size * layout.ITEMSIZE[dtype] > MOST_TENSOR_BYTES:
            raise BudgetError(
                f"tensor {name} would have {size * layout.ITEMSIZE[dtype]} bytes; expected at most "
                f"{MOST_TENSOR_BYTES}, more than any machine has; take a smaller net or batch"
            )
        number = len(self.names)
        self.tensor_rows.extend((0, capacity, height, width, channels, *halo, dtype, stride, size))
        self.names.append(name)
        self.regions.append(region)
        if region in SCOPED:
            if not scope:
                raise EdgerevError(f"scratch tensor {name} was asked for outside a scope; open one with `scope()`")
            self._scope_of[number] = scope
        if region in NAMED:
            self._known[region, scope, name] = number
        if alias is not None:
            self.aliases[number] = alias
        return number

    def emit(self, op: Op, *operands: int, **parameters: float) -> None:
        """Append one instruction: tensors in the order of its signature (missing ones absent), parameters by name."""
        signature = layout.SIGNATURES[op]
        row = [op, self._block, *self._range, *operands]
        row += [NO_TENSOR] * (layout.PARAMETERS - len(row))
        unknown = set(parameters) - set(signature.parameters)
        if unknown or len(operands) > len(signature.outputs) + len(signature.inputs):
            raise EdgerevError(f"{op.name} has signature {signature}, not {operands} and {parameters}")
        for name in signature.parameters:
            value = parameters.get(name, signature.defaults.get(name, 0))
            row.append(layout.float_bits(value) if name in signature.floats else int(value))
        row += [0] * (layout.ROW - len(row))
        assert isinstance(self.rows, array), "the program lies in an arena already"
        self.rows.extend(row)

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Collect the instructions emitted inside under `name`."""
        start = len(self)
        yield
        self._add_section(name, start, len(self))

    def _add_section(self, name: str, start: int, stop: int) -> None:
        self.sections[name] = (start, stop)
        firsts, counts = (
            self.rows[start * layout.ROW + column : stop * layout.ROW : layout.ROW]
            for column in (layout.FIRST, layout.COUNT)
        )
        self.most_samples[name] = min(max(map(add, firsts, counts), default=self.batch), self.batch)

    @contextmanager
    def scope(self, region: Region, key: str) -> Iterator[None]:
        """Let scratch tensors of `region` live inside only; scopes of one key share their tensors, so must be alike."""
        outer, self._scope[region], start = self._scope[region], key, len(self)
        yield
        self._scope[region] = outer
        if (region, key) not in self._scopes_seen:
            self._scopes_seen.add((region, key))
            self.scopes.append(Scope(region, key, start, len(self)))

    @contextmanager
    def repeat(self, size: int) -> Iterator[None]:
        """Run the instructions emitted inside once for every `size` of the samples that are seen now, in order."""
        first, count = self._range
        if size == count:
            yield
            return
        start = len(self)
        self.emit(Op.REPEAT, size=size)
        with self.samples(first, size):
            yield
        self.rows[start * layout.ROW + layout.PARAMETERS] = len(self) - start - 1

    @contextmanager
    def unless(self, counters: int, slot: int, most: int) -> Iterator[None]:
        """Skip the instructions emitted inside where a counter is larger than `most`."""
        start = len(self)
        self.emit(Op.SKIP, counters, slot=slot, most=most)
        yield
        self.rows[start * layout.ROW + layout.PARAMETERS] = len(self) - start - 1

    @contextmanager
    def block(self, name: str) -> Iterator[None]:
        """Mark the instructions emitted inside as belonging to `name`."""
        outer = self._block
        if name not in self._block_numbers:
            self._block_numbers[name] = len(self.blocks)
            self.blocks.append(name)
        self._block = self._block_numbers[name]
        yield
        self._block = outer

    @contextmanager
    def samples(self, first: int, count: int) -> Iterator[None]:
        """Let the instructions emitted inside see only the samples ``first .. first + count - 1``."""
        outer, self._range = self._range, (first, count)
        yield
        self._range = outer

    @property
    def sample_range(self) -> tuple[int, int]:
        """First sample and count that instructions emitted now will see."""
        return self._range

    # -- reading ----------------------------------------------------------------------------------------------

    def decode_tensor(self, number: int) -> Tensor:
        row = self.tensor_rows[number * layout.TENSOR_ROW : (number + 1) * layout.TENSOR_ROW]
        return Tensor(
            self.names[number], self.regions[number],
            (row[layout.T_HEIGHT], row[layout.T_WIDTH], row[layout.T_CHANNELS]), DType(row[layout.T_DTYPE]),
            row[layout.T_CAPACITY], (row[layout.T_PAD_Y], row[layout.T_PAD_X]), row[layout.T_STRIDE],
            row[layout.T_SIZE],
        )

    def decode(self, index: int) -> Instruction:
        row = self.rows[index * layout.ROW : (index + 1) * layout.ROW]
        signature = layout.SIGNATURES[Op(row[layout.OP])]
        names = signature.outputs + signature.inputs
        values = row[layout.PARAMETERS :]
        return Instruction(
            Op(row[layout.OP]), row[layout.BLOCK], row[layout.FIRST], row[layout.COUNT],
            dict(zip(names, row[layout.OPERANDS : layout.PARAMETERS])),
            {
                name: layout.bits_float(value) if name in signature.floats else value
                for name, value in zip(signature.parameters, values)
            },
        )

    @property
    def first_update(self) -> int:
        """First row of the training section that changes parameters; its end if none does."""
        first, last = self.sections["train"]
        ops = self.rows[first * layout.ROW + layout.OP : last * layout.ROW : layout.ROW]
        return next((row for row, op in enumerate(ops, first) if op in layout.UPDATES), last)

    def scope_of(self, number: int) -> str | None:
        """Return the key of the scope that a scratch tensor belongs to, None for a tensor that stays."""
        return self._scope_of.get(number)

    def find(self, name: str) -> int:
        """Return the number of the tensor called `name`."""
        return self.names.index(name)

    def listing(self) -> Iterator[str]:
        """Yield the program as text, a line for each instruction."""
        starts = {start: name for name, (start, _) in self.sections.items()}
        previous = None
        for index in range(len(self)):
            if index in starts:
                yield f"{starts[index]}:"
            step = self.decode(index)
            if step.block != previous and step.block >= 0:
                yield f"  {self.blocks[step.block]}"
            previous = step.block
            operands = " ".join(
                f"{name}={self._describe(number)}" for name, number in step.operands.items() if number != NO_TENSOR
            )
            parameters = " ".join(f"{name}={value:g}" for name, value in step.parameters.items())
            samples = "" if (step.first, step.count) == (0, self.batch) else f" [{step.first}:+{step.count}]"
            yield f"    {index:6d} {step.op.name.lower():16s}{operands} {parameters}{samples}".rstrip()

    def _describe(self, number: int) -> str:
        tensor = self.decode_tensor(number)
        shape = "x".join(map(str, ((tensor.capacity,) if tensor.capacity else ()) + tensor.shape))
        halo = "+{}+{}".format(*tensor.halo) if any(tensor.halo) else ""
        return f"{tensor.name}<{tensor.dtype.name.lower()}:{shape}{halo}>"

"""Plan the arena: give every tensor of a program its bytes before anything is allocated.

Regions lie one after another. Tensors that stay (parameters, state, ...) lie side by side; scratch tensors share the
bytes of their region, since each is alive only within its scope, from its first to its last instruction there. Within
a scope the largest tensor is placed first, at the lowest offset that no overlapping lifetime occupies (greedy by size,
Pisarchyk and Lee 2020, section 5.2). Scopes of one kind share one plan, so the plan does not grow with depth.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import NamedTuple

from edgerev.errors import EdgerevError
from edgerev.kernels import layout
from edgerev.kernels.layout import Op
from edgerev.program import SCOPED, Program, Region, Scope

ACTIVATIONS = (Region.STATE, Region.STATE_GRADIENT, Region.STORED, Region.WORKSPACE)


class Plan(NamedTuple):
    """Where everything lies.

    Attributes
    ----------
    offsets : byte offset of each tensor in the arena
    regions : name to (first byte, bytes), in the order in which they lie
    """

    offsets: array
    regions: dict[Region, tuple[int, int]]

    @property
    def rows(self) -> int:
        """Byte offset of the instruction table."""
        return self.regions[Region.PROGRAM][0]

    @property
    def tensor_table(self) -> int:
        """Byte offset of the tensor table."""
        start, size = self.regions[Region.PROGRAM]
        return start + size - _aligned(len(self.offsets) * layout.TENSOR_ROW * 8)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the one allocation."""
        return sum(size for _, size in self.regions.values())

    @property
    def activation_bytes(self) -> int:
        """Bytes of state, gradient of the state, stored activations and workspace."""
        return sum(self.regions[region][1] for region in ACTIVATIONS)

    @property
    def guard_bytes(self) -> int:
        """Bytes of the last accepted model's parameters; 0 without a guard."""
        return self.regions[Region.GUARD][1]


def plan(program: Program, data_bytes: int = 0, guard: bool = False) -> Plan:
    """Return the plan of `program`.

    Parameters
    ----------
    data_bytes : bytes to set aside for samples on their way from disk
    guard : whether to set aside a second place for the parameters, see `edgerev.accepted`
    """
    count = len(program.names)
    sizes = [_aligned(program.decode_tensor(number).nbytes) for number in range(count)]
    offsets = array("q", (-1 if region in SCOPED else 0 for region in program.regions))
    extents = dict.fromkeys(Region, 0)
    extents[Region.PROGRAM] = _aligned(len(program.rows) * 4) + _aligned(len(program.tensor_rows) * 8)
    extents[Region.DATA] = _aligned(data_bytes)
    for scope in program.scopes:
        extents[scope.region] = max(extents[scope.region], _place_scope(program, scope, sizes, offsets))
    for number, region in enumerate(program.regions):
        if region in SCOPED and offsets[number] < 0:
            raise EdgerevError(f"scratch tensor {program.names[number]} is not in the first run of its scope")
        if region not in SCOPED and number not in program.aliases:
            offsets[number] = extents[region]
            extents[region] += sizes[number]
    extents[Region.GUARD] = extents[Region.PARAMETERS] if guard else 0
    regions, start = {}, 0
    for region in Region:
        regions[region] = (start, extents[region])
        start += extents[region]
    for number, region in enumerate(program.regions):
        offsets[number] += regions[region][0]
    for number, target in program.aliases.items():
        offsets[number] = offsets[target]
    return Plan(offsets, regions)


def _aligned(size: int) -> int:
    return -(-size // layout.ALIGNMENT) * layout.ALIGNMENT


def _place_scope(program: Program, scope: Scope, sizes: list[int], offsets: array) -> int:
    """Place the scratch tensors of one scope; return the bytes that they span."""
    lives = lifetimes(program, scope)
    placed: list[tuple[int, int, int, int]] = []  # first byte, last + 1, first row, last row
    extent = 0
    for number in sorted(lives, key=lambda number: (-sizes[number], lives[number], number)):
        born, died = lives[number]
        offset = 0
        for first, last, other_born, other_died in sorted(placed):
            if other_died < born or died < other_born:
                continue
            if offset + sizes[number] <= first:
                break
            offset = max(offset, last)
        placed.append((offset, offset + sizes[number], born, died))
        offsets[number] = offset
        extent = max(extent, offset + sizes[number])
    return extent


def lifetimes(program: Program, scope: Scope) -> dict[int, tuple[int, int]]:
    """Return the first and the last row at which each of the scope's scratch tensors is used."""
    lives: dict[int, tuple[int, int]] = {}
    for index in range(scope.start, scope.stop):
        row = index * layout.ROW
        for number in program.rows[row + layout.OPERANDS : row + layout.PARAMETERS]:
            if number >= 0 and program.regions[number] is scope.region and program.scope_of(number) == scope.key:
                lives[number] = (lives.get(number, (index, index))[0], index)
    for first, last in _loops(program, scope):
        for number, (born, died) in lives.items():
            # what comes from before a loop, or is needed after it, is needed in each of its rounds
            if born < first <= died or born <= last < died:
                lives[number] = (min(born, first), max(died, last))
    return lives


def _loops(program: Program, scope: Scope) -> Iterator[tuple[int, int]]:
    """Yield the first and the last row of the body of each REPEAT."""
    for index in range(scope.start, scope.stop):
        row = index * layout.ROW
        if program.rows[row + layout.OP] == Op.REPEAT:
            yield index + 1, index + program.rows[row + layout.PARAMETERS]

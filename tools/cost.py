"""What an instruction costs by its shapes alone: floating-point operations, and bytes that it reads and writes.

A multiply-add is two operations. Only product-sums count: what activations, norms and updates compute beside them is
bound by the bytes that they move. Taps that fall on a halo count too, as they do for everybody who quotes a
convolution's FLOPs; an algorithm that needs fewer multiplications counts those of the direct form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import NamedTuple

from edgerev.kernels import layout
from edgerev.kernels.layout import NO_TENSOR, Op
from edgerev.program import Instruction, Program, Tensor


class Cost(NamedTuple):
    """What one or many instructions cost.

    Attributes
    ----------
    flops : floating-point operations of product-sums, a multiply-add being two
    moved_bytes : bytes of all operands, those that are read and written counted twice, an instruction's scratch not
    """

    flops: int
    moved_bytes: int


class Sight(NamedTuple):
    """An instruction with the tensors and the number of samples that it sees in one run."""

    program: Program
    step: Instruction
    first: int
    samples: int

    def tensor(self, name: str) -> Tensor:
        return self.program.decode_tensor(self.step.operands[name])

    def has(self, name: str) -> bool:
        return self.step.operands.get(name, NO_TENSOR) != NO_TENSOR

    def elements(self, name: str) -> int:
        """Return how many numbers of an operand, halo excluded, the instruction sees."""
        tensor = self.tensor(name)
        return prod(tensor.shape) * (self.samples if tensor.capacity else 1)


def _convolution(at: Sight) -> int:
    taps = at.step.parameters["kernel_h"] * at.step.parameters["kernel_w"]
    output = "y" if at.has("y") else "dy"
    return 2 * int(taps) * at.tensor("x").shape[2] * at.elements(output)


def _depthwise(at: Sight) -> int:
    taps = at.step.parameters["kernel_h"] * at.step.parameters["kernel_w"]
    return 2 * int(taps) * at.elements("y" if at.has("y") else "dy")


def _ridge_sums(at: Sight) -> int:
    size, samples = at.tensor("features").shape[2] + 1, at.samples
    return samples * size * (size + 1)  # half of the matrix


def _ridge_solve(at: Sight) -> int:
    size, columns = at.tensor("w").shape[1] + 1, at.tensor("w").shape[2]
    return size**3 // 3 + 2 * size**2 * columns


# Operations of product-sums; a new instruction that has them is one line here.
FLOPS: dict[Op, Callable[[Sight], int]] = {
    Op.CONV: _convolution,
    Op.CONV_WGRAD: _convolution,
    Op.CONV_SGD: _convolution,
    Op.WINOGRAD: _convolution,
    Op.WINOGRAD_WGRAD: _convolution,
    Op.DEPTHWISE: _depthwise,
    Op.DEPTHWISE_WGRAD: _depthwise,
    Op.RIDGE_SUMS: _ridge_sums,
    Op.RIDGE_SOLVE: _ridge_solve,
    Op.PEAK: lambda at: 2 * int(at.step.parameters["rounds"]) * at.elements("y"),
}

def _adds(at: Sight) -> bool:
    return at.step.parameters["add"] != 0


def _goes_on(at: Sight) -> bool:
    """Return whether a gradient of parameters continues a sum: it starts at zero with the first sample."""
    return at.first > 0


# Whether outputs are read before they are written.
READ_TOO: dict[Op, Callable[[Sight], bool]] = {
    Op.CONV: _adds,
    Op.WINOGRAD: _adds,
    Op.CONV_WGRAD: _goes_on,
    Op.CONV_SGD: lambda at: True,
    Op.WINOGRAD_WGRAD: _goes_on,
    Op.DEPTHWISE_WGRAD: _goes_on,
    Op.NORM_WGRAD: _goes_on,
    Op.ACCUMULATE: lambda at: True,
    Op.COUPLE: lambda at: at.step.parameters["sign"] != 0,
    Op.UPDATE: lambda at: True,
    Op.RIDGE_SUMS: lambda at: True,
    Op.PEAK: lambda at: True,
    Op.RANGE: lambda at: True,
    Op.QUANTISE: lambda at: True,
    Op.FADE: lambda at: True,
    Op.CONSOLIDATE: lambda at: True,
    Op.FISHER: lambda at: True,
}
SCRATCH = ("work", "barrier")  # operands whose bytes stay in the nearest cache


def visits(program: Program, section: str, n: int) -> Iterator[tuple[int, int]]:
    """Yield each row of a section as often as a run of `n` samples comes to it, and how far REPEAT has moved it on.

    The second number is added to the row's `first`.
    """
    index, stop = program.sections[section]
    while index < stop:
        if program.rows[index * layout.ROW + layout.OP] == Op.SKIP:  # nothing is frozen
            index += 1
            continue
        if program.rows[index * layout.ROW + layout.OP] != Op.REPEAT:
            yield index, 0
            index += 1
            continue
        step = program.decode(index)
        body = range(index + 1, index + 1 + int(step.parameters["rows"]))
        for offset in range(0, min(n - step.first, step.count), int(step.parameters["size"])):
            yield from ((row, offset) for row in body)
        index = body.stop


def instruction_cost(program: Program, index: int, n: int, offset: int = 0) -> Cost:
    """Return what row `index` costs in a run of `n` samples; nothing if it sees none of them.

    Parameters
    ----------
    offset : samples by which a REPEAT has moved it on
    """
    step = program.decode(index)
    first = step.first + offset
    samples = min(n - first, step.count)
    if samples <= 0:
        return Cost(0, 0)
    at = Sight(program, step, first, samples)
    return Cost(FLOPS[step.op](at) if step.op in FLOPS else 0, _moved_bytes(at))


def section_cost(program: Program, section: str, n: int) -> Cost:
    """Return what a section costs in a run of `n` samples."""
    costs = [instruction_cost(program, row, n, offset) for row, offset in visits(program, section, n)]
    return Cost(sum(cost.flops for cost in costs), sum(cost.moved_bytes for cost in costs))


def _moved_bytes(at: Sight) -> int:
    op, signature = at.step.op, layout.SIGNATURES[at.step.op]
    read_too = op in READ_TOO and READ_TOO[op](at)
    total = 0
    for names, times in ((signature.outputs, 2 if read_too else 1), (signature.inputs, 1)):
        for name in filter(at.has, names):
            if name in SCRATCH:
                continue
            total += times * at.elements(name) * layout.ITEMSIZE[at.tensor(name).dtype]
    return total

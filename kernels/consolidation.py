"""What protects old weights: importances and anchors, and the weights that each task has for itself.

References
----------
Zenke, Poole, Ganguli 2017, "Continual learning through synaptic intelligence", eq. 3 to 5.
Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3; Schwarz et al. 2018, "Progress
and compress", section 3.2 (online EWC).
"""

import numpy as np

from edgerev.kernels.intrinsics import f32_at, f64_at, fma, i64_at, outside
from edgerev.kernels.jit import kernel
from edgerev.kernels.layout import C_TASK, V_SHARE, ConsolidationKind, DType, Status
from edgerev.kernels.operands import (
    T_DTYPE,
    T_OFFSET,
    T_SIZE,
    floats,
    parameter,
    real_parameter,
    record,
    share_elements,
    tensor,
)

F64, SYNAPTIC = int(DType.F64), int(ConsolidationKind.SYNAPTIC_INTELLIGENCE)
NOT_FINITE = int(Status.GRADIENT_NOT_FINITE)
INFINITY = np.float32(np.inf)


@kernel
def fade(row, tensors, arena, n, thread, threads, status):
    """FADE y; scalars (factor): a whole tensor of float32 or float64; threads share elements."""
    ty = tensor(row, tensors, 0)
    factor = f32_at(arena, tensor(row, tensors, 1)[T_OFFSET])[V_SHARE] * real_parameter(row, 0)
    first, last = share_elements(ty[T_SIZE], thread, threads)
    if ty[T_DTYPE] == F64:
        y64, factor64 = f64_at(arena, ty[T_OFFSET]), np.float64(factor)
        for i in range(first, last):
            y64[i] *= factor64
    else:
        y32 = f32_at(arena, ty[T_OFFSET])
        for i in range(first, last):
            y32[i] *= factor


@kernel
def consolidate(row, tensors, arena, n, thread, threads, status):
    """CONSOLIDATE importance anchor path; w (kind, damping): threads share elements."""
    anchor, w = floats(row, tensors, arena, 1), floats(row, tensors, arena, 3)
    first, last = share_elements(tensor(row, tensors, 1)[T_SIZE], thread, threads)
    if parameter(row, 0) == SYNAPTIC:
        importance, path = floats(row, tensors, arena, 0), floats(row, tensors, arena, 2)
        damping, zero = real_parameter(row, 1), np.float32(0)
        for i in range(first, last):
            moved = w[i] - anchor[i]
            gained = path[i] if path[i] > zero else zero
            importance[i] += gained / fma(moved, moved, damping)
            path[i] = zero
    for i in range(first, last):
        anchor[i] = w[i]


@kernel
def fisher(row, tensors, arena, n, thread, threads, status):
    """FISHER importance; g scalars: threads share elements."""
    importance, g = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    part = f32_at(arena, tensor(row, tensors, 2)[T_OFFSET])[V_SHARE]
    first, last = share_elements(tensor(row, tensors, 0)[T_SIZE], thread, threads)
    bad = np.int32(0)
    for i in range(first, last):
        square = g[i] * g[i]
        bad = np.int32(bad | np.int32(outside(square, INFINITY)))
        importance[i] = fma(part, square, importance[i])
    if bad != np.int32(0):
        record(status, NOT_FINITE, -1)


@kernel
def exchange(row, tensors, arena, n, thread, threads, status):
    """EXCHANGE bank w; counters (store): to or from the line of the task at hand; threads share elements."""
    task = np.intp(i64_at(arena, tensor(row, tensors, 2)[T_OFFSET])[C_TASK]) - 1
    if task < 0:
        return
    size = tensor(row, tensors, 1)[T_SIZE]
    bank, w = floats(row, tensors, arena, 0), floats(row, tensors, arena, 1)
    first, last = share_elements(size, thread, threads)
    for i in range(first, last):
        if parameter(row, 0) != 0:
            bank[task * size + i] = w[i]
        else:
            w[i] = bank[task * size + i]

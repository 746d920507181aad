"""How a kernel finds its operands: rows of the two tables to pointers, lines, and a thread's share of them.

Every kernel has one signature, ``kernel(row, tensors, arena, n, thread, threads, status)``: pointers to the
instruction's row, to the tensor table and to the arena; samples of this run; this thread and how many there are; this
thread's line of the status tensor. `samples`, `lines` and `share` turn that into loops.
"""

import numpy as np

from edgerev.kernels import layout
from edgerev.kernels.intrinsics import advance, as_float, f32_at, i64_at
from edgerev.kernels.jit import jit

FIRST, COUNT = layout.FIRST, layout.COUNT
OPERANDS, PARAMETERS = layout.OPERANDS, layout.PARAMETERS
TENSOR_ROW = layout.TENSOR_ROW
T_OFFSET, T_CAPACITY, T_STRIDE = layout.T_OFFSET, layout.T_CAPACITY, layout.T_STRIDE
T_HEIGHT, T_WIDTH, T_CHANNELS = layout.T_HEIGHT, layout.T_WIDTH, layout.T_CHANNELS
T_PAD_Y, T_PAD_X = layout.T_PAD_Y, layout.T_PAD_X
T_DTYPE, T_SIZE = layout.T_DTYPE, layout.T_SIZE
S_CODE, S_ROW, S_SAMPLE = layout.S_CODE, layout.S_ROW, layout.S_SAMPLE
S_CURRENT = layout.S_CURRENT
GRAIN, C_TASK = layout.GRAIN, layout.C_TASK


@jit
def samples(row, n):
    """Return how many samples this instruction sees in a run of `n`."""
    left = n - np.intp(row[FIRST])
    count = np.intp(row[COUNT])
    return left if left < count else count


@jit
def continues(row):
    """Return whether a sum over samples goes on from those of an earlier chunk."""
    return row[FIRST] > 0


@jit
def has(row, operand):
    """Return whether an optional operand is there."""
    return row[OPERANDS + operand] >= 0


@jit
def tensor(row, tensors, operand):
    """Return the row of an operand in the tensor table."""
    return advance(tensors, np.intp(row[OPERANDS + operand]) * np.intp(TENSOR_ROW))


@jit
def parameter(row, index):
    """Return a parameter that is a whole number."""
    return np.intp(row[PARAMETERS + index])


@jit
def real_parameter(row, index):
    """Return a parameter that is a float32."""
    return as_float(row[PARAMETERS + index])


@jit
def line_stride(t):
    """Return the elements from one line (all x and channels at one y) of a sample to the next."""
    return (t[T_WIDTH] + 2 * t[T_PAD_X]) * t[T_CHANNELS]


@jit
def origin(row, t):
    """Return the elements before the first interior element of this instruction's first sample."""
    capacity = t[T_CAPACITY]
    index = np.intp(row[FIRST]) % capacity if capacity > 0 else np.intp(0)
    return index * t[T_STRIDE] + t[T_PAD_Y] * line_stride(t) + t[T_PAD_X] * t[T_CHANNELS]


@jit
def floats(row, tensors, arena, operand):
    """Return a pointer to the first interior element of a float32 operand."""
    t = tensor(row, tensors, operand)
    return advance(f32_at(arena, t[T_OFFSET]), origin(row, t))


@jit
def line_offset(t, line):
    """Return the elements from the first interior element to line `line`, counted over all samples."""
    height = t[T_HEIGHT]
    if height == 1:
        return line * t[T_STRIDE]
    return (line // height) * t[T_STRIDE] + (line % height) * line_stride(t)


@jit
def whole(t):
    """Return whether the samples of a tensor follow one another without a halo."""
    return t[T_PAD_Y] == 0 and t[T_PAD_X] == 0


@jit
def share_elements(count, thread, threads):
    """Return the first and the last + 1 of `count` elements that are this thread's, in whole lines of the cache."""
    first, last = share((count + GRAIN - 1) // GRAIN, thread, threads)
    return min(first * GRAIN, count), min(last * GRAIN, count)


@jit
def line_length(t):
    """Return the elements of one interior line."""
    return t[T_WIDTH] * t[T_CHANNELS]


@jit
def task_columns(row, tensors, arena, operand, outputs, columns):
    """Return the first column of a head and their number: those of the task at hand, or all if none is given."""
    if not has(row, operand):
        return np.intp(0), columns
    task = np.intp(i64_at(arena, tensor(row, tensors, operand)[T_OFFSET])[C_TASK]) - 1
    if task < 0:
        return np.intp(0), columns
    return task * outputs, outputs


@jit
def share(count, thread, threads):
    """Return the first and the last + 1 of `count` things that are this thread's."""
    each = (count + threads - 1) // threads
    start = each * thread
    stop = start + each
    return (start if start < count else count), (stop if stop < count else count)


@jit
def record(status, code, sample):
    """Remember what went wrong in this thread, the first by row and sample; CHECK stops the run.

    Not the first by time: which rows come first for which samples depends on chunks.
    """
    row, seen = status[S_CURRENT], status[S_ROW]
    if status[S_CODE] == 0 or row < seen or (row == seen and sample < status[S_SAMPLE]):
        status[S_CODE] = np.int32(code)
        status[S_ROW] = status[S_CURRENT]
        status[S_SAMPLE] = np.int32(sample)

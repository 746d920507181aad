"""The one compiled function: walk the rows of a program, every thread a share of each, a barrier after each."""

import numpy as np
from numba import types

from edgerev.kernels import layout
from edgerev.kernels.activation import activation, activation_grad
from edgerev.kernels.barrier import barrier
from edgerev.kernels.consolidation import consolidate, exchange, fade, fisher
from edgerev.kernels.conv import conv, conv_sgd, conv_wgrad, flip
from edgerev.kernels.depthwise import depthwise, depthwise_wgrad
from edgerev.kernels.intrinsics import (
    I32P,
    I64P,
    U8P,
    advance,
    enter_float_environment,
    i64_at,
    leave_float_environment,
)
from edgerev.kernels.jit import jit
from edgerev.kernels.layout import Op
from edgerev.kernels.loss import loss, probability, report
from edgerev.kernels.norm import norm, norm_grad, norm_wgrad
from edgerev.kernels.operands import (
    FIRST,
    OPERANDS,
    PARAMETERS,
    S_CODE,
    S_CURRENT,
    S_ROW,
    S_SAMPLE,
    T_OFFSET,
    parameter,
    record,
    samples,
    tensor,
)
from edgerev.kernels.optimizer import advance_step, clip, grad_norm, schedule, update
from edgerev.kernels.peak import peak
from edgerev.kernels.pool import pool, pool_grad
from edgerev.kernels.ridge import quantise, ridge_solve, ridge_sums, value_range
from edgerev.kernels.sample import dropout, initialise, read_input
from edgerev.kernels.state import accumulate, clear_halo, copy, couple, load, squeeze, zero
from edgerev.kernels.winograd import winograd, winograd_weights, winograd_wgrad

# rows, tensors, arena, first row, last row + 1, samples, thread, threads, status, barrier
SIGNATURE = types.int32(
    I32P, I64P, U8P, types.intp, types.intp, types.intp, types.intp, types.intp, I32P, I32P
)

ROW, LINE, S_COPY = layout.ROW, layout.STATUS_LINE, layout.S_COPY
UNKNOWN_OP = int(layout.Status.UNKNOWN_OP)
CHECK, REPEAT, SKIP = int(Op.CHECK), int(Op.REPEAT), int(Op.SKIP)

# Numba does not take members of an IntEnum as constants.
INPUT = int(Op.INPUT)
CONV = int(Op.CONV)
FLIP = int(Op.FLIP)
CONV_WGRAD = int(Op.CONV_WGRAD)
DEPTHWISE = int(Op.DEPTHWISE)
DEPTHWISE_WGRAD = int(Op.DEPTHWISE_WGRAD)
ACTIVATION = int(Op.ACTIVATION)
ACTIVATION_GRAD = int(Op.ACTIVATION_GRAD)
NORM = int(Op.NORM)
NORM_GRAD = int(Op.NORM_GRAD)
NORM_WGRAD = int(Op.NORM_WGRAD)
DROPOUT = int(Op.DROPOUT)
LOAD = int(Op.LOAD)
COUPLE = int(Op.COUPLE)
ACCUMULATE = int(Op.ACCUMULATE)
SQUEEZE = int(Op.SQUEEZE)
COPY = int(Op.COPY)
POOL = int(Op.POOL)
POOL_GRAD = int(Op.POOL_GRAD)
LOSS = int(Op.LOSS)
REPORT = int(Op.REPORT)
PROBABILITY = int(Op.PROBABILITY)
SCHEDULE = int(Op.SCHEDULE)
GRAD_NORM = int(Op.GRAD_NORM)
CLIP = int(Op.CLIP)
UPDATE = int(Op.UPDATE)
INIT = int(Op.INIT)
ZERO = int(Op.ZERO)
RIDGE_SUMS = int(Op.RIDGE_SUMS)
RIDGE_SOLVE = int(Op.RIDGE_SOLVE)
ADVANCE = int(Op.ADVANCE)
WINOGRAD_WEIGHTS = int(Op.WINOGRAD_WEIGHTS)
WINOGRAD = int(Op.WINOGRAD)
WINOGRAD_WGRAD = int(Op.WINOGRAD_WGRAD)
CONV_SGD = int(Op.CONV_SGD)
PEAK = int(Op.PEAK)
RANGE = int(Op.RANGE)
QUANTISE = int(Op.QUANTISE)
FADE = int(Op.FADE)
CONSOLIDATE = int(Op.CONSOLIDATE)
FISHER = int(Op.FISHER)
EXCHANGE = int(Op.EXCHANGE)


@jit
def _dispatch(row, tensors, arena, n, thread, threads, status):
    op = row[0]
    if op == INPUT:
        read_input(row, tensors, arena, n, thread, threads, status)
    elif op == CONV:
        conv(row, tensors, arena, n, thread, threads, status)
    elif op == FLIP:
        flip(row, tensors, arena, n, thread, threads, status)
    elif op == CONV_WGRAD:
        conv_wgrad(row, tensors, arena, n, thread, threads, status)
    elif op == DEPTHWISE:
        depthwise(row, tensors, arena, n, thread, threads, status)
    elif op == DEPTHWISE_WGRAD:
        depthwise_wgrad(row, tensors, arena, n, thread, threads, status)
    elif op == ACTIVATION:
        activation(row, tensors, arena, n, thread, threads, status)
    elif op == ACTIVATION_GRAD:
        activation_grad(row, tensors, arena, n, thread, threads, status)
    elif op == NORM:
        norm(row, tensors, arena, n, thread, threads, status)
    elif op == NORM_GRAD:
        norm_grad(row, tensors, arena, n, thread, threads, status)
    elif op == NORM_WGRAD:
        norm_wgrad(row, tensors, arena, n, thread, threads, status)
    elif op == DROPOUT:
        dropout(row, tensors, arena, n, thread, threads, status)
    elif op == LOAD:
        load(row, tensors, arena, n, thread, threads, status)
    elif op == COUPLE:
        couple(row, tensors, arena, n, thread, threads, status)
    elif op == ACCUMULATE:
        accumulate(row, tensors, arena, n, thread, threads, status)
    elif op == SQUEEZE:
        squeeze(row, tensors, arena, n, thread, threads, status)
    elif op == COPY:
        copy(row, tensors, arena, n, thread, threads, status)
    elif op == POOL:
        pool(row, tensors, arena, n, thread, threads, status)
    elif op == POOL_GRAD:
        pool_grad(row, tensors, arena, n, thread, threads, status)
    elif op == LOSS:
        loss(row, tensors, arena, n, thread, threads, status)
    elif op == REPORT:
        report(row, tensors, arena, n, thread, threads, status)
    elif op == PROBABILITY:
        probability(row, tensors, arena, n, thread, threads, status)
    elif op == SCHEDULE:
        schedule(row, tensors, arena, n, thread, threads, status)
    elif op == GRAD_NORM:
        grad_norm(row, tensors, arena, n, thread, threads, status)
    elif op == CLIP:
        clip(row, tensors, arena, n, thread, threads, status)
    elif op == UPDATE:
        update(row, tensors, arena, n, thread, threads, status)
    elif op == INIT:
        initialise(row, tensors, arena, n, thread, threads, status)
    elif op == ZERO:
        zero(row, tensors, arena, n, thread, threads, status)
    elif op == RIDGE_SUMS:
        ridge_sums(row, tensors, arena, n, thread, threads, status)
    elif op == RIDGE_SOLVE:
        ridge_solve(row, tensors, arena, n, thread, threads, status)
    elif op == ADVANCE:
        advance_step(row, tensors, arena, n, thread, threads, status)
    elif op == WINOGRAD_WEIGHTS:
        winograd_weights(row, tensors, arena, n, thread, threads, status)
    elif op == WINOGRAD:
        winograd(row, tensors, arena, n, thread, threads, status)
    elif op == WINOGRAD_WGRAD:
        winograd_wgrad(row, tensors, arena, n, thread, threads, status)
    elif op == CONV_SGD:
        conv_sgd(row, tensors, arena, n, thread, threads, status)
    elif op == PEAK:
        peak(row, tensors, arena, n, thread, threads, status)
    elif op == RANGE:
        value_range(row, tensors, arena, n, thread, threads, status)
    elif op == QUANTISE:
        quantise(row, tensors, arena, n, thread, threads, status)
    elif op == FADE:
        fade(row, tensors, arena, n, thread, threads, status)
    elif op == CONSOLIDATE:
        consolidate(row, tensors, arena, n, thread, threads, status)
    elif op == FISHER:
        fisher(row, tensors, arena, n, thread, threads, status)
    elif op == EXCHANGE:
        exchange(row, tensors, arena, n, thread, threads, status)
    else:
        record(status, UNKNOWN_OP, -1)


@jit
def first_failure(status, threads):
    """Return the thread whose recorded status comes first by row and sample, or -1."""
    found = np.intp(-1)
    for thread in range(threads):
        line, best = advance(status, thread * LINE), advance(status, max(found, np.intp(0)) * LINE)
        earlier = line[S_ROW] < best[S_ROW] or (line[S_ROW] == best[S_ROW] and line[S_SAMPLE] < best[S_SAMPLE])
        if line[S_CODE] != 0 and (found < 0 or earlier):
            found = np.intp(thread)
    return found


@jit
def _repeated(row, own, offset):
    """Return this thread's copy of a row inside REPEAT, for the samples from `offset` on."""
    copied = advance(own, S_COPY)
    for column in range(ROW):
        copied[column] = row[column]
    copied[FIRST] = np.int32(copied[FIRST] + np.int32(offset))
    return copied


@jit
def run(rows, tensors, arena, first, last, n, thread, threads, status, words):
    """Run rows ``first .. last - 1`` for `n` samples as one of `threads`; return the failing thread + 1, or 0."""
    environment = enter_float_environment()
    own = advance(status, thread * LINE)
    failed = np.intp(-1)
    begin, end, size, offset, left = np.intp(0), np.intp(-1), np.intp(0), np.intp(0), np.intp(0)  # of a REPEAT
    index = np.intp(first)
    while index < last:
        row = advance(rows, index * ROW)
        if row[0] == REPEAT:
            begin, size, offset = index + 1, parameter(row, 1), np.intp(0)
            end, left = begin + parameter(row, 0), samples(row, n)
            index = begin if left > 0 else end
            continue
        if row[0] == SKIP:
            kept = i64_at(arena, tensor(row, tensors, 0)[T_OFFSET])[parameter(row, 2)]
            index += np.intp(1) + (parameter(row, 0) if kept > np.int64(row[PARAMETERS + 1]) else np.intp(0))
            continue
        if offset > 0:
            row = _repeated(row, own, offset)
        if row[0] == CHECK:
            failed = first_failure(status, threads)
            barrier(words, thread, threads)  # else a fast thread's next status parts it from those that still read
            if failed >= 0:
                break
        elif samples(row, n) > 0:
            own[S_CURRENT] = np.int32(index)
            if row[OPERANDS] >= 0:
                clear_halo(row, tensors, arena, n, thread, threads)
            _dispatch(row, tensors, arena, n, thread, threads, own)
            barrier(words, thread, threads)
        index += 1
        if index == end:
            offset = offset + size if offset + size < left else np.intp(0)
            index = begin if offset > 0 else end
    leave_float_environment(environment)
    return np.int32(failed + 1)

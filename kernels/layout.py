"""The contract between the lowering and the compiled executor: what one instruction row and one tensor row mean.

A program is two tables of integers. Every back end reads them through this module: the compiled runtime, the
NumPy oracle, the planner, the listing. It imports nothing but the standard library, so a device pays nothing for it.

Samples are laid out channels last: a sample is ``(height, width, channels)``; a signal has height 1, a feature
vector has height and width 1. A tensor may carry a *halo*: zero rows and columns around each sample, so that a
convolution reads shifted rows without testing for edges.
"""

import struct
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple

# What edgerev_interface() of a compiled library returns. It goes up whenever the meaning of rows or tables changes, so
# that kernels of another version are refused instead of misreading a program; tests/test_targets.py watches that.
INTERFACE = 3

RUN_SYMBOL, INTERFACE_SYMBOL = "edgerev_run", "edgerev_interface"  # the functions of compiled kernels
ALIGNMENT = 64  # bytes; a cache line, and the widest vector
MAX_THREADS = 16
GRAIN = 16  # elements or channels that a thread or a vector takes: a multiple of the width of every vector
NO_TENSOR = -1

# One instruction is a row of int32.
ROW = 26
OP, BLOCK, FIRST, COUNT = 0, 1, 2, 3  # operation, residual function (for messages), first sample, most samples
OPERANDS, MAX_OPERANDS = 4, 8  # tensor numbers, outputs first
PARAMETERS, MAX_PARAMETERS = 12, 14  # integers, or the bits of a float32

# One tensor is a row of int64.
TENSOR_ROW = 10
T_OFFSET = 0  # bytes from the start of the arena; written by the planner
T_CAPACITY = 1  # samples it holds; 0 when it does not depend on the batch (parameters, counters)
T_HEIGHT, T_WIDTH, T_CHANNELS = 2, 3, 4
T_PAD_Y, T_PAD_X = 5, 6  # halo above and below, left and right
T_DTYPE = 7
T_STRIDE = 8  # elements from one sample to the next, halo included
T_SIZE = 9  # elements in all


class DType(IntEnum):
    """Types of tensors."""

    F32 = 0
    I32 = 1
    I16 = 2
    I64 = 3
    F64 = 4


ITEMSIZE = {DType.F32: 4, DType.I32: 4, DType.I16: 2, DType.I64: 8, DType.F64: 8}

# Fixed-point grids of the state: a step of 2**-20 reaches +-2048, one of 2**-10 in 16 bits reaches +-32.
FRACTION_BITS = {DType.I32: 20, DType.I16: 10}


class Op(IntEnum):
    """Operations; docs/program.md says what each means."""

    CHECK = 0
    INPUT = 1
    CONV = 3
    FLIP = 4
    CONV_WGRAD = 5
    DEPTHWISE = 6
    DEPTHWISE_WGRAD = 7
    ACTIVATION = 8
    ACTIVATION_GRAD = 9
    NORM = 10
    NORM_GRAD = 11
    NORM_WGRAD = 12
    DROPOUT = 13
    LOAD = 14
    COUPLE = 15
    ACCUMULATE = 16
    SQUEEZE = 17
    COPY = 18
    POOL = 19
    POOL_GRAD = 20
    LOSS = 21
    REPORT = 22
    PROBABILITY = 23
    SCHEDULE = 24
    GRAD_NORM = 25
    CLIP = 26
    UPDATE = 27
    INIT = 28
    ZERO = 29
    RIDGE_SUMS = 30
    RIDGE_SOLVE = 31
    ADVANCE = 32
    REPEAT = 33
    WINOGRAD_WEIGHTS = 34
    WINOGRAD = 35
    WINOGRAD_WGRAD = 36
    CONV_SGD = 37
    PEAK = 38
    RANGE = 39
    QUANTISE = 40
    FADE = 41
    CONSOLIDATE = 42
    FISHER = 43
    SKIP = 44
    EXCHANGE = 45


UPDATES = (Op.UPDATE, Op.CONV_SGD)  # these change parameters


class Activation(IntEnum):
    """Parameter `kind` of ACTIVATION."""

    RELU = 0
    GELU = 1
    SILU = 2


class NormKind(IntEnum):
    """Parameter `kind` of NORM."""

    RMS = 0  # per position, over channels
    GROUP = 1  # per sample, over positions and the channels of a group


class LossKind(IntEnum):
    """Parameter `kind` of LOSS."""

    CROSS_ENTROPY = 0
    BINARY_CROSS_ENTROPY = 1
    MEAN_SQUARED_ERROR = 2
    SOFT_CROSS_ENTROPY = 3


class UpdateKind(IntEnum):
    """Parameter `kind` of UPDATE."""

    SGD = 0
    ADAMW = 1
    LION = 2


class SolveKind(IntEnum):
    """Parameter `kind` of RIDGE_SOLVE."""

    RIDGE = 0
    PROTOTYPE = 1


class ConsolidationKind(IntEnum):
    """Parameter `kind` of CONSOLIDATE."""

    SYNAPTIC_INTELLIGENCE = 0
    EWC = 1


class ScheduleKind(IntEnum):
    """Parameter `kind` of SCHEDULE."""

    CONSTANT = 0
    COSINE = 1


class ClipKind(IntEnum):
    """Parameter `kind` of CLIP."""

    NORM = 0  # scale = min(1, limit / |g|)
    ADAPTIVE = 1  # scale = min(1, limit * max(|w|, 1e-3) / |g|)


class Status(IntEnum):
    """What an instruction may report; the first one in program order stops the run at the next CHECK."""

    OK = 0
    INPUT_NOT_FINITE = 1
    LABEL_OUT_OF_RANGE = 2
    TARGET_NOT_FINITE = 3
    STATE_NOT_FINITE = 4
    STATE_OVERFLOW = 5
    LOSS_NOT_FINITE = 6
    GRADIENT_NOT_FINITE = 7
    NOT_POSITIVE_DEFINITE = 8
    UNKNOWN_OP = 9
    OUTPUT_NOT_FINITE = 10
    SUMS_FULL = 11


# The status tensor: lines of int32 for each thread, so that no two threads share a cache line. The last part is the
# executor's own: the row that it is at, and its copy of a row inside REPEAT.
S_CODE, S_ROW, S_SAMPLE = 0, 1, 2  # Status, row of the instruction, index of the sample (or -1)
S_CURRENT, S_COPY = 3, 4
STATUS_LINE = 2 * ALIGNMENT // 4

# The barrier tensor (int32): how often each thread has arrived, on a line of its own; then what waiting threads do.
BARRIER_LINE = ALIGNMENT // 4
BARRIER_SPINS = MAX_THREADS * BARRIER_LINE
BARRIER_YIELD = BARRIER_SPINS + 2
BARRIER_SIZE = BARRIER_SPINS + BARRIER_LINE

# The counters tensor (int64): seed, steps done, the task at hand plus 1 (0: none is given), how many modules, counted
# from the stem, are left as they are, and whether only what each task has for itself is trained.
C_SEED, C_STEP, C_TASK, C_FROZEN, C_ADAPTERS = range(5)
COUNTERS_SIZE = 5

# Features that are whole numbers lie in +-LEVELS; so many samples fit the int32 sums of their products.
LEVELS = 127
MOST_INT32_SAMPLES = (2**31 - 1) // LEVELS**2
NEVER_SEEN = -1e30  # the bias of a class without samples

# The scalars tensor (float32), written by SCHEDULE, ADVANCE, GRAD_NORM and CLIP; all start at 1. V_FACTOR and V_SHARE
# are the caller's: they scale the learning rate, and what FADE leaves and FISHER adds.
V_RATE, V_POWER1, V_POWER2, V_CORRECTION1, V_CORRECTION2, V_GRAD_SQUARES, V_WEIGHT_SQUARES, V_CLIP, V_FACTOR = range(9)
V_SHARE, V_TASK = 9, 10
SCALARS_SIZE = 11

# The report tensor (float32): mean loss and share of right answers of the last batch.
R_LOSS, R_CORRECT = 0, 1
REPORT_SIZE = 2


# Winograd's convolutions: outputs of a tile in each direction, tiles that a thread maps at a time (and of signals, for
# gradients), and elements between the matrices of two positions, which keep them off each other's sets of the cache.
WINOGRAD_OUTPUTS, WINOGRAD_BLOCK, WINOGRAD_LINE_BLOCK, WINOGRAD_PAD = 4, 16, 64, 16


class Signature(NamedTuple):
    """Names of an operation's tensors and parameters, in the order of the row.

    ``floats`` are those parameters whose int32 holds the bits of a float32. A parameter left out is 0, or what
    ``defaults`` says.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    defaults: dict[str, float] = MappingProxyType({})  # type: ignore[assignment]


# What each does is told once, where it is compiled (kernels/<module>.py) and once, loop by loop, in tests/naive.py.
SIGNATURES = {
    Op.CHECK: Signature((), ()),
    Op.REPEAT: Signature((), (), ("rows", "size")),
    Op.SKIP: Signature((), ("counters",), ("rows", "most", "slot")),
    Op.INPUT: Signature(
        ("y",), ("raw", "mean", "scale", "counters"), ("augment", "shift", "flip", "noise"), ("noise",)
    ),
    Op.CONV: Signature(("y",), ("x", "w", "b", "mask"), ("kernel_h", "kernel_w", "relu", "add")),
    Op.WINOGRAD_WEIGHTS: Signature(("u",), ("w",), ("kernel_h", "kernel_w")),
    Op.WINOGRAD: Signature(("y", "work"), ("x", "u", "b", "mask"), ("kernel_h", "kernel_w", "relu", "add")),
    Op.WINOGRAD_WGRAD: Signature(("dw", "db", "work"), ("x", "dy", "barrier"), ("kernel_h", "kernel_w")),
    Op.FLIP: Signature(("flipped",), ("w",)),
    Op.CONV_WGRAD: Signature(("dw", "db"), ("x", "dy"), ("kernel_h", "kernel_w")),
    Op.CONV_SGD: Signature(("w", "b"), ("x", "dy", "scalars"), ("kernel_h", "kernel_w", "decay"), ("decay",)),
    Op.DEPTHWISE: Signature(("y",), ("x", "w", "b"), ("kernel_h", "kernel_w", "flipped")),
    Op.DEPTHWISE_WGRAD: Signature(("dw", "db"), ("x", "dy"), ("kernel_h", "kernel_w")),
    Op.ACTIVATION: Signature(("y",), ("x",), ("kind",)),
    Op.ACTIVATION_GRAD: Signature(("dx",), ("x", "dy"), ("kind",)),
    Op.NORM: Signature(("y", "stats"), ("x", "gamma", "beta"), ("kind", "groups", "epsilon"), ("epsilon",)),
    Op.NORM_GRAD: Signature(("dx",), ("x", "dy", "gamma", "stats"), ("kind", "groups")),
    Op.NORM_WGRAD: Signature(("dgamma", "dbeta"), ("x", "dy", "stats"), ("kind", "groups")),
    Op.DROPOUT: Signature(("y",), ("x", "counters"), ("rate", "stream"), ("rate",)),
    Op.LOAD: Signature(("y",), ("s",), ("channel", "scale"), ("scale",), {"scale": 1.0}),
    Op.COUPLE: Signature(("s",), ("t",), ("sign", "channel", "scale"), ("scale",), {"scale": 1.0}),
    Op.ACCUMULATE: Signature(("g",), ("t",)),
    Op.SQUEEZE: Signature(("y",), ("x",), ("inverse",)),
    Op.COPY: Signature(("y",), ("x",)),
    Op.POOL: Signature(("features",), ("s1", "s2"), ("rows", "columns", "rectify")),
    Op.POOL_GRAD: Signature(("g1", "g2"), ("dfeatures", "s1", "s2"), ("rows", "columns", "rectify")),
    Op.LOSS: Signature(
        ("dz", "losses"), ("z", "target", "weights", "counters"), ("kind", "smoothing", "outputs"), ("smoothing",)
    ),
    Op.REPORT: Signature(("report",), ("losses",)),
    Op.PROBABILITY: Signature(("p",), ("z", "counters"), ("kind", "outputs")),
    Op.SCHEDULE: Signature(
        ("scalars",), ("counters",),
        ("kind", "rate", "warmup", "total", "floor", "beta1", "beta2"), ("rate", "floor", "beta1", "beta2"),
    ),
    Op.ADVANCE: Signature(("scalars", "counters"), (), ("beta1", "beta2"), ("beta1", "beta2")),
    Op.GRAD_NORM: Signature(("scalars",), ("g",), ("slot", "reset")),
    Op.CLIP: Signature(("scalars",), (), ("kind", "limit"), ("limit",)),
    Op.UPDATE: Signature(
        ("w", "m", "v", "path"), ("g", "scalars", "importance", "anchor"),
        ("kind", "beta1", "beta2", "epsilon", "decay", "nesterov", "scale", "clip", "strength", "outputs"),
        ("beta1", "beta2", "epsilon", "decay", "scale", "strength"), {"scale": 1.0},
    ),
    Op.INIT: Signature(("w",), ("counters",), ("random", "value", "stream"), ("value",)),
    Op.ZERO: Signature(("y",), ()),
    Op.RIDGE_SUMS: Signature(
        ("gram", "moments", "counts"), ("features", "labels", "counters", "barrier"), ("outputs",)
    ),
    Op.RIDGE_SOLVE: Signature(
        ("w", "b", "work"), ("gram", "moments"), ("strength", "kind"), ("strength",)
    ),
    Op.RANGE: Signature(("low", "high"), ("features",)),
    Op.QUANTISE: Signature(("f",), ("low", "high")),
    Op.FADE: Signature(("y",), ("scalars",), ("factor",), ("factor",), {"factor": 1.0}),
    Op.CONSOLIDATE: Signature(("importance", "anchor", "path"), ("w",), ("kind", "damping"), ("damping",)),
    Op.FISHER: Signature(("importance",), ("g", "scalars")),
    Op.EXCHANGE: Signature(("bank", "w"), ("counters",), ("store",)),
    Op.PEAK: Signature(("y",), (), ("rounds", "factor", "addend"), ("factor", "addend")),
}


def float_bits(value: float) -> int:
    """Return the bits of `value` rounded to float32, as a signed 32-bit integer."""
    return struct.unpack("<i", struct.pack("<f", value))[0]


def bits_float(bits: int) -> float:
    """Return the float32 whose bits are `bits`; the inverse of `float_bits`."""
    return struct.unpack("<f", struct.pack("<i", bits))[0]

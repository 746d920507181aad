"""Every kernel by shape: its speed, its share of the roofline, and OpenBLAS's speed where it has the operation.

Rows of programs that nets were lowered to are timed one at a time, and those that are alike are one line. OpenBLAS
has dense products: CONV and CONV_WGRAD of 1x1 kernels without a halo. Called with `measured_alone`, it has one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy

from edgerev.continual.consolidation import EWC
from edgerev.kernels.layout import NO_TENSOR, Activation, DType, NormKind, Op, UpdateKind
from edgerev.layers import GELU, Adapter, Conv2d, Depthwise, Dropout, GroupNorm, ReLU, RMSNorm, SiLU
from edgerev.learner import Learner
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip
from edgerev.presets import preset
from edgerev.program import Program
from edgerev.tools.bench_gemm import empty_matmul_seconds
from edgerev.tools.bench_step import fill_batch
from edgerev.tools.cost import Cost, instruction_cost
from edgerev.tools.peaks import peak_flops, roofline_seconds
from edgerev.tools.timing import burst, check_rounds, row_seconds

PRESETS = ("mlp1", "har1", "vis1")  # deeper ones have the same shapes
KINDS = {
    Op.ACTIVATION: Activation, Op.ACTIVATION_GRAD: Activation, Op.NORM: NormKind, Op.NORM_GRAD: NormKind,
    Op.NORM_WGRAD: NormKind, Op.UPDATE: UpdateKind,
}  # fmt: skip
REST, KEPT = "rest", "kept"  # nets of what the presets leave out; the latter of continual learning


SECTIONS = (
    "init", "train", "encode", "forward", "read_out", "inverse", "fade", "fisher", "consolidate", "put_away",
    "take_out", "ridge_reset", "ridge_release", "ridge_range", "ridge_add", "ridge_solve", "ridge_fade",
)  # fmt: skip


class _Line(NamedTuple):
    """Rows that are alike: their cost, and the time of the fastest."""

    cost: Cost
    seconds: float
    product: tuple[int, int, int] | None  # m, n, k where OpenBLAS has the same operation


def kernel_figures(presets: Sequence[str] = (), *, batch: int = 16, seconds: float = 2.0) -> dict[str, Any]:
    """Return the speed of each kernel for each shape that occurs, in one thread.

    Parameters
    ----------
    presets : nets whose shapes to take; `PRESETS`, and two with all other kernels, when empty
    batch : samples
    seconds : how long to measure each net

    Returns
    -------
    dict
        `peak_gflops`, and `kernels`: a list with `kernel`, `shape`, `us`, `flops`, `moved_bytes`, `gflops` and
        `gbytes` in a second, `roofline_share` (above 1 where data lies in a nearer cache than that of a copy of as
        many bytes) and `openblas_us` (None where it has no such operation).
    """
    check_rounds(1, seconds)
    lines: dict[tuple[str, str], _Line] = {}
    for name in presets or (*PRESETS, REST, KEPT):
        special = {REST: _rest_learner, KEPT: _keeping_learner}.get(name)
        learner = special(batch) if special else _learner(preset(name, head="ridge"), batch)
        for key, line in _measure(learner, batch, seconds).items():
            if key not in lines or line.seconds < lines[key].seconds:
                lines[key] = line
    return {
        "batch": batch, "seconds": seconds, "peak_gflops": peak_flops(1) / 1e9,
        "kernels": [_figures(*key, line) for key, line in sorted(lines.items())],
    }  # fmt: skip


def _learner(net: Net, batch: int, **options: Any) -> Learner:
    learner = Learner(net, batch=batch, **{"optimizer": SGD(1e-3), **options})
    fill_batch(learner.runtime, net.head.outputs)
    return learner


def _rest_learner(batch: int) -> Learner:
    first = (RMSNorm(), Depthwise(3), SiLU(), Conv2d(32, 3), Dropout(0.1))
    second = (GroupNorm(4), Conv2d(64, 3), GELU(), Conv2d(128, 1), ReLU())
    net = Net((32, 32, 3), Conv2d(64, 3), (Block(first), Squeeze(), Block(second)), Head(10, kind="ridge"))
    return _learner(net, batch, optimizer=AdamW(1e-4), clip=Clip(1.0))


def _keeping_learner(batch: int) -> Learner:
    F = (Conv2d(64, 3), ReLU(), Conv2d(64, 3), Adapter(8))
    head = Head(10, kind="ridge", tasks=2, sums="int32", pool=2, rectify=True)
    net = Net((16, 16, 3), Conv2d(128, 3), (Block(F),), head)
    learner = _learner(net, batch, optimizer=AdamW(1e-4), consolidation=EWC())
    learner.task = 1
    learner.runtime.run("encode", min(batch, learner.schedule.micro_batch), until="forward")
    learner.runtime.run("ridge_range", min(batch, learner.schedule.micro_batch))
    return learner


def _measure(learner: Learner, batch: int, seconds: float) -> dict[tuple[str, str], _Line]:
    """Return a line for each kernel and shape in any section of a learner's program."""
    runtime = learner.runtime
    program, lines = runtime.program, dict[tuple[str, str], _Line]()
    sections = [name for name in SECTIONS if name in program.sections]
    for (row, offset), time in row_seconds(runtime, sections, batch, seconds).items():
        step, cost = program.decode(row), instruction_cost(program, row, batch, offset)
        key = _kernel(step), _shape(program, step, min(batch - step.first - offset, step.count))
        if step.op != Op.CHECK and (key not in lines or time < lines[key].seconds):
            lines[key] = _Line(cost, time, _product(program, step, cost))
    return lines


def _kernel(step: Any) -> str:
    name = step.op.name.lower()
    return f"{name} {KINDS[step.op](step.parameters['kind']).name.lower()}" if step.op in KINDS else name


def _shape(program: Program, step: Any, samples: int) -> str:
    """Return the shapes of outputs and inputs as text: samples first, halo and unusual types behind."""
    words = []
    for number in step.operands.values():
        if number == NO_TENSOR:
            continue
        tensor = program.decode_tensor(number)
        sizes = ((samples,) if tensor.capacity else ()) + (tensor.shape if tensor.shape[0] > 1 else tensor.shape[1:])
        halo = "+{}+{}".format(*tensor.halo) if any(tensor.halo) else ""
        dtype = "" if tensor.dtype == DType.F32 else f":{tensor.dtype.name.lower()}"
        words.append("x".join(map(str, sizes)) + halo + dtype)
    return " ".join(words)


def _product(program: Program, step: Any, cost: Cost) -> tuple[int, int, int] | None:
    """Return m, n, k of the dense product that a row is, or None."""
    if step.op not in (Op.CONV, Op.CONV_WGRAD) or step.parameters["kernel_h"] * step.parameters["kernel_w"] != 1:
        return None
    tensors = {name: program.decode_tensor(number) for name, number in step.operands.items() if number != NO_TENSOR}
    x, y = tensors["x"], tensors["y" if step.op == Op.CONV else "dy"]
    if any((*x.halo, *y.halo)):
        return None
    positions = cost.flops // (2 * x.shape[2] * y.shape[2])
    return (positions, y.shape[2], x.shape[2]) if step.op == Op.CONV else (x.shape[2], y.shape[2], positions)


def _figures(kernel: str, shape: str, line: _Line) -> dict[str, Any]:
    cost, time = line.cost, max(line.seconds, 1e-9)
    return {
        "kernel": kernel, "shape": shape, "us": time * 1e6, "flops": cost.flops, "moved_bytes": cost.moved_bytes,
        "gflops": cost.flops / time / 1e9, "gbytes": cost.moved_bytes / time / 1e9,
        "roofline_share": roofline_seconds(*cost) / time,
        "openblas_us": _openblas_seconds(*line.product, kernel == "conv_wgrad") * 1e6 if line.product else None,
    }  # fmt: skip


def _openblas_seconds(m: int, n: int, k: int, transposed: bool) -> float:
    """Return the seconds of NumPy's product of matrices that lie in memory as ours do, less those of an empty call."""
    random = numpy.random.default_rng(0)
    a = random.random((k, m), "f4").T if transposed else random.random((m, k), "f4")
    b, out = random.random((k, n), "f4"), numpy.empty((m, n), "f4")
    taken = min(burst(lambda: numpy.matmul(a, b, out=out), 1e-3) for _ in range(7))
    return max(taken - empty_matmul_seconds(), 1e-9)

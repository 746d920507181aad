"""The dense kernel against OpenBLAS, one thread each, over a grid of shapes: C (m, n) = A (m, k) B (k, n).

Ours is a program of some rows CONV of one shape, NumPy's a `matmul` into `out` of a stack of the same matrices, so
that Python is paid once for many small products; of either side the cost of a call that computes nothing is
subtracted (no row at all; a product of 1x1 matrices). Both take turns, and the fastest burst of each counts. NumPy
has a matrix-vector product of its own for m = 1, which it takes here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import inf
from statistics import median
from typing import Any

import numpy

from edgerev.arena import plan
from edgerev.errors import EdgerevError, UsageError
from edgerev.kernels.layout import Op
from edgerev.program import Region
from edgerev.runtime import Runtime
from edgerev.tools.peaks import peak_flops, start_program
from edgerev.tools.timing import alternate, burst, empty_seconds

M = (1, 4, 16, 64, 256, 1024)
N = (8, 10, 13, 16, 32, 64, 100, 128, 256, 512)
K = (16, 64, 256, 1024)
MOST_ROWS = 64  # of a program, so that its rows stay in the first cache
CALL_FLOPS = 2e6  # products of one call: enough that the call's own cost is a few percent before it is subtracted
STACK_BYTES = 1 << 14  # of NumPy's stacked results, so that they stay in the first cache like ours


def gemm_grid(
    m: Sequence[int] = M, n: Sequence[int] = N, k: Sequence[int] = K, *, passes: int = 5, rounds: int = 3,
    seconds: float = 1e-3,
) -> dict[str, Any]:
    """Return the time of every shape of a grid, ours and OpenBLAS's.

    Parameters
    ----------
    m, n, k : sizes of the grid
    passes : how often to go over the grid, so that what disturbs the machine for a second strikes a shape but once
    rounds, seconds : bursts of either side in each pass, and how long each lasts

    Returns
    -------
    dict
        `shapes`, a list with `m`, `n`, `k`, `us` and `openblas_us` of one product, `gflops`, `ratio` (theirs by ours:
        above 1 ours is faster); over all of them `median_ratio`, `minimum_ratio`; `peak_gflops`.
    """
    if passes < 1:
        raise UsageError(f"passes {passes}: expected at least 1")
    best: dict[tuple[int, int, int], tuple[float, float]] = {}
    for _ in range(passes):
        for sizes in product(m, n, k):
            before = best.get(sizes, (inf, inf))
            own, other = product_seconds(*sizes, rounds=rounds, seconds=seconds)
            best[sizes] = min(before[0], own), min(before[1], other)
    shapes = [
        {
            "m": i, "n": j, "k": depth, "us": own * 1e6, "openblas_us": other * 1e6,
            "gflops": 2 * i * j * depth / own / 1e9, "ratio": other / own,
        }
        for (i, j, depth), (own, other) in best.items()
    ]  # fmt: skip
    ratios = [shape["ratio"] for shape in shapes]
    return {
        "median_ratio": median(ratios), "minimum_ratio": min(ratios), "peak_gflops": peak_flops(1) / 1e9,
        "passes": passes, "rounds": rounds, "seconds": seconds, "shapes": shapes,
    }  # fmt: skip


def product_seconds(m: int, n: int, k: int, *, rounds: int, seconds: float) -> tuple[float, float]:
    """Return the seconds of one product, ours and OpenBLAS's; both results are compared first.

    Parameters
    ----------
    rounds, seconds : bursts of either side, and how long each lasts

    Raises
    ------
    EdgerevError
        The results differ by more than rounding.
    """
    random = numpy.random.default_rng(0)
    a, b = random.random((m, k), "f4"), random.random((k, n), "f4")
    wanted = max(1, round(CALL_FLOPS / (2 * m * n * k)))
    runtime, rows = _runtime(a, b, min(MOST_ROWS, wanted))
    stack = max(1, min(wanted, STACK_BYTES // (4 * m * n)))
    left, out = numpy.broadcast_to(a, (stack, m, k)), numpy.empty((stack, m, n), "f4")

    def ours() -> None:
        runtime.run_rows(0, rows, 1)

    def theirs() -> None:
        numpy.matmul(left, b, out=out)

    ours()
    theirs()
    found = numpy.frombuffer(runtime.view("y"), "f4").reshape(m, n)
    if not numpy.allclose(found, out[0], rtol=1e-4):
        raise EdgerevError(f"({m}, {n}, {k}): products differ from NumPy's; expected equal ones; report this")
    times = [min(taken) for taken in alternate([ours, theirs], rounds, seconds)]
    own, other = times[0] - empty_seconds(runtime), times[1] - empty_matmul_seconds()
    return max(own, 1e-9) / rows, max(other, 1e-9) / stack


def _runtime(a: numpy.ndarray, b: numpy.ndarray, rows: int) -> tuple[Runtime, int]:
    """Return a runtime whose program is the product, `rows` times, and the number of rows."""
    (m, k), n = a.shape, b.shape[1]
    program = start_program()
    y = program.tensor("y", (m, n), Region.IO)
    x = program.tensor("x", (m, k), Region.IO)
    w = program.tensor("w", (k, n), Region.IO)
    with program.section("run"):
        for _ in range(rows):
            program.emit(Op.CONV, y, x, w, kernel_h=1, kernel_w=1)
    runtime = Runtime(program, plan(program))
    for name, values in (("x", a), ("w", b)):
        numpy.frombuffer(runtime.view(name), "f4")[:] = values.reshape(-1)
    return runtime, rows


def empty_matmul_seconds() -> float:
    """Return the seconds of NumPy's product of 1x1 matrices: what every call of it costs beside its work."""
    one, out = numpy.ones((1, 1, 1), "f4"), numpy.empty((1, 1, 1), "f4")
    return min(burst(lambda: numpy.matmul(one, one[0], out=out), 1e-4) for _ in range(10))

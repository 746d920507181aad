"""Rows that are timed to calibrate a machine: those of small nets, each run many times over in one call."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator

from edgerev.arena import plan
from edgerev.kernels import layout
from edgerev.kernels.layout import Op
from edgerev.layers import (
    GELU,
    Conv1d,
    Conv2d,
    Dense,
    Depthwise,
    Dropout,
    GroupNorm,
    Layer,
    Pointwise,
    ReLU,
    RMSNorm,
    Shape,
    SiLU,
)
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion
from edgerev.recipe import Recipe
from edgerev.runtime import Runtime
from edgerev.schedule import choose
from edgerev.tools.bench_step import fill_batch
from edgerev.tools.cost import visits
from edgerev.tools.time_model import NOT_COUNTED, row_key

RATE = 1e-9  # of learning: rows are run thousands of times on the same numbers
COPIES = 128  # most of a row in one call
BURST = 1.5e-4  # seconds that a call should last

_SGD, _ADAMW = SGD(RATE), AdamW(RATE)


def probe_nets() -> Iterator[tuple[Net, Recipe]]:
    """Yield small nets that together have every kind of row, in several sizes; none of them is a preset."""
    relu = ReLU()

    def net(shape: Shape, stem: Layer, *backbone: Block | Squeeze, head: Head = Head(10)) -> Net:
        return Net(shape, stem, backbone, head)

    for made, optimizer, batches in (
        (net((40,), Dense(96), Block((Dense(32), relu, Dense(48))), head=Head(6)), _SGD, (1, 6, 32)),
        (net((100,), Dense(320), Block((Dense(96), relu, Dense(160))), head=Head(20)), _SGD, (1, 12)),
        (net((48,), Dense(128), Block((RMSNorm(), Dense(80), GELU(), Dense(64)))), _ADAMW, (1, 24)),
        (net((96, 6), Conv1d(48, 5), Block((Conv1d(24, 5), relu, Conv1d(24, 5)))), _SGD, (1, 4)),
        (net((160, 3), Conv1d(96, 5), Block((Conv1d(64, 5), relu, Conv1d(48, 5)))), _SGD, (1,)),
        (net((100, 4), Conv1d(32, 5), Block((Conv1d(32, 5), relu, Conv1d(16, 5)))), _SGD, (1, 5)),
        (net((96, 5), Conv1d(64, 3), Block((Conv1d(48, 3), relu, Conv1d(32, 3)))), _SGD, (1, 2)),
        (net((64, 3), Conv1d(32, 3), Block((RMSNorm(), Depthwise(5), Pointwise(48), SiLU(), Pointwise(16)))), _ADAMW,
         (1, 8)),
        (net((12, 12, 2), Conv2d(48, 3), Block((Conv2d(16, 3), relu, Conv2d(24, 3)))), _SGD, (1, 5)),
        (net((10, 10, 1), Conv2d(32, 3), Block((Conv2d(32, 3), relu, Conv2d(16, 3))), head=Head(10, pool="flatten")), _SGD, (1, 5)),
        (net((8, 16, 1), Conv2d(32, 3), Block((Conv2d(16, 3),)), head=Head(10, pool="flatten")), _SGD, (1, 2)),
        (net((8, 8, 1), Conv2d(16, 3), Block((Conv2d(8, 3),)), head=Head(10, pool="flatten")), _SGD, (1, 6)),
        (net((16, 16, 3), Conv2d(32, 3), Block((Conv2d(48, 3), relu, Conv2d(16, 3)))), _SGD, (1, 2)),
        (net((24, 24, 3), Conv2d(64, 3), Block((Conv2d(16, 3), relu, Conv2d(32, 3)))), _SGD, (1,)),
        (net((20, 20, 4), Conv2d(96, 3), Block((Conv2d(64, 3), relu, Conv2d(48, 3)))), _SGD, (1,)),
        (net((16, 16, 3), Conv2d(16, 3), Squeeze(),
             Block((GroupNorm(4), Depthwise(3), Pointwise(64), relu, Dropout(0.1), Pointwise(32)))), Lion(RATE), (1, 4)),
    ):  # fmt: skip
        for batch in batches:
            yield made, Recipe(batch=batch, optimizer=optimizer, clip=Clip(1.0) if optimizer is not _SGD else None)


class Prober:
    """A net's program in an arena, with room for copies of one of its rows.

    Parameters
    ----------
    threads : threads that run each row
    lowered : threads that the program is lowered for, where it is to be that of a larger team
    """

    def __init__(self, net: Net, recipe: Recipe, threads: int = 1, lowered: int = 0) -> None:
        program = choose(net, recipe, threads=lowered or threads).program
        self.batch, self._start = recipe.batch, len(program)
        assert isinstance(program.rows, array)
        program.rows.extend([0] * (layout.ROW * COPIES))
        self.runtime = Runtime(program, plan(program), threads)
        self.program = program
        fill_batch(self.runtime, net.head.outputs)
        self.runtime.run("init", 1)
        for _ in range(2):  # the tables, the caches and the numbers are then those of a step
            self.runtime.run("train", self.batch)

    def rows(self) -> list[tuple[int, int]]:
        """Return one of each row of a training step that are alike, and how far REPEAT moved it on."""
        found: dict[tuple, tuple[int, int]] = {}
        for row, offset in visits(self.program, "train", self.batch):
            if self.program.rows[row * layout.ROW] not in NOT_COUNTED:
                found.setdefault(row_key(self.program, row, self.batch, offset), (row, offset))
        return list(found.values())

    def call_seconds(self, row: int, offset: int, copies: int) -> float:
        """Return the seconds of one call that runs a row so many times."""
        rows, start = self.program.rows, self._start
        one = array("i", rows[row * layout.ROW : (row + 1) * layout.ROW])
        one[layout.FIRST] += offset
        if one[layout.OP] == Op.COUPLE:  # else the state would leave its range
            one[layout.PARAMETERS + 2] = 0
        rows[start * layout.ROW : (start + copies) * layout.ROW] = memoryview(one * copies)  # type: ignore[call-overload]
        before = time.perf_counter()
        self.runtime.run_rows(start, start + copies, self.batch)
        return time.perf_counter() - before

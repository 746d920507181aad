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
_THIN = (RMSNorm(), Depthwise(5), Pointwise(48), SiLU(), Pointwise(16))
_MIXED = (GroupNorm(4), Depthwise(3), Pointwise(64), ReLU(), Dropout(0.1), Pointwise(32))


def _net(shape: Shape, stem: Layer, *backbone: Block | Squeeze, outputs: int = 10, flat: bool = False) -> Net:
    return Net(shape, stem, backbone, Head(outputs, pool="flatten" if flat else 1))


def probe_nets() -> Iterator[tuple[Net, Recipe]]:
    """Yield small nets that together have every kind of row, in several sizes; none of them is a preset."""
    relu, norm = ReLU(), RMSNorm()
    for net, optimizer, batches in (
        (_net((40,), Dense(96), Block((Dense(32), relu, Dense(48))), outputs=6), _SGD, (1, 6, 32)),
        (_net((100,), Dense(320), Block((Dense(96), relu, Dense(160))), outputs=20), _SGD, (1, 12)),
        (_net((48,), Dense(128), Block((norm, Dense(80), GELU(), Dense(64)))), _ADAMW, (1, 24)),
        (_net((96, 6), Conv1d(48, 5), Block((Conv1d(24, 5), relu, Conv1d(24, 5)))), _SGD, (1, 4)),
        (_net((384, 3), Conv1d(96, 5), Block((Conv1d(64, 5), relu, Conv1d(48, 5)))), _SGD, (1, 2)),
        (_net((256, 3), Conv1d(64, 5), Block((Conv1d(32, 5), relu, Conv1d(32, 5)))), _SGD, (1, 2)),
        (_net((100, 4), Conv1d(32, 5), Block((Conv1d(32, 5), relu, Conv1d(16, 5)))), _SGD, (1, 5)),
        (_net((96, 5), Conv1d(64, 3), Block((Conv1d(48, 3), relu, Conv1d(32, 3)))), _SGD, (1, 2)),
        (_net((64, 3), Conv1d(32, 3), Block(_THIN)), _ADAMW, (1, 8)),
        (_net((12, 12, 2), Conv2d(48, 3), Block((Conv2d(16, 3), relu, Conv2d(24, 3)))), _SGD, (1, 5)),
        (_net((10, 10, 1), Conv2d(32, 3), Block((Conv2d(32, 3), relu, Conv2d(16, 3))), flat=True), _SGD, (1, 5)),
        (_net((8, 16, 1), Conv2d(32, 3), Block((Conv2d(16, 3),)), flat=True), _SGD, (1, 2)),
        (_net((4, 16, 1), Conv2d(16, 3), Block((Conv2d(8, 3),)), flat=True), _SGD, (1, 6)),
        (_net((16, 16, 3), Conv2d(32, 3), Block((Conv2d(48, 3), relu, Conv2d(16, 3)))), _SGD, (1, 2)),
        (_net((24, 24, 3), Conv2d(64, 3), Block((Conv2d(32, 3), relu, Conv2d(32, 3)))), _SGD, (1,)),
        (_net((20, 20, 4), Conv2d(96, 3), Block((Conv2d(64, 3), relu, Conv2d(48, 3)))), _SGD, (1,)),
        (_net((16, 16, 3), Conv2d(16, 3), Squeeze(), Block(_MIXED)), Lion(RATE), (1, 4)),
    ):
        for batch in batches:
            yield net, Recipe(batch=batch, optimizer=optimizer, clip=None if optimizer is _SGD else Clip(1.0))


def deep_net() -> tuple[Net, Recipe]:
    """Return a net of many short rows, in which it is seen what lies between them."""
    return _net((40,), Dense(96), Block((Dense(32), ReLU(), Dense(48)), repeat=24)), Recipe(batch=6, optimizer=_SGD)


class Prober:
    """A net's program in an arena, with room for copies of one of its rows.

    Parameters
    ----------
    threads : threads that run it; each one's share of a row is timed alone
    """

    def __init__(self, net: Net, recipe: Recipe, threads: int = 1) -> None:
        program = choose(net, recipe, threads=threads).program
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

    def call_seconds(self, row: int, offset: int, copies: int, thread: int = 0) -> float:
        """Return the processor's seconds for one thread's share of a row that is run so many times in one call."""
        rows, start = self.program.rows, self._start
        one = array("i", rows[row * layout.ROW : (row + 1) * layout.ROW])
        one[layout.FIRST] += offset
        if one[layout.OP] == Op.COUPLE:  # else the state would leave its range
            one[layout.PARAMETERS + 2] = 0
        rows[start * layout.ROW : (start + copies) * layout.ROW] = memoryview(one * copies)  # type: ignore[call-overload]
        before = time.thread_time()
        self.runtime.run_share(start, start + copies, self.batch, thread)
        return time.thread_time() - before

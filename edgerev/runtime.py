"""Run a planned program: one allocation, one compiled function, and threads that stay."""

from __future__ import annotations

import ctypes
import mmap
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgerev.arena import Plan
from edgerev.errors import BudgetError, DataError, EdgerevError, NumericError
from edgerev.kernels import layout, library
from edgerev.kernels.layout import DType, Status
from edgerev.kernels.library import Kernels
from edgerev.machine import mark_arena, read_memory, release_freed
from edgerev.numbers import whole
from edgerev.program import Program, Region

if TYPE_CHECKING:
    from edgerev.team import Call, Team

SPINS = 1000  # of a waiting thread, some 40 us; then it yields, or more threads than cores would cost milliseconds
_CODES: dict[DType, Any] = {DType.F32: "f", DType.I32: "i", DType.I16: "h", DType.I64: "q", DType.F64: "d"}

_MESSAGES: dict[Status, tuple[type[EdgerevError], str]] = {
    Status.INPUT_NOT_FINITE: (
        DataError, "sample {sample} holds NaN or infinity; expected finite numbers. Remove or repair it",
    ),
    Status.LABEL_OUT_OF_RANGE: (
        DataError, "the label of sample {sample} is out of range; expected 0 .. outputs - 1. Map labels "
        "to class numbers, or give the head more outputs",
    ),
    Status.TARGET_NOT_FINITE: (
        DataError, "the target of sample {sample} is not finite or out of range; expected finite numbers, "
        "for a binary loss in 0 .. 1. Repair the data",
    ),
    Status.STATE_NOT_FINITE: (
        NumericError, "{block} computed NaN for sample {sample}; expected finite numbers. Lower the learning rate, "
        "clip gradients, or go back to the last checkpoint",
    ),
    Status.STATE_OVERFLOW: (
        NumericError, "{block} took the state out of its range for sample {sample} (+-2048 for int32, +-32 for int16). "
        "Standardise the input, lower the learning rate, add a norm layer, or use state int32",
    ),
    Status.LOSS_NOT_FINITE: (
        NumericError, "the loss of sample {sample} is not finite. Lower the learning rate, or clip gradients",
    ),
    Status.OUTPUT_NOT_FINITE: (
        NumericError, "the head's output for sample {sample} is not finite. Load an earlier checkpoint, and lower the "
        "learning rate",
    ),
    Status.SUMS_FULL: (
        NumericError, "the int32 sums of {block} have no room for sample {sample} and those after it: they hold at "
        "most 133144 samples. Sum up in int64 or float64, or forget and start anew",
    ),
    Status.GRADIENT_NOT_FINITE: (
        NumericError, "the gradient of {block} is not finite. Lower the learning rate, clip gradients, or go back to "
        "the last checkpoint",
    ),
    Status.NOT_POSITIVE_DEFINITE: (
        NumericError, "the sums of the ridge head are not positive definite. Raise `ridge`, or add samples first",
    ),
    Status.UNKNOWN_OP: (
        EdgerevError, "the compiled kernels do not know an instruction of this program; install one version of edgerev",
    ),
}


def _allocate(size: int) -> mmap.mmap:
    """Return zeroed memory of this process alone: a forked child gets a copy when it writes."""
    found = read_memory()
    if found is not None and size > found.available_bytes:
        raise BudgetError(
            f"the arena needs {size:,d} bytes, but only {found.available_bytes:,d} are available; set a budget below "
            "that, take a smaller net or batch, or stop other programs"
        )
    try:
        return mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise BudgetError(
            f"the arena needs {size:,d} bytes, which this machine does not give ({error}); set a budget, or take a "
            "smaller net or batch"
        ) from error


def _bind(function: Callable, rows: int, tensors: int, base: int, threads: int, status: int, barrier: int) -> Call:
    """Return the compiled function with the arena's addresses filled in; it holds no reference to the runtime."""

    def call(first: int, last: int, n: int, thread: int) -> int:
        return function(rows, tensors, base, first, last, n, thread, threads, status, barrier)

    return call


class Runtime:
    """The arena with a program in it. For one caller at a time: the arena is its only memory.

    Parameters
    ----------
    threads : threads that run each instruction together, at most those that the program was lowered for
    kernels : those to run; the best for this machine if left out

    Attributes
    ----------
    first_sample : the caller's number of the first sample in the input, for messages

    Raises
    ------
    UsageError
        The number of threads is out of range.
    KernelError
        There are no kernels for this machine.
    """

    def __init__(self, program: Program, plan: Plan, threads: int = 1, kernels: Kernels | None = None) -> None:
        whole("threads", threads, 1, program.threads)
        self.program, self.plan, self.threads = program, plan, threads
        self.first_sample = 0
        self._memory = _allocate(plan.arena_bytes)
        self.arena = memoryview(self._memory)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        mark_arena(self._memory, self._base)
        self._load_tables()
        self._populate()
        self.status = self.view("status")
        self._prepare_barrier()
        self._call = _bind(
            (kernels or library.load()).run, self._base + plan.rows, self._base + plan.tensor_table, self._base,
            threads, self._address("status"), self._address("barrier"),
        )
        self._team = self._make_team() if threads > 1 else None

    def _make_team(self) -> Team:
        from weakref import finalize  # with queue, which a team needs, it takes 0.15 MB of memory

        from edgerev.team import Team

        team = Team(self._call, self.threads)
        finalize(self, team.close)
        return team

    # -- memory -----------------------------------------------------------------------------------------------

    def view(self, name: str | int) -> Any:
        """Return a tensor's memory in the arena by name or number: a flat memoryview of its type, to read and write."""
        number = self.program.find(name) if isinstance(name, str) else name
        tensor = self.program.decode_tensor(number)
        start = self.plan.offsets[number]
        return self.arena[start : start + tensor.nbytes].cast(_CODES[tensor.dtype])

    def region(self, region: Region) -> memoryview:
        """Return the bytes of a region."""
        start, size = self.plan.regions[region]
        return self.arena[start : start + size]

    def _address(self, name: str) -> int:
        return self._base + self.plan.offsets[self.program.find(name)]

    def _load_tables(self) -> None:
        """Copy the program into the arena, with the planned offsets in the tensor table."""
        table = array("q", self.program.tensor_rows)
        table[layout.T_OFFSET :: layout.TENSOR_ROW] = self.plan.offsets
        rows = memoryview(self.program.rows).cast("B")
        place = slice(self.plan.rows, self.plan.rows + len(rows))
        self.arena[place] = rows
        tensors = memoryview(table).cast("B")
        self.arena[self.plan.tensor_table : self.plan.tensor_table + len(tensors)] = tensors
        # one copy is enough: a deep net's table would count twice
        self.program.rows = self.arena[place].cast("i")

    def _populate(self) -> None:
        """Write to every page behind the tables, so that no step waits for one, or ends where there is none.

        Only now, when the lowering's tables are gone, so that both need not fit.
        """
        release_freed()
        start = self.plan.regions[Region.PROGRAM][1]
        for place in range(start, len(self.arena), mmap.PAGESIZE):
            self.arena[place] = 0
        self.arena[-1] = 0

    def _prepare_barrier(self) -> None:
        barrier = self.view("barrier")
        barrier[layout.BARRIER_SPINS] = SPINS
        address = ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
        slot = memoryview(array("q", [address])).cast("B").cast("i")
        barrier[layout.BARRIER_YIELD], barrier[layout.BARRIER_YIELD + 1] = slot[0], slot[1]

    # -- running ----------------------------------------------------------------------------------------------

    def run(self, section: str, n: int, until: str = "") -> None:
        """Run a section for `n` samples, or all from it to the end of the section `until`.

        Raises
        ------
        UsageError
            The section takes fewer samples, or none.
        DataError, NumericError
            An instruction met bad input or left its range; the message names the block.
        KeyboardInterrupt
            Its cause is what went wrong besides, or None.
        """
        sections, most_samples = self.program.sections, self.program.most_samples
        until = until or section
        most = min(most_samples[section], most_samples[until])
        if type(n) is not int or not 1 <= n <= most:
            n = whole(f"samples for {section}", n, 1, most)
        first, last = sections[section][0], sections[until][1]
        try:
            failed = self.run_rows(first, last, n)
        except KeyboardInterrupt as interrupt:  # it came while the kernels ran, and they ran to their end
            raise interrupt from self._failure()
        if failed:
            failure = self._failure()
            assert failure is not None
            raise failure

    def run_rows(self, first: int, last: int, n: int) -> int:
        """Run rows ``first .. last - 1`` with all threads; return the failing thread + 1, or 0. For measuring."""
        if self._team is None:
            return self._call(first, last, n, 0)
        return self._team.run(first, last, n)

    def run_share(self, first: int, last: int, n: int, thread: int) -> int:
        """Run what one of the threads has to do of rows, as if the others were at every barrier. For measuring."""
        barrier, line = self.view("barrier"), layout.BARRIER_LINE
        for other in range(self.threads):
            barrier[other * line] = 0 if other == thread else 1 << 30
        try:
            return self._call(first, last, n, thread)
        finally:
            for other in range(self.threads):
                barrier[other * line] = 0

    def _failure(self) -> EdgerevError | None:
        """Return what went wrong first in the program's order, and clear the status."""
        lines = (self.status[start : start + 3].tolist() for start in range(0, len(self.status), layout.STATUS_LINE))
        found = [line for line in lines if line[layout.S_CODE]]
        if not found:
            return None
        code, row, sample = min(found, key=lambda line: (line[layout.S_ROW], line[layout.S_SAMPLE]))
        for index in range(len(self.status)):
            self.status[index] = 0
        kind, text = _MESSAGES[Status(code)]
        block = self.program.rows[row * layout.ROW + layout.BLOCK]
        name = self.program.blocks[block] if block >= 0 else "the program"
        message = text.format(block=name, sample=sample + self.first_sample)
        return NumericError(message, Status(code), row) if kind is NumericError else kind(message)

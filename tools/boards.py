"""Machines made of data sheets: an estimate for a board that is not at hand, by the same model as a measured one.

What data sheets do not tell is assumed alike for all processors (the constants below). The road was tried on the one
processor that was at hand (`ZEN4`); docs/plan.md tells how far off it was. It has not been tried on any board.
"""

from __future__ import annotations

from typing import NamedTuple

from edgerev.errors import UsageError
from edgerev.kernels import targets
from edgerev.tools.time_model import ANY, FEATURES, Machine

PRODUCT_SHARE = 0.7  # of the peak that product-sums reach
ELEMENT_CYCLES = 10.0  # for each of samples' elements that a row reads or writes, by the FLOP of a cycle
PARAMETER_CYCLES = 4.0  # for each parameter, by the FLOP of a cycle
NARROW_CYCLES = 1.0  # for each element in lines that do not fill vectors
ROW_CYCLES, SWITCH_CYCLES = 100, 70  # of a row that does nothing, and between rows
RUN_CYCLES, TEAM_CYCLES, BARRIER_CYCLES = 5_000, 80_000, 400  # of a call, of one that wakes a team, of a barrier
TEAM_SHARE = 1.15  # of an equal part of the work, for the slowest of a team
CACHE_BYTES = 16  # that a cycle copies within the caches
MEMORY_SHARE = 0.45  # of the memory's bandwidth that a copy reaches
SPREAD = 2.5  # factor within which the truth should lie, both ways
PROCESS_BYTES = 14_000_000  # of Python, a wheel's kernels and a learner, without NumPy (README.md), on x86-64


class Board(NamedTuple):
    """Figures of a data sheet, for one core where not told otherwise.

    Attributes
    ----------
    target : name of the kernels' target
    clock : cycles in a second, at most
    flops : of float32 in a cycle, a fused multiply-add being two
    cores : how many of them
    caches : bytes of the first, second and third level that one core has for itself or shares
    memory : bytes in a second between memory and all cores
    source : where the figures are from
    """

    target: str
    name: str
    clock: float
    flops: int
    cores: int
    caches: tuple[int, ...]
    memory: float
    source: str


KIB, MIB = 1 << 10, 1 << 20
_A53 = "FMLA: one vector of 4 in a cycle (Arm Cortex-A53)"
_A57 = "FMLA: one vector of 4 in a cycle (Arm Cortex-A57 Software Optimization Guide, UAN 0015)"
_A72 = "FMLA: one vector of 4 in a cycle (Arm Cortex-A72 Software Optimization Guide, UAN 0016)"
_A76 = "FMLA: two vectors of 4 in a cycle (Arm Cortex-A76 Software Optimization Guide)"
_A78 = "FMLA: two vectors of 4 in a cycle (Arm Cortex-A78 Software Optimization Guide)"
BOARDS = {
    board.target: board
    for board in (
        Board("rpi-zero2w", "Raspberry Pi Zero 2 W (BCM2710A1, Cortex-A53)", 1.0e9, 8, 4, (32 * KIB, 512 * KIB), 3.6e9,
              f"Raspberry Pi Zero 2 W product brief: 1 GHz, LPDDR2 (32 bits at 900 MT/s); {_A53}"),
        Board("rpi4", "Raspberry Pi 4 (BCM2711, Cortex-A72)", 1.5e9, 8, 4, (32 * KIB, MIB), 12.8e9,
              f"Raspberry Pi 4 product brief: 1.5 GHz, LPDDR4-3200 (32 bits); BCM2711: 1 MiB of second level; {_A72}"),
        Board("rpi5", "Raspberry Pi 5 (BCM2712, Cortex-A76)", 2.4e9, 16, 4, (64 * KIB, 512 * KIB, 2 * MIB), 17.1e9,
              f"Raspberry Pi 5 product brief: 2.4 GHz, 512 KiB a core and 2 MiB, LPDDR4X-4267 (32 bits); {_A76}"),
        Board("jetson-nano", "Jetson Nano (Tegra X1, Cortex-A57)", 1.43e9, 8, 4, (32 * KIB, 2 * MIB), 25.6e9,
              f"NVIDIA Jetson Nano data sheet DA-09366-001: 1.43 GHz, 2 MiB, 25.6 GB/s; {_A57}"),
        Board("jetson-orin", "Jetson Orin Nano 8GB (Cortex-A78AE)", 1.5e9, 16, 6, (64 * KIB, 256 * KIB, 2 * MIB), 68e9,
              f"NVIDIA Jetson Orin Nano data sheet: 1.5 GHz, 256 KiB for each core, 2 MiB, 68 GB/s; {_A78}"),
    )
}  # fmt: skip
ZEN4 = Board(
    "x86-64-v4", "AMD EPYC 9004 (Zen 4)", 3.7e9, 32, 2, (32 * KIB, MIB, 32 * MIB), 460.8e9,
    "AMD EPYC 9004 data sheet: up to 3.7 GHz, twelve channels of DDR5-4800; two vectors of 8 in a cycle",
)  # fmt: skip


def board_machine(board: Board) -> Machine:
    """Return the machine that a data sheet describes."""
    cycle = 1 / board.clock
    element, parameter = ELEMENT_CYCLES / board.flops * cycle, PARAMETER_CYCLES / board.flops * cycle
    prices = dict.fromkeys(FEATURES, 0.0) | {
        "rows": ROW_CYCLES * cycle, "flops": cycle / (board.flops * PRODUCT_SHARE),
        "read": element, "written": element, "parameters": parameter, "narrow": NARROW_CYCLES * cycle,
    }  # fmt: skip
    teams = range(1, board.cores + 1)
    copying = board.clock * CACHE_BYTES
    memory = min(board.memory * MEMORY_SHARE, copying)
    return Machine(
        board.name, False, {str(team): {ANY: _shared(prices, team)} for team in teams},
        {str(team): (SWITCH_CYCLES + BARRIER_CYCLES * (team > 1)) * cycle for team in teams},
        {str(team): 0.0 for team in teams},
        {str(team): (TEAM_CYCLES if team > 1 else RUN_CYCLES) * cycle for team in teams},
        [[float(board.caches[-1]), copying], [4.0 * board.caches[-1], memory]], PROCESS_BYTES, board.source,
    )  # fmt: skip


def _shared(prices: dict[str, float], team: int) -> list[float]:
    """Return the prices for the slowest of a team: each has a part of the work, and all of a row's constant."""
    part = TEAM_SHARE / team if team > 1 else 1.0
    return [value * (1.0 if name == "rows" else part) for name, value in prices.items()]


def known_board(name: str) -> Board:
    """Return the board that a target is for.

    Raises
    ------
    UsageError
        There is no such target, or it is not one board's.
    """
    target = targets.named(name)
    if target.name not in BOARDS:
        raise UsageError(
            f"target {name!r} is not one board; expected one of {', '.join(BOARDS)}, or calibrate the machine itself: "
            "`edgerev plan --calibrate -o machine.json` there, then --machine machine.json"
        )
    return BOARDS[target.name]

"""Checks of the machine: processor, memory, frequency, heat, power. They read ``/proc`` and ``/sys``.

Every path is below `root`, and what else they ask is an argument, so that the tests bring a machine of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from edgerev.kernels.targets import (
    AARCH64,
    ARM_ARCHITECTURES,
    ARMV7_VFP,
    X86_64_V2,
    X86_64_V3,
    decode_features,
)
from edgerev.machine import (
    cgroup_folders,
    parse_cores,
    read_fields,
    read_memory,
    read_number,
    read_text,
)
from edgerev.units import format_bytes

LOW_MEMORY_BYTES = 64 << 20
NEAR_TRIP_CELSIUS = 5.0
SLOW_SHARE = 0.9  # of the highest frequency; below it a core is called slow
DYNAMIC_DRIVERS = ("intel_pstate", "amd-pstate-epp")  # here "powersave" means: as fast as needed
LEAST = {target.architecture: target for target in (X86_64_V2, AARCH64, ARMV7_VFP)}  # that there are kernels for
THROTTLED_NOW = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


class Level(str, Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes
    ----------
    name : str
        What was looked at.
    status : Level
        How bad it is.
    message : str
        What was found.
    hint : str
        What to do about it; empty if there is nothing to do.
    figures : dict
        The numbers behind the message, each with its unit in the name.
    """

    name: str
    status: Level
    message: str
    hint: str = ""
    figures: dict[str, object] = field(default_factory=dict)


def cpu_check(root: Path, machine: str, ask_hwcap: Callable[[], int]) -> Check:
    """Name the processor and check its vector instructions.

    Parameters
    ----------
    root : Path
        Where ``proc`` lies.
    machine : str
        Architecture, as `kernels.targets.architecture` says.
    ask_hwcap : callable
        Returns the bits of AT_HWCAP. They count on ARM: under an emulator ``/proc/cpuinfo`` is the host's.
    """
    fields = read_fields(root / "proc/cpuinfo")
    board = read_text(root / "proc/device-tree/model")
    model = fields.get("model name") or board or fields.get("Hardware") or "unknown processor"
    by_bits = machine in ARM_ARCHITECTURES
    flags = decode_features(machine, ask_hwcap()) if by_bits else set(fields.get("flags", "").split())
    features = [flag for flag in ("fma", "avx2", "avx512f", "asimd", "neon", "vfpv4") if flag in flags]
    figures: dict[str, object] = {"model": model, "machine": machine, "features": features}
    message = ", ".join([f"{model} ({machine})", *features])
    least = LEAST.get(machine)
    if least and not flags and not by_bits:
        return Check("cpu", Level.WARNING, f"{message}, features unknown", "is /proc mounted?", figures)
    if least is None or not flags.issuperset(least.requires):
        lacks = f"; it lacks {', '.join(sorted({*least.requires} - flags))}" if least else ""
        hint = "there are no kernels for it; `edgerev build --list` names processors that have some"
        return Check("cpu", Level.ERROR, f"{message}{lacks}", hint, figures)
    if least is X86_64_V2 and not flags.issuperset(X86_64_V3.requires):
        hint = "training is 10 to 21 times slower than with AVX2 and fused multiply-add, which need a newer processor"
        return Check("cpu", Level.WARNING, f"{message}: kernels of {least.name}", hint, figures)
    return Check("cpu", Level.OK, message, figures=figures)


def cores_check(root: Path) -> Check:
    """Count the cores that exist, those this process may use, and the share of time it is given on them.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` lie.
    """
    online = parse_cores(read_text(root / "sys/devices/system/cpu/online") or "0")
    allowed = parse_cores(read_fields(root / "proc/self/status").get("Cpus_allowed_list", f"0-{online - 1}"))
    usable = min(online, allowed)
    quota = float(usable)
    for folder in cgroup_folders(root):
        limit, _, period = (read_text(os.path.join(folder, "cpu.max")) or "max").partition(" ")
        if limit.isdigit() and period.isdigit():
            quota = min(quota, int(limit) / int(period))
    figures: dict[str, object] = {"online_cores": online, "usable_cores": usable, "quota_cores": quota}
    message = f"{online} core{'s' * (online != 1)}, {usable} usable"
    if quota < usable:
        hint = f"use threads={max(1, int(quota))}: more threads than the quota wait for one another"
        return Check("cores", Level.WARNING, f"{message}, time for {quota:g} (control group)", hint, figures)
    return Check("cores", Level.OK, message, figures=figures)


def memory_check(root: Path) -> Check:
    """Check the memory that is left, here and in the control group.

    Parameters
    ----------
    root : Path
        Where ``proc`` and ``sys`` lie.
    """
    found = read_memory(root)
    if found is None:
        return Check("memory", Level.WARNING, "memory unknown", "is /proc mounted?")
    total, available, limit = found
    figures: dict[str, object] = {"total_bytes": total, "available_bytes": available, "limit_bytes": limit}
    message = f"{format_bytes(total)}, {format_bytes(available)} available"
    if limit is not None:
        message += f", limited to {format_bytes(limit)} by the control group"
    if available < LOW_MEMORY_BYTES:
        hint = "stop other programs, raise the limit, or train with a budget below what is available"
        return Check("memory", Level.WARNING, message, hint, figures)
    return Check("memory", Level.OK, message, figures=figures)


def swap_check(root: Path) -> Check:
    """Warn about swap in use: training on it is slow, and on flash it wears the device.

    Parameters
    ----------
    root : Path
        Where ``proc`` lies.
    """
    rows = [line.split() for line in (read_text(root / "proc/swaps") or "").splitlines()[1:]]
    rows = [row for row in rows if len(row) >= 4]
    total, used = (sum(int(row[column]) << 10 for row in rows) for column in (2, 3))
    figures: dict[str, object] = {"total_bytes": total, "used_bytes": used}
    if not used:
        return Check("swap", Level.OK, f"{format_bytes(total)}, none used" if rows else "none", figures=figures)
    on_disk = any(int(row[3]) and "/zram" not in row[0] for row in rows)
    wear = "training on swap wears flash and is slow" if on_disk else "compressed memory makes training slow"
    message = f"{format_bytes(used)} of {format_bytes(total)} used"
    hint = f"{wear}: stop other programs, or give training a smaller budget"
    return Check("swap", Level.WARNING, message, hint, figures)


def frequency_check(root: Path) -> Check:
    """Check that the cores may run, and do run, as fast as they can.

    Parameters
    ----------
    root : Path
        Where ``sys`` lies.
    """
    cores: list[tuple[int, int, int, Path]] = []
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"):
        now, cap, top = (
            1000 * (read_number(folder / name) or 0)
            for name in ("scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")
        )
        if now and cap and top:
            cores.append((now, cap, top, folder))
    if not cores:
        return Check("frequency", Level.OK, "not controlled by this system")
    now, cap, top, folder = min(cores, key=lambda core: core[0] / core[2])
    governor, driver = (read_text(folder / f"scaling_{name}") or "unknown" for name in ("governor", "driver"))
    figures: dict[str, object] = {"governor": governor, "current_hz": now, "allowed_hz": cap, "highest_hz": top}
    message = f"governor {governor}, slowest core at {now / 1e9:.2f} of {top / 1e9:.2f} GHz"
    if cap < SLOW_SHARE * top:
        hint = "the highest frequency is capped: raise scaling_max_freq, or check power supply and cooling"
        return Check("frequency", Level.WARNING, f"{message}, capped at {cap / 1e9:.2f} GHz", hint, figures)
    if governor == "powersave" and driver not in DYNAMIC_DRIVERS:
        hint = "the lowest frequency is used: write `schedutil` or `performance` to scaling_governor of each core"
        return Check("frequency", Level.WARNING, message, hint, figures)
    if governor == "performance" and now < SLOW_SHARE * top:
        hint = "slower than asked for: the processor is being throttled; check power supply and cooling"
        return Check("frequency", Level.WARNING, message, hint, figures)
    return Check("frequency", Level.OK, message, figures=figures)


def thermal_check(root: Path) -> Check:
    """Compare the temperature of each thermal zone with the points at which the system reacts.

    Parameters
    ----------
    root : Path
        Where ``sys`` lies.
    """
    zones: dict[str, float] = {}
    worst, found = Level.OK, []
    for folder in sorted((root / "sys/class/thermal").glob("thermal_zone[0-9]*")):
        temperature = read_number(folder / "temp")
        if temperature is None:
            continue
        name = read_text(folder / "type") or folder.name
        zones[name] = max(temperature / 1000, zones.get(name, -273.0))
        for point in sorted(folder.glob("trip_point_[0-9]*_temp")):
            kind, limit = read_text(Path(str(point)[:-4] + "type")), read_number(point)
            # Active points start a fan, which is no harm; zero or less stands for a point that is not set.
            near = limit is not None and limit > 0 and temperature >= limit - 1000 * NEAR_TRIP_CELSIUS
            if near and kind in ("passive", "hot", "critical"):
                worst = Level.ERROR if kind == "critical" else max(worst, Level.WARNING, key=list(Level).index)
                found.append(f"{name} is within {NEAR_TRIP_CELSIUS:g} C of its {kind} point")
    if not zones:
        return Check("temperature", Level.OK, "no sensors")
    figures: dict[str, object] = {"zones_celsius": zones}
    message = "; ".join([f"{max(zones.values()):.0f} C at most", *found])
    hint = "cool the device, or let it rest: it slows down at the passive point and stops at the critical one"
    return Check("temperature", worst, message, hint if found else "", figures)


def ask_vcgencmd() -> str | None:
    """Return what the firmware tool of a Raspberry Pi says about throttling, or None without it."""
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def throttling_check(root: Path, ask: Callable[[], str | None]) -> Check:
    """Check what a Raspberry Pi's firmware says about voltage and throttling.

    Parameters
    ----------
    root : Path
        Where ``sys`` lies.
    ask : callable
        Returns the answer of ``vcgencmd get_throttled``, or None.
    """
    text = read_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled") or ask()
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", text or "")
    if not match:
        return Check("throttling", Level.OK, "no firmware that reports it")
    bits = int(match[1], 16)
    now = [name for bit, name in THROTTLED_NOW.items() if bits >> bit & 1]
    before = [f"{name} since boot" for bit, name in THROTTLED_NOW.items() if bits >> (bit + 16) & 1 and name not in now]
    figures: dict[str, object] = {"throttled_bits": bits}
    if not now and not before:
        return Check("throttling", Level.OK, "none since boot", figures=figures)
    hint = "use a stronger power supply and cable, and cool the board"
    return Check("throttling", Level.WARNING, ", ".join(now + before), hint, figures)

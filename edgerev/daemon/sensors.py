"""What the device says of itself below ``/sys`` and ``/proc``: heat, charge, memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from edgerev.machine import read_fields, read_number, read_text


class Battery(NamedTuple):
    """Charge of the fullest battery, and whether any is being charged."""

    percent: int
    charging: bool


def celsius(root: str = "/") -> float | None:
    """Return the highest temperature of all thermal zones below `root`, None without any that can be read."""
    found = [read_number(f"{zone}/temp") for zone in _folders(root, "sys/class/thermal", "thermal_zone")]
    return max((value / 1000 for value in found if value is not None), default=None)


def battery(root: str = "/") -> Battery | None:
    """Return the charge of the batteries below `root` that feed the machine, None without any."""
    found = []
    for folder in _folders(root, "sys/class/power_supply"):
        own = read_text(f"{folder}/type") == "Battery" and read_text(f"{folder}/scope") != "Device"  # not a mouse's
        percent = read_number(f"{folder}/capacity") if own else None
        if percent is not None:
            found.append(Battery(percent, read_text(f"{folder}/status") in ("Charging", "Full")))
    if not found:
        return None
    return Battery(max(one.percent for one in found), any(one.charging for one in found))


class Resident(NamedTuple):
    """Resident bytes of this process, now and at their highest."""

    rss_bytes: int
    peak_rss_bytes: int


def resident(root: str = "/") -> Resident:
    """Return the resident memory of this process."""
    fields = read_fields(os.path.join(root, "proc/self/status"))
    rss, peak = (int(fields.get(name, "0").split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return Resident(rss, peak)


def _folders(root: str, kind: str, prefix: str = "") -> Iterator[str]:
    folder = os.path.join(root, kind)
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if name.startswith(prefix):
            yield os.path.join(folder, name)

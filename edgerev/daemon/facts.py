"""What the page and the metrics show of the process and its machine, beside the service's own status."""

from __future__ import annotations

import os
import time
from typing import Any

from edgerev import __version__
from edgerev.daemon.service import Service
from edgerev.machine import read_fields, read_number

ZONES = "/sys/class/thermal"
_STARTED = time.monotonic()


def describe(service: Service) -> dict[str, Any]:
    """Return the service's status with the facts of its process and machine; None for what cannot be read here."""
    settings = service.settings
    process, written = read_fields("/proc/self/status"), read_fields("/proc/self/io").get("write_bytes")
    return service.status() | {
        "uptime_seconds": round(time.monotonic() - _STARTED, 1),
        "rss_bytes": _kibibytes(process.get("VmRSS")), "peak_rss_bytes": _kibibytes(process.get("VmHWM")),
        "written_bytes": int(written) if written else None, "celsius": hottest(ZONES),
        "memory_limit": settings.limits.memory or None,
        "regions": {region.value: size for region, (_, size) in service.learner.plan.regions.items() if size},
        "events": service.events.counts.copy(), "samples_per_second": round(service.rate.per_second, 1),
        "model": os.path.basename(settings.model), "version": __version__, "controls": [*service.controls],
        "latest": service.history.latest(), "answers": list(service.answers),
    }  # fmt: skip


def hottest(folder: str) -> float | None:
    """Return the temperature of the hottest zone in degrees Celsius, or None where there is no sensor.

    Parameters
    ----------
    folder : with a folder for each zone
    """
    try:
        zones = [name for name in os.listdir(folder) if name.startswith("thermal_zone")]
    except OSError:
        return None
    found = [read_number(f"{folder}/{zone}/temp") for zone in zones]
    return max((millis / 1000 for millis in found if millis is not None), default=None)


def _kibibytes(text: str | None) -> int | None:
    return int(text.split()[0]) * 1024 if text else None

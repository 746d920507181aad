"""What the page and the metrics show of the process and its machine, beside the service's own status."""

from __future__ import annotations

import os
import time
from typing import Any

from edgerev import __version__
from edgerev.daemon.sensors import celsius, resident
from edgerev.daemon.service import Service

_STARTED = time.monotonic()


def describe(service: Service) -> dict[str, Any]:
    """Return the service's status with the facts of its process and machine; None for what cannot be read here."""
    settings = service.settings
    return service.status() | resident()._asdict() | {
        "uptime_seconds": round(time.monotonic() - _STARTED, 1),
        "celsius": celsius(),
        "memory_limit": settings.limits.memory or None,
        "regions": {region.value: size for region, (_, size) in service.learner.plan.regions.items() if size},
        "events": service.events.counts.copy(), "samples_per_second": round(service.rate.per_second, 1),
        "model": os.path.basename(settings.model), "version": __version__, "controls": [*service.controls],
        "latest": service.history.latest(), "last_window": service.history.last_window(),
        "answers": list(service.answers),
    }  # fmt: skip

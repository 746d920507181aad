"""Telling systemd how the daemon is; see sd_notify(3). Without systemd nothing is told to nobody."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send lines such as ``READY=1`` to the socket that ``NOTIFY_SOCKET`` names, if any; what fails is not told.

    Parameters
    ----------
    lines : each a name and its value
    environ : where the name of the socket is
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract one, which is no file
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        door.setblocking(False)
        door.sendto("\n".join(lines).encode(), address)


def reloading() -> None:
    """Say that the configuration is being read again; ``READY=1`` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """Return how often systemd wants to hear of this process, at the least; 0 is never."""
    others = environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid())
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdigit() and not others else 0.0

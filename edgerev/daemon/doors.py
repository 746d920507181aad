"""The ways in besides HTTP; only those that are asked for are imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgerev.errors import UsageError

if TYPE_CHECKING:
    from edgerev.daemon.service import Service
    from edgerev.daemon.settings import ServeSettings


class Door(Protocol):
    """A way in, with threads of its own."""

    def start(self) -> None:
        """Begin to take things in."""

    def stop(self) -> None:
        """Take nothing in any more; what was acknowledged is in the store."""


def make_doors(
    settings: ServeSettings, service: Service, end: Callable[[], None], *, stdin: bool = False, stay: bool = False
) -> list[Door]:
    """Return the doors of a configuration.

    Parameters
    ----------
    end : ends the daemon
    stdin : whether standard input is one
    stay : whether the daemon goes on after the end of that

    Raises
    ------
    UsageError
        A package is not installed, or a door cannot be opened as it is configured.
    """
    doors: list[Door] = []
    if settings.mqtt:
        try:
            from edgerev.daemon.mqtt import Mqtt
        except ImportError as error:
            raise UsageError(f"MQTT needs paho-mqtt ({error}); install it: pip install 'edgerev[mqtt]'") from error
        doors.append(Mqtt(service, settings.mqtt))
    if settings.folder:
        from edgerev.daemon.folder import Folder

        doors.append(Folder(service, settings.folder))
    if stdin:
        from edgerev.daemon.stdin import StandardInput

        doors.append(StandardInput(service, None if stay else end))
    return doors

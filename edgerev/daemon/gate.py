"""Whether training may run now."""

from __future__ import annotations

from edgerev.daemon.settings import ServeSettings


class Gate:
    """Says why training has to wait, if it has to.

    Attributes
    ----------
    paused : whether somebody asked training to wait
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.paused = False

    def reason(self) -> str:
        """Return why training waits now; "" if it may run."""
        return "paused" if self.paused else ""

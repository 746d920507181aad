"""Whether training may run now, and how long it rests between two steps."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from edgerev.daemon import sensors
from edgerev.daemon.settings import ServeSettings

LOOK_SECONDS = 1.0  # between two looks at clock and sensors
COOLER_CELSIUS = 3.0  # training goes on so far below the limit
CHARGED_PERCENT = 2.0  # training goes on so far above the limit
BURST_SECONDS = 1.0  # whose share of the processor may be saved up
_TOLD = ("hours", "temperature", "battery")  # the others change too often to be events


class Gate:
    """Says why training has to wait, if it has to.

    Parameters
    ----------
    settings : the daemon's; may be replaced at any time
    batch : samples that a step takes
    labelled : returns whether at least so many labelled samples wait
    tell : takes a kind of event, a level, and facts by name; see `Events.tell`
    root : folder in which ``sys`` lies
    clock : returns seconds that no setting of the time changes
    local : returns the local time

    Attributes
    ----------
    paused : whether somebody asked training to wait
    waits_for : what `reason` returned the last time
    """

    def __init__(
        self, settings: ServeSettings, batch: int, labelled: Callable[[int], bool], tell: Callable[..., None], *,
        root: str = "/", clock: Callable[[], float] = time.monotonic,
        local: Callable[[], time.struct_time] = time.localtime,
    ) -> None:
        self.settings, self.paused, self.waits_for = settings, False, ""
        self._batch, self._labelled, self._tell = batch, labelled, tell
        self._root, self._clock, self._local = root, clock, local
        self._looked = self._predicted = -math.inf
        self._around, self._told, self._begun = "", "", False
        self._credit, self._counted = 0.0, clock()

    def predicted(self) -> None:
        """Note that somebody asked for a prediction."""
        self._predicted = self._clock()

    def worked(self, seconds: float) -> None:
        """Note that training took so many seconds of one core."""
        self._credit -= seconds

    def rest(self) -> float:
        """Return after how many seconds the share of the processor allows the next step; 0 is now."""
        share, now = self.settings.limits.cpu_share, self._clock()
        self._credit = min(share * BURST_SECONDS, self._credit + share * (now - self._counted))
        self._counted = now
        return max(0.0, -self._credit / share) if share else 0.0

    def reason(self) -> str:
        """Return why training waits now; "" if it may run."""
        if self._clock() - self._looked >= LOOK_SECONDS:
            self._looked = self._clock()
            self._around = self._hours() or self._temperature() or self._battery()
            self._tell_change()
        self.waits_for = "paused" if self.paused else self._around or self._idle() or self._samples()
        return self.waits_for

    def _tell_change(self) -> None:
        kind = self._around.partition(":")[0]
        if kind != self._told:
            if kind:
                self._tell("waiting", logging.INFO, message=f"training waits, {self._around}", reason=kind)
            else:
                self._tell("going on", logging.INFO, message="training may go on", reason=self._told)
            self._told = kind

    def _hours(self) -> str:
        window = self.settings.training.hours
        if not window:
            return ""
        now = self._local()
        time_of_day, (start, end) = f"{now.tm_hour:02}:{now.tm_min:02}", window.split("-")
        inside = start <= time_of_day < end if start < end else time_of_day >= start or time_of_day < end
        return "" if inside else f"hours: it is {time_of_day}, outside of {window}"

    def _temperature(self) -> str:
        limit = self.settings.limits.celsius
        found = sensors.celsius(self._root) if limit else None
        allowed = limit - COOLER_CELSIUS if self._told == "temperature" else limit
        if found is None or found <= allowed:
            return ""
        return f"temperature: {found:.1f} C, above {allowed:g} C"

    def _battery(self) -> str:
        limit = self.settings.limits.battery_percent
        found = sensors.battery(self._root) if limit else None
        allowed = min(100.0, limit + CHARGED_PERCENT) if self._told == "battery" else limit
        if found is None or found.charging or found.percent >= allowed:
            return ""
        return f"battery: {found.percent} %, below {allowed:g} %"

    def _idle(self) -> str:
        wanted, past = self.settings.training.idle_seconds, self._clock() - self._predicted
        return "" if past >= wanted else f"idle: a prediction {past:.1f} s ago, not {wanted:g} s yet"

    def _samples(self) -> str:
        """Let training begin when enough samples wait, and then go on until no whole batch does."""
        wanted = self.settings.training.every_samples
        if wanted <= self._batch:
            return ""
        self._begun = self._labelled(self._batch if self._begun else wanted)
        return "" if self._begun else f"samples: fewer than {wanted} labelled ones wait"

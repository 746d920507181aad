"""The daemon as a process: signals, the watchdog, and the order in which it starts and stops."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import time
from collections import deque
from typing import Any

from edgerev.daemon.doors import make_doors
from edgerev.daemon.memory import check_memory, one_heap
from edgerev.daemon.notify import notify, reloading, watchdog_seconds
from edgerev.daemon.service import Service
from edgerev.daemon.settings import ServeSettings, load_settings
from edgerev.errors import ConfigError
from edgerev.machine import release_freed

STATUS_SECONDS = 15.0
LONGEST_STEP_SECONDS = 120.0  # a step, or writing a generation, that takes longer hangs
_ENDS = (signal.SIGTERM, signal.SIGINT)
_OWN = 0  # no signal: the daemon ends by itself


class Heart:
    """Member of waitress's loop: answers signals in it, and tells systemd that loop, doors and training go on.

    Parameters
    ----------
    service : that trains
    config : the configuration's file, read again at SIGHUP
    """

    def __init__(self, service: Service, config: str) -> None:
        self._service, self._config = service, config
        self._waiting: deque[Any] = deque()  # requests that no thread took up yet
        self._first: Any = None  # the one that waited longest, since `_first_seen`
        self._first_seen = 0.0
        self._strike = watchdog_seconds()
        self._seconds = min(self._strike / 2 or STATUS_SECONDS, STATUS_SECONDS)
        self._told = 0.0
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)

    def join(self, loop: dict[int, Any], waiting: deque[Any]) -> None:
        """Take signals from here on, in a loop of waitress."""
        self._waiting = waiting
        loop[self._ear.fileno()] = self
        for number in (*_ENDS, signal.SIGHUP):
            signal.signal(number, _leave_to_the_loop)
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)

    def readable(self) -> bool:
        """Be asked in each round of the loop, at least once a second."""
        now, first = time.monotonic(), None
        with contextlib.suppress(IndexError):  # none waits, or a thread takes it up just now
            first = self._waiting[0]
        if first is not self._first or first is None:
            self._first, self._first_seen = first, now
        if now - self._told >= self._seconds:
            self._told = now
            problem = self._hangs(now)
            alive = [] if problem or not self._strike else ["WATCHDOG=1"]
            notify(f"STATUS={problem or self._service.summary()}", *alive)
        return True

    def _hangs(self, now: float) -> str:
        """Return what does not go on, or ""."""
        if self._service.training_seconds() > LONGEST_STEP_SECONDS:
            return f"training hangs, in a step for more than {LONGEST_STEP_SECONDS:g} s"
        hangs = self._strike and now - self._first_seen > self._strike
        return "requests hang: all threads are at others" if hangs else ""

    def handle_read_event(self) -> None:
        """Do what a signal asks for."""
        for number in self._ear.recv(16):
            if number == signal.SIGHUP:
                self._reload()
            elif number in (*_ENDS, _OWN):
                for end in _ENDS:  # a second one ends at once, which is as safe as a power cut
                    signal.signal(end, signal.SIG_DFL)
                who = signal.Signals(number).name if number != _OWN else "a door whose input has ended"
                notify("STOPPING=1", "STATUS=finishing the step, saving")
                self._service.events.tell("stopping", message=f"{who} asks for the end")
                self._service.events.close()  # doors that wait for events go
                raise SystemExit(0)

    def _reload(self) -> None:
        reloading()
        tell = self._service.events.tell
        try:
            left = self._service.configure(load_settings(self._config))
        except ConfigError as error:
            tell("not reloaded", logging.WARNING, message=f"the configuration stays as it was: {error}")
        else:
            after = f"; {', '.join(left)} from the next start on" if left else ""
            tell("reloaded", message=f"{self._config} was read again{after}", left=left)
        notify("READY=1")

    def end(self) -> None:
        """End the daemon as a signal does, from any thread; if it ends already, it goes on doing so."""
        with contextlib.suppress(OSError):
            self._mouth.send(bytes([_OWN]))

    def writable(self) -> bool:
        """Have nothing to write."""
        return False

    def handle_expt_event(self) -> None:
        """Have nothing urgent."""

    def handle_error(self) -> None:
        """Let the loop go on after what was not foreseen."""
        logging.getLogger("edgerev.daemon").exception("signal failed")

    def close(self) -> None:
        """Take no more signals."""
        signal.set_wakeup_fd(-1)
        self._ear.close()
        self._mouth.close()


def _leave_to_the_loop(number: int, frame: Any) -> None:
    """Do nothing: the number of the signal wakes the loop."""


def serve(config: str, settings: ServeSettings, *, stdin: bool = False, stay: bool = False) -> None:
    """Run a daemon until a signal ends it.

    Parameters
    ----------
    config : the file that holds the settings
    stdin, stay : see `edgerev.daemon.doors.make_doors`

    Raises
    ------
    EdgerevError
        It cannot start; nothing was changed, or it cannot save at its end.
    """
    from edgerev.daemon.server import Server

    one_heap()
    check_memory(settings)
    service = Service(settings)
    try:
        heart = Heart(service, config)
        doors = make_doors(settings, service, heart.end, stdin=stdin, stay=stay)
        server = Server(service, settings)
        heart.join(server.loop, server.waiting)
        service.start()
        release_freed()  # by planning
        where = settings.listen if server.port is None else f"{settings.host}:{server.port}"
        service.events.tell("serving", message=f"serving on {where}, {service.beginning()}", listen=where)
        notify("READY=1", f"STATUS={service.summary()}")
        try:
            for door in doors:
                door.start()
            server.run()  # until the heart raises SystemExit; requests at hand are finished
        finally:
            for door in doors:
                door.stop()
    finally:
        service.stop()
    service.events.tell("ended", message="the model is saved")

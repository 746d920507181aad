"""`edgerev serve`: keep a model fitted to the place where it runs."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING, Any, Protocol

from edgerev.errors import UsageError

if TYPE_CHECKING:
    from edgerev.daemon.service import Service
    from edgerev.daemon.settings import ServeSettings

HELP = "take samples and labels over HTTP, answer, and go on training"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file with a table [serve]")
    parser.add_argument("--stdin", action="store_true", help="read samples, a line of JSON each; end with the input")
    parser.add_argument("--stay", action="store_true", help="go on serving after the end of --stdin")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    try:
        from waitress.server import create_server
    except ImportError as error:
        raise UsageError(f"serving needs waitress ({error}); install it: pip install 'edgerev[serve]'") from error
    from edgerev.daemon.http import Application
    from edgerev.daemon.service import Service
    from edgerev.daemon.settings import load_settings

    settings = load_settings(args.config)
    service = Service(settings)
    kind, _, place = settings.listen.partition(":")
    where = {"unix_socket": place, "unix_socket_perms": "600"} if kind == "unix" else {"listen": settings.listen}
    server = create_server(Application(service), max_request_body_size=settings.request_bytes, ident="edgerev", **where)
    signal.signal(signal.SIGTERM, _end)
    doors = _open_doors(settings, service, args)
    service.start()
    print(f"edgerev: serving {settings.model} on {settings.listen}", file=sys.stderr, flush=True)
    try:
        for door in doors:
            door.start()
        server.run()
    finally:
        for door in doors:
            door.stop()
        service.stop()
    return 0


def _end(*_: Any) -> None:
    """End `server.run`, which lets requests at hand finish; a second signal does not break off what follows."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


class Door(Protocol):
    """A way in besides HTTP, in threads of its own."""

    def start(self) -> None:
        """Begin to take things in."""

    def stop(self) -> None:
        """Take nothing in any more; what was acknowledged is in the store."""


def _open_doors(settings: ServeSettings, service: Service, args: argparse.Namespace) -> list[Door]:
    """Return the doors that are asked for; only these are imported."""
    doors: list[Door] = []
    if args.stay and not args.stdin:
        raise UsageError("--stay says what follows the end of --stdin; expected both; add --stdin, or leave --stay out")
    if settings.mqtt:
        try:
            from edgerev.daemon.mqtt import Mqtt
        except ImportError as error:
            raise UsageError(f"MQTT needs paho-mqtt ({error}); install it: pip install 'edgerev[mqtt]'") from error
        doors.append(Mqtt(service, settings.mqtt))
    if settings.folder:
        from edgerev.daemon.folder import Folder

        doors.append(Folder(service, settings.folder))
    if args.stdin:
        from edgerev.daemon.stdin import StandardInput

        doors.append(StandardInput(service, args.stay))
    return doors

"""`edgerev serve`: keep a model fitted to the place where it runs."""

from __future__ import annotations

import argparse
import signal
import sys

from edgerev.errors import UsageError

HELP = "take samples and labels over HTTP, answer, and go on training"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file with a table [serve]")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    try:
        from edgerev.daemon.server import Server
    except ImportError as error:
        raise UsageError(f"serving needs waitress ({error}); install it: pip install 'edgerev[serve]'") from error
    from edgerev.daemon.service import Service
    from edgerev.daemon.settings import load_settings

    settings = load_settings(args.config)
    service = Service(settings)
    server = Server(service, settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # ends run(), which lets requests at hand finish
    where = settings.listen if server.port is None else f"{settings.host}:{server.port}"
    try:
        service.start()
        print(f"edgerev: serving {settings.model} on {where}", file=sys.stderr, flush=True)
        server.run()
    finally:
        service.stop()
    return 0

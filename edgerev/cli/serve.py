"""`edgerev serve`: keep a model fitted to the place where it runs."""

from __future__ import annotations

import argparse

from edgerev.errors import UsageError

HELP = "take samples and labels over HTTP, answer, and go on training"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file with a table [serve]")
    parser.add_argument("--stdin", action="store_true", help="read samples, a line of JSON each; end with the input")
    parser.add_argument("--stay", action="store_true", help="go on serving after the end of --stdin")
    parser.add_argument("--print-unit", action="store_true", help="print a systemd unit for it, and do nothing else")


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    from edgerev.daemon.settings import load_settings

    if args.stay and not args.stdin:
        raise UsageError("--stay says what follows the end of --stdin; expected both; add --stdin, or leave --stay out")
    settings = load_settings(args.config)
    if args.print_unit:
        from edgerev.deploy.systemd import daemon_unit

        print(daemon_unit(args.config, settings), end="")
        return 0
    try:
        import waitress.server  # noqa: F401  # asked before anything is begun
    except ImportError as error:
        raise UsageError(
            f"serving needs waitress ({error}); install it: pip install 'edgerev[serve]'; in a bundle, "
            'build that with --run "serve --config FILE", which brings it'
        ) from error
    from edgerev.daemon import log
    from edgerev.daemon.process import serve

    log.set_up()
    serve(args.config, settings, stdin=args.stdin, stay=args.stay)
    return 0

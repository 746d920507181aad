"""`edgerev rss`: peak memory of a command and its children."""

from __future__ import annotations

import argparse
import sys

from edgerev.errors import UsageError
from edgerev.tools.rss import LIMIT_EXIT_CODE, measure
from edgerev.units import parse_bytes

HELP = "measure the peak memory of a command and its children"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the verb.
    """
    parser.usage = "edgerev rss [--json] [--limit SIZE] [--interval MS] [--no-trace] -- COMMAND..."
    parser.epilog = (
        "Figures go to standard error. With --json they go to standard output, and the command's output to standard "
        "error. Exits with the command's code, with 128 + N if signal N ended it, with 3 if the limit was passed, "
        "with 127 or 126 if the command could not be run."
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--limit", metavar="SIZE", help="exit with 3 if all processes together pass SIZE (64M, 48MiB, 1.5G)"
    )
    parser.add_argument("--interval", metavar="MS", type=float, default=20.0, help="time between samples (20 ms)")
    parser.add_argument("--no-trace", action="store_true", help="only sample; for commands that trace others")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run")


def run(args: argparse.Namespace) -> int:
    """Measure the command and report.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not 0.1 <= args.interval <= 60_000:
        raise UsageError(f"--interval {args.interval:g}: expected milliseconds from 0.1 to 60000; try 20")
    result = measure(
        command,
        limit_bytes=parse_bytes(args.limit) if args.limit else None,
        interval_seconds=args.interval / 1000,
        trace=not args.no_trace,
        stdout=sys.stderr.fileno() if args.json else None,
        forward_signals=True,
    )
    if args.json:
        print(result.to_json())
    else:
        print(result.to_text(), file=sys.stderr)
    return result.exit_code if result.within_limit else LIMIT_EXIT_CODE

"""`edgerev rss`: the memory of a command or a running process, and of all below it."""

from __future__ import annotations

import argparse
import shlex
import sys

from edgerev.errors import UsageError
from edgerev.tools.rss import LIMIT_EXIT_CODE, attach, measure
from edgerev.tools.rss_result import RssResult, read_result
from edgerev.units import parse_bytes

HELP = "measure the peak memory of a command and its children"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the verb.
    """
    parser.usage = "edgerev rss [options] -- COMMAND...\n       edgerev rss [options] --attach PID [--seconds S]"
    parser.epilog = (
        "Figures go to standard error beside a command, else to standard output. With --json they go to standard "
        "output, and the command's output to standard error. Two measurements, by --vs or --from, are shown side by "
        "side. Exits with the command's code, with 128 + N if signal N ended it, with 3 if the limit was exceeded, "
        "with 127 or 126 if the command could not be run."
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--plot", metavar="FILE", help="draw memory over time as an SVG file; needs edgerev[plot]")
    parser.add_argument("--force", action="store_true", help="replace the file of --plot")
    parser.add_argument(
        "--limit", metavar="SIZE", help="exit with 3 if all processes together exceed SIZE (64M, 48MiB, 1.5G)"
    )
    parser.add_argument("--vs", metavar="COMMAND", help="then run this, words quoted as for a shell, and compare")
    parser.add_argument(
        "--from", metavar="FILE", dest="files", action="append", default=[],
        help="take figures that --json printed, here or on a device; twice to compare",
    )  # fmt: skip
    parser.add_argument("--attach", metavar="PID", type=int, help="follow a process until it ends, or Ctrl-C")
    parser.add_argument("--seconds", metavar="S", type=float, help="follow it for so long at most")
    parser.add_argument("--interval", metavar="MS", type=float, default=20.0, help="least time between samples (20 ms)")
    parser.add_argument("--no-trace", action="store_true", help="only sample; for commands that trace others")
    parser.add_argument("command", metavar="COMMAND", nargs=argparse.REMAINDER, help="what to run")


def run(args: argparse.Namespace) -> int:
    """Measure, and report.

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
    _check(args, command)
    results = [read_result(path) for path in args.files]
    if args.attach is not None:
        results.append(_attach(args))
    if command:
        results.append(_measure(args, command))
    if args.vs is not None:
        results.append(_measure(args, shlex.split(args.vs)))
    if args.plot:
        from edgerev.tools.rss_plot import plot_rss

        plot_rss(results, args.plot)
    _show(args, results)
    if not all(result.within_limit for result in results):
        return LIMIT_EXIT_CODE
    return next((result.exit_code for result in results if result.exit_code), 0)


def _check(args: argparse.Namespace, command: list[str]) -> None:
    """Refuse what does not go together, before anything runs."""
    if not 0.1 <= args.interval <= 60_000:
        raise UsageError(f"--interval {args.interval:g}: expected milliseconds from 0.1 to 60000; try 20")
    if args.seconds is not None and (args.attach is None or not args.seconds > 0):
        raise UsageError(f"--seconds {args.seconds:g}: expected a time above 0 beside --attach; a command ends itself")
    measurements = len(args.files) + (args.attach is not None) + bool(command) + (args.vs is not None)
    if measurements == 0:
        raise UsageError("no command to measure: give one, as in `edgerev rss -- python train.py`")
    if measurements > 2:
        raise UsageError(f"{measurements} measurements: expected one, or two to compare; leave one out")
    if args.attach is not None and (command or args.vs is not None):
        raise UsageError("--attach follows a process that runs; expected no command beside it; use --from to compare")
    if args.vs is not None and not _words(args.vs):
        raise UsageError(f"--vs {args.vs!r}: expected a command, quoted as one word, as in --vs 'python other.py'")
    if args.plot:
        from edgerev.cli.output import check_output
        from edgerev.tools.plotting import plotter

        check_output(args.plot, replace=args.force, advice="--force replaces it")
        plotter()


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return []


def _measure(args: argparse.Namespace, command: list[str]) -> RssResult:
    return measure(
        command,
        limit_bytes=parse_bytes(args.limit) if args.limit else None,
        interval_seconds=args.interval / 1000,
        trace=not args.no_trace,
        stdout=sys.stderr.fileno() if args.json else None,
        forward_signals=True,
    )


def _attach(args: argparse.Namespace) -> RssResult:
    return attach(
        args.attach,
        seconds=args.seconds,
        limit_bytes=parse_bytes(args.limit) if args.limit else None,
        interval_seconds=args.interval / 1000,
        forward_signals=True,
    )


def _show(args: argparse.Namespace, results: list[RssResult]) -> None:
    from edgerev.cli.rss_tables import compare, comparison_text, to_text

    if args.json:
        from edgerev.cli.show import print_json

        found = [result.to_dict() for result in results]
        print_json(found[0] if len(found) == 1 else {"measurements": found, "comparison": compare(results)})
    else:
        text = comparison_text(results) if len(results) == 2 else to_text(results[0])
        print(text, file=sys.stderr if args.command or args.vs else sys.stdout)

"""`edgerev eval`: measure a checkpoint on labelled data."""

from __future__ import annotations

import argparse

from edgerev.cli.opening import add_options, open_for

HELP = "measure a checkpoint on labelled data"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_options(parser, "data as for `edgerev train`", "test, else all")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, and report."""
    from edgerev.cli.show import print_json
    from edgerev.evaluate import evaluate

    learner, part, records = open_for(args, targets=True)
    result = evaluate(learner, *records)
    if args.json:
        print_json({"part": part, **result._asdict()})
    elif result.accuracy is not None:
        print(f"accuracy {100 * result.accuracy:.2f} % of {result.samples:,d} samples ({part})")
    else:
        print(f"mean squared error {result.squared_error:.6g} over {result.samples:,d} samples ({part})")
    return 0

"""`edgerev eval`: measure a checkpoint on labelled data."""

from __future__ import annotations

import argparse

HELP = "measure a checkpoint on labelled data"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("model", help="checkpoint (.edgerev)")
    parser.add_argument("--data", required=True, metavar="PATH", help="data as for `edgerev train`")
    parser.add_argument("--part", choices=("train", "test", "all"), help="part of the data (test, else all)")
    parser.add_argument("--label", default="label", metavar="COLUMN", help="label column of CSV files, or a,b,c")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute together")
    parser.add_argument("--budget", metavar="SIZE", help="most bytes of the arena (as in training)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure, and report."""
    from edgerev.cli.show import print_json
    from edgerev.contents import peek
    from edgerev.data import open_dataset
    from edgerev.data.feed import staging_bytes
    from edgerev.evaluate import evaluate
    from edgerev.learner import Learner

    recipe = peek(args.model).recipe
    dataset = open_dataset(args.data, label=args.label if recipe.loss.labels else args.label.split(","))
    part, records = dataset.part(args.part)
    learner = Learner.load(
        args.model, budget=args.budget, threads=args.threads, data_bytes=staging_bytes(records[0], recipe.batch)
    )
    result = evaluate(learner, *records)
    if args.json:
        print_json({"part": part, **result._asdict()})
    elif result.accuracy is not None:
        print(f"accuracy {100 * result.accuracy:.2f} % of {result.samples} samples ({part})")
    else:
        print(f"mean squared error {result.squared_error:.6g} over {result.samples} samples ({part})")
    return 0

"""`edgerev predict`: predict the labels of samples with a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

HELP = "predict the labels of samples with a checkpoint"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("model", help="checkpoint (.edgerev)")
    parser.add_argument("--data", required=True, metavar="PATH", help="samples, as for `edgerev train` without labels")
    parser.add_argument("--label", metavar="COLUMN", help="label column of CSV files to leave out, or a,b,c")
    parser.add_argument("--part", choices=("train", "test", "all"), help="part of the data (all)")
    parser.add_argument("--proba", action="store_true", help="print the probability of each class")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute together")
    parser.add_argument("--budget", metavar="SIZE", help="most bytes of the arena (as in training)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each sample")


def run(args: argparse.Namespace) -> int:
    """Predict, a line for each sample."""
    from edgerev.contents import peek
    from edgerev.data import open_dataset
    from edgerev.data.feed import staging_bytes
    from edgerev.learner import Learner

    recipe = peek(args.model).recipe
    several = args.label is not None and not recipe.loss.labels
    dataset = open_dataset(args.data, label=args.label.split(",") if several else args.label)
    _, parts = dataset.part(args.part or "all")
    learner = Learner.load(
        args.model, budget=args.budget, threads=args.threads, data_bytes=staging_bytes(parts[0], recipe.batch)
    )
    for records in parts:
        _predict(learner, records, args)
    return 0


def _predict(learner, records, args: argparse.Namespace) -> None:
    from edgerev.data.feed import Feed

    feed, most = Feed(records, learner.runtime), learner.schedule.micro_batch
    learner.check_columns(records.columns)
    answers: Any = learner.runtime.view("probability")
    outputs = learner.net.head.outputs
    for first in range(0, len(records), most):
        n = feed.fill(range(first, min(first + most, len(records))), targets=False)
        learner.predict_step(n)
        for sample in range(n):
            _print(learner, answers[sample * outputs : (sample + 1) * outputs].tolist(), args)


def _print(learner, row: list[float], args: argparse.Namespace) -> None:
    answer = learner.answer(row)
    if learner.recipe.loss.labels and answer < len(learner.classes):
        answer = learner.classes[answer]
    if args.json:
        print(json.dumps({"prediction": answer, "proba": row} if args.proba else {"prediction": answer}))
        return
    values = answer if isinstance(answer, list) else [answer]
    columns = [*values, *(f"{value:.6f}" for value in row)] if args.proba else values
    sys.stdout.write("\t".join(map(str, columns)) + "\n")

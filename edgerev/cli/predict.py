"""`edgerev predict`: predict the labels of samples with a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from edgerev.cli.opening import add_options, open_for

HELP = "predict the labels of samples with a checkpoint"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    add_options(parser, "samples, as for `edgerev train`; labels are not needed", "all")
    parser.add_argument("--proba", action="store_true", help="print the probability of each class")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each sample")


def run(args: argparse.Namespace) -> int:
    """Predict, a line for each sample."""
    learner, _, parts = open_for(args, targets=False, part="all")
    for records in parts:
        _predict(learner, records, args)
    return 0


def _predict(learner, records, args: argparse.Namespace) -> None:
    from edgerev.data.feed import Feed

    feed, most = Feed(records, learner), learner.schedule.micro_batch
    answers: Any = learner.runtime.view("probability")
    outputs = learner.net.head.columns
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

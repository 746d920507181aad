"""A checkpoint and the data to use it on, opened for each other."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edgerev.contents import Contents
    from edgerev.data import Records
    from edgerev.learner import Learner


class Opened(NamedTuple):
    """A learner, and a part of a data set by its name; see `Dataset.part`."""

    learner: Learner
    part: str
    records: list[Records]


def add_options(parser: argparse.ArgumentParser, data: str, part: str) -> None:
    """Add the options that `open_for` takes.

    Parameters
    ----------
    data, part : help of `--data`, and which part is the default
    """
    parser.add_argument("model", help="checkpoint (.edgerev)")
    parser.add_argument("--data", required=True, metavar="PATH", help=data)
    parser.add_argument("--part", choices=("train", "test", "all"), help=f"part of the data ({part})")
    parser.add_argument("--label", metavar="COLUMN", help="label column of CSV files, or a,b,c (as in training)")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute together")
    parser.add_argument("--budget", metavar="SIZE", help="most bytes of the arena (as in training)")


def open_for(args: argparse.Namespace, *, targets: bool, part: str | None = None) -> Opened:
    """Open the checkpoint once, and the data as it was trained on.

    Parameters
    ----------
    targets : whether the data must have labels or target values
    part : the part of the data unless the options name one
    """
    from edgerev.checkpoint_reader import verified
    from edgerev.contents import contents
    from edgerev.data import open_dataset
    from edgerev.data.feed import staging_bytes
    from edgerev.learner import Learner

    with verified(args.model) as whole:
        found = contents(whole)
        name, records = open_dataset(args.data, label=_label(args, found, targets)).part(args.part or part)
        learner = Learner.from_checkpoint(
            whole, budget=args.budget, threads=args.threads, data_bytes=staging_bytes(records[0], found.recipe.batch)
        )
    return Opened(learner, name, records)


def _label(args: argparse.Namespace, found: Contents, targets: bool) -> str | list[str] | None:
    """Return the label column, or several; as in training if the options name none."""
    from edgerev.data.sources import column_names

    if args.label is not None:
        return args.label if found.recipe.loss.labels else args.label.split(",")
    learned = found.inputs.label
    if targets:
        return "label" if learned is None else learned
    wanted = [learned] if isinstance(learned, str) else learned or []
    return learned if wanted and set(wanted) <= set(column_names(args.data)) else None

"""`edgerev train`: train a net on your data and write a checkpoint."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgerev.cli.output import check_output
from edgerev.errors import StoppedError

if TYPE_CHECKING:
    from edgerev.train import Trainer

HELP = "train a net on your data and write a checkpoint"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("config", help="TOML file; docs/configuration.md lists its keys")
    parser.add_argument("--data", required=True, metavar="PATH", help="IDX, NPY, NPZ or CSV files, or a folder of them")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="checkpoint to write (.edgerev)")
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--resume", action="store_true", help="go on from the checkpoint at the output, if there is one")
    there.add_argument("--force", action="store_true", help="replace a checkpoint that is there")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Train, and report."""
    check_output(
        args.output, replace=args.resume or args.force, advice="add --resume to go on from it, or --force to replace it"
    )
    from edgerev.cli.progress import progress
    from edgerev.cli.show import show_planned, show_training
    from edgerev.config import load_config
    from edgerev.data import open_dataset
    from edgerev.train import Trainer

    config = load_config(args.config)
    trainer = Trainer(config, open_dataset(args.data, label=config.data.label), args.output, progress)
    if args.resume:
        _resume(trainer, args.output)
    if not args.json:
        show_planned(trainer.learner)
    with _stopping(trainer) as caught:
        try:
            trainer.run()
        except StoppedError as stop:
            print(f"edgerev: {stop}; add --resume to go on", file=sys.stderr)
            return 128 + caught[0]
    show_training(trainer, args.json)
    return 0


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[list[int]]:
    """Stop between two steps on the first interrupt or SIGTERM, of which the number is listed; at once on a second."""
    caught: list[int] = []

    def stop(number: int, frame: object) -> None:
        caught.append(number)
        trainer.stop()
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        restore()


def _resume(trainer: Trainer, output: str) -> None:
    """Go on from the newest generation that is there, and say so if it is not the one that was named."""
    from edgerev.checkpoint import previous_path

    previous = previous_path(output)
    if os.path.exists(output):
        trainer.resume()
    elif os.path.exists(previous):
        print(f"edgerev: {output} is not there; going on from {previous}", file=sys.stderr)
        trainer.resume(previous)
    else:
        print(f"edgerev: {output} is not there; starting anew", file=sys.stderr)
    if trainer.finished:
        print(f"edgerev: {output} was trained to its end already; measuring only", file=sys.stderr)

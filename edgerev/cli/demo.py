"""`edgerev demo`: train continually on handwritten digits and report."""

from __future__ import annotations

import argparse
import tempfile
from importlib import resources
from pathlib import Path

from edgerev.cli.output import check_output
from edgerev.errors import UsageError

HELP = "train continually on handwritten digits and report"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("-o", "--output", metavar="FILE", help="keep the checkpoint here")
    parser.add_argument("--force", action="store_true", help="replace a checkpoint that is there")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, the weights and the order (0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the digits as a data set, train on it like `edgerev train`, and report."""
    if args.output is not None:
        check_output(args.output, replace=args.force, advice="add --force to replace it")
    from edgerev.cli.progress import progress
    from edgerev.cli.show import show_planned, show_training
    from edgerev.config import check_config
    from edgerev.data import open_dataset
    from edgerev.toml import tomllib
    from edgerev.train import Trainer

    text = resources.files("edgerev.cli").joinpath("demo.toml").read_text()
    data = tomllib.loads(text)
    data["train"]["seed"] = args.seed
    config = check_config(data, "demo.toml")
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder), args.seed)
        dataset = open_dataset(folder, cache=folder)
        trainer = Trainer(config, dataset, args.output, progress)
        if not args.json:
            show_planned(trainer.learner)
        trainer.run()
        show_training(trainer, args.json)
    return 0


def write_digits(folder: Path, seed: int) -> None:
    """Write scikit-learn's digits as train.npz (4 of 5 samples) and test.npz to `folder`.

    Raises
    ------
    UsageError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UsageError("the demo needs scikit-learn; install it with `pip install 'edgerev[demo]'`") from error
    import numpy

    digits = load_digits()
    images = digits.images.astype("u1")
    order = numpy.random.default_rng(seed).permutation(len(images))
    held = len(images) // 5
    for name, part in (("test", order[:held]), ("train", order[held:])):
        numpy.savez(folder / f"{name}.npz", x=images[part], y=digits.target[part])

"""`edgerev import`: bring weights that another runtime trained back into a checkpoint."""

from __future__ import annotations

import argparse

HELP = "bring weights that another runtime trained back into a checkpoint"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "source", help="checkpoint of onnxruntime-training, .npz file of a train-step, or ONNX model (inference)"
    )
    parser.add_argument("--into", required=True, metavar="MODEL", help="checkpoint (.edgerev) that was exported")
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help="checkpoint (.edgerev) to write")
    parser.add_argument("--force", action="store_true", help="replace a file that is there, and keep it as .previous")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint, and report."""
    from edgerev.cli.output import check_output
    from edgerev.cli.show import print_json
    from edgerev.cli.tables import show_plain

    check_output(args.output, replace=args.force, advice="or add --force to replace it")
    from edgerev.deploy.onnx.bring_back import bring_back
    from edgerev.learner import Learner

    learner = Learner.load(args.into)
    weights = bring_back(learner, args.source)
    learner.save(args.output)
    figures = {
        "output": args.output, "format": weights.format, "tensors": len(weights.arrays), "steps": learner.steps,
    }  # fmt: skip
    if args.json:
        print_json(figures)
    else:
        show_plain(figures)
    return 0

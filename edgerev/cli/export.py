"""`edgerev export`: write a checkpoint's model as an ONNX graph."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from edgerev.errors import UsageError

if TYPE_CHECKING:
    import onnx

    from edgerev.learner import Learner

HELP = "write a model for another runtime: as an ONNX graph"
TRAINING = "ort-training"  # several files in a folder
FORMATS = {
    "onnx": "samples to probabilities", "forward": "samples to the states at the backbone's entry and exit",
    "inverse": "the state at the exit to that at the entry", "train-step": "one step of training",
    TRAINING: "a folder for onnxruntime-training: graphs of gradients, answers and updates, and a checkpoint",
}  # fmt: skip


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "formats:\n" + "\n".join(f"  {name:<12} {text}" for name, text in FORMATS.items()) + (
        "\n\ndocs/onnx.md says what goes in and out, and which runtime there is for which machine."
    )
    parser.add_argument("model", help="checkpoint (.edgerev)")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="what the graph does (onnx)")
    parser.add_argument("-o", "--output", required=True, metavar="PATH", help="file to write, or folder")
    parser.add_argument("--opset", type=int, default=18, metavar="N", help="17 for old runtimes, or 18 (18)")
    parser.add_argument("--batch", type=int, metavar="N", help="samples of each run; left open if not given")
    parser.add_argument("--verify", action="store_true", help="first compare it, by onnxruntime, with our own runtime")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Write the graph, and report."""
    from edgerev.cli.output import check_output
    from edgerev.cli.show import print_json
    from edgerev.cli.tables import show_plain

    if args.format == TRAINING:
        return _run_training(args)
    check_output(args.output, replace=args.force, advice="or add --force to replace it")
    if os.path.exists(args.output) and os.path.exists(args.model) and os.path.samefile(args.model, args.output):
        raise UsageError(f"{args.output} is the checkpoint itself; expected another name; choose one")
    from edgerev.deploy.onnx.export import make
    from edgerev.files import write_whole
    from edgerev.learner import Learner

    learner = Learner.load(args.model)
    model = make(learner, args.format, opset=args.opset, batch=args.batch)
    data = model.SerializeToString()
    figures = {
        "output": args.output, "format": args.format, "opset": args.opset, "nodes": len(model.graph.node),
        "bytes": len(data),
    }  # fmt: skip
    if args.verify:
        figures["largest_difference"] = _verified(learner, model, args)
    write_whole(args.output, [data])
    if args.json:
        print_json(figures)
    else:
        show_plain(figures)
    return 0


def _run_training(args: argparse.Namespace) -> int:
    """Write the folder for onnxruntime-training, and report."""
    from edgerev.cli.show import print_json
    from edgerev.cli.tables import show_plain
    from edgerev.deploy.onnx.training import check_folder, make_training, write_folder
    from edgerev.learner import Learner

    if args.verify:
        raise UsageError(
            f"--verify with --format {TRAINING}: that runtime lives in an environment of its own; expected another "
            "format; verify a train-step, which has the same backward pass"
        )
    check_folder(args.output, replace=args.force)
    files = make_training(Learner.load(args.model), opset=args.opset, batch=args.batch)
    figures = {
        "output": args.output, "format": TRAINING, "opset": args.opset, "bytes": write_folder(files, args.output),
    }  # fmt: skip
    if args.json:
        print_json(figures)
    else:
        show_plain(figures)
    return 0


def _verified(learner: Learner, model: onnx.ModelProto, args: argparse.Namespace) -> float:
    """Compare the graph on random samples like those that the model is standardised for."""
    import numpy as np

    from edgerev.deploy.onnx.export import array_of
    from edgerev.deploy.onnx.verify import case, tolerance, verify

    random, n = np.random.default_rng(0), args.batch or min(4, learner.recipe.batch)
    shape = learner.net.input_shape if args.format == "train-step" else learner.sample_shape
    mean, scale = (array_of(learner.runtime, f"input.{name}") for name in ("mean", "scale"))
    x = (random.normal(size=(n, *shape)) / np.where(scale == 0, 1, scale) + mean).astype("f4")
    head = learner.net.head
    y = random.integers(0, head.outputs, n) if learner.recipe.loss.labels else random.random((n, head.columns), "f4")
    prefix = os.path.splitext(args.output)[0] + ".differs"
    found = case(learner, args.format, x, y)
    return verify(model, found, tolerance(learner, args.format, found), prefix)

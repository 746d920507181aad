"""`edgerev bench`: measure exactness, speed and memory. Each benchmark is a function that returns its figures."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "measure exactness, speed and memory"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks."""
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    inverse = benchmarks.add_parser("inverse", help="reconstruct the backbone's input, fresh and after training")
    inverse.add_argument("--preset", default="mlp1000", metavar="NAME", help="a net by name (mlp1000)")
    inverse.add_argument("--batch", type=int, default=16, help="samples (16)")
    inverse.add_argument("--steps", type=int, default=200, help="training steps between the two measurements (200)")
    inverse.add_argument("--state", choices=("int32", "int16", "float32"), default="int32", help="type of the state")
    inverse.add_argument("--seed", type=int, default=0, help="seed of weights and data (0)")
    inverse.add_argument("--json", action="store_true", help="print the figures as JSON")
    inverse.set_defaults(measure=_inverse)
    hmp = benchmarks.add_parser("hmp", help="recognise activities of people never trained on (HMP data set)")
    hmp.add_argument("--data", required=True, metavar="DIR", help="folder that holds hmp.npz")
    hmp.add_argument("--epochs", type=int, default=12, help="passes over the training windows (12)")
    hmp.add_argument("--seed", type=int, default=0, help="seed of weights and order (0)")
    hmp.add_argument("--json", action="store_true", help="print the figures as JSON")
    hmp.set_defaults(measure=_hmp)


def run(args: argparse.Namespace) -> int:
    """Run one benchmark, and report."""
    from edgerev.cli.show import print_json

    figures = args.measure(args)
    if args.json:
        print_json(figures)
    else:
        for name, value in figures.items():
            print(f"{name:<28} {value}")
    return 0


def _inverse(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_inverse import inverse_error

    return inverse_error(args.preset, batch=args.batch, steps=args.steps, state=args.state, seed=args.seed)


def _hmp(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_hmp import leave_volunteers_out

    return leave_volunteers_out(args.data, epochs=args.epochs, seed=args.seed)

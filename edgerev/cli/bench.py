"""`edgerev bench`: measure exactness, speed and memory. Each benchmark is a function that returns its figures."""

from __future__ import annotations

import argparse
from typing import Any

from edgerev.errors import UsageError

HELP = "measure exactness, speed and memory"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks."""
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for prepare in (
        _prepare_inverse, _prepare_hmp, _prepare_step, _prepare_builds, _prepare_kernels, _prepare_peers,
        _prepare_depth, _prepare_continual, _prepare_gas, _prepare_wearer, _prepare_onnx, _prepare_serve,
        _prepare_report,
    ):  # fmt: skip
        benchmark = prepare(benchmarks)
        benchmark.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Run one benchmark, and report."""
    from edgerev.cli import tables
    from edgerev.cli.show import print_json

    figures = args.measure(args)
    if args.json:
        print_json(figures)
    else:
        getattr(tables, args.show)(figures)
    return 0


def _numbers(words: str) -> list[int]:
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{words!r}: expected whole numbers joined by commas, as 1,4,16") from None


def _timing(parser: argparse.ArgumentParser, rounds: int, seconds: float) -> None:
    parser.add_argument("--rounds", type=int, default=rounds, help=f"bursts of each, taking turns ({rounds})")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"how long a burst lasts ({seconds:g})")


def _prepare_inverse(benchmarks: Any) -> argparse.ArgumentParser:
    inverse = benchmarks.add_parser("inverse", help="reconstruct the backbone's input, fresh and after training")
    inverse.add_argument("--preset", default="mlp1000", metavar="NAME", help="a net by name (mlp1000)")
    inverse.add_argument("--batch", type=int, default=16, help="samples (16)")
    inverse.add_argument("--steps", type=int, default=200, help="training steps between the two measurements (200)")
    inverse.add_argument("--state", choices=("int32", "int16", "float32"), default="int32", help="type of the state")
    inverse.add_argument("--seed", type=int, default=0, help="seed of weights and data (0)")
    inverse.set_defaults(measure=_inverse, show="show_plain")
    return inverse


def _prepare_hmp(benchmarks: Any) -> argparse.ArgumentParser:
    hmp = benchmarks.add_parser("hmp", help="recognise activities of people never trained on (HMP data set)")
    hmp.add_argument("--data", required=True, metavar="DIR", help="folder that holds hmp.npz")
    hmp.add_argument("--epochs", type=int, default=12, help="passes over the training windows (12)")
    hmp.add_argument("--seed", type=int, default=0, help="seed of weights and order (0)")
    hmp.set_defaults(measure=_hmp, show="show_plain")
    return hmp


def _prepare_step(benchmarks: Any) -> argparse.ArgumentParser:
    step = benchmarks.add_parser("step", help="time one training step, beside the machine's peak")
    step.add_argument("--preset", default="mlp16", metavar="NAME", help="a net by name (mlp16)")
    step.add_argument("--batch", type=int, default=16, help="samples (16)")
    step.add_argument("--threads", type=int, default=1, help="threads (1)")
    step.add_argument("--schedule", choices=("reversible", "stored"), default="reversible", help="(reversible)")
    step.add_argument("--state", choices=("int32", "int16", "float32"), default="int32", help="type of the state")
    step.add_argument("--profile", action="store_true", help="also tell the time of each kind of instruction")
    _timing(step, 7, 0.3)
    step.set_defaults(measure=_step, show="show_step")
    return step


def _prepare_builds(benchmarks: Any) -> argparse.ArgumentParser:
    builds = benchmarks.add_parser("builds", help="time the step with libraries as in wheels, beside the JIT's kernels")
    builds.add_argument("--preset", action="append", metavar="NAME", help="nets by name; may be repeated (mlp16)")
    builds.add_argument("--target", action="append", metavar="NAME", help="libraries to time (this machine's own)")
    builds.add_argument("--batch", type=int, default=16, help="samples (16)")
    _timing(builds, 7, 0.3)
    builds.set_defaults(measure=_builds, show="show_builds")
    return builds


def _prepare_kernels(benchmarks: Any) -> argparse.ArgumentParser:
    kernels = benchmarks.add_parser("kernels", help="time every kernel by shape, beside roofline and OpenBLAS")
    kernels.add_argument("--preset", action="append", metavar="NAME", help="shapes of this net only; may be repeated")
    kernels.add_argument("--batch", type=int, default=16, help="samples (16)")
    kernels.add_argument("--seconds", type=float, default=2.0, help="how long to measure each net (2)")
    kernels.add_argument("--gemm", action="store_true", help="the dense kernel against OpenBLAS over a grid of shapes")
    for size in "mnk":
        kernels.add_argument(f"--{size}", type=_numbers, metavar="LIST", help=f"values of {size} in the grid, as 1,16")
    kernels.add_argument("--passes", type=int, default=5, help="how often to go over the grid (5)")
    kernels.set_defaults(measure=_kernels, show="show_kernels")
    return kernels


def _prepare_peers(benchmarks: Any) -> argparse.ArgumentParser:
    peers = benchmarks.add_parser("peers", help="time the reference nets beside torch and onnxruntime-training")
    peers.add_argument("--torch", metavar="PYTHON", help="Python of an environment with torch")
    peers.add_argument("--ort", metavar="PYTHON", help="Python of one with onnxruntime-training")
    peers.add_argument("--graphs", metavar="DIR", help="onnxruntime-training's graphs, made if not there (the cache)")
    _timing(peers, 7, 0.5)
    peers.set_defaults(measure=_peers, show="show_peers")
    return peers


def _plot(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--plot", metavar="FILE", help=f"draw {what} (SVG; needs edgerev[plot])")
    parser.add_argument("--force", action="store_true", help="replace a plot that is there")


def _prepare_depth(benchmarks: Any) -> argparse.ArgumentParser:
    depth = benchmarks.add_parser("depth", help="time and memory against depth, reversible beside stored")
    depth.add_argument("--preset", choices=("mlp", "har", "vis"), default="mlp", help="kind of reference net (mlp)")
    depth.add_argument("--depths", type=_numbers, default=[16, 256], metavar="LIST", help="blocks (16,256)")
    depth.add_argument("--batch", type=int, default=16, help="samples (16)")
    depth.add_argument(
        "--batches", type=_numbers, default=[16, 64], metavar="LIST", help="for the time per sample (16,64)"
    )
    depth.add_argument("--threads", type=int, default=1, help="threads (1)")
    _plot(depth, "time and memory against depth")
    _timing(depth, 9, 0.3)
    depth.set_defaults(measure=_depth, show="show_depth")
    return depth


def _prepare_continual(benchmarks: Any) -> argparse.ArgumentParser:
    continual = benchmarks.add_parser("continual", help="learn a stream of experiences, and measure what is forgotten")
    continual.add_argument("--data", required=True, metavar="DIR", help="a data set with a training and a test part")
    continual.add_argument("--scenario", default="split", metavar="NAME", help="split, permuted or rotated (split)")
    continual.add_argument("--setting", default="class", metavar="NAME", help="task, domain or class (class)")
    continual.add_argument("--method", default="ridge", metavar="NAME", help="docs/continual.md lists them (ridge)")
    continual.add_argument("--seeds", type=int, default=5, help="runs, each with a seed of its own (5)")
    continual.add_argument(
        "--validate", action="store_true", help="measure on held-out training data, for choosing settings"
    )
    _plot(continual, "the accuracy matrix")
    continual.add_argument("--torch", metavar="PYTHON", help="Python of an environment with torch, for plain twins")
    continual.set_defaults(measure=_continual, show="show_continual")
    return continual


def _prepare_gas(benchmarks: Any) -> argparse.ArgumentParser:
    gas = benchmarks.add_parser("gas", help="learn from sensors that age, batch by batch (gas sensor array drift)")
    gas.add_argument("--data", required=True, metavar="DIR", help="folder that holds gas_drift.npz")
    gas.add_argument("--method", metavar="NAME", help="prototype, mapped, random, trained (prototype)")
    gas.add_argument("--width", type=int, default=32, help="features of the net (32)")
    gas.add_argument("--seeds", type=int, default=5, help="runs, each with a seed of its own (5)")
    gas.add_argument("--five", action="store_true", help="leave out toluene")
    gas.add_argument("--fading", type=float, metavar="FACTOR", help="weight that a batch leaves those before (1)")
    instead = gas.add_mutually_exclusive_group()
    instead.add_argument("--prequential", action="store_true", help="test then train, beside frozen and retrained")
    instead.add_argument("--compensation", action="store_true", help="ways to keep sums true while the net is trained")
    gas.set_defaults(measure=_gas, show="show_plain")
    return gas


def _prepare_wearer(benchmarks: Any) -> argparse.ArgumentParser:
    wearer = benchmarks.add_parser("wearer", help="adapt to a new wearer, with labels and without (HMP data set)")
    wearer.add_argument("--data", required=True, metavar="DIR", help="folder that holds hmp.npz")
    wearer.add_argument("--seeds", type=int, default=5, help="runs, each with a seed of its own (5)")
    wearer.add_argument(
        "--validate", action="store_true", help="measure on wearers with few recordings, for choosing settings"
    )
    wearer.set_defaults(measure=_wearer, show="show_rows")
    return wearer


def _inverse(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_inverse import inverse_error

    return inverse_error(args.preset, batch=args.batch, steps=args.steps, state=args.state, seed=args.seed)


def _hmp(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_hmp import leave_volunteers_out

    return leave_volunteers_out(args.data, epochs=args.epochs, seed=args.seed)


def _step(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_step import step_figures

    return step_figures(
        args.preset, batch=args.batch, threads=args.threads, schedule=args.schedule, state=args.state,
        rounds=args.rounds, seconds=args.seconds, profile=args.profile,
    )


def _builds(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_builds import build_figures

    return build_figures(
        args.preset or ["mlp16"], targets=args.target or (), batch=args.batch, rounds=args.rounds, seconds=args.seconds
    )


def _kernels(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.presets import check_name
    from edgerev.tools.child import measured_alone

    sizes = {size: getattr(args, size) for size in "mnk" if getattr(args, size) is not None}
    if not args.gemm:
        if sizes:
            raise UsageError(f"--{next(iter(sizes))} is a size of the grid; add --gemm")
        for name in args.preset or ():
            check_name(name)
        options = {"presets": args.preset or [], "batch": args.batch, "seconds": args.seconds}
        return measured_alone("edgerev.tools.bench_kernels:kernel_figures", **options)
    if min(min(values) for values in [*sizes.values(), [1]]) < 1:
        raise UsageError(f"sizes {sizes}: expected numbers that are at least 1")
    args.show = "show_gemm"
    return measured_alone("edgerev.tools.bench_gemm:gemm_grid", **sizes, passes=args.passes)


def _peers(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_peers import peers_figures

    return peers_figures(args.torch, args.ort, graphs=args.graphs, rounds=args.rounds, seconds=args.seconds)


def _continual(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.numbers import whole
    from edgerev.tools.bench_continual import continual_figures, plot_matrix

    _check_plot(args)
    figures = continual_figures(
        args.data, scenario=args.scenario, setting=args.setting, method=args.method,
        seeds=whole("seeds", args.seeds, 1, 1000), validate=args.validate, torch=args.torch,
    )
    if args.plot:
        plot_matrix(figures, args.plot)
    return figures


def _gas(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.numbers import whole

    width, seeds = whole("width", args.width, 2, 4096), whole("seeds", args.seeds, 1, 1000)
    if not (args.prequential or args.compensation):
        from edgerev.tools.bench_gas import gas_figures

        return gas_figures(
            args.data, method=args.method or "prototype", width=width, seeds=seeds, five=args.five,
            fading=1.0 if args.fading is None else args.fading,
        )
    if args.method or args.five or args.fading is not None:
        raise UsageError(
            "--prequential and --compensation compare methods of their own; expected none of --method, --five and "
            "--fading; leave them out"
        )
    args.show = "show_rows"
    if args.prequential:
        from edgerev.tools.bench_prequential import prequential_figures

        return prequential_figures(args.data, seeds=seeds, width=width)
    from edgerev.tools.bench_compensation import compensation_figures

    return compensation_figures(args.data, width=width, seeds=seeds)


def _wearer(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.numbers import whole
    from edgerev.tools.bench_wearer import wearer_figures

    return wearer_figures(args.data, seeds=whole("seeds", args.seeds, 1, 1000), validate=args.validate)


def _check_plot(args: argparse.Namespace) -> None:
    """Find out before the minutes of measuring whether the plot can be drawn and written."""
    from edgerev.cli.output import check_output
    from edgerev.tools.plotting import plotter

    if args.plot:
        check_output(args.plot, replace=args.force, advice="add --force to replace it")
        plotter()


def _depth(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_depth import depth_figures, plot_depth

    _check_plot(args)
    figures = depth_figures(
        args.preset, depths=args.depths, batches=args.batches, batch=args.batch, threads=args.threads,
        rounds=args.rounds, seconds=args.seconds,
    )
    if args.plot:
        plot_depth(figures, args.plot)
    return figures


def _prepare_onnx(benchmarks: Any) -> argparse.ArgumentParser:
    onnx = benchmarks.add_parser("onnx", help="memory and time of a train-step graph against depth")
    onnx.add_argument("--preset", choices=("mlp", "har", "vis"), default="vis", help="kind of reference net (vis)")
    onnx.add_argument("--depths", type=_numbers, default=[8, 64], metavar="LIST", help="blocks (8,64)")
    onnx.add_argument("--batch", type=int, default=16, help="samples (16)")
    onnx.add_argument("--steps", type=int, default=3, help="steps of each (3)")
    onnx.add_argument("--threads", type=int, default=1, help="threads (1)")
    onnx.add_argument("--training", metavar="PYTHON", help="Python of an environment with onnxruntime-training")
    _plot(onnx, "memory against depth")
    onnx.set_defaults(measure=_onnx, show="show_onnx")
    return onnx


def _onnx(args: argparse.Namespace) -> dict[str, Any]:
    from edgerev.tools.bench_onnx import onnx_figures, plot_onnx

    _check_plot(args)
    figures = onnx_figures(
        args.preset, depths=args.depths, batch=args.batch, steps=args.steps, threads=args.threads,
        training=args.training,
    )
    if args.plot:
        plot_onnx(figures, args.plot)
    return figures


def _prepare_serve(benchmarks: Any) -> argparse.ArgumentParser:
    serve = benchmarks.add_parser("serve", help="the daemon under load, or along sensors that age")
    serve.add_argument("--preset", default="mlp16", metavar="NAME", help="a net by name (mlp16)")
    serve.add_argument("--rate", type=float, default=2000.0, help="samples a second that are sent (2000)")
    serve.add_argument("--batch", type=int, default=32, help="samples of one request and of one step (32)")
    serve.add_argument("--seconds", type=float, default=300.0, help="how long (300)")
    serve.add_argument("--gas", metavar="DIR", help="instead, answer and learn gas_drift.npz of this folder")
    serve.add_argument("--poison", action="store_true", help="with --gas: let labels be wrong for a while")
    serve.set_defaults(measure=_serve, show="show_plain")
    return serve


def _serve(args: argparse.Namespace) -> dict[str, Any]:
    if args.gas:
        from edgerev.tools.bench_serve_gas import gas_serve_figures

        args.show = "show_rows"
        return gas_serve_figures(args.gas, poison=args.poison)
    if args.poison:
        raise UsageError("--poison: expected --gas DIR with it; add that, or leave it out")
    from edgerev.numbers import finite32
    from edgerev.tools.bench_serve import serve_figures

    rate, seconds = finite32("rate", args.rate, 1, 1e6), finite32("seconds", args.seconds, 1, 1e6)
    return serve_figures(args.preset, rate=rate, batch=args.batch, seconds=seconds)


def _prepare_report(benchmarks: Any) -> argparse.ArgumentParser:
    report = benchmarks.add_parser("report", help="run the suite, and write one page with plots and raw figures")
    report.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the page and the figures")
    report.add_argument("--data", default="", metavar="DIR", help="folder that holds mnist/ and gas-drift/")
    report.add_argument("--torch", default="", metavar="PYTHON", help="Python of an environment with torch")
    report.add_argument("--ort", default="", metavar="PYTHON", help="Python of one with onnxruntime-training")
    report.add_argument("--chapters", default="", metavar="LIST", help="only these, joined by commas")
    report.add_argument("--quick", action="store_true", help="measure little, for a first look")
    report.add_argument("--again", action="store_true", help="measure all anew, not only what is missing")
    report.set_defaults(measure=_report, show="show_plain")
    return report


def _report(args: argparse.Namespace) -> dict[str, Any]:
    import sys

    from tqdm import tqdm

    from edgerev.tools.report import make_report
    from edgerev.tools.report_chapters import Choice, chapters
    from edgerev.tools.report_page import page_template

    page_template()  # before the minutes of measuring
    chosen, choice = chapters(args.chapters), Choice(args.data, args.torch, args.ort, args.quick)
    with tqdm(total=len(chosen), file=sys.stderr, disable=not sys.stderr.isatty(), leave=False) as bar:

        def tell(chapter: Any, minutes: float) -> None:
            bar.update(chosen.index(chapter) - bar.n)
            bar.set_description(f"{chapter.title}; about {minutes:.0f} min left")

        return make_report(args.output, chosen, choice, again=args.again, tell=tell)

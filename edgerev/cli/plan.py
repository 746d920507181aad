"""`edgerev plan`: show the memory that a net needs, and estimate its time, before anything runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgerev.errors import UsageError

if TYPE_CHECKING:
    from edgerev.net import Net
    from edgerev.recipe import Recipe
    from edgerev.schedule import Choice
    from edgerev.tools.time_model import Machine

HELP = "show the memory and time that a net needs, before anything runs"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--preset", metavar="NAME", help="a net by name, such as mlp16, har12, vis8, digits")
    parser.add_argument("--config", metavar="FILE", help="TOML file as for `edgerev train`; needs --data or --input")
    parser.add_argument("--data", metavar="PATH", help="data, for its shape and all that train takes")
    parser.add_argument("--input", metavar="SHAPE", help="shape of one sample, channels last, such as 28x28x1")
    parser.add_argument("--outputs", type=int, help="classes, labels or values (10)")
    parser.add_argument("--batch", type=int, help="samples of one step (16)")
    parser.add_argument("--budget", metavar="SIZE", help="choose the fastest schedule that fits, such as 8MiB")
    parser.add_argument("--schedule", choices=("reversible", "stored"), help="without a budget (reversible)")
    parser.add_argument("--state", choices=("int32", "int16", "float32"), help="type of the state (int32)")
    parser.add_argument("--guard", action="store_true", help="with the bytes of the last accepted model, as for serve")
    parser.add_argument("--threads", type=int, help="threads of a step (1)")
    parser.add_argument("--listing", action="store_true", help="print the program, an instruction a line")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--estimate", action="store_true", help="also a step's time and the process's memory, here")
    where.add_argument("--target", metavar="NAME", help="the same on a board, from data sheets, such as rpi4")
    where.add_argument("--machine", metavar="FILE", help="the same on the machine that --calibrate measured")
    parser.add_argument("--pareto", action="store_true", help="memory and time of all schedules")
    parser.add_argument("--measure", action="store_true", help="with --pareto: also train under each of them, here")
    parser.add_argument("--plot", metavar="FILE", help="draw the arena, or with --pareto the curve, as an SVG file")
    parser.add_argument("--calibrate", action="store_true", help="measure this machine anew, in two seconds")
    parser.add_argument("-o", "--output", metavar="FILE", help="with --calibrate: keep it in a file for other machines")
    parser.add_argument("--force", action="store_true", help="replace FILE")


def run(args: argparse.Namespace) -> int:
    """Plan, and report."""
    from edgerev.schedule import choose
    from edgerev.units import parse_bytes

    _check(args)
    if args.calibrate:
        return _calibrate(args)
    net, recipe, options = _describe(args)
    if args.budget or args.schedule:  # instead of what the configuration says
        options |= {"budget": parse_bytes(args.budget) if args.budget else None, "schedule": args.schedule}
    if args.threads is not None:
        options["threads"] = args.threads
    if args.pareto:
        return _pareto(args, net, recipe, options)
    choice = choose(net, recipe, guard=args.guard, **options)
    if args.listing:
        for line in choice.program.listing():
            print(line)
        return 0
    if args.plot:
        from edgerev.tools.arena_picture import plot_arena

        kind = choice.schedule.name(net.depth)
        plot_arena(choice, f"{args.preset or args.config}, batch {recipe.batch}, {kind}", args.plot)
    estimated = None
    if args.estimate or args.target or args.machine:
        from edgerev.tools.estimate import estimate_figures

        threads = options.get("threads", 1)
        estimated = estimate_figures(_machine(args, threads), choice, recipe.batch, threads)
    if args.json:
        _show_json(choice, estimated)
    else:
        _show(args, choice, net, recipe, options, estimated)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, and a file that cannot be written, before the work."""
    from edgerev.cli.output import check_output

    for option, needed, there in (
        ("--measure", "--pareto", not args.measure or args.pareto),
        ("--output", "--calibrate", not args.output or args.calibrate),
    ):
        if not there:
            raise UsageError(f"{option}: expected {needed} with it; add that, or leave it out")
    if args.pareto and args.schedule:
        raise UsageError("--schedule: expected none with --pareto, which compares them all; leave one out")
    if args.measure and (args.target or args.machine):
        raise UsageError("--measure: expected this machine, for only here can a step be measured; leave out the other")
    for path in filter(None, (args.plot, args.output)):
        check_output(path, replace=args.force, advice="add --force to replace it")
    if args.plot:
        from edgerev.tools.plotting import plotter

        plotter()


def _machine(args: argparse.Namespace, threads: int) -> Machine:
    """Return the machine to estimate for: a board, one in a file, or this one."""
    if args.target:
        from edgerev.tools.boards import board_machine, known_board

        return board_machine(known_board(args.target))
    from edgerev.tools.calibrate import known_machine, read_machine

    return read_machine(args.machine) if args.machine else known_machine(threads)


def _calibrate(args: argparse.Namespace) -> int:
    from edgerev.tools.calibrate import known_machine, write_machine
    from edgerev.tools.time_model import ANY

    machine = known_machine(args.threads or 1, anew=True)
    if args.output:
        write_machine(machine, args.output)
    kinds = {kind for prices in machine.prices.values() for kind in prices} - {ANY}
    print(f"calibrated {machine.name}: {len(kinds)} kinds of row, threads {', '.join(machine.prices)}")
    return 0


def _pareto(args: argparse.Namespace, net: Net, recipe: Recipe, options: dict[str, Any]) -> int:
    from edgerev.cli.show import print_json
    from edgerev.cli.tables import show_pareto
    from edgerev.tools.pareto import pareto_figures, plot_pareto

    options.pop("schedule", None)
    machine = _machine(args, options.get("threads", 1))
    figures = pareto_figures(net, recipe, machine, guard=args.guard, measure=args.measure, **options)
    if args.plot:
        plot_pareto(figures, f"{args.preset or args.config}, batch {recipe.batch}", args.plot)
    if args.json:
        print_json(figures)
    else:
        show_pareto(figures)
    return 0


def _show_json(choice: Choice, estimated: dict[str, Any] | None) -> None:
    from edgerev.cli.show import print_json

    plan = choice.plan
    print_json({
        "arena_bytes": plan.arena_bytes, "activation_bytes": plan.activation_bytes, "guard_bytes": plan.guard_bytes,
        "regions": _regions(choice), "parameters": choice.program.trainable, "instructions": len(choice.program),
        "schedule": choice.schedule.to_dict(), **({"estimate": estimated} if estimated else {}),
    })  # fmt: skip


def _regions(choice: Choice) -> dict[str, int]:
    return {region.value: size for region, (_, size) in choice.plan.regions.items()}


def _show(
    args: argparse.Namespace, choice: Choice, net: Net, recipe: Recipe, options: dict[str, Any],
    estimated: dict[str, Any] | None,
) -> None:
    from edgerev.cli.planned import schedule_text
    from edgerev.cli.show import paragraph, regions_table
    from edgerev.cli.tables import show_estimate
    from edgerev.position import MemoryRequest

    asked = MemoryRequest(options.get("budget"), options.get("schedule"))
    stored = choice.schedule.stored
    kept = f"those of {stored} residual functions stored" if stored else "whatever the depth"
    print(f"arena       {choice.plan.arena_bytes:>12,d} B for {choice.program.trainable:,d} parameters, "
          f"batch {recipe.batch}")  # fmt: skip
    print(f"activations {choice.plan.activation_bytes:>12,d} B, {kept}")
    print(paragraph("schedule", schedule_text(choice, net, recipe, asked)))
    if estimated:
        show_estimate(estimated)
    if args.plot:
        print(f"picture     {args.plot}")
    print("\n".join(regions_table(_regions(choice))))


def _describe(args: argparse.Namespace) -> tuple[Net, Recipe, dict[str, Any]]:
    """Return net, recipe and what `choose` needs besides, from the options."""
    from edgerev.presets import preset
    from edgerev.recipe import Recipe

    shape = _parse_shape(args.input) if args.input else None
    if (args.preset is None) == (args.config is None):
        raise UsageError("give either --preset or --config; `edgerev plan --preset mlp16` is a start")
    if args.preset is not None:
        if args.data is not None:
            raise UsageError("--data goes with --config, which says how it is read; give --input for a preset")
        net = preset(args.preset, shape, args.outputs, state=args.state or "int32")
        recipe = Recipe(batch=16 if args.batch is None else args.batch)
        return net, recipe, {}
    from edgerev.config import load_config

    config, outputs, records = load_config(args.config), args.outputs or 10, None
    if args.data is not None:
        from edgerev.data import open_dataset

        records = open_dataset(args.data, label=config.data.label).train
        shape, outputs = shape or records.shape, args.outputs or records.outputs
    if shape is None:
        raise UsageError(
            "a configuration leaves the shape of the data open; add --data, or --input such as --input 28x28x1"
        )
    net, recipe = config.make_net(shape, outputs), config.make_recipe(1)
    net = net.replace(state=args.state) if args.state else net
    recipe = recipe.replace(batch=args.batch) if args.batch is not None else recipe
    options = {"budget": config.train.budget, "schedule": config.train.schedule, "threads": config.train.threads}
    if records is not None:
        from edgerev.data.feed import staging_bytes

        options["data_bytes"] = staging_bytes(records, recipe.batch)
    return net, recipe, options


def _parse_shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.lower().split("x"))
    except ValueError:
        raise UsageError(f"--input {text!r}: expected sizes joined by x, such as 28x28x1") from None

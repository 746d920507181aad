"""`edgerev plan`: show the memory that a net needs, before anything runs."""

from __future__ import annotations

import argparse

from edgerev.errors import UsageError

HELP = "show the memory that a net needs, before anything runs"


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
    parser.add_argument("--listing", action="store_true", help="print the program, an instruction a line")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Plan, and report."""
    from edgerev.cli.show import print_json, regions_table
    from edgerev.schedule import choose
    from edgerev.units import parse_bytes

    net, recipe, options = _describe(args)
    if args.budget or args.schedule:  # instead of what the configuration says
        options |= {"budget": parse_bytes(args.budget) if args.budget else None, "schedule": args.schedule}
    choice = choose(net, recipe, guard=args.guard, **options)
    if args.listing:
        for line in choice.program.listing():
            print(line)
        return 0
    plan = choice.plan
    regions = {region.value: size for region, (_, size) in plan.regions.items()}
    if args.json:
        print_json({
            "arena_bytes": plan.arena_bytes, "activation_bytes": plan.activation_bytes,
            "guard_bytes": plan.guard_bytes, "regions": regions,
            "parameters": choice.program.trainable, "instructions": len(choice.program),
            "schedule": choice.schedule.to_dict(),
        })  # fmt: skip
        return 0
    print(f"arena       {plan.arena_bytes:>12,d} B for {choice.program.trainable:,d} parameters, batch {recipe.batch}")
    print(f"activations {plan.activation_bytes:>12,d} B, whatever the depth" if not choice.schedule.stored else
          f"activations {plan.activation_bytes:>12,d} B, {choice.schedule.stored} functions stored")  # fmt: skip
    print(f"schedule    {choice.schedule}")
    print("\n".join(regions_table(regions)))
    return 0


def _describe(args: argparse.Namespace):
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

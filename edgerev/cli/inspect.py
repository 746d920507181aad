"""`edgerev inspect`: show what is in a checkpoint."""

from __future__ import annotations

import argparse
import json

HELP = "show what is in a checkpoint"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("model", help="checkpoint (.edgerev)")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Verify the checkpoint, and print what it holds."""
    from edgerev.checkpoint_reader import verified
    from edgerev.cli.show import print_json
    from edgerev.contents import contents

    with verified(args.model) as whole:
        net, recipe, classes, inputs, position, memory = contents(whole)
        metadata, entries = whole.metadata, dict(whole.entries())
    tensors = {name: [entry.dtype, list(entry.shape)] for name, entry in entries.items()}
    figures = {
        "net": net.to_dict(), "recipe": json.loads(metadata["recipe"]), "classes": classes,
        "inputs": inputs._asdict(), "position": position.to_dict(), "memory": json.loads(metadata["memory"]),
        "bytes": sum(entry.nbytes for entry in entries.values()), "tensors": tensors,
    }
    if args.json:
        print_json(figures)
        return 0
    print(f"{args.model}: whole, {figures['bytes']:,d} B in {len(tensors)} tensors")
    print(f"input    {net.input_shape}, state {net.state}")
    print(f"stem     {net.stem}")
    for part in net.backbone:
        print(f"         {part}")
    print(f"head     {net.head}")
    print(f"recipe   {recipe}")
    print(f"classes  {', '.join(classes) or 'not named'}")
    if inputs.columns:
        print(f"columns  {', '.join(inputs.columns)}")
    print(f"memory   {memory.budget or memory.schedule or 'reversible schedule'}")
    print(f"position {position.experience} experiences, {position.epoch} epochs, {position.sample} samples of the next")
    if args.tensors:
        for name, (dtype, shape) in tensors.items():
            print(f"  {name:<40} {dtype} {shape}")
    return 0

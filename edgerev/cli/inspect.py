"""`edgerev inspect`: show what is in a checkpoint."""

from __future__ import annotations

import argparse
import json
import os
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgerev.units import parse_bytes
from edgerev.value import Value

if TYPE_CHECKING:
    from edgerev.checkpoint_reader import Whole
    from edgerev.net import Net
    from edgerev.position import MemoryRequest, Position
    from edgerev.recipe import Recipe

HELP = "show what is in a checkpoint"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("model", help="checkpoint (.edgerev)")
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Verify the checkpoint, and print what it holds."""
    from edgerev.checkpoint_reader import verified
    from edgerev.cli.show import paragraph, print_json
    from edgerev.contents import contents

    with verified(args.model) as whole:
        net, recipe, classes, inputs, position, memory = contents(whole)
        metadata, entries = whole.metadata, dict(whole.entries())
        file_bytes = os.fstat(whole.fd).st_size
        steps = _steps(whole)
    tensors = {name: [entry.dtype, list(entry.shape)] for name, entry in entries.items()}
    figures = {
        "net": net.to_dict(), "recipe": json.loads(metadata["recipe"]), "classes": classes,
        "inputs": inputs._asdict(), "position": position.to_dict(), "memory": json.loads(metadata["memory"]),
        "bytes": sum(entry.nbytes for entry in entries.values()), "file_bytes": file_bytes, "tensors": tensors,
    }
    if args.json:
        print_json(figures)
        return 0
    print(f"{args.model}: whole, {figures['file_bytes']:,d} B, of which {figures['bytes']:,d} B "
          f"in {len(tensors)} tensors")  # fmt: skip
    rows = [
        *_net_rows(net), *_recipe_rows(recipe), ("classes", ", ".join(classes) or "not named"),
        ("columns", ", ".join(inputs.columns)), ("memory", _memory(memory)), ("trained", _trained(position, steps)),
    ]  # fmt: skip
    print("\n".join(paragraph(name, text, 15) for name, text in rows if text))
    if args.tensors:
        for name, (dtype, shape) in tensors.items():
            print(f"  {name:<40} {dtype} {shape}")
    return 0


def _net_rows(net: Net) -> list[tuple[str, str]]:
    parts = [("" if index else "backbone", written(part)) for index, part in enumerate(net.backbone)]
    size = "x".join(map(str, net.input_shape))
    return [("input", f"{size}, state {net.state}"), ("stem", written(net.stem)), *parts, ("head", written(net.head))]


def _recipe_rows(recipe: Recipe) -> list[tuple[str, str]]:
    """Return batch, optimizer and loss, and what else is not as it is by default."""
    changed = [
        (name, written(getattr(recipe, name))) for name in recipe._fields[2:]
        if name != "loss" and getattr(recipe, name) != recipe._field_defaults[name]
    ]  # fmt: skip
    optimizer = written(recipe.optimizer, defaults=True)
    return [("batch", str(recipe.batch)), ("optimizer", optimizer), ("loss", written(recipe.loss)), *changed]


def _memory(memory: MemoryRequest) -> str:
    if memory.budget is None:
        asked = memory.schedule or "reversible"
        return f"{asked} schedule" if isinstance(asked, str) else written(asked)
    budget = parse_bytes(memory.budget) if isinstance(memory.budget, str) else memory.budget
    return f"budget of {budget:,d} B"


def _steps(whole: Whole) -> int:
    from edgerev.checkpoint_reader import read_part
    from edgerev.kernels.layout import C_STEP, COUNTERS_SIZE

    counters = array("q", bytes(8 * COUNTERS_SIZE))
    read_part(whole, [("counters", "I64", (len(counters),), memoryview(counters).cast("B"))])
    return counters[C_STEP]


def _trained(position: Position, steps: int) -> str:
    """Return how many steps it was trained for and, where that was from files, how far it is with these."""
    done, count = position.experience, len(position.stream)
    if not count:
        return f"{steps:,d} steps"
    if done >= count:
        return f"{steps:,d} steps, to the end" + (f" of {count} experiences" if count > 1 else "")
    now = f"epoch {position.epoch + 1}, {position.sample:,d} of {position.stream[done][0]:,d} samples"
    return f"{steps:,d} steps, up to {now}" + (f" of experience {done + 1} of {count}" if count > 1 else "")


def written(value: Any, *, defaults: bool = False) -> str:
    """Return a part of a net or a recipe as it is written in Python.

    Parameters
    ----------
    defaults : write those of its fields too that are as they are by default
    """
    if isinstance(value, Value):
        return f"{type(value).__name__}({', '.join(_fields(value, defaults))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(written, value))}{',' * (len(value) == 1)})"
    return repr(value)


def _fields(value: Value, defaults: bool) -> Iterator[str]:
    from edgerev.net import Block

    usual = value._field_defaults | ({"G": value.F} if isinstance(value, Block) else {})
    for name in value._fields:
        field = getattr(value, name)
        if name not in usual:
            yield written(field)
        elif defaults or field != usual[name]:
            yield f"{name}={written(field)}"

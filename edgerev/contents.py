"""What a checkpoint says about itself: net, recipe, classes, and how far training is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from edgerev.checkpoint_reader import MOST_NAMED, Whole, verified
from edgerev.continual.consolidation import CONSOLIDATIONS
from edgerev.errors import AnotherModelError, CheckpointError, UsageError
from edgerev.losses import LOSSES
from edgerev.net import Net
from edgerev.optimizers import OPTIMIZERS, Clip, RateSchedule
from edgerev.position import Inputs, MemoryRequest, Position
from edgerev.program import Program, Region
from edgerev.recipe import Augment, Recipe, Schedule
from edgerev.runtime import Runtime

CHECKPOINT_FORMAT = "2"
KEPT = (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION)
SAMPLE_FREE = (*KEPT, Region.CONTROL)  # no sample passes through these
MOST_LETTERS = 60  # of a value in a message
_WORDS = {kind: word for word, kind in (*OPTIMIZERS.items(), *LOSSES.items(), *CONSOLIDATIONS.items())}


class Contents(NamedTuple):
    """What a checkpoint holds besides numbers.

    Attributes
    ----------
    net, recipe, classes, inputs, position, memory : see `Learner`
    """

    net: Net
    recipe: Recipe
    classes: list[str]
    inputs: Inputs
    position: Position
    memory: MemoryRequest


def to_metadata(
    net: Net, recipe: Recipe, classes: list[str], inputs: Inputs, position: Position, memory: MemoryRequest
) -> dict[str, str]:
    """Return the metadata of a checkpoint; `peek` reads them."""
    described = recipe.to_dict()
    for name in ("optimizer", "loss", "consolidation"):
        if described[name] is not None:
            described[name]["kind"] = _WORDS[type(getattr(recipe, name))]
    asked = memory.schedule.to_dict() if isinstance(memory.schedule, Schedule) else memory.schedule
    return {
        "format": CHECKPOINT_FORMAT, "net": json.dumps(net.to_dict()), "recipe": json.dumps(described),
        "classes": json.dumps(classes), "inputs": json.dumps(inputs._asdict()),
        "position": json.dumps(position.to_dict()), "memory": json.dumps({"budget": memory.budget, "schedule": asked}),
    }


def peek(path: str) -> Contents:
    """Verify a checkpoint and return what it holds, without loading its parameters.

    Raises
    ------
    CheckpointError
        The file is missing, damaged, of another format, or no checkpoint of edgerev's.
    """
    with verified(path) as whole:
        return contents(whole)


def contents(whole: Whole) -> Contents:
    """Return what a checkpoint that is open holds; see `peek`."""
    path, metadata = whole.path, whole.metadata
    if metadata.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} is of format {metadata.get('format')}; expected {CHECKPOINT_FORMAT}, a checkpoint of this version "
            "of edgerev; use the version that wrote it"
        )
    try:
        return Contents(
            Net.from_dict(json.loads(metadata["net"])), _recipe_from_dict(json.loads(metadata["recipe"])),
            list(json.loads(metadata["classes"])), Inputs(**json.loads(metadata["inputs"])),
            Position(**json.loads(metadata["position"])), _memory_from_dict(json.loads(metadata["memory"])),
        )
    except (LookupError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise CheckpointError(
            f"{path} has metadata that cannot be used ({error!r}); expected a checkpoint made by edgerev; make it again"
        ) from error


class KeptTensors:
    """Name, dtype, shape and bytes of each tensor that a checkpoint keeps, one at a time, as often as wanted."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __iter__(self) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
        runtime = self._runtime
        for name, dtype in (("counters", "I64"), ("scalars", "F32")):
            view = runtime.view(name)
            yield name, dtype, (len(view),), view.cast("B")
        for number, (name, region) in enumerate(zip(runtime.program.names, runtime.program.regions)):
            if region in KEPT:
                tensor = runtime.program.decode_tensor(number)
                yield name, tensor.dtype.name, tensor.shape, runtime.view(number).cast("B")


def stored_sample_bytes(program: Program, sizes: Iterable[tuple[str, int]]) -> int:
    """Return the bytes of a checkpoint's tensors that could hold samples.

    Parameters
    ----------
    sizes : name and bytes of each tensor, as the file has them; quick if they are in the program's order
    """
    total = at = 0
    for name, size in sizes:
        if at == len(program.names) or program.names[at] != name:
            at = program.names.index(name) if name in program.names else -1
        total += size * (at < 0 or program.regions[at] not in SAMPLE_FREE)
        at += 1
    return total


def check_finite(path: str, runtime: Runtime) -> None:
    """Refuse to write parameters that are not finite.

    Raises
    ------
    CheckpointError
        The message names the first tensor that holds NaN or infinity.
    """
    for number, region in enumerate(runtime.program.regions):
        # Python adds in float64, so the sum is finite if and only if all of them are
        if region is Region.PARAMETERS and not math.isfinite(sum(runtime.view(number))):
            raise CheckpointError(
                f"{path} was not written: {runtime.program.names[number]} holds NaN or infinity; expected finite "
                "parameters; load the last checkpoint, and lower the learning rate"
            )


def _recipe_from_dict(data: dict) -> Recipe:
    optimizer, loss, clip = dict(data["optimizer"]), dict(data["loss"]), data["clip"]
    method = dict(data["consolidation"] or {})
    return Recipe(
        data["batch"], OPTIMIZERS[optimizer.pop("kind")](**optimizer), RateSchedule(**data["rate_schedule"]),
        Clip(**clip) if clip else None, LOSSES[loss.pop("kind")](**loss), Augment(**data["augment"]),
        CONSOLIDATIONS[method.pop("kind")](**method) if method else None, tuple(data["rates"]), data["atomic"],
    )


def _memory_from_dict(data: dict) -> MemoryRequest:
    schedule = data["schedule"]
    return MemoryRequest(data["budget"], Schedule(**schedule) if isinstance(schedule, dict) else schedule)


def check_alike(path: str, found: Contents, net: Net, recipe: Recipe) -> None:
    """Refuse a checkpoint whose numbers mean something else; rates, batch, clipping and augmentation may differ.

    Raises
    ------
    AnotherModelError
        Net, kind of optimizer or kind of loss are not those of the learner; the message says which.
    """
    there, here = found.net.to_dict() | _training(found.recipe), net.to_dict() | _training(recipe)
    differences = [*_differences("", there, here)]
    if differences:
        more = len(differences) - MOST_NAMED
        raise AnotherModelError(path, "; ".join(differences[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else ""))


def _differences(name: str, there: Any, here: Any) -> Iterator[str]:
    """Yield what differs in plain data, down to the keys and places that do."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in there | here:
            yield from _differences(f"{name}.{key}".lstrip("."), there.get(key), here.get(key))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for place, pair in enumerate(zip(there, here)):
            yield from _differences(f"{name}.{place}", *pair)
    elif there != here:
        yield f"{name} {_short(there)}, not {_short(here)}"


def _short(value: Any) -> str:
    if isinstance(value, (dict, list)) and len(json.dumps(value)) > MOST_LETTERS:
        return f"{len(value)} entries"
    return value if isinstance(value, str) else json.dumps(value)


def facts(net: Net, recipe: Recipe) -> dict[str, str]:
    """Return, by name and as text, all that decides what a model's numbers mean."""
    return {name: json.dumps(value) for name, value in net.to_dict().items()} | _training(recipe)


def _training(recipe: Recipe) -> dict[str, str]:
    return {
        "optimizer": _WORDS[type(recipe.optimizer)] + " without momentum" * (recipe.optimizer.moments == 0),
        "consolidation": _WORDS[type(recipe.consolidation)] if recipe.consolidation else "none",
        "loss": _WORDS[type(recipe.loss)] + " with weights" * (recipe.loss.weights is not None),
    }

"""Bring weights back from another runtime: from a checkpoint of onnxruntime-training, a train step's, or a graph."""

from __future__ import annotations

import io
import json
import os
import tokenize
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple
from zlib import error as zlib_error

import numpy as np

from edgerev.checkpoint_reader import MOST_NAMED
from edgerev.deploy.onnx.export import Export, array_of
from edgerev.deploy.onnx.ort_checkpoint import IDENTIFIER, unpack
from edgerev.deploy.onnx.parameters import Layout, layouts, plain
from edgerev.deploy.onnx.training import TRAINING
from edgerev.deploy.onnx.update import POWERS
from edgerev.deploy.onnx.wire import arrays, load
from edgerev.deploy.ort import STEPS, TASK
from edgerev.errors import CheckpointError, ExportError, NetError
from edgerev.kernels.layout import C_STEP, V_POWER1, V_POWER2
from edgerev.learner import Learner
from edgerev.net import Net
from edgerev.optimizers import AdamW
from edgerev.program import Region
from edgerev.runtime import Runtime

_MODEL_INPUTS = ("input.mean", "input.scale")
_ZIP = b"PK"
_MOST_STEPS = 2**62
_SOLVED = 1e-3  # largest difference of a solution, as a share of its largest number, between two machines
# what damage makes the readers of zip and .npy files raise
_DAMAGED = (
    ValueError, LookupError, TypeError, ArithmeticError, EOFError, OSError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib_error, tokenize.TokenError, SyntaxError, NetError,
    ExportError,
)  # fmt: skip


class Weights(NamedTuple):
    """What a file brings.

    Attributes
    ----------
    format : "ort-training", "train-step" or "onnx"
    arrays : float32 values by the names of the program, as they lie in ONNX
    steps : optimizer steps of the model's life, where `absolute`, or of those after its export
    about : what is said about the model: `net`, `loss`, `classes` and `task`, as far as it is
    """

    format: str
    arrays: dict[str, np.ndarray]
    steps: int
    absolute: bool = False
    about: Mapping[str, Any] = {}


def read_weights(path: str) -> Weights:
    """Read a file of any of the formats; which it is, is told by how it starts.

    Parameters
    ----------
    path : the file, or the folder of an `ort-training` export, whose checkpoint is meant

    Raises
    ------
    CheckpointError
        It cannot be read, or is not whole.
    """
    folder = path if os.path.isdir(path) else None
    path = path if folder is None else os.path.join(folder, "checkpoint")
    try:
        found = _read(_content(path))
        if folder is None or not os.path.exists(os.path.join(folder, TRAINING)):
            return found
        path = os.path.join(folder, TRAINING)
        return found._replace(about=_about(load(path).metadata))
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path} cannot be read as weights ({error}); expected a checkpoint of onnxruntime-training, an .npz file "
            "that TrainStep.save wrote, or an ONNX model that `edgerev export` wrote; copy or write it again"
        ) from error


def _content(path: str) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(file.read())


def _read(data: memoryview) -> Weights:
    if not data:
        raise ValueError("it is empty")
    if data[4:8] == IDENTIFIER:
        found = _from_checkpoint(data)
    elif data[:2] == _ZIP:
        found = _from_step(data)
    else:
        values, metadata = arrays(data)
        format = metadata.get("edgerev.format", '"onnx"')
        if format != '"onnx"':
            raise ValueError(f"it is a graph of format {format}, whose values are still those of its export")
        found = Weights("onnx", values, 0, about=_about(metadata))
    if not 0 <= found.steps < _MOST_STEPS:
        raise ValueError(f"it counts {found.steps} steps")
    return found


def _about(metadata: Mapping[str, str]) -> dict[str, Any]:
    keys = [key for key in ("net", "loss", "classes", "task") if f"edgerev.{key}" in metadata]
    found = {key: json.loads(metadata[f"edgerev.{key}"]) for key in keys}
    return found | ({"net": Net.from_dict(found["net"])} if "net" in found else {})


def _from_checkpoint(data: memoryview) -> Weights:
    found = unpack(data)
    values = dict(found.parameters)
    for name, moments in found.moments.items():
        values.update({f"{name}.moment{k + 1}": moment for k, moment in enumerate(moments)})
    return Weights("ort-training", values, found.step, absolute=True)


def _from_step(data: memoryview) -> Weights:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    task = int(found.pop(TASK, -2))
    return Weights(
        "train-step", found, int(found.pop(STEPS)), about={} if task < -1 else {"task": None if task < 0 else task}
    )


def bring_back(learner: Learner, path: str) -> Weights:
    """Take weights from a file into the learner that its model was exported from.

    Parameters
    ----------
    path : see `read_weights`
    learner : takes parameters, moments and the count of steps; it stays as it is if any of them does not fit

    Raises
    ------
    CheckpointError
        The file cannot be read, is of another model, or holds values that are not finite.
    """
    weights = read_weights(path)
    places = _places(learner)
    given = {name: array for name, array in weights.arrays.items() if name in places or weights.format != "onnx"}
    if weights.format == "ort-training" and not learner.recipe.optimizer.moments:  # that runtime keeps one all the same
        given = {name: array for name, array in given.items() if not name.endswith(".moment1")}
    _check(path, weights.format, given, places, _wanted(learner, weights.format))
    _check_model(path, learner, weights.about)
    if weights.format == "onnx" and learner.net.head.closed_form:
        _check_solution(path, learner, given, places)
    weights = weights._replace(arrays=given)
    learner.replace(lambda runtime: _fill(runtime, learner, weights, places))
    return weights


class _Place(NamedTuple):
    """Where an array goes: a tensor of the program with its layout, or a number of the tensor `scalars`."""

    layout: Layout
    number: int
    slot: int = -1


def _places(learner: Learner) -> dict[str, _Place]:
    program = learner.runtime.program
    kernels, found = layouts(program), {}
    for number, (name, region) in enumerate(zip(program.names, program.regions)):
        if region in (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION):
            found[name] = _Place(kernels.get(number) or plain(program.decode_tensor(number)), number)
    scalars = program.find("scalars")
    return found | {name: _Place(Layout((1, 1, 1)), scalars, slot) for slot, name in POWERS.items()}


def _wanted(learner: Learner, format: str) -> set[str]:
    """Return the names that an export of this learner has now."""
    export = Export(learner, format, 17, None)
    names, regions, writer = export.program.names, export.program.regions, export.writer
    if format == "onnx":
        export.inference()
        return {names[number] for number in writer.entered} - set(_MODEL_INPUTS)
    found = {names[number] for number in writer.changed("train")}
    if format == "ort-training":
        return {name for name in found if regions[export.program.find(name)] is not Region.CONSOLIDATION}
    return found | (set(POWERS.values()) if isinstance(learner.recipe.optimizer, AdamW) else set())


def _check(path: str, format: str, given: dict[str, np.ndarray], places: dict[str, _Place], wanted: set[str]) -> None:
    problems = [f"lacks {name}" for name in sorted(wanted - given.keys())]
    for name, array in given.items():
        if name not in places or (format != "onnx" and name not in wanted):
            problems.append(f"has {name} besides")
            continue
        shape = () if places[name].slot >= 0 else places[name].layout.onnx_shape
        if array.dtype != np.float32 or array.shape != shape:
            problems.append(f"has {name} of {array.dtype} {list(array.shape)}, not float32 {list(shape)}")
        elif not np.isfinite(array).all():
            problems.append(f"has NaN or infinity in {name}")
    if problems:
        more = f" and {len(problems) - MOST_NAMED} more" * (len(problems) > MOST_NAMED)
        raise CheckpointError(
            f"{path} does not fit the model: it {'; '.join(problems[:MOST_NAMED])}{more}; expected the {len(wanted)} "
            f"tensors of its {format} export, all finite; name the checkpoint that was exported, or train again"
        )


def _check_model(path: str, learner: Learner, about: Mapping[str, Any]) -> None:
    """Refuse a file whose tensors have the right names and shapes, but which says that they mean something else."""
    problems = []
    if about.get("net", learner.net) != learner.net:
        problems.append("another net")
    if about.get("loss", learner.recipe.loss.number.name) != learner.recipe.loss.number.name:
        problems.append(f"the loss {about['loss']}")
    if any(here != there for here, there in zip(learner.classes, about.get("classes", ()))):  # later ones may be new
        problems.append(f"the classes {', '.join(map(str, about['classes']))}")
    adapted = "put_away" in learner.runtime.program.sections
    if adapted and about.get("task", learner.task) != learner.task:  # adapters outside are those of the task at hand
        problems.append(f"the task {about['task']}, not {learner.task},")
    if problems:
        raise CheckpointError(
            f"{path} does not fit the model: its metadata names {' and '.join(problems)}; expected an export of this "
            "model; name the checkpoint that was exported"
        )


def _check_solution(path: str, learner: Learner, given: dict[str, np.ndarray], places: dict[str, _Place]) -> None:
    """Refuse changed answers of a head in closed form, which the sums that stay here would bring back as they were."""
    seen = array_of(learner.runtime, "ridge.counts") > 0
    if not seen.any():
        return
    learner.settle()
    for name in ("ridge.weight", "ridge.bias"):
        here = places[name].layout.to_onnx(array_of(learner.runtime, name))[..., seen]
        if not abs(given[name][..., seen] - here).max() <= _SOLVED * abs(here).max():
            raise CheckpointError(
                f"{path} does not fit the model: its {name} is not what the model's sums give, from which a head in "
                "closed form answers; expected an export of this model; name the checkpoint that was exported, or a "
                "copy of it after release()"
            )


def _fill(runtime: Runtime, learner: Learner, weights: Weights, places: dict[str, _Place]) -> None:
    for name, array in weights.arrays.items():
        place, view = places[name], runtime.view(places[name].number)
        values = np.frombuffer(view, "f4")
        if place.slot >= 0:
            values[place.slot] = array
        else:
            values[:] = place.layout.from_onnx(array)
    counters = runtime.view("counters")
    counters[C_STEP] = weights.steps + (0 if weights.absolute else counters[C_STEP])
    if weights.absolute:
        scalars, optimizer = runtime.view("scalars"), learner.recipe.optimizer
        betas = (optimizer.beta1, optimizer.beta2) if isinstance(optimizer, AdamW) else (0.0, 0.0)
        scalars[V_POWER1], scalars[V_POWER2] = (_power(beta, weights.steps) for beta in betas)


def _power(beta: float, steps: int) -> float:
    """Return a power as the kernels do, one float32 product for each step."""
    power, factor = np.float32(1), np.float32(beta)
    for _ in range(steps):
        if not power:
            break
        power *= factor
    return float(power)

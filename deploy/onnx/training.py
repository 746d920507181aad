"""The files that onnxruntime-training 1.19 trains from: graphs of gradients, of answers and of updates; a checkpoint.

Its own gradient graph would keep every activation. This one is our training step, from the same writer; only where
that updates parameters, gradients leave for accumulators, and the optimizer is a graph of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import numpy as np

from edgerev import __version__
from edgerev.deploy.onnx.accumulate import ACCUMULATE
from edgerev.deploy.onnx.export import Export
from edgerev.deploy.onnx.optimizer_model import check_expressible, optimizer_model
from edgerev.deploy.onnx.ort_checkpoint import OrtCheckpoint, pack
from edgerev.deploy.onnx.writer import ENTRIES
from edgerev.errors import UsageError
from edgerev.files import fsync_folder, write_whole
from edgerev.kernels.layout import C_STEP, NO_TENSOR, Op
from edgerev.learner import Learner
from edgerev.numbers import INT32_MAX, whole
from edgerev.program import Region

if TYPE_CHECKING:
    import onnx

TRAINING, EVALUATION, OPTIMIZER, CHECKPOINT = (
    "training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint"
)  # fmt: skip
_ENTRIES = {**ENTRIES, **ACCUMULATE}
FILES = (TRAINING, EVALUATION, OPTIMIZER, CHECKPOINT)


def make_training(learner: Learner, *, opset: int = 17, batch: int | None = None) -> dict[str, bytes]:
    """Return what is in each of the `FILES`.

    Parameters
    ----------
    learner : its state is not changed, but a head in closed form is solved if it has to be
    opset : 17 or 18
    batch : samples of each run, or None to leave it open

    Raises
    ------
    UsageError
        There is no such opset, or the batch is out of range.
    ExportError
        The package onnx is missing, or net or recipe cannot be written; the message names the way out.
    CheckpointError
        A failed step left the model half updated, or a parameter is not finite.
    """
    if batch is not None:
        whole("batch", batch, 1, INT32_MAX)
    check_expressible(learner.recipe, task=learner.task if learner.net.head.tasks > 1 else None)
    if learner.net.head.closed_form:
        learner.settle()
    files: dict[str, bytes] = {}

    def write(_: object) -> None:
        training, evaluation = (Export(learner, "ort-training", opset, batch, _ENTRIES) for _ in range(2))
        files[TRAINING] = _training(training).SerializeToString()
        files[EVALUATION] = _evaluation(evaluation).SerializeToString()
        files[OPTIMIZER] = optimizer_model(learner.recipe.optimizer, __version__).SerializeToString()
        files[CHECKPOINT] = pack(_checkpoint(training))

    learner.export("the graph", write)
    return files


def trained(export: Export) -> list[int]:
    """Return the parameters that a training step changes."""
    regions = export.program.regions
    return [number for number in export.writer.changed("train") if regions[number] is Region.PARAMETERS]


def _take(export: Export) -> list[int]:
    """Let samples, targets and the trained parameters come in; return the numbers of these."""
    export.take_samples()
    export.take_targets()
    numbers, writer = trained(export), export.writer
    for number in numbers:
        name = export.program.names[number]
        writer.newest[number] = export.graph.input(name, "f4", writer.layout(number).onnx_shape)
        export.graph.kept.add(name)  # the runtime feeds all of them, whatever a graph reads
    return numbers


def _training(export: Export) -> onnx.ModelProto:
    numbers, writer, graph = _take(export), export.writer, export.graph
    writer.run("train")
    graph.scope = ""
    graph.output("loss", writer.read(export.program.find("report")), "f4", ())
    for number in numbers:
        name = f"{export.program.names[number]}_grad.accumulation.out"
        graph.output(name, writer.accumulated[number], "?", (1,))
    export.metadata["dropout"] = writer.masks
    export.metadata["inputs"] = {
        name: [dtype.str, shape] for name, dtype, shape in graph.inputs if name in ("x", "y", *writer.masks)
    }
    export.metadata["rate"] = export.learner.recipe.optimizer.rate
    return _built(export)


def _evaluation(export: Export) -> onnx.ModelProto:
    _take(export)
    program, writer, graph = export.program, export.writer, export.graph
    for section in ("encode", "forward", "read_out"):
        writer.run(section)
    (answer,) = (step for step in writer.steps("read_out") if step.op == Op.PROBABILITY)
    for step in writer.steps("train"):
        if step.op in (Op.LOSS, Op.REPORT):
            if step.op == Op.LOSS:
                writer.newest[step.operands["z"]] = writer.read(answer.operands["z"])
            writer.write_step(step)
    graph.scope = ""
    graph.output("loss", writer.read(program.find("report")), "f4", ())
    columns = export.net.head.columns
    graph.output("probability", writer.read(program.find("probability")), "f4", export.shape(columns))
    return _built(export)


def _built(export: Export) -> onnx.ModelProto:
    metadata = {f"edgerev.{key}": json.dumps(value) for key, value in export.metadata.items()}
    return export.graph.build(metadata, __version__)


def _checkpoint(export: Export) -> OrtCheckpoint:
    """Return the parameters as they lie in ONNX, and moments for all: onnxruntime keeps one even for plain SGD."""
    program, writer, optimizer = export.program, export.writer, export.learner.recipe.optimizer

    def value(number: int) -> np.ndarray:
        return writer.layout(number).to_onnx(export.values(program.names[number]))

    parameters = {program.names[number]: value(number) for number in trained(export)}
    moments = {name: [np.zeros_like(array)] for name, array in parameters.items()}
    for step in writer.steps("train"):
        if step.op == Op.UPDATE and optimizer.moments:
            kept = [step.operands[name] for name in "mv" if step.operands[name] != NO_TENSOR]
            moments[program.names[step.operands["w"]]] = [value(number) for number in kept]
    return OrtCheckpoint(parameters, moments, writer.counters[C_STEP], optimizer.rate)


def check_folder(folder: str, *, replace: bool) -> None:
    """Raise UsageError unless `folder` can become one of these exports; `replace` allows one that is there."""
    parent = os.path.dirname(os.path.abspath(folder))
    if not os.path.isdir(parent):
        raise UsageError(f"the folder of {folder} does not exist; expected {parent}; make it first")
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder) or not set(os.listdir(folder)) <= set(FILES):
        raise UsageError(f"{folder} is there already, and is no such export; expected a new name; choose another one")
    if os.listdir(folder) and not replace:
        raise UsageError(f"{folder} is there already; expected a new name; choose one, or add --force to replace it")


def write_folder(files: dict[str, bytes], folder: str) -> int:
    """Write the files into a new folder, which is there with all of them or as it was; return their bytes.

    Links are followed.
    """
    target = os.path.realpath(folder)
    parent, name = os.path.split(target)
    scratch = tempfile.mkdtemp(prefix=f".{name}-", dir=parent)
    try:
        new, old = os.path.join(scratch, "new"), os.path.join(scratch, "old")
        os.mkdir(new)
        for path, data in files.items():
            write_whole(os.path.join(new, path), [data])
        if os.path.isdir(target):
            os.rename(target, old)
        try:
            os.rename(new, target)
        except BaseException:
            if os.path.isdir(old):
                os.rename(old, target)
            raise
        fsync_folder(parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return sum(map(len, files.values()))

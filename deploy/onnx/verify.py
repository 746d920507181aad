"""Compare a graph, run by onnxruntime, with our own runtime; a difference is written down, to be repeated."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgerev.arena import plan
from edgerev.contents import KeptTensors
from edgerev.deploy.onnx.export import NEXT, array_of, grid_step, make
from edgerev.deploy.onnx.forward import mask_name
from edgerev.deploy.onnx.parameters import layouts, plain
from edgerev.deploy.onnx.update import POWERS
from edgerev.deploy.ort import open_session
from edgerev.errors import ExportError, UsageError
from edgerev.files import write_whole
from edgerev.kernels.layout import BARRIER_SIZE, COUNTERS_SIZE, MAX_THREADS, STATUS_LINE, V_RATE, DType, LossKind, Op
from edgerev.learner import Learner
from edgerev.program import Program, Region
from edgerev.runtime import Runtime

if TYPE_CHECKING:
    import onnx


class Tolerance(NamedTuple):
    """Largest difference, as a share of the largest value of a tensor, or of `least` if all are smaller."""

    share: float
    least: float


TOLERANCES = {
    "onnx": Tolerance(1e-5, 1.0), "forward": Tolerance(1e-4, 1.0), "inverse": Tolerance(0.0, 1.0),
    "train-step": Tolerance(1e-3, 1e-3),  # a ReLU at its kink falls to either side, and its share of a gradient too
}  # fmt: skip
# least shares of nets whose last bit weighs more: a product on the edge moves a state by a step of its grid, 2**-10,
# and each function after it adds its own; a float32 state is rebuilt but for its last bits
_COARSE = {
    "int16": {"onnx": 5e-3, "forward": 5e-3, "train-step": 5e-2},
    "float32": {"inverse": 1e-4},
}  # fmt: skip
_SCORES = 1e-6  # of the largest score: what its last bits are in a probability
_WHOLE = 1e-2  # of a probability: a feature between two whole numbers becomes either

_SCRIPT = '''"""Run {model} on the inputs of {data} and print how far each output is from what was expected."""

from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).parent
data = np.load(here / {data!r})
session = onnxruntime.InferenceSession(here / {model!r}, providers=["CPUExecutionProvider"])
wanted = [name.removeprefix("expected/") for name in data if name.startswith("expected/")]
feeds = {{name.removeprefix("input/"): data[name] for name in data if name.startswith("input/")}}
for name, found in zip(wanted, session.run(wanted, feeds)):
    expected = data["expected/" + name]
    print(name, "largest difference", abs(found.astype("f8") - expected).max(), "of", abs(expected).max())
'''


class Case(NamedTuple):
    """Inputs of a graph, and the outputs that our runtime has for them.

    Attributes
    ----------
    scores : for "onnx", largest of the numbers that become probabilities
    """

    inputs: dict[str, np.ndarray]
    expected: dict[str, np.ndarray]
    scores: float = 0.0


def case(learner: Learner, format: str, x: np.ndarray, y: np.ndarray | None = None) -> Case:
    """Return what a graph of this learner is to compute; the learner stays as it is.

    Parameters
    ----------
    x : ``(samples, ...)`` float32
    y : targets, for "train-step"
    """
    if format == "onnx":
        answers = np.asarray(learner.predict_proba_many(x))
        return Case({"x": x}, {"probability": answers}, _largest_score(learner, len(x)))
    if format == "train-step":
        if y is None:
            raise UsageError("a training step needs targets; expected y; pass them")
        return _training_case(learner, x, y)
    kind = "f4" if learner.net.state == "float32" else "i4"
    ends = {"entry": learner.encode(x), "exit": learner.transform(x)}
    found = {name: (values / grid_step(learner.net)).astype(kind) for name, values in ends.items()}
    if format == "forward":
        return Case({"x": x}, found)
    # ours and the runtime's products differ in the last bits, and so do the states; each is its own inverse
    forward = open_model(make(learner, "forward").SerializeToString())
    entry, exit_state = forward.run(["entry", "exit"], {"x": x})
    return Case({"exit": exit_state}, {"entry": entry})


def _largest_score(learner: Learner, n: int) -> float:
    """Return the largest score of the last micro-batch of the `n` samples that were answered just now."""
    if learner.recipe.loss.number == LossKind.MEAN_SQUARED_ERROR:  # values, which are not squeezed into 0 .. 1
        return 0.0
    most = learner.schedule.micro_batch
    rows = n % most or most
    return float(abs(array_of(learner.runtime, "logits")[: rows * learner.net.head.columns]).max())


def tolerance(learner: Learner, format: str, found: Case) -> Tolerance:
    """Return how far a right graph of this learner may be off; see `TOLERANCES` for the usual net."""
    usual, net = TOLERANCES[format], learner.net
    share = max(usual.share, _COARSE.get(net.state, {}).get(format, 0.0), _SCORES * found.scores)
    if format == "onnx" and net.head.closed_form and net.head.sums != "float64":
        share = max(share, _WHOLE)
    return usual._replace(share=share)


def _training_case(learner: Learner, x: np.ndarray, y: np.ndarray) -> Case:
    other = twin(learner, len(x))
    inputs = {"x": x, "y": y, **masks(other, len(x)), **state(other)}
    loss = other.learn_many(x, y).loss
    inputs["learning_rate"] = array_of(other.runtime, "scalars")[V_RATE : V_RATE + 1].reshape(())
    after = {name + NEXT: values for name, values in state(other).items()}
    return Case(inputs, {"loss": np.array(loss, "f4"), **after})


def twin(learner: Learner, batch: int) -> Learner:
    """Return a learner with the same state that trains on samples as they are, all of a batch at once."""
    same = ("optimizer", "loss", "rate_schedule", "clip", "consolidation", "rates", "atomic")
    other = Learner(learner.net, batch=batch, **{name: getattr(learner.recipe, name) for name in same})
    for name, _, _, view in KeptTensors(other.runtime):
        view[:] = learner.runtime.view(name).cast("B")
    return other


def state(learner: Learner) -> dict[str, np.ndarray]:
    """Return everything that a training step may change, as it lies in ONNX."""
    program = learner.runtime.program
    kernels, found = layouts(program), {}
    for number, (name, region) in enumerate(zip(program.names, program.regions)):
        tensor = program.decode_tensor(number)
        if region in (Region.PARAMETERS, Region.OPTIMIZER, Region.CONSOLIDATION) and tensor.dtype == DType.F32:
            found[name] = (kernels.get(number) or plain(tensor)).to_onnx(array_of(learner.runtime, name))
    scalars = array_of(learner.runtime, "scalars")
    return {**found, **{name: scalars[slot : slot + 1].reshape(()) for slot, name in POWERS.items()}}


def masks(learner: Learner, n: int) -> dict[str, np.ndarray]:
    """Return the dropout masks of the learner's next step, drawn by the kernels: ones, sent through DROPOUT."""
    theirs = learner.runtime.program
    first, last = theirs.sections["train"]
    drops = [step for step in map(theirs.decode, range(first, last)) if step.op == Op.DROPOUT]
    if not drops:
        return {}
    program = Program(n)
    program.tensor("status", (MAX_THREADS, STATUS_LINE), Region.CONTROL, dtype=DType.I32)
    program.tensor("barrier", (BARRIER_SIZE,), Region.CONTROL, dtype=DType.I32)
    counters = program.tensor("counters", (COUNTERS_SIZE,), Region.CONTROL, dtype=DType.I64)
    shapes = {}
    with program.section("draw"):
        for step in drops:
            name = mask_name(theirs, step)
            if name not in shapes:
                shapes[name] = theirs.decode_tensor(step.operands["y"]).shape
                mask = program.tensor(name, shapes[name], Region.IO, capacity=n)
                program.emit(Op.INIT, mask, counters, value=1.0)
                program.emit(Op.DROPOUT, mask, mask, counters, **step.parameters)
    runtime = Runtime(program, plan(program))
    runtime.view("counters")[:] = learner.runtime.view("counters")
    runtime.run("draw", n)
    return {name: array_of(runtime, name).reshape(n, *shape) for name, shape in shapes.items()}


def open_model(data: bytes) -> Any:
    """Return a session on the processor for a model's bytes."""
    return open_session("the model", data, 0, "cpu", 1)


def verify(model: onnx.ModelProto, found: Case, tolerance: Tolerance, prefix: str) -> float:
    """Compare a graph's outputs with what is expected, and return the largest difference.

    Parameters
    ----------
    tolerance : see the function of that name
    prefix : start of the names of what is written if they differ

    Raises
    ------
    ExportError
        They differ; the message names a script and its inputs that show it.
    """
    data = model.SerializeToString()
    ports = {port.name for port in model.graph.input}
    names = [port.name for port in model.graph.output if port.name in found.expected]
    inputs = {name: values for name, values in found.inputs.items() if name in ports}
    results = open_model(data).run(names, inputs)
    errors = {
        name: difference(np.asarray(result), found.expected[name], tolerance.least)
        for name, result in zip(names, results)
    }
    worst = max(errors, key=lambda name: errors[name])
    if not errors[worst] <= tolerance.share:
        script = _write_down(data, Case(inputs, {name: found.expected[name] for name in names}), prefix)
        raise ExportError(
            f"output {worst} differs by {errors[worst]:.3g}; expected at most {tolerance.share:g} of its largest "
            f"value. `python {script}` shows it, with the files beside it; report them"
        )
    return errors[worst]


def difference(found: np.ndarray, expected: np.ndarray, least: float) -> float:
    """Return the largest difference as a share of the largest expected value, or of `least` if that is smaller."""
    wide, ours = found.astype("f8"), expected.astype("f8").reshape(found.shape)
    return float(abs(wide - ours).max() / max(least, abs(ours).max()))


def _write_down(data: bytes, found: Case, prefix: str) -> str:
    """Write the model, its inputs and a script that runs it; return the script's name."""
    base = os.path.basename(prefix)
    write_whole(f"{prefix}.onnx", [data])
    arrays: dict[str, Any] = {f"input/{name}": values for name, values in found.inputs.items()}
    arrays.update({f"expected/{name}": values for name, values in found.expected.items()})
    np.savez(f"{prefix}.npz", **arrays)
    write_whole(f"{prefix}.py", [_SCRIPT.format(model=f"{base}.onnx", data=f"{base}.npz").encode()])
    return f"{prefix}.py"

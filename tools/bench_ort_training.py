"""Memory and time of steps in onnxruntime-training: our export beside the runtime's own gradient graph of the net."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from edgerev.presets import preset
from edgerev.tools.child import link_package, measured_alone


def training_row(name: str, python: str, *, batch: int, steps: int, threads: int) -> dict[str, Any]:
    """Return what `step_memory` does, prefixed by "training_" for our graph, and by "own_" for the runtime's.

    Parameters
    ----------
    name : a net by name
    python : that of an environment with onnxruntime-training, onnx and NumPy
    batch, steps : samples of a step, and how many steps
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        ours, exact, theirs = (os.path.join(folder, kind) for kind in ("ours", "float32", "theirs"))
        link_package(folder)
        for path, state in ((ours, "int32"), (exact, "float32")):
            measured_alone("edgerev.tools.bench_ort_training:write_training", name=name, path=path, state=state)
        there = {"python": python, "packages": folder}
        measured_alone("edgerev.tools.ort_gradients:own_graph", **there, source=exact, target=theirs)
        for prefix, path in (("training", ours), ("own", theirs)):
            figures = measured_alone(
                "edgerev.tools.bench_onnx:step_memory", **there, path=path, batch=batch, steps=steps, threads=threads
            )
            found.update({f"{prefix}_{key}": value for key, value in figures.items()})
    return found


def write_training(name: str, path: str, state: str) -> None:
    """Write the `ort-training` export of a preset.

    Parameters
    ----------
    name : a net by name
    path : folder to make
    state : its type
    """
    from edgerev.deploy.onnx.training import make_training, write_folder
    from edgerev.learner import Learner
    from edgerev.optimizers import SGD

    net = preset(name).replace(state=state)
    write_folder(make_training(Learner(net, batch=1, optimizer=SGD(1e-3))), path)

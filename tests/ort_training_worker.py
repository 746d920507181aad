"""Trains what tests exported, in an environment with onnxruntime-training; a line with JSON for each request.

The folder of a request has the export, and `batches.npz` with x and y of each step, and dropout masks by name; it gets
`result.npz` and `trained`, a checkpoint.
"""

import json
import os
import sys

import numpy as np

from edgerev.deploy.ort_training import TrainingModule


def train(folder, rates=None, resume=None):
    module = TrainingModule(os.path.join(folder, "model"), resume)
    data = np.load(os.path.join(folder, "batches.npz"))
    losses = []
    for step, (x, y) in enumerate(zip(data["x"], data["y"])):
        masks = {name: data[name][step] for name in module.metadata["dropout"]}
        losses.append(module.step(x, y, rates and rates[step], masks))
    masks = {name: data[name][0] for name in module.metadata["dropout"]}
    loss, answers = module.evaluate(data["x"][0], data["y"][0])
    module.save(os.path.join(folder, "trained"))
    np.savez(os.path.join(folder, "result.npz"), losses=losses, answers=answers, loss=loss, **module.parameters())
    return {"steps": module.steps}


def calls(folder, script):
    """Run a piece of Python beside a module of the folder, and return what it calls `result`."""
    names = {"folder": folder, "TrainingModule": TrainingModule, "np": np}
    exec(script, names)
    return names["result"]


for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"train": train, "calls": calls}[request.pop("verb")](**request)
        assert "torch" not in sys.modules
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)

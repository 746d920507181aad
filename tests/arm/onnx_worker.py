"""Run what a test exported, on an ARM device: `onnx_worker.py FOLDER` reads `batches.npz` and writes `result.npz`.

The folder has a graph of each format, as in `train-step.onnx`; the batches are x and y of each step, dropout masks by
name, and a number of threads.
"""

import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from edgerev.deploy.ort import TrainStep, open_session

folder = Path(sys.argv[1])
data = np.load(folder / "batches.npz")
step, losses = TrainStep(str(folder / "train-step.onnx"), threads=int(data["threads"])), []
for number, (x, y) in enumerate(zip(data["x"], data["y"])):
    masks = {name: data[name][number] for name in step.metadata["dropout"]}
    losses.append(step.step(x, y, None, masks))

x = data["x"][0]
plain = onnxruntime.InferenceSession(str(folder / "onnx.onnx"), providers=["CPUExecutionProvider"])
(probability,) = plain.run(["probability"], {"x": x})
forward, inverse = (
    open_session(name, (folder / f"{name}.onnx").read_bytes(), 0, "cpu", 1) for name in ("forward", "inverse")
)
entry, left = forward.run(["entry", "exit"], {"x": x})
(undone,) = inverse.run(["entry"], {"exit": left})
found = {"losses": losses, "probability": probability, "entry": entry, "undone": undone, "steps": step.steps}
np.savez(folder / "result.npz", **found, **{f"parameter/{name}": array for name, array in step.parameters().items()})
print(platform.machine(), onnxruntime.__version__)

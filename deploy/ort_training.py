"""Train with onnxruntime-training 1.19: the driver of an `ort-training` export.

The package's own module `onnxruntime.training` imports torch. The classes below it do not, and are all that training
needs; so this driver uses those.
"""

from __future__ import annotations

import contextlib
import math
import os
from typing import Any

import numpy as np

from edgerev.deploy.onnx.wire import described, load
from edgerev.deploy.ort import session_options
from edgerev.deploy.ort_feeds import Feeds
from edgerev.errors import ExportError, NumericError
from edgerev.numbers import INT32_MAX, whole


def need_training() -> Any:
    """Return the compiled classes of onnxruntime-training.

    Raises
    ------
    ExportError
        They are not there.
    """
    try:
        from onnxruntime.capi import _pybind_state

        _pybind_state.Module, _pybind_state.Optimizer  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise ExportError(
            f"training needs the package onnxruntime-training, which is not here ({error}); expected 1.19.2; in a "
            "virtual environment without onnxruntime, with Python 3.10 to 3.12 on x86-64: python -m pip install "
            "onnxruntime-training==1.19.2"
        ) from error
    return _pybind_state


class TrainingModule:
    """Graphs, parameters and optimizer, run by onnxruntime-training.

    Parameters
    ----------
    folder : what ``edgerev export --format ort-training`` wrote
    checkpoint : a file that `save` wrote, to go on from; the one of the folder if left out
    threads : threads of the runtime's pool
    seed : seed of the dropout masks

    Attributes
    ----------
    steps : steps done here
    metadata : what the graphs say about the model: classes, net, loss, learning rate, standardisation

    Raises
    ------
    ExportError
        The runtime is missing, or a file is missing or damaged.
    """

    def __init__(self, folder: str, checkpoint: str | None = None, *, threads: int = 1, seed: int = 0) -> None:
        files = [os.path.join(folder, name) for name in ("training_model.onnx", "eval_model.onnx")]
        self.metadata = described(load(files[0]))
        load(files[1])
        if self.metadata.get("format") != "ort-training":
            raise ExportError(
                f"{files[0]} is an ONNX model of format {self.metadata.get('format')}; expected ort-training; export "
                "one with `edgerev export --format ort-training`"
            )
        self._runtime = need_training()
        checkpoint = os.path.join(folder, "checkpoint") if checkpoint is None else checkpoint
        optimizer = os.path.join(folder, "optimizer_model.onnx")
        self._open(files, checkpoint, optimizer, whole("threads", threads, 1, INT32_MAX))
        ports = {name: (np.dtype(code), sizes) for name, (code, sizes) in self.metadata["inputs"].items()}
        self._feeds = Feeds(self.metadata, ports, seed)
        self.steps = 0

    def _open(self, files: list[str], checkpoint: str, optimizer: str, threads: int) -> None:
        import onnxruntime

        runtime, options = self._runtime, session_options(onnxruntime, threads)
        self._value = onnxruntime.OrtValue
        device = runtime.OrtDevice(runtime.OrtDevice.cpu(), runtime.OrtDevice.default_memory(), 0)
        try:
            self._state = runtime.load_checkpoint(checkpoint)
            self._module = runtime.Module(files[0], self._state, files[1], device, options)
            self._optimizer = runtime.Optimizer(optimizer, self._state, device, options)
        except Exception as error:  # its classes have no common base but this
            raise ExportError(
                f"onnxruntime-training {onnxruntime.__version__} cannot load {checkpoint} and the graphs beside "
                f"{optimizer} ({str(error)[-300:]}); expected version 1.19.2 and whole files of one export; export "
                "them again"
            ) from error

    def step(self, x: Any, y: Any, rate: float | None = None, masks: dict[str, Any] | None = None) -> float:
        """Train on one batch and return its loss, computed before the update.

        Parameters
        ----------
        x, y, rate, masks : see `edgerev.deploy.ort.TrainStep.step`

        Raises
        ------
        DataError
            Shape, type or values do not fit; nothing was learned.
        UsageError
            The rate is not a finite number, or below 0; nothing was learned.
        NumericError
            The loss is not finite; nothing was learned.
        """
        rate, feeds = self._feeds.rate(rate), self._feeds.arrays(x, y, masks)
        names = [name for name in self.metadata["inputs"] if name in feeds]
        loss = float(self._run(self._module.train_step_with_ort_values, [feeds[name] for name in names])[0])
        if not math.isfinite(loss):
            self._module.lazy_reset_grad()
            raise NumericError(
                f"the loss of step {self.steps + 1} is {loss}; expected a finite one; nothing was learned: lower the "
                "learning rate, or repair the data"
            )
        self._optimizer.set_learning_rate(rate)
        self._optimizer.optimizer_step()
        self._module.lazy_reset_grad()
        self.steps += 1
        return loss

    def _run(self, call: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Run a graph; the arrays stay alive until it is over, for the runtime reads their memory."""
        feeds, results = self._runtime.OrtValueVector(), self._runtime.OrtValueVector()
        for array in arrays:
            feeds.push_back(self._value.ortvalue_from_numpy(array)._ortvalue)
        try:
            call(feeds, results)
        except Exception as error:  # such as shapes of another export, which it looks at only now
            raise ExportError(
                f"onnxruntime-training cannot run this step ({str(error)[-300:]}); expected graphs and checkpoint of "
                "one export; export them again"
            ) from error
        return [np.array(self._value(value).numpy()) for value in results]

    def evaluate(self, x: Any, y: Any) -> tuple[float, np.ndarray]:
        """Return the mean loss of samples and their answers, ``(batch, outputs)``; see `step`."""
        feeds = self._feeds.arrays(x, y)
        loss, answers = self._run(self._module.eval_step_with_ort_values, [feeds["x"], feeds["y"]])
        return float(loss), answers

    def parameters(self) -> dict[str, np.ndarray]:
        """Return copies of the trained parameters, by name and as they lie in ONNX."""
        return {
            name: np.array(self._value(self._state.get_parameter(name).data).numpy())
            for name in self._state.parameter_names()
        }  # fmt: skip

    def save(self, path: str) -> None:
        """Write a checkpoint with parameters, moments and the count of steps: to go on from, or for `edgerev import`.

        Raises
        ------
        ExportError
            It cannot be written; a file that was there is as it was.
        """
        temporary = f"{path}.tmp"
        try:
            self._runtime.save_checkpoint(self._state, temporary, True)
            os.replace(temporary, path)
        except Exception as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise ExportError(
                f"{path} cannot be written ({error}); expected a folder with room; free some space, or name another one"
            ) from error

"""Train with onnxruntime: the driver of a `train-step` graph.

Parameters and optimizer state lie in buffers that the runtime reads and writes in place, two for each: a step reads
one set and writes the other, then they change places. With one buffer as input and output a weight could be updated
before its last use; with two nothing is copied, and a step that fails leaves the state as it was.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from edgerev.deploy.onnx.wire import described, load
from edgerev.deploy.ort_feeds import Feeds
from edgerev.errors import ExportError, NumericError, UsageError
from edgerev.files import write_whole
from edgerev.numbers import INT32_MAX, whole

NEXT = ".next"
STEPS = "edgerev.steps"  # name of the count of steps in a file that `save` writes
TASK = "edgerev.task"  # of the task that was at hand when the graph was made, -1 for none
PROVIDERS = {
    "cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider",
}  # fmt: skip
_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def need_runtime() -> Any:
    """Return the package onnxruntime.

    Raises
    ------
    ExportError
        It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            f"running ONNX needs the package onnxruntime, which cannot be imported ({error}); expected 1.14 or newer; "
            "python -m pip install 'edgerev[ort]'; docs/onnx.md names the package for each machine"
        ) from error
    return onnxruntime


def session_options(runtime: Any, threads: int) -> Any:
    """Return options under which memory follows the graph's own order."""
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
    # beyond basic, layouts are changed and nodes fused in ways that keep more values
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.enable_mem_pattern = False  # its plan holds every value of a step at once
    return options


def open_session(path: str, model: bytes, opset: int, provider: str, threads: int) -> Any:
    """Return a session of onnxruntime.

    Raises
    ------
    UsageError
        There is no provider of that name, or this build of the runtime does not have it.
    ExportError
        The runtime is missing, or cannot load the model.
    """
    runtime = need_runtime()
    if provider not in PROVIDERS:
        raise UsageError(f"provider {provider!r}: expected one of {', '.join(PROVIDERS)}; choose one of them")
    available = runtime.get_available_providers()
    if PROVIDERS[provider] not in available:
        known = [name for name, full in PROVIDERS.items() if full in available]
        raise UsageError(
            f"provider {provider!r} is not part of this onnxruntime {runtime.__version__}; expected one of "
            f"{', '.join(known)}; choose one, or install the package for your machine (docs/onnx.md)"
        )
    options = session_options(runtime, whole("threads", threads, 1, INT32_MAX))
    wanted = dict.fromkeys((PROVIDERS[provider], PROVIDERS["cpu"]))
    try:
        return runtime.InferenceSession(model, options, providers=list(wanted), enable_fallback=0)
    except Exception as error:  # its classes have no common base but this
        raise ExportError(
            f"onnxruntime {runtime.__version__} cannot load {path} ({str(error)[:300]}); expected a runtime for opset "
            f"{opset}; export with a lower --opset, or install a newer onnxruntime"
        ) from error


class TrainStep:
    """A training step with its parameters and optimizer state, run by onnxruntime.

    Parameters
    ----------
    path : a file that ``edgerev export --format train-step`` wrote
    provider : "cpu", "cuda" or "tensorrt"
    threads : threads of the runtime's pool
    seed : seed of the dropout masks

    Attributes
    ----------
    steps : steps done
    metadata : what the file says about the model: classes, net, loss, learning rate, standardisation

    Raises
    ------
    UsageError
        The provider is not known or not available.
    ExportError
        The runtime is missing or too old, or the file is damaged or of another format.
    """

    def __init__(self, path: str, provider: str = "cpu", *, threads: int = 1, seed: int = 0) -> None:
        loaded = load(path)
        self._session = open_session(path, loaded.model, loaded.opset, provider, threads)
        runtime = need_runtime()
        self.metadata = described(loaded)
        if self.metadata.get("format") != "train-step":
            raise ExportError(
                f"{path} is an ONNX model of format {self.metadata.get('format')}; expected a train-step; export one "
                "with `edgerev export --format train-step`"
            )
        self.steps, self._device = 0, "cpu" if provider == "cpu" else "cuda"
        ports = {port.name: (_INPUT_TYPES[port.type], list(port.shape)) for port in self._session.get_inputs()}
        self._feeds = Feeds(self.metadata, ports, seed)
        self._value = runtime.OrtValue.ortvalue_from_numpy
        self._names = list(loaded.initial)
        self._current = {name: self._value(array, self._device, 0) for name, array in loaded.initial.items()}
        other = {
            name: runtime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, self._device, 0)
            for name, array in loaded.initial.items()
        }
        self._initial = loaded.initial if self._device == "cpu" else {}  # a value on the processor shares its memory
        self._other = other
        self._bindings = [self._bound(self._current, other), self._bound(other, self._current)]

    def _bound(self, read: dict[str, Any], written: dict[str, Any]) -> Any:
        binding = self._session.io_binding()
        for name in self._names:
            binding.bind_ortvalue_input(name, read[name])
            binding.bind_ortvalue_output(name + NEXT, written[name])
        binding.bind_output("loss")
        return binding

    def step(self, x: Any, y: Any, rate: float | None = None, masks: dict[str, Any] | None = None) -> float:
        """Train on one batch and return its loss, computed before the update.

        Parameters
        ----------
        x : ``(batch, ...)`` samples, channels last, as our runtime takes them; augmented already
        y : ``(batch,)`` class numbers, or ``(batch, outputs)`` numbers in 0 .. 1 or values, as the loss wants them
        rate : learning rate of this step; that of the recipe if left out
        masks : for each dropout input, ``(batch, height, width, channels)`` factors; drawn if left out

        Raises
        ------
        DataError
            Shape, type or values do not fit; nothing was learned.
        UsageError
            The rate is not a finite number, or below 0; nothing was learned.
        NumericError
            The loss is not finite; nothing was learned.
        """
        rate = self._feeds.rate(rate)
        feeds = {**self._feeds.arrays(x, y, masks), "learning_rate": np.array(rate, "f4")}
        binding = self._bindings[self.steps % 2]
        kept = [self._feed(binding, name, array) for name, array in feeds.items()]
        self._session.run_with_iobinding(binding)
        loss = float(binding.get_outputs()[-1].numpy())
        del kept
        if not math.isfinite(loss):
            raise NumericError(
                f"the loss of step {self.steps + 1} is {loss}; expected a finite one; nothing was learned: lower the "
                "learning rate, or repair the data"
            )
        self._current, self._other = self._other, self._current
        self.steps += 1
        return loss

    def _feed(self, binding: Any, name: str, array: np.ndarray) -> Any:
        """Bind an input, and return what has to stay alive until the run is over."""
        if name not in self._feeds.ports:
            return None
        value = self._value(array, self._device, 0)
        binding.bind_ortvalue_input(name, value)
        return value, array

    def parameters(self) -> dict[str, np.ndarray]:
        """Return copies of parameters and optimizer state, by name and as they lie in ONNX."""
        return {name: np.array(value.numpy()) for name, value in self._current.items()}

    def save(self, path: str) -> None:
        """Write parameters, optimizer state and the count of steps as an ``.npz`` file, for `edgerev import`.

        Raises
        ------
        OSError
            It cannot be written; a file that was there is as it was.
        """
        content = io.BytesIO()
        task = self.metadata.get("task")
        numbers = {STEPS: np.array(self.steps), TASK: np.array(-1 if task is None else task)}
        arrays: dict[str, Any] = {**self.parameters(), **numbers}
        np.savez(content, **arrays)
        write_whole(path, [content.getbuffer()])

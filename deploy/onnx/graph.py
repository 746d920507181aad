"""A graph under construction: nodes with readable names, and what is checked before it is a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgerev.deploy.onnx.wire import CHECKSUM, content_checksum
from edgerev.errors import ExportError, UsageError

if TYPE_CHECKING:
    import onnx

OPSETS = (17, 18)
IR_VERSION = 8  # that of both opsets: a newer one would shut out the runtimes that they are for
# Operators that take their axes as an input from this opset on, and as an attribute before.
_AXES_SINCE = {"ReduceSum": 13, "ReduceMean": 18}
_MOST_BYTES = 2**31 - 1  # of one protobuf message


def need_onnx() -> Any:
    """Return the package onnx.

    Raises
    ------
    ExportError
        It is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ExportError(
            f"writing ONNX needs the package onnx, which cannot be imported ({error}); expected onnx 1.16 or newer; "
            "python -m pip install 'edgerev[onnx]'"
        ) from error
    return onnx


class _Node(NamedTuple):
    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]

    @property
    def domain(self) -> str:
        return self.attributes.get("domain", "")

    @property
    def name(self) -> str:
        """That of its first output that is computed."""
        return next(filter(None, self.outputs))


class Port(NamedTuple):
    """An input or output of the graph."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]


class Graph:
    """Collects nodes; `build` returns the model.

    Attributes
    ----------
    batch : size of the first axis of all samples, or None where it is left open
    inputs : name, dtype and shape of what goes in
    kept : names of inputs that stay although nothing reads them
    scope : prefix of the names of nodes that are added now, such as ``block3/F/backward/dx1``
    """

    def __init__(self, name: str, opset: int, batch: int | None) -> None:
        if opset not in OPSETS:
            raise UsageError(f"opset {opset}: expected {' or '.join(map(str, OPSETS))}; choose one of them")
        self.name, self.opset, self.batch, self.scope = name, opset, batch, ""
        self._nodes: list[_Node] = []
        self.inputs: list[Port] = []
        self.kept: set[str] = set()
        self._outputs: list[Port] = []
        self._initializers: dict[str, np.ndarray] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._used: dict[str, int] = {}
        self._produced: set[str] = set()
        self._renamed: dict[str, str] = {}

    # -- building ---------------------------------------------------------------------------------------------

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the name of that; its `domain` is one of the attributes."""
        return self.add_several(op, *inputs, outputs=1, **attributes)[0]

    def add_several(self, op: str, *inputs: str, outputs: int, left_out: int = 0, **attributes: Any) -> list[str]:
        """Add a node and return the names of its outputs, of which the first `left_out` are not computed."""
        name = self._unique(f"{self.scope}/{op}" if self.scope else op)
        names = [name, *(self._unique(f"{name}/{index}") for index in range(1, outputs))]
        self._nodes.append(_Node(op, list(inputs), [""] * left_out + names, attributes))
        self._produced.update(names)
        return names

    def reduce(self, op: str, x: str, axes: Sequence[int], *, keepdims: bool = False) -> str:
        """Add a reduction over `axes`."""
        if self.opset >= _AXES_SINCE[op]:
            return self.add(op, x, self.integers(*axes), keepdims=int(keepdims))
        return self.add(op, x, axes=list(axes), keepdims=int(keepdims))

    def constant(self, value: Any, dtype: str = "f4") -> str:
        """Return the name of a constant, the same for equal ones."""
        array = np.array(value, dtype)  # scalars stay scalars
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            shown = f"{array.item():g}" if array.ndim == 0 else "x".join(map(str, array.shape))
            self._constants[key] = name = self._unique(f"constant/{shown}")
            self._initializers[name] = array
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """Return the name of a constant vector of int64, for axes and shapes."""
        return self.constant(values, "i8")

    def initializer(self, name: str, array: np.ndarray) -> str:
        """Add a named array; with an input of the same name it is that input's default."""
        self._used[name] = 1
        self._initializers[name] = array
        return name

    def input(self, name: str, dtype: str, shape: tuple[int | str, ...]) -> str:
        """Add an input of the graph."""
        self._used[name] = 1
        self.inputs.append(Port(name, np.dtype(dtype), shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: tuple[int | str, ...]) -> None:
        """Let `value` leave the graph as `name`."""
        if value in self._renamed or value not in self._produced:
            value = self.add("Identity", value)  # an input, or what leaves under another name too
        self._renamed[value] = name
        self._outputs.append(Port(name, np.dtype(dtype), shape))

    @property
    def samples(self) -> int | str:
        """Size of the first axis of samples, for shapes of inputs and outputs."""
        return "batch" if self.batch is None else self.batch

    def _unique(self, name: str) -> str:
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else self._unique(f"{name}_{count}")

    # -- the model --------------------------------------------------------------------------------------------

    def build(self, metadata: Mapping[str, str], producer: str) -> onnx.ModelProto:
        """Return the checked model, without nodes that no output needs.

        Raises
        ------
        ExportError
            It is larger than ONNX files can be, or not well formed.
        """
        onnx = need_onnx()
        helper, numpy_helper = onnx.helper, onnx.numpy_helper
        nodes = self._live()
        read = {name for node in nodes for name in node.inputs}
        inputs = [port for port in self.inputs if port.name in read or port.name in self.kept]
        kept = {name: array for name, array in self._initializers.items() if name in read}
        if sum(array.nbytes for array in kept.values()) > _MOST_BYTES:
            raise ExportError(f"{self.name} has more than {_MOST_BYTES} bytes; expected less; export a smaller net")
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node(*node[:3], name=node.name, **node.attributes) for node in nodes],
                self.name, [_value_info(helper, port) for port in inputs],
                [_value_info(helper, port) for port in self._outputs],
                [numpy_helper.from_array(array, name) for name, array in kept.items()],
            ),
            opset_imports=[
                helper.make_opsetid("", self.opset),
                *(helper.make_opsetid(domain, 1) for domain in sorted({node.domain for node in nodes} - {""})),
            ], ir_version=IR_VERSION, producer_name="edgerev",
            producer_version=producer,
        )  # fmt: skip
        checksum = content_checksum(model.graph.SerializeToString(), metadata)
        helper.set_model_props(model, {**metadata, CHECKSUM: str(checksum)})
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ExportError(
                f"the graph {self.name} is not valid ONNX: {error}. This is a fault of edgerev; report it with the net"
            ) from error
        return model

    def _live(self) -> list[_Node]:
        """Return the nodes that outputs depend on, in their order, with the final names."""
        needed, live = {port.name for port in self._outputs}, []
        for node in reversed(self._nodes):
            inputs, outputs = ([self._renamed.get(name, name) for name in names] for names in node[1:3])
            if needed.intersection(outputs):
                needed.update(inputs)
                live.append(_Node(node.op, inputs, outputs, node.attributes))
        return live[::-1]


def _value_info(helper: Any, port: Port) -> Any:
    return helper.make_tensor_value_info(port.name, helper.np_dtype_to_tensor_dtype(port.dtype), list(port.shape))

"""The optimizer of onnxruntime's training API as a graph: it moves all parameters at once, in place.

That API wants one optimizer node at the top of the graph and says what is in the sequences that it feeds. Parameters
come in an order of its own, different in each process, so nothing here knows one from another but by its number of
axes: weight decay is for what has more than one. ``SGDOptimizerV2`` with a rate of its own subtracts a multiple of
one sequence from another in place, which is enough for momentum; such nodes lie in a branch, where the API does not
count them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgerev.deploy.onnx.accumulate import DOMAIN
from edgerev.deploy.onnx.graph import IR_VERSION, need_onnx
from edgerev.errors import ExportError
from edgerev.optimizers import SGD, AdamW, Lion, Optimizer
from edgerev.recipe import Recipe

if TYPE_CHECKING:
    import onnx

PARAMS, GRADIENTS, MOMENTS = "params", "gradients", ("first_order_moments", "second_order_moments")
_OPSET = 17
_FLOAT, _INT64 = 1, 7


def check_expressible(recipe: Recipe, *, task: int | None) -> None:
    """Refuse what the optimizers of onnxruntime's training API cannot express.

    Parameters
    ----------
    task : the task at hand, whose answers alone are to change

    Raises
    ------
    ExportError
        The message names the option, and the way out.
    """
    way_out = "leave it out, or export a train-step, which has everything"
    consolidation, optimizer = recipe.consolidation, recipe.optimizer
    plain = isinstance(optimizer, SGD) and not optimizer.momentum
    if task is not None and not plain:
        raise ExportError(
            f"moments and decay of {optimizer} would go on moving the answers of tasks other than {task}; expected SGD "
            f"without momentum, or no task at hand (task = None); {way_out}"
        )
    if consolidation is not None and consolidation.values > 2:
        raise ExportError(
            f"{type(consolidation).__name__} follows each change of a parameter, which onnxruntime's optimizers do not "
            f"show; expected EWC or no consolidation; {way_out}"
        )
    if recipe.rates and not plain:
        raise ExportError(
            f"factors on the learning rate of each module need an optimizer without moments, not {optimizer}; expected "
            f"SGD without momentum, or no factors; {way_out}"
        )


class _Nodes:
    """Nodes in a row, of which each optimizer waits for the one before it.

    Parameters
    ----------
    prefix : of names, which are to differ from those of a graph around this one

    Attributes
    ----------
    ready : a factor 1 that is there when the last one is done, or "" at the start
    """

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.helper: Any = need_onnx().helper
        self.nodes: list[Any] = []
        self.ready = ""

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self.prefix}{op}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def number(self, value: float | list[float], dtype: str = "f4") -> str:
        tensor = need_onnx().numpy_helper.from_array(np.array(value, dtype))
        return self.add("Constant", value=tensor)

    def times(self, rate: str, factor: float) -> str:
        return self.add("Mul", rate, self.number([factor])) if factor != 1 else rate

    def waits(self, rate: str) -> str:
        """Return a rate that is not there before the last optimizer is done."""
        return self.add("Mul", rate, self.ready) if self.ready else rate

    def subtract(self, target: str, rate: str, source: str) -> str:
        """Subtract ``rate * source`` from a sequence, in place."""
        done = self.add("SGDOptimizerV2", self.waits(rate), target, source, domain=DOMAIN)
        self.ready = self.add("Cast", done, to=_FLOAT)
        return done

    def decayed(self) -> str:
        """Return the parameters that decay, as they are, and 0 for all others."""
        return self.add("SequenceMap", PARAMS, body=self._body(["w"], lambda inner: inner.where_it_decays("w")))

    def where_it_decays(self, w: str) -> str:
        axes = self.add("Size", self.add("Shape", w))
        return self.add("Mul", w, self.add("Cast", self.add("Greater", axes, self.number(1, "i8")), to=_FLOAT))

    def _body(self, names: list[str], write: Any) -> Any:
        inner, helper = _Nodes(f"{self.prefix}each/"), self.helper
        result = write(inner)
        ports = [[helper.make_tensor_value_info(name, _FLOAT, None) for name in found] for found in (names, [result])]
        return helper.make_graph(inner.nodes, "each", *ports)

    def signs(self, optimizer: Lion) -> str:
        """Return Lion's change of each parameter."""

        def write(inner: _Nodes) -> str:
            kept = inner.add("Mul", "m", inner.number(optimizer.beta1))
            change = inner.add("Sign", inner.add("Add", kept, inner.add("Mul", "g", inner.number(1 - optimizer.beta1))))
            if not optimizer.weight_decay:
                return inner.add("Add", change, inner.add("Mul", "w", inner.number(0)))  # all inputs are used
            decay = inner.add("Mul", inner.where_it_decays("w"), inner.number(optimizer.weight_decay))
            return inner.add("Add", change, decay)

        body = self._body(["w", "g", "m"], write)
        return self.add("SequenceMap", PARAMS, GRADIENTS, MOMENTS[0], body=body)


def optimizer_model(optimizer: Optimizer, producer: str) -> onnx.ModelProto:
    """Return the graph of an optimizer, for the class Optimizer of onnxruntime-training 1.19.

    Inputs are the rate ``(1,)`` float32, the number of the step from 1 on ``(1,)`` int64, and sequences of parameters,
    gradients and moments; the output says that it is done, ``(1,)`` bool.

    Parameters
    ----------
    producer : version of edgerev
    """
    main, inner = _Nodes(), _Nodes("first/")
    if isinstance(optimizer, AdamW):
        done = _adamw(main, inner, optimizer)
    elif isinstance(optimizer, Lion):
        done = _lion(main, inner, optimizer)
    else:
        assert isinstance(optimizer, SGD)
        done = _sgd(main, inner, optimizer)
    return _model(main, done, 2 if isinstance(optimizer, AdamW) else 1, producer)


def _first(main: _Nodes, inner: _Nodes) -> str:
    """Put nodes into a branch that is always taken; return the rate, which is there when they are done."""
    helper = main.helper
    rate = inner.waits("learning_rate")

    def graph(nodes: list[Any], output: str) -> Any:
        return helper.make_graph(nodes, output, [], [helper.make_tensor_value_info(output, _FLOAT, [1])])

    other = helper.make_node("Identity", ["learning_rate"], ["as_it_is"])
    always = main.add("Greater", "step", main.number([0], "i8"))
    return main.add("If", always, then_branch=graph(inner.nodes, rate), else_branch=graph([other], "as_it_is"))


def _decay_moment(inner: _Nodes, beta: float, share: float) -> None:
    """Let the moment be ``beta * moment + share * gradient``."""
    inner.subtract(MOMENTS[0], inner.number([1 - beta]), MOMENTS[0])
    inner.subtract(MOMENTS[0], inner.number([-share]), GRADIENTS)


def _sgd(main: _Nodes, inner: _Nodes, optimizer: SGD) -> str:
    if not optimizer.momentum:  # weight decay is in the gradient already
        return main.subtract(PARAMS, "learning_rate", GRADIENTS)
    _decay_moment(inner, optimizer.momentum, 1.0)
    if not optimizer.nesterov:
        return main.subtract(PARAMS, _first(main, inner), MOMENTS[0])
    inner.subtract(PARAMS, "learning_rate", GRADIENTS)
    return main.subtract(PARAMS, main.times(_first(main, inner), optimizer.momentum), MOMENTS[0])


def _adamw(main: _Nodes, inner: _Nodes, optimizer: AdamW) -> str:
    rate = "learning_rate"
    if optimizer.weight_decay:
        inner.subtract(PARAMS, inner.times(rate, optimizer.weight_decay), inner.decayed())
        rate = _first(main, inner)
    return main.add(
        "AdamWOptimizer", rate, "step", PARAMS, GRADIENTS, *MOMENTS, domain=DOMAIN, alpha=optimizer.beta1,
        beta=optimizer.beta2, epsilon=optimizer.epsilon, weight_decay=0.0, correct_bias=1, adam_mode=0,
    )


def _lion(main: _Nodes, inner: _Nodes, optimizer: Lion) -> str:
    change = main.signs(optimizer)
    length = inner.add("SequenceLength", change)  # the moment is read before it changes
    inner.ready = inner.add("Cast", inner.add("Greater", length, inner.number(-1, "i8")), to=_FLOAT)
    _decay_moment(inner, optimizer.beta2, 1 - optimizer.beta2)
    return main.subtract(PARAMS, _first(main, inner), change)


def _model(main: _Nodes, done: str, moments: int, producer: str) -> onnx.ModelProto:
    onnx = need_onnx()
    helper, sequence = onnx.helper, onnx.helper.make_tensor_sequence_value_info
    inputs = [
        helper.make_tensor_value_info("learning_rate", _FLOAT, [1]), helper.make_tensor_value_info("step", _INT64, [1]),
        *(sequence(name, _FLOAT, None) for name in (PARAMS, GRADIENTS, *MOMENTS[:moments])),
    ]  # fmt: skip
    outputs = [helper.make_tensor_value_info(done, onnx.TensorProto.BOOL, [1])]
    model = helper.make_model(
        helper.make_graph(main.nodes, "edgerev optimizer", inputs, outputs),
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(DOMAIN, 1)], ir_version=IR_VERSION,
        producer_name="edgerev", producer_version=producer,
    )  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    return model

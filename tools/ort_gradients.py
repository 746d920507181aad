"""onnxruntime-training's own gradient graph of a net, which keeps activations: to be measured beside ours.

Runs where that runtime and onnx are. Its builder for users imports torch; what that builder calls does not.
"""

from __future__ import annotations

import os
import shutil


def own_graph(source: str, target: str) -> None:
    """Write a folder like an export's, in which the runtime itself has made the gradients.

    Parameters
    ----------
    source : an `ort-training` export of a net whose state is float32, for rounding has no gradient there
    target : folder to make
    """
    import onnx
    import onnxruntime
    from onnxruntime.capi import _pybind_state

    from edgerev.deploy.onnx.accumulate import DOMAIN, RESET
    from edgerev.deploy.onnx.wire import CHECKSUM, content_checksum

    os.close(2)  # its builder tells every step there
    shutil.copytree(source, target)
    ours = onnx.load(os.path.join(source, "training_model.onnx"))
    forward = onnx.load(os.path.join(source, "eval_model.onnx"))
    names = [port.name for port in forward.graph.input if port.name not in ("x", "y")]
    del forward.graph.output[1:]
    options = onnxruntime.SessionOptions()
    prepared = _pybind_state.get_optimized_model(forward.SerializeToString(), set(names), options)
    builder = _pybind_state.GradientGraphBuilder(prepared, {"loss"}, set(names), "loss", options)
    builder.build()
    model = onnx.load_from_string(builder.get_model())
    del model.graph.output[1:]
    accumulators = {port.name: port for port in [*ours.graph.input, *ours.graph.output]}
    for name in names:
        buffer, done = f"{name}_grad.accumulation.buffer", f"{name}_grad.accumulation.out"
        node = onnx.helper.make_node("InPlaceAccumulatorV2", [buffer, f"{name}_grad", RESET], [done], domain=DOMAIN)
        model.graph.node.append(node)
        model.graph.input.append(accumulators[buffer])
        model.graph.output.append(accumulators[done])
    model.graph.input.append(accumulators[RESET])
    metadata = {entry.key: entry.value for entry in ours.metadata_props if entry.key != CHECKSUM}
    checksum = content_checksum(model.graph.SerializeToString(), metadata)
    onnx.helper.set_model_props(model, {**metadata, CHECKSUM: str(checksum)})
    onnx.save(model, os.path.join(target, "training_model.onnx"))

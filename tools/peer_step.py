"""One training step of a reference net in a peer framework; runs in an environment that has the peer, not edgerev.

    python peer_step.py torch --net mlp16 --batch 16     answers each number of seconds on standard input by a line of
    python peer_step.py ort --net mlp16 --batch 16       JSON: mean milliseconds of the steps of a burst of that length
    python peer_step.py ort --net mlp16 --build          writes onnxruntime-training's graphs; needs torch and onnx too

Stem, split of the channels in halves (a, b), blocks ``a += F(b); b += G(a)`` with F and G linear, ReLU, linear at half
width, both halves joined, global average pool, linear head of 10 classes, softmax cross-entropy, plain SGD, float32
with biases: the nets of `edgerev.presets`. The peers store activations, which is what their users get.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time

NETS = {
    "mlp": {"shape": (64,), "stem": 128, "kernel": ()},
    "har": {"shape": (9, 128), "stem": 64, "kernel": (5,)},
    "vis": {"shape": (3, 32, 32), "stem": 64, "kernel": (3, 3)},
}
WARM_UP_STEPS = 3
ONNX_IR_VERSION = 9  # the last training runtime reads 10 at most


def torch_step(kind, depth, batch, threads):
    """Return a function that takes one step in torch."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = NETS[kind]
    half = net["stem"] // 2

    def linear(inputs, outputs):
        if not net["kernel"]:
            return nn.Linear(inputs, outputs)
        convolution = nn.Conv1d if len(net["kernel"]) == 1 else nn.Conv2d
        return convolution(inputs, outputs, net["kernel"], padding=tuple(size // 2 for size in net["kernel"]))

    def residual():
        return nn.Sequential(linear(half, half), nn.ReLU(), linear(half, half))

    class Reference(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = linear(net["shape"][0], net["stem"])
            self.F = nn.ModuleList(residual() for _ in range(depth))
            self.G = nn.ModuleList(residual() for _ in range(depth))
            self.head = nn.Linear(net["stem"], 10)

        def forward(self, x):
            a, b = self.stem(x).chunk(2, 1)
            for f, g in zip(self.F, self.G):
                a = a + f(b)
                b = b + g(a)
            z = torch.cat([a, b], 1)
            return self.head(z.flatten(2).mean(2) if z.dim() > 2 else z)

    model, loss = Reference(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(batch, *net["shape"]), torch.randint(0, 10, (batch,))

    def step():
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    return step


class Graph:
    """The nodes and weights of a reference net in ONNX, under way."""

    def __init__(self, kernel):
        import numpy

        self.kernel, self.nodes, self.weights = kernel, [], []
        self.random = numpy.random.default_rng(0)

    def weight(self, name, *sizes):
        from onnx import numpy_helper

        fan_in = 1
        for size in sizes[1:]:
            fan_in *= size
        scale = 0.5 / fan_in**0.5 if len(sizes) > 1 else 0.0
        values = (self.random.normal(size=sizes) * scale).astype("f4")
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind, inputs, outputs, **attributes):
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def linear(self, x, inputs, outputs, name):
        kernel, y = self.kernel, name + "_out"
        if not kernel:
            weights = [self.weight(name + ".w", inputs, outputs), self.weight(name + ".b", outputs)]
            return self.node("Gemm", [x, *weights], [y])
        weights = [self.weight(name + ".w", outputs, inputs, *kernel), self.weight(name + ".b", outputs)]
        return self.node("Conv", [x, *weights], [y], kernel_shape=list(kernel), pads=[size // 2 for size in kernel] * 2)


def ort_build(kind, depth, folder):
    """Write the training, eval and optimizer graphs and the checkpoint of a reference net."""
    import onnx
    from onnx import TensorProto, helper
    from onnxruntime.training import artifacts

    net = NETS[kind]
    half, graph = net["stem"] // 2, Graph(net["kernel"])
    stem = graph.linear("input", net["shape"][0], net["stem"], "stem")
    graph.node("Split", [stem], ["a", "b"], axis=1, num_outputs=2)
    state = {"F": "a", "G": "b"}
    for block in range(depth):
        for branch, source in (("F", "G"), ("G", "F")):
            h = graph.linear(state[source], half, half, f"block{block}.{branch}.0")
            h = graph.node("Relu", [h], [h + "_relu"])
            h = graph.linear(h, half, half, f"block{block}.{branch}.1")
            state[branch] = graph.node("Add", [state[branch], h], [f"state{block}{branch}"])
    z = graph.node("Concat", [state["F"], state["G"]], ["z"], axis=1)
    if net["kernel"]:
        z = graph.node("Flatten", [graph.node("GlobalAveragePool", [z], ["pooled"])], ["flat"])
    head = [graph.weight("head.w", net["stem"], 10), graph.weight("head.b", 10)]
    graph.node("Gemm", [z, *head], ["logits"])
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", *net["shape"]])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])]
    made = helper.make_graph(graph.nodes, "reference", inputs, outputs, graph.weights)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=ONNX_IR_VERSION)
    os.makedirs(folder, exist_ok=True)
    artifacts.generate_artifacts(
        model, requires_grad=[weight.name for weight in graph.weights], loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.SGD, artifact_directory=folder,
    )
    for name in ("training_model", "eval_model", "optimizer_model"):
        path = os.path.join(folder, name + ".onnx")
        proto = onnx.load(path)
        proto.ir_version = ONNX_IR_VERSION
        onnx.save(proto, path)


def ort_step(kind, batch, threads, folder):
    """Return a function that takes one step in onnxruntime-training, whose C classes need no torch."""
    import numpy
    import onnxruntime
    from onnxruntime.capi import _pybind_state as native

    onnxruntime.set_default_logger_severity(3)  # it warns of its own optimizer's graph
    checkpoint = native.load_checkpoint(os.path.join(folder, "checkpoint"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    device = native.OrtDevice(native.OrtDevice.cpu(), native.OrtDevice.default_memory(), 0)
    training, evaluation, update = (
        os.path.join(folder, f"{name}_model.onnx") for name in ("training", "eval", "optimizer")
    )
    module = native.Module(training, checkpoint, evaluation, device, options)
    optimizer = native.Optimizer(update, checkpoint, device, options)
    optimizer.set_learning_rate(0.01)
    random = numpy.random.default_rng(0)
    x = random.normal(size=(batch, *NETS[kind]["shape"])).astype("f4")
    y = random.integers(0, 10, batch)
    feeds = native.OrtValueVector()
    for array in (x, y):
        feeds.push_back(onnxruntime.OrtValue.ortvalue_from_numpy(array)._ortvalue)

    def step():
        module.train_step_with_ort_values(feeds, native.OrtValueVector())
        optimizer.optimizer_step()
        module.lazy_reset_grad()

    return step


def serve(step):
    """Warm up, say so, then answer each line of standard input."""
    for _ in range(WARM_UP_STEPS):
        step()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        end, count, now = start + float(line), 0, start
        while count == 0 or now < end:
            step()
            count += 1
            now = time.perf_counter()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"step_ms": (now - start) / count * 1e3, "peak_rss_bytes": peak}), flush=True)


def main():
    """Build graphs, or serve steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("torch", "ort"))
    parser.add_argument("--net", default="mlp16", help="kind and depth: mlp16, har12, vis8, ...")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--graphs", default="peer-graphs", help="folder of onnxruntime-training's graphs")
    parser.add_argument("--build", action="store_true", help="ort: write the graphs and stop")
    args = parser.parse_args()
    kind, depth = args.net[:3], int(args.net[3:])
    folder = os.path.join(args.graphs, args.net)
    if args.build:
        ort_build(kind, depth, folder)
    elif args.peer == "torch":
        serve(torch_step(kind, depth, args.batch, args.threads))
    else:
        serve(ort_step(kind, args.batch, args.threads, folder))


if __name__ == "__main__":
    main()

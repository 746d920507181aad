"""A plain residual net in torch, the twin of a reversible one; runs in an environment that has torch, not edgerev.

    python plain_twin.py FOLDER     takes a command of JSON a line on standard input, and answers each by such a line

Stem, split into halves (a, b), blocks ``a, b = a + F(b), b + G(a)``, both halves joined, ReLU, linear head: layers,
parameters and initial weights are those of the reversible twin, whose G reads the new a instead of the old one. That
is all that makes it invertible; this one is not, and so torch stores activations. FOLDER holds ``weights.npz`` with
them, and what a command needs: ``x.npy``, ``y.npy`` and, after "predict", ``answers.npy``.
"""

from __future__ import annotations

import json
import os
import resource
import sys

import numpy
import torch
from torch.nn import functional

WARM_UP_STEPS = 3


class Plain:
    """The net and its optimizer, Adam without weight decay."""

    def __init__(self, folder, rate, scale):
        data = numpy.load(os.path.join(folder, "weights.npz"))
        self.folder, self.scale = folder, scale
        self.weights = {name: torch.tensor(data[name], requires_grad=True) for name in data.files}
        self.blocks = sum(name.endswith("F.1.weight") for name in self.weights)
        self.optimizer = torch.optim.Adam(self.weights.values(), lr=rate)

    def __call__(self, x):
        a, b = self.layer(x, "stem.0").chunk(2, 1)
        for block in range(self.blocks):
            a, b = a + self.branch(b, f"block{block}.F.1"), b + self.branch(a, f"block{block}.G.1")
        return self.layer(torch.relu(torch.cat([a, b], 1)), "head.0")

    def layer(self, x, name):
        return torch.addmm(self.weights[name + ".bias"], x, self.weights[name + ".weight"])

    def branch(self, x, name):
        return self.scale * self.layer(torch.relu(x), name)

    def array(self, name):
        return torch.from_numpy(numpy.load(os.path.join(self.folder, name + ".npy")))

    def step(self, x, y, columns):
        """Take a step on the answers of some columns; return the loss."""
        loss = functional.cross_entropy(self(x)[:, columns], y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def learn(self, columns, batch):
        """Train on x and y in their order."""
        x, y = self.array("x"), self.array("y")
        losses = [self.step(x[i : i + batch], y[i : i + batch], slice(*columns)) for i in range(0, len(x), batch)]
        return {"loss": sum(losses) / len(losses)}

    def predict(self, columns):
        """Write the likeliest of some columns for each of x."""
        with torch.no_grad():
            answers = [self(x)[:, slice(*columns)].argmax(1) for x in self.array("x").split(1024)]
        numpy.save(os.path.join(self.folder, "answers.npy"), torch.cat(answers).numpy())
        return {}

    def measure(self, batch):
        """Train on random samples; return bytes: saved for the backward pass, held besides, and the process's most."""
        x = torch.randn(batch, self.weights["stem.0.weight"].shape[0])
        y = torch.randint(0, self.weights["head.0.bias"].shape[0], (batch,))
        for _ in range(WARM_UP_STEPS):
            self.step(x, y, slice(None))
        own = {tensor.untyped_storage().data_ptr() for tensor in (x, y, *self.weights.values())}
        saved = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = functional.cross_entropy(self(x), y)
        total = sum(saved.values())
        loss.backward()
        held = [tensor.nbytes for weight in self.weights.values() for tensor in (weight, weight.grad)]
        held += [moment.nbytes for state in self.optimizer.state.values() for moment in state.values()]
        return {
            "saved_bytes": total, "held_bytes": sum(held),
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }  # fmt: skip


def main(folder, rate, scale):
    """Answer commands until there are no more."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Plain(folder, float(rate), float(scale))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(net, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""How parameters lie in ONNX: kernels channels first, everything else as in the program without leading ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edgerev.kernels.layout import NO_TENSOR, Op
from edgerev.program import Program, Tensor

Shape3 = tuple[int, int, int]
# Operand that is a kernel, or the gradient of one, and whether each channel has one of its own.
_KERNELS = {
    Op.CONV: ("w", False), Op.CONV_SGD: ("w", False), Op.WINOGRAD_WEIGHTS: ("w", False), Op.DEPTHWISE: ("w", True),
    Op.CONV_WGRAD: ("dw", False), Op.WINOGRAD_WGRAD: ("dw", False), Op.DEPTHWISE_WGRAD: ("dw", True),
}  # fmt: skip


def rank(shape: Shape3) -> int:
    """Return the number of axes with positions that samples of `shape` (height, width, channels) have in ONNX."""
    return 2 if shape[0] > 1 else int(shape[1] > 1)


def kernel_rank(kernel: tuple[int, int], shape: Shape3, *, depthwise: bool = False) -> int:
    """Return the positional axes of a convolution: those of its kernel or of its samples, whichever are more.

    Only a dense layer has none.
    """
    return max(rank(shape), rank((*kernel, 1)), int(depthwise))


class Layout(NamedTuple):
    """Where the numbers of a tensor of the program go.

    Attributes
    ----------
    shape : in the program
    kernel : height and width, or None for what is no kernel
    rank : positional axes of the kernel in ONNX; none for a dense layer, whose matrix is (in, out)
    """

    shape: Shape3
    kernel: tuple[int, int] | None = None
    rank: int = 0

    @property
    def onnx_shape(self) -> tuple[int, ...]:
        """Shape in ONNX: kernels (out, in, height, width), (out, in, width) or (in, out); for depthwise `in` is 1."""
        _, channels, columns = self.shape
        if self.kernel is None:
            return self.shape[-2:] if self.shape[1] > 1 else self.shape[-1:]
        if self.rank == 0:
            return (channels, columns)
        return (columns, channels, *self.kernel[2 - self.rank :])

    def to_onnx(self, values: np.ndarray) -> np.ndarray:
        """Return numbers of the program as they lie in ONNX."""
        if self.kernel is None or self.rank == 0:
            return np.ascontiguousarray(values.reshape(self.onnx_shape))
        grid = values.reshape(*self.kernel, *self.shape[1:]).transpose(3, 2, 0, 1)
        return np.ascontiguousarray(grid.reshape(self.onnx_shape))

    def from_onnx(self, values: np.ndarray) -> np.ndarray:
        """Return numbers as they lie in ONNX in the order of the program, flat."""
        if self.kernel is None or self.rank == 0:
            return values.reshape(-1)
        _, channels, columns = self.shape
        return values.reshape(columns, channels, *self.kernel).transpose(2, 3, 1, 0).reshape(-1)


def layouts(program: Program) -> dict[int, Layout]:
    """Return the layout of every kernel, its gradient, and what is kept for it while training; others are `plain`."""
    found: dict[int, Layout] = {}
    updates = []
    for index in range(len(program)):
        step = program.decode(index)
        if step.op in _KERNELS:
            kernel = (int(step.parameters["kernel_h"]), int(step.parameters["kernel_w"]))
            samples = step.operands.get("x", NO_TENSOR)  # WINOGRAD_WEIGHTS has none, and takes kernels of their rank
            shape = (1, 1, 1) if samples == NO_TENSOR else program.decode_tensor(samples).shape
            name, own = _KERNELS[step.op]
            number = step.operands[name]
            found[number] = Layout(
                program.decode_tensor(number).shape, kernel, kernel_rank(kernel, shape, depthwise=own)
            )
        elif step.op == Op.UPDATE:
            updates.append(step.operands)
    for operands in updates:
        if operands["w"] in found:
            for name in ("m", "v", "path", "importance", "anchor"):
                if operands[name] != NO_TENSOR:
                    found[operands[name]] = found[operands["w"]]
    return found


def plain(tensor: Tensor) -> Layout:
    """Return the layout of a tensor that is no kernel."""
    return Layout(tensor.shape)

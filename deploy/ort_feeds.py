"""What goes into a training graph: samples, targets and dropout masks, checked as far as their meaning is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgerev.errors import DataError
from edgerev.numbers import FLOAT32_MAX, finite32


class Feeds:
    """Makes the inputs of a training graph.

    Parameters
    ----------
    metadata : what the graph says about itself
    ports : dtype and sizes of each input by name; a size is text where it is left open
    seed : seed of the dropout masks
    """

    def __init__(self, metadata: dict[str, Any], ports: Mapping[str, tuple[Any, list[int | str]]], seed: int) -> None:
        self.metadata, self.ports = metadata, ports
        self._random = np.random.default_rng(seed)

    def arrays(self, x: Any, y: Any, masks: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Return samples, targets and dropout masks as the graph wants them.

        Parameters
        ----------
        x, y, masks : see `edgerev.deploy.ort.TrainStep.step`

        Raises
        ------
        DataError
            Shape, type or values do not fit.
        """
        feeds = {"x": self._checked("x", x), "y": self._checked("y", y)}
        if len(feeds["x"]) != len(feeds["y"]):
            raise DataError(f"{len(feeds['x'])} samples, {len(feeds['y'])} targets; expected as many; pass each one")
        self._check_targets(feeds["y"])
        masks = self._drawn(len(feeds["x"])) if masks is None else masks
        wanted = self.metadata["dropout"]
        if masks.keys() != wanted.keys():
            raise DataError(f"masks are for {list(masks)}; expected one for each of {list(wanted)}; pass those")
        feeds.update({name: self._checked(name, masks[name]) for name in wanted})
        return feeds

    def rate(self, rate: float | None) -> float:
        """Return the learning rate of a step: that of the recipe for None.

        Raises
        ------
        UsageError
            It is not a finite number, or below 0.
        """
        return self.metadata["rate"] if rate is None else finite32("rate", rate, 0, FLOAT32_MAX)

    def _checked(self, name: str, values: Any) -> np.ndarray:
        """Return an input as the graph wants it."""
        dtype, sizes = self.ports[name]
        try:
            given = np.asarray(values)
        except ValueError as error:
            raise DataError(f"{name} is no array: {error}; expected as many numbers in each row; repair it") from error
        kinds, numbers = ("iuf", "class numbers") if dtype == np.int64 else ("iufb", "real numbers")
        if given.size and given.dtype.kind not in kinds:
            raise DataError(f"{name} has type {given.dtype}; expected {numbers}; convert it to {np.dtype(dtype)}")
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.ascontiguousarray(given, dtype)
        if dtype == np.int64 and not (array == given).all():
            raise DataError(f"{name} holds numbers that are not whole; expected {numbers}; map them to some")
        fits = array.ndim == len(sizes) and len(array) > 0 and all(
            isinstance(size, str) or size == here for size, here in zip(sizes, array.shape)
        )
        if not fits:
            raise DataError(f"{name} has shape {array.shape}; expected ({', '.join(map(str, sizes))}); reshape it")
        if not np.isfinite(array).all():
            raise DataError(f"{name} holds NaN or infinity; expected finite numbers; remove or repair them")
        return array

    def _check_targets(self, y: np.ndarray) -> None:
        head = self.metadata["net"]["head"]
        if y.dtype == np.int64 and not ((y >= 0) & (y < head["outputs"])).all():
            raise DataError(
                f"labels are in {y.min()} .. {y.max()}; expected 0 .. {head['outputs'] - 1}; map them to class numbers"
            )
        if self.metadata["loss"] in ("BINARY_CROSS_ENTROPY", "SOFT_CROSS_ENTROPY") and abs(y - 0.5).max() > 0.5:
            raise DataError(f"targets are in {y.min()} .. {y.max()}; expected 0 .. 1; repair the data")

    def _drawn(self, n: int) -> dict[str, np.ndarray]:
        found = {}
        for name, rate in self.metadata["dropout"].items():
            kept = self._random.random((n, *map(int, self.ports[name][1][1:])), np.float32) >= rate
            found[name] = kept.astype("f4") * np.float32(1 / (1 - rate))
        return found

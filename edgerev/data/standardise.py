"""Mean and scale of each channel in one pass over the records, in a buffer of bounded size.

Blocks of float64 sums are merged pairwise as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm
for Computing Sample Variances", 1979 (equation 2.1), so that a large mean does not eat the variance. Sums run along
the samples by NumPy's plain addition; no BLAS, whose order differs between machines.
"""

from __future__ import annotations

from math import prod, sqrt

import numpy as np

from edgerev.data.records import Records
from edgerev.errors import DataError, UsageError

BUFFER_BYTES = 1 << 18
SUM_VALUES = 1 << 15
# Below this the inverse could overflow float32.
LEAST_DEVIATION = 1e-30


class Moments:
    """Count, mean, sum of squared deviations and range of each channel, of all blocks so far."""

    def __init__(self, channels: int):
        self.count = 0
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)
        self.least = np.full(channels, np.inf)
        self.most = np.full(channels, -np.inf)

    def add(self, block: np.ndarray) -> None:
        """Merge a block.

        Parameters
        ----------
        block : ndarray
            `(values, channels)` float64, at least one row.
        """
        n = len(block)
        mean = np.add.reduce(block, axis=0) / n
        delta = mean - self.mean
        total = self.count + n
        self.squares += np.add.reduce((block - mean) ** 2, axis=0) + delta * delta * (self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total
        np.minimum(self.least, block.min(axis=0), out=self.least)
        np.maximum(self.most, block.max(axis=0), out=self.most)


def statistics(records: Records, per: str = "channel") -> tuple[list[float], list[float]]:
    """Compute what standardises a data set: `(value - mean) * inverse_deviation`.

    Parameters
    ----------
    records : Records
        At least one sample; the values are taken as stored, so uint8 counts 0 to 255.
    per : {'channel', 'set'}
        One pair per index of the last axis (per feature, for feature rows), or one pair for all, repeated.

    Returns
    -------
    mean : list of float
        One per channel.
    inverse_deviation : list of float
        One per channel: 1 / the population's standard deviation, and 1 for a channel that is constant.

    Raises
    ------
    UsageError
        If `per` is another word.
    DataError
        If there are no samples, a value is not finite, or the file cannot be read.
    """
    if per not in ("channel", "set"):
        raise UsageError(f"per is {per!r}; expected 'channel' or 'set'; pass one of them")
    if len(records) == 0:
        raise DataError(f"no samples of {records.name} to standardise; expected at least one; check the selection")
    channels = records.shape[-1] if per == "channel" else 1
    moments = Moments(channels)
    per_block = max(1, BUFFER_BYTES // records.record_bytes)
    buffer = bytearray(min(per_block, len(records)) * records.record_bytes)
    for start in range(0, len(records), per_block):
        count = min(per_block, len(records) - start)
        view = memoryview(buffer)[: count * records.record_bytes]
        records.read_block(start, count, view)
        _add_block(moments, np.frombuffer(view, records.dtype).reshape(-1, channels), records, start)
    scales = [_scale(moments, i) for i in range(channels)]
    repeat = records.shape[-1] // channels
    return moments.mean.tolist() * repeat, scales * repeat


def _add_block(moments: Moments, values: np.ndarray, records: Records, start: int) -> None:
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        if not finite.all():
            at = int(np.argmin(finite))
            record, place = divmod(at, prod(records.shape))
            raise DataError(
                f"record {start + record} of {records.name} holds {values.flat[at]} at value {place}; expected finite "
                "numbers; repair the source and convert it again"
            )
    step = max(1, SUM_VALUES // values.shape[1])
    for row in range(0, len(values), step):
        moments.add(values[row : row + step].astype(np.float64))


def _scale(moments: Moments, channel: int) -> float:
    # The range decides what is constant: the sum of squares of a constant need not come out as exactly 0.
    deviation = sqrt(moments.squares[channel] / moments.count)
    if moments.least[channel] == moments.most[channel] or deviation < LEAST_DEVIATION:
        return 1.0
    return 1.0 / deviation

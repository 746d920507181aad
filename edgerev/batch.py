"""Samples into the arena and answers out of it, from NumPy arrays or from anything with the buffer protocol.

NumPy is used only if the caller passes an array of it, so a process that passes buffers never imports it.
"""

from __future__ import annotations

import math
import operator
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from edgerev.errors import DataError
from edgerev.kernels.layout import FRACTION_BITS, DType
from edgerev.losses import Loss, MeanSquaredError
from edgerev.net import Head, Net
from edgerev.recipe import Recipe
from edgerev.runtime import Runtime

REAL_FORMATS = "fdbBhHiIlLqQ?"
WHOLE_FORMATS = "bBhHiIlLqQ"
_WORDS = {False: ("an output of the backbone", "transform"), True: ("an input of the backbone", "invert")}


def is_numpy(x: Any) -> bool:
    """Return whether `x` is a NumPy array."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(x, numpy.ndarray)


class Values(NamedTuple):
    """Samples or targets whose shape and type were found good.

    Attributes
    ----------
    size : samples that they are for
    items : a NumPy array with one row for each, or all numbers in a row
    """

    size: int
    items: Any


def _extremes(numbers: Any) -> tuple[int, int]:
    """Return the smallest and the largest number of a NumPy array, 0 and 0 of an empty one."""
    if len(numbers) < 100:  # NumPy's own minimum takes longer than so few
        few = numbers.tolist() or [0]
        return min(few), max(few)
    return int(numbers.min()), int(numbers.max())


class Slot:
    """A tensor of the arena that samples or targets are copied to.

    Parameters
    ----------
    view : its memory, flat and of its type
    """

    def __init__(self, view: Any) -> None:
        self.view = view
        self._array: Any = None

    def put(self, values: Values, first: int, count: int, width: int) -> None:
        """Copy the numbers of some samples, `width` for each, to the start, converting them to the tensor's type."""
        items = values.items
        if is_numpy(items):
            self._put_array(items[first : first + count], count * width)
            return
        part = items[first * width : (first + count) * width]
        if not isinstance(part, memoryview) or part.format != self.view.format:
            part = memoryview(array(self.view.format, part))
        self.view[: count * width] = part

    def _put_array(self, part: Any, size: int) -> None:
        numpy = sys.modules["numpy"]
        if self._array is None:
            self._array = numpy.frombuffer(self.view, self.view.format)
        target = self._array[:size].reshape(part.shape)
        if part.dtype.kind != "f" or part.dtype.itemsize <= 4:
            target[...] = part
            return
        with numpy.errstate(over="ignore"):  # what is too large becomes infinite, which the kernels refuse
            numpy.copyto(target, part, casting="unsafe")


class Batch:
    """The arena's input and output tensors, and the checks on the way in.

    Parameters
    ----------
    net, recipe : what decides shapes and types
    """

    def __init__(self, runtime: Runtime, net: Net, recipe: Recipe) -> None:
        self.runtime, self.net, self.recipe = runtime, net, recipe
        self.raw, self.target = Slot(runtime.view("raw")), Slot(runtime.view("target"))
        self.probability: Any = runtime.view("probability")
        shape = runtime.program.decode_tensor(runtime.program.find("raw")).shape
        self.sample_shape = shape[3 - len(net.input_shape) :]
        self.elements = math.prod(self.sample_shape)
        self.outputs, self.columns = net.head.outputs, net.head.columns
        self.target_width = 1 if recipe.loss.labels else self.columns

    # -- checking ---------------------------------------------------------------------------------------------

    def samples(self, x: Any) -> Values:
        """Check many samples.

        Parameters
        ----------
        x : NumPy array ``(samples, *sample_shape)`` of real numbers, or a buffer of that shape or flat

        Raises
        ------
        DataError
            There are none, or shape or type is not what the net expects.
        """
        values = self._values("samples", x, self.sample_shape)
        if not values.size:
            raise DataError("the batch is empty; expected at least one sample; leave out the call, or pass samples")
        return values

    def sample(self, x: Any) -> Values:
        """Check one sample, of the net's input shape or flat; a sequence of numbers is fine as well."""
        if isinstance(x, (list, tuple)):
            x = _floats("the sample", x)
        flat = x if is_numpy(x) else _flat("the sample", x)
        shape = x.shape if is_numpy(x) else memoryview(x).shape
        if shape not in (self.sample_shape, (self.elements,)):
            raise DataError(
                f"the sample has shape {shape}; expected {self.sample_shape}, channels last, or its {self.elements} "
                "numbers in a row; reshape it"
            )
        return self._values("the sample", x[None], shape) if is_numpy(x) else Values(1, flat)

    def targets(self, y: Any, count: int) -> Values:
        """Check the targets of `count` samples.

        Parameters
        ----------
        y : class numbers in any sequence, or ``(samples, outputs)`` real numbers for the other losses

        Raises
        ------
        DataError
            Number, shape or type is not what the loss expects, or a class number is out of range.
        """
        if self.recipe.loss.labels:
            return self._labels(y, count)
        values = self._values("targets", y, (self.columns,))
        if values.size != count:
            raise DataError(f"{count} samples but {values.size} targets; expected one target for each sample")
        return values

    def target_of_one(self, y: Any) -> Values:
        """Check the target of one sample: a class number, or a number for each output."""
        if self.recipe.loss.labels:
            return self._labels([y], 1)
        values = _floats("the target", [y] if hasattr(y, "__float__") and not hasattr(y, "__len__") else y)
        if len(values) != self.columns:
            raise DataError(f"the target has {len(values)} values; expected one for each of {self.columns} outputs")
        return Values(1, memoryview(values))

    def _values(self, what: str, x: Any, shape: tuple[int, ...]) -> Values:
        if is_numpy(x):
            if x.dtype.kind not in "fiub":
                raise DataError(f"{what} have type {x.dtype}; expected real numbers; convert them to float32")
            if x.ndim == 0 or x.shape[1:] != shape:
                raise DataError(f"{what} have shape {x.shape}; expected {_rows(shape)}; reshape them")
            return Values(len(x), x)
        flat, width = _flat(what, x), math.prod(shape)
        given = memoryview(x).shape or ()
        if (len(given) > 1 and given[1:] != shape) or len(flat) % width:
            raise DataError(
                f"{what} are a buffer of shape {given}; expected {_rows(shape)}, or all their numbers in a row; cast it"
            )
        return Values(len(flat) // width, flat)

    def _labels(self, y: Any, count: int) -> Values:
        expected = f"expected class numbers 0 .. {self.outputs - 1}"
        if is_numpy(y):
            if y.dtype.kind not in "iu":
                raise DataError(f"labels have type {y.dtype}; {expected}; convert them to int32")
            if y.ndim != 1:
                raise DataError(f"labels have shape {y.shape}; expected (samples,); pass one class number for each")
        elif hasattr(y, "__index__") or not hasattr(y, "__len__") or isinstance(y, (str, dict)):
            raise DataError(f"labels are {type(y).__name__}; expected a sequence of class numbers for the samples")
        if len(y) != count:
            raise DataError(f"{count} samples but {len(y)} labels; expected one label for each sample")
        if is_numpy(y):
            low, high = _extremes(y)
            if low < 0 or high >= self.outputs:
                sample = int(((y < 0) | (y >= self.outputs)).argmax())
                raise DataError(f"label {y[sample]} of sample {sample} is out of range; {expected}")
            return Values(count, y)
        if not isinstance(y, (list, tuple, range)):
            y = _flat("labels", y, WHOLE_FORMATS)
        for sample, label in enumerate(y):
            try:
                number = operator.index(label)
            except TypeError:
                raise DataError(f"label {label!r} of sample {sample} is not a whole number; {expected}") from None
            if not 0 <= number < self.outputs:
                raise DataError(f"label {label} of sample {sample} is out of range; {expected}")
        return Values(count, y)

    # -- in ---------------------------------------------------------------------------------------------------

    def fill(self, samples: Values, targets: Values | None, first: int, most: int) -> int:
        """Copy samples ``first ..``, at most `most`, to the input, and their targets; return how many."""
        count = min(samples.size - first, most)
        self.runtime.first_sample = first
        self.raw.put(samples, first, count, self.elements)
        if targets is not None:
            self.target.put(targets, first, count, self.target_width)
        return count

    # -- out --------------------------------------------------------------------------------------------------

    def results(self, samples: Values) -> Any:
        """Return what `collect` fills: a NumPy array for a NumPy array, else an array of floats."""
        if is_numpy(samples.items):
            return sys.modules["numpy"].empty((samples.size, self.columns), "f4")
        return array("f", bytes(4 * samples.size * self.columns))

    def collect(self, result: Any, first: int, n: int) -> None:
        """Copy the probabilities of `n` samples to `result`, from sample `first` on."""
        target = memoryview(result).cast("B").cast("f")
        target[first * self.columns : (first + n) * self.columns] = self.probability[: n * self.columns]

    def first_result(self) -> list[float]:
        """Return the probabilities of the first sample."""
        return self.probability[: self.columns].tolist()

    # -- the state --------------------------------------------------------------------------------------------

    def states(self, count: int, fill: Any, sections: tuple[str, str], *, entry: bool) -> Any:
        """Run sections for `count` samples and return the state at the backbone's entry or exit, as float64.

        Parameters
        ----------
        fill : called with the first sample and the most that fit; puts them in place and returns how many
        sections : the first and the last one to run
        """
        import numpy

        shape = self._state_shape(entry)
        result = numpy.empty((count, *shape[:-1], 2 * shape[-1]))
        most = self.runtime.program.decode_tensor(self.runtime.program.find("state.0@0")).capacity
        for first in range(0, count, most):
            n = fill(first, most)
            self.runtime.run(sections[0], n, until=sections[1])
            for half, (state, step) in enumerate(self.halves(entry, n)):
                channels = slice(half * shape[-1], (half + 1) * shape[-1])
                result[first : first + n, ..., channels] = state.reshape(n, *shape) * step
        return result

    def fill_state(self, given: Any, first: int, most: int, *, entry: bool = False) -> int:
        """Put outputs of the backbone, or its inputs, back into the state; what lies on the grid exactly."""
        import numpy

        count = min(len(given) - first, most)
        self.runtime.first_sample = first
        shape = self._state_shape(entry)
        for half, (state, step) in enumerate(self.halves(entry, count)):
            channels = slice(half * shape[-1], (half + 1) * shape[-1])
            values = (given[first : first + count, ..., channels] / step).reshape(-1)
            if state.dtype.kind == "i":
                values, limits = numpy.rint(values), numpy.iinfo(state.dtype)
                if not ((values >= limits.min) & (values <= limits.max)).all():
                    raise DataError(
                        f"{_WORDS[entry][0]} is not finite or out of the state's range; expected numbers within "
                        f"+-{limits.max * step:.0f}; pass what {_WORDS[entry][1]} returned"
                    )
            state[:] = values
        return count

    def check_states(self, given: Any, *, entry: bool = False) -> Any:
        """Return outputs of the backbone, or its inputs, as a NumPy array of the right shape."""
        import numpy

        shape = self._state_shape(entry)
        shape = (*shape[:-1], 2 * shape[-1])
        given = numpy.asarray(given)
        if given.dtype.kind not in "fiu" or given.ndim == 0 or given.shape[1:] != shape or not len(given):
            raise DataError(
                f"{_WORDS[entry][0]}: {given.dtype} of shape {given.shape}; expected real numbers of shape "
                f"{_rows(shape)}; pass what {_WORDS[entry][1]} returned"
            )
        return given

    def _state_shape(self, entry: bool) -> tuple[int, ...]:
        *_, last = self.net.stages()
        return self.net.half_shape if entry else last

    def halves(self, entry: bool, n: int) -> list[tuple[Any, float]]:
        """Return both halves of the state of `n` samples as flat arrays, each with the step of its grid."""
        import numpy

        found = []
        stage = 0 if entry else len(list(self.net.stages())) - 1
        for half in (0, 1):
            name = f"state.{half}@{stage}"
            tensor = self.runtime.program.decode_tensor(self.runtime.program.find(name))
            step = 1.0 if tensor.dtype is DType.F32 else 2.0 ** -FRACTION_BITS[tensor.dtype]
            view = self.runtime.view(name)
            found.append((numpy.frombuffer(view, view.format)[: n * math.prod(tensor.shape)], step))
        return found


def _rows(shape: tuple[int, ...]) -> str:
    text = f"({', '.join(map(str, ('samples', *shape)))})"
    return f"{text}, channels last" if len(shape) > 1 else text


def _flat(what: str, x: Any, formats: str = REAL_FORMATS) -> memoryview:
    """Return a buffer's numbers in a row."""
    try:
        view: Any = memoryview(x)
        kind = view.format.lstrip("@=<")
        if kind not in formats or not kind:
            raise TypeError(f"numbers of format {view.format!r}")
        return view.cast("B").cast(kind)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{what}: {error}; expected a NumPy array, or a contiguous buffer of format {' '.join(formats)}; convert it"
        ) from error


def _floats(what: str, x: Any) -> array:
    try:
        return array("f", x)
    except (TypeError, OverflowError) as error:
        raise DataError(f"{what}: {error}; expected a flat sequence of real numbers; convert it") from error


class Report(NamedTuple):
    """What learning from some samples showed, measured before each batch's update.

    Attributes
    ----------
    loss : mean loss
    accuracy : share of right answers; None for the mean squared error
    samples : how many there were
    """

    loss: float
    accuracy: float | None
    samples: int


def answer(values: Sequence[float], outputs: int, loss: Loss) -> Any:
    """Return the answer that the probabilities or values of one sample stand for; see `Learner.predict_one`."""
    if loss.labels:
        return max(range(len(values)), key=values.__getitem__) % outputs
    return values if isinstance(loss, MeanSquaredError) else [int(value > 0.5) for value in values]


def answers(probabilities: Any, head: Head, loss: Loss) -> Any:
    """Return the answers of many samples; see `Learner.predict_many`."""
    if is_numpy(probabilities):
        if loss.labels:
            return probabilities.argmax(1) % head.outputs
        return probabilities if isinstance(loss, MeanSquaredError) else (probabilities > 0.5).astype("i4")
    if not loss.labels:
        found = answer(probabilities, head.outputs, loss)
        return array("i", found) if isinstance(found, list) else found
    return array("i", (column % head.outputs for column in _likeliest(probabilities, head.columns)))


def tasks(probabilities: Any, head: Head) -> Any:
    """Return the task that the likeliest answer of each sample belongs to."""
    if is_numpy(probabilities):
        return probabilities.argmax(1) // head.outputs
    return array("i", (column // head.outputs for column in _likeliest(probabilities, head.columns)))


def _likeliest(probabilities: Any, columns: int) -> Iterator[int]:
    for start in range(0, len(probabilities), columns):
        yield max(range(columns), key=lambda column: probabilities[start + column])

"""The checkpoint of onnxruntime's training API: parameters, moments and the count of steps, in one FlatBuffer.

The schema is that of ``ort_training_checkpoint.fbs`` in onnxruntime 1.19. A FlatBuffer's table starts with the distance
back to a list of where its fields are; strings, vectors and tables are reached by the distance to them
(https://flatbuffers.dev/internals). Written and read here, so that neither needs that runtime.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from edgerev.errors import ExportError

IDENTIFIER = b"ODTC"
_VERSION, _FLOAT, _GROUP = 2, 1, "group0"
_MOST_BYTES = 2**31 - 1
# fields of the tables, by number
_CHECKPOINT_MODULE, _CHECKPOINT_GROUPS = 1, 2
_MODULE_TRAINED, _MODULE_NOMINAL, _MODULE_EXTERNAL = 0, 2, 3
_TENSOR_NAME, _TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_DATA = 0, 2, 3, 4
_GROUP_STEP, _GROUP_STATES = 1, 3


class OrtCheckpoint(NamedTuple):
    """What is in a checkpoint.

    Attributes
    ----------
    parameters : trained ones by name, float32
    moments : for each parameter its moments in their order, named ``momentum0`` and so on there
    step : optimizer steps so far
    rate : learning rate to start with
    """

    parameters: Mapping[str, np.ndarray]
    moments: Mapping[str, list[np.ndarray]]
    step: int
    rate: float = 0.0


# -- writing -------------------------------------------------------------------------------------------------------

_Part = Callable[[bytearray], int]  # appends itself and returns where it starts
_Field = tuple[str, float] | _Part | None  # a number with its kind, a part at some distance, or nothing


def pack(found: OrtCheckpoint) -> bytes:
    """Return the bytes of a checkpoint's file.

    Raises
    ------
    ExportError
        It is larger than such files can be.
    """
    size = sum(array.nbytes for array in found.parameters.values())
    size += sum(array.nbytes for arrays in found.moments.values() for array in arrays)
    if size > _MOST_BYTES:
        raise ExportError(f"the checkpoint has {size} bytes; expected at most {_MOST_BYTES}; export a smaller net")
    module = _table(_vector([_tensor(name, array) for name, array in found.parameters.items()]), _vector([]))
    states = [
        _table(_text(name), _vector([_tensor(f"momentum{k}", array) for k, array in enumerate(arrays)]))
        for name, arrays in found.moments.items()
    ]
    group = _table(_text(_GROUP), ("q", found.step), ("f", found.rate), _vector(states))
    data = bytearray(8)
    data[4:8] = IDENTIFIER
    struct.pack_into("<I", data, 0, _table(("i", _VERSION), module, _vector([group]))(data))
    return bytes(data)


def _pad(data: bytearray, ahead: int, size: int = 8) -> None:
    """Let what comes `ahead` bytes later start at a multiple of `size`."""
    data += bytes(-(len(data) + ahead) % size)


def _table(*fields: _Field) -> _Part:
    def append(data: bytearray) -> int:
        places, end = [], 4
        for field in fields:
            size = struct.calcsize(field[0]) if isinstance(field, tuple) else 4
            end += -end % size * (field is not None)
            places.append(end if field is not None else 0)
            end += size * (field is not None)
        head = 4 + 2 * len(fields)
        _pad(data, head)
        start = len(data) + head
        data += struct.pack(f"<{2 + len(fields)}Hi", head, end, *places, head) + bytes(end - 4)
        for field, place in zip(fields, places):
            if isinstance(field, tuple):
                struct.pack_into(f"<{field[0]}", data, start + place, field[1])
            elif field is not None:
                _link(data, start + place, field)
        return start

    return append


def _link(data: bytearray, at: int, part: _Part) -> None:
    struct.pack_into("<I", data, at, part(data) - at)


def _vector(parts: list[_Part]) -> _Part:
    def append(data: bytearray) -> int:
        _pad(data, 0)
        start = len(data)
        data += struct.pack("<I", len(parts)) + bytes(4 * len(parts))
        for index, part in enumerate(parts):
            _link(data, start + 4 + 4 * index, part)
        return start

    return append


def _numbers(count: int, content: bytes | memoryview) -> _Part:
    def append(data: bytearray) -> int:
        _pad(data, 4)
        start = len(data)
        data += struct.pack("<I", count)
        data += content
        return start

    return append


def _text(text: str) -> _Part:
    content = text.encode()
    return _numbers(len(content), content + b"\0")


def _tensor(name: str, array: np.ndarray) -> _Part:
    content = np.ascontiguousarray(array, "<f4")
    dims = _numbers(array.ndim, struct.pack(f"<{array.ndim}q", *array.shape))
    return _table(_text(name), None, dims, ("i", _FLOAT), _numbers(content.nbytes, content.tobytes()))


# -- reading -------------------------------------------------------------------------------------------------------


class _Table:
    """A table in a buffer that nobody has checked.

    Every place is looked at before it is used: ValueError says that the buffer ends too early.
    """

    def __init__(self, data: memoryview, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - _number(data, at, "i")

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        return cls(data, _number(data, 0, "I"))

    def _place(self, field: int) -> int | None:
        if 4 + 2 * field + 2 > _number(self._data, self._fields, "H"):
            return None
        offset = _number(self._data, self._fields + 4 + 2 * field, "H")
        return self._at + offset if offset else None

    def number(self, field: int, kind: str) -> int:
        place = self._place(field)
        return 0 if place is None else _number(self._data, place, kind)

    def bytes(self, field: int, size: int = 1) -> memoryview:
        """Return the numbers of a vector, of `size` bytes each."""
        place = self._place(field)
        if place is None:
            return memoryview(b"")
        start = place + _number(self._data, place, "I")
        count = _number(self._data, start, "I")
        if start + 4 + count * size > len(self._data):
            raise ValueError("it ends too early")
        return self._data[start + 4 : start + 4 + count * size]

    def text(self, field: int) -> str:
        return bytes(self.bytes(field)).decode()

    def tables(self, field: int) -> Iterator[_Table]:
        place = self._place(field)
        if place is None:
            return
        first = place + _number(self._data, place, "I") + 4
        for at in range(first, first + len(self.bytes(field, 4)), 4):
            yield _Table(self._data, at + _number(self._data, at, "I"))

    def table(self, field: int) -> _Table:
        place = self._place(field)
        if place is None:
            raise ValueError(f"its field {field} is missing")
        return _Table(self._data, place + _number(self._data, place, "I"))


def _number(data: memoryview, at: int, kind: str) -> int:
    if not 0 <= at <= len(data) - struct.calcsize(kind):
        raise ValueError("it ends too early")
    return struct.unpack_from(f"<{kind}", data, at)[0]


def unpack(data: memoryview) -> OrtCheckpoint:
    """Return what is in the bytes of a checkpoint's file.

    Raises
    ------
    ValueError
        It is no whole checkpoint, or one that this does not know.
    """
    if bytes(data[4:8]) != IDENTIFIER:
        raise ValueError("it does not start as a checkpoint does")
    root = _Table.root(data)
    module = root.table(_CHECKPOINT_MODULE)
    if module.number(_MODULE_NOMINAL, "?") or module.number(_MODULE_EXTERNAL, "?"):
        raise ValueError("its parameters are in another file")
    parameters = dict(_named(module, _MODULE_TRAINED))
    moments: dict[str, list[np.ndarray]] = {}
    step = 0
    for group in root.tables(_CHECKPOINT_GROUPS):
        step = group.number(_GROUP_STEP, "q")
        for state in group.tables(_GROUP_STATES):
            found = dict(_named(state, 1))
            moments[state.text(0)] = [found[name] for name in sorted(found)]
    return OrtCheckpoint(parameters, moments, step)


def _named(table: _Table, field: int) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in table.tables(field):
        name, kind = tensor.text(_TENSOR_NAME), tensor.number(_TENSOR_TYPE, "i")
        if kind != _FLOAT:
            raise ValueError(f"{name} has numbers of type {kind}, not float32")
        dims = np.frombuffer(tensor.bytes(_TENSOR_DIMS, 8), "<i8")
        yield name, np.frombuffer(tensor.bytes(_TENSOR_DATA), "<f4").reshape(dims)

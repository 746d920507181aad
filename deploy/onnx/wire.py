"""Reading and thinning a model's file without the package onnx, so that a device needs nothing but a runtime.

A protobuf message is a row of fields, each a key (number and kind), then a varint, 4 or 8 bytes, or a length and as
many bytes. Of onnx.proto3 this knows a model's opset and graph, a graph's initializers and inputs, and what numbers
an initializer holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from edgerev.errors import ExportError

CHECKSUM = "edgerev.checksum"  # metadata's key of the checksum of everything else

_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 7, 8, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_GRAPH_INITIALIZER, _GRAPH_INPUT = 5, 11
_INFO_NAME = 1
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_TYPES = {1: "<f4", 6: "<i4", 7: "<i8"}


class _Field(NamedTuple):
    number: int
    value: int
    data: memoryview
    whole: memoryview


class Loaded(NamedTuple):
    """A model's file, taken apart.

    Attributes
    ----------
    model : its bytes without the initial values of inputs
    initial : initial value of each input that has one
    opset : version of the standard operators that it needs
    metadata : what it says about itself
    """

    model: bytes
    initial: dict[str, np.ndarray]
    opset: int
    metadata: dict[str, str]


def content_checksum(graph: bytes | memoryview, metadata: Mapping[str, str]) -> int:
    """Return a CRC-32 of a graph and of the metadata beside it."""
    checksum = crc32(graph)
    for key in sorted(metadata.keys() - {CHECKSUM}):
        checksum = crc32(f"{key}={metadata[key]}".encode(), checksum)
    return checksum


def load(path: str) -> Loaded:
    """Read a model that `edgerev.deploy.onnx.export` wrote.

    Raises
    ------
    ExportError
        The file cannot be read, or is no model.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ExportError(f"{path} cannot be read ({error}); expected an ONNX model; name one") from error
    try:
        return _take_apart(memoryview(data))
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{path} is no whole ONNX model ({error}); expected a file that `edgerev export` wrote; copy or export it "
            "again"
        ) from error


def arrays(data: memoryview) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return all named arrays of a model, and its metadata.

    Raises
    ------
    ValueError, IndexError, KeyError, UnicodeDecodeError
        It is no whole model, or its checksum is that of another one. A model without a checksum is taken as it is.
    """
    found, metadata, whole = {}, {}, memoryview(b"")
    for field in _fields(data):
        if field.number == _MODEL_METADATA:
            metadata[_text(field.data, _ENTRY_KEY)] = _text(field.data, _ENTRY_VALUE)
        elif field.number == _MODEL_GRAPH:
            whole = field.data
    if CHECKSUM in metadata and metadata[CHECKSUM] != str(content_checksum(whole, metadata)):
        raise ValueError(f"its checksum is another one; a tool that changes weights has to remove {CHECKSUM}")
    for field in _fields(whole):
        if field.number == _GRAPH_INITIALIZER:
            found[_text(field.data, _TENSOR_NAME)] = _numbers(field.data)
    return found, metadata


def described(loaded: Loaded) -> dict[str, Any]:
    """Return what a model says about itself, without the prefix that all of that has."""
    prefix = "edgerev."
    return {
        key.removeprefix(prefix): json.loads(text) for key, text in loaded.metadata.items() if key.startswith(prefix)
    }


def _take_apart(data: memoryview) -> Loaded:
    opset, initial, metadata, parts = 0, {}, {}, []
    whole_graph = memoryview(b"")
    for field in _fields(data):
        part: bytes | memoryview = field.whole
        if field.number == _MODEL_OPSET:
            opset = max(opset, _opset(field.data))
        elif field.number == _MODEL_METADATA:
            metadata[_text(field.data, _ENTRY_KEY)] = _text(field.data, _ENTRY_VALUE)
        elif field.number == _MODEL_GRAPH:
            whole_graph = field.data
            graph, found = _thinned(field.data)
            initial.update(found)
            part = _key(_MODEL_GRAPH) + _varint(len(graph)) + graph
        parts.append(part)
    if metadata.get(CHECKSUM) != str(content_checksum(whole_graph, metadata)):
        raise ValueError("its checksum is another one")
    return Loaded(b"".join(parts), initial, opset, metadata)


def _thinned(data: memoryview) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return a graph without the initial values of its inputs, and those."""
    inputs = {_text(field.data, _INFO_NAME) for field in _fields(data) if field.number == _GRAPH_INPUT}
    parts, initial = [], {}
    for field in _fields(data):
        if field.number == _GRAPH_INITIALIZER:
            name = _text(field.data, _TENSOR_NAME)
            if name in inputs:
                initial[name] = _numbers(field.data)
                continue
        parts.append(field.whole)
    return b"".join(parts), initial


def _numbers(data: memoryview) -> np.ndarray:
    """Return an array, as this package's own files and most others hold it: one block of bytes."""
    shape, kind, raw = [], 0, memoryview(b"")
    for field in _fields(data):
        if field.number == _TENSOR_DIMS:
            shape += _varints(field.data) if len(field.data) else [field.value]
        elif field.number == _TENSOR_TYPE:
            kind = field.value
        elif field.number == _TENSOR_RAW:
            raw = field.data
    return np.frombuffer(raw, _TYPES[kind]).reshape(shape).copy()


def _opset(data: memoryview) -> int:
    domain, version = "", 0
    for field in _fields(data):
        if field.number == _OPSET_DOMAIN:
            domain = bytes(field.data).decode()
        elif field.number == _OPSET_VERSION:
            version = field.value
    return version if domain == "" else 0


def _text(data: memoryview, number: int) -> str:
    return next((bytes(field.data).decode() for field in _fields(data) if field.number == number), "")


def _fields(data: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(data):
        start = at
        key, at = _read_varint(data, at)
        kind, value, content = key & 7, 0, memoryview(b"")
        if kind == _VARINT:
            value, at = _read_varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
        elif kind == _LENGTH:
            size, at = _read_varint(data, at)
            content = data[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of kind {kind} at byte {start}")
        if at > len(data):
            raise ValueError("it ends too early")
        yield _Field(key >> 3, value, content, data[start:at])


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 10 bytes")


def _varints(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _read_varint(data, at)
        found.append(value)
    return found


def _key(number: int) -> bytes:
    return _varint(number << 3 | _LENGTH)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])

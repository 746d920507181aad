"""A model as two plain files for C: the program, and what training changes; edgerev.h describes both.

`model.program` holds the tables of the arena as they are in memory, so C reads them straight into place. Parameters
fit every program of the same net, kind of optimizer and kind of loss, as a checkpoint does: batch, budget, rates and
augmentation may differ.
"""

from __future__ import annotations

import json
import math
import os
import struct
from binascii import crc32
from collections.abc import Iterable, Iterator

from edgerev.contents import KEPT, facts
from edgerev.errors import CheckpointError, EdgerevError, UsageError
from edgerev.files import read_at, write_whole
from edgerev.kernels import layout
from edgerev.learner import Learner
from edgerev.program import Program, Region
from edgerev.runtime import Runtime

PROGRAM_FILE, PARAMETERS_FILE = "model.program", "model.parameters"
PROGRAM_MAGIC, PARAMETERS_MAGIC = b"edgeprog", b"edgeparm"

# The structs of edgerev.h, and how many of them an EdgerevProgram has room for.
_PROGRAM, _PARAMETERS = struct.Struct("<8siIIiiiiiQ6q"), struct.Struct("<8siIQq")
_SECTION, _TENSOR, _SPAN, _NAME = struct.Struct("<32s4i"), struct.Struct("<32s2q2i"), struct.Struct("<2q2i"), 32
_SECTIONS, _TENSORS, _SPANS = 16, 16, 8
_CHECKSUM_AT = 12
# Tensors that a caller puts something into or reads; those that the program has.
_NAMED = ("raw", "target", "probability", "report", "counters", "scalars", "input.mean", "input.scale", "loss.weights")
_CHUNK_BYTES = 1 << 18


def write_c_model(learner: Learner, folder: str | os.PathLike[str]) -> None:
    """Write `model.program` and `model.parameters` to a folder, each whole or not at all.

    Raises
    ------
    CheckpointError
        The folder holds parameters already, which C may have trained; the model is not whole or not finite; or a file
        could not be written.
    UsageError
        A name is too long for the file.
    """
    path = os.path.join(folder, PARAMETERS_FILE)
    if os.path.lexists(path):
        raise CheckpointError(
            f"{path} is there already, and may have been trained since; expected a folder without; remove it, or write "
            "the program alone: write_program"
        )
    identity = _identity(learner)

    def write(runtime: Runtime) -> None:
        write_program(learner, folder)
        _write(path, _parameters(runtime, identity))

    learner.export(path, write)


def write_program(learner: Learner, folder: str | os.PathLike[str]) -> None:
    """Write `model.program` alone, as for another batch, budget or learning rate: the parameters of before fit it.

    Raises
    ------
    CheckpointError
        It could not be written.
    UsageError
        A name is too long for the file.
    """
    _write(os.path.join(folder, PROGRAM_FILE), _program(learner, _identity(learner)))


def read_parameters(learner: Learner, path: str | os.PathLike[str]) -> None:
    """Take parameters, optimizer, sums and counters from a file that C wrote; epoch and sample stay where they are.

    Raises
    ------
    CheckpointError
        The file is damaged, belongs to another model, or holds parameters that are not finite: the learner is as it
        was. If it cannot be read to its end, the learner is refused until another one is restored.
    """
    path = os.fspath(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(
            f"cannot open {path} ({error}); expected parameters that a program in C saved; name another file"
        ) from error
    try:
        _verify(path, fd, _identity(learner), [(size, finite) for _, size, finite in _spans(learner.runtime)])
        learner.replace(lambda runtime: _fill(path, fd, runtime))
    except OSError as error:
        raise CheckpointError(f"cannot read {path} ({error}); expected a file on a disk that works") from error
    finally:
        os.close(fd)


# -- writing --------------------------------------------------------------------------------------------------------


def _identity(learner: Learner) -> int:
    """Return a number that models share whose parameters mean the same."""
    import hashlib  # which loads OpenSSL: megabytes that training alone does without

    text = json.dumps(facts(learner.net, learner.recipe), sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _program(learner: Learner, identity: int) -> tuple[bytes | memoryview, ...]:
    """Return the parts of the program's file: its header, the tables, the blocks' names."""
    runtime = learner.runtime
    program, offsets = runtime.program, runtime.plan.offsets
    tables = runtime.region(Region.PROGRAM)
    names = b"".join(_name(block) for block in program.blocks)
    status, barrier = (offsets[program.find(name)] for name in ("status", "barrier"))
    header = bytearray(_PROGRAM.pack(
        PROGRAM_MAGIC, layout.INTERFACE, 0, crc32(names, crc32(tables)), program.batch, program.threads,
        learner.recipe.loss.number, program.first_update, len(program.blocks), identity, runtime.plan.arena_bytes,
        len(tables), runtime.plan.rows, runtime.plan.tensor_table, status, barrier,
    ))  # fmt: skip
    header += _table(_sections(program), _SECTION, _SECTIONS)
    header += _table(_tensors(runtime), _TENSOR, _TENSORS)
    header += _table((_SPAN.pack(*span, 0) for span in _spans(runtime)), _SPAN, _SPANS)
    struct.pack_into("<I", header, _CHECKSUM_AT, crc32(header))
    return bytes(header), tables, names


def _table(entries: Iterable[bytes], entry: struct.Struct, most: int) -> bytes:
    """Return a table with room for `most` entries."""
    table = b"".join(entries)
    if len(table) > most * entry.size:
        raise EdgerevError(
            f"{len(table) // entry.size} entries for a table of a file for C; expected {most} at most; raise the "
            "number in edgerev.h"
        )
    return table.ljust(most * entry.size, b"\0")


def _sections(program: Program) -> Iterator[bytes]:
    for name, (first, last) in program.sections.items():
        yield _SECTION.pack(_name(name), first, last, program.most_samples[name], 0)


def _tensors(runtime: Runtime) -> Iterator[bytes]:
    for name in _NAMED:
        if name in runtime.program.names:
            number = runtime.program.find(name)
            tensor = runtime.program.decode_tensor(number)
            yield _TENSOR.pack(_name(name), runtime.plan.offsets[number], tensor.nbytes, tensor.dtype, tensor.stride)


def _spans(runtime: Runtime) -> Iterator[tuple[int, int, bool]]:
    """Yield offset and bytes of what training changes for good, and whether it must be finite float32."""
    for name in ("counters", "scalars"):
        number = runtime.program.find(name)
        yield runtime.plan.offsets[number], runtime.program.decode_tensor(number).nbytes, False
    for region in KEPT:
        start, size = runtime.plan.regions[region]
        if size:
            yield start, size, region is Region.PARAMETERS


def _name(name: str) -> bytes:
    encoded = name.encode()
    if len(encoded) >= _NAME:
        raise UsageError(f"{name!r} has {len(encoded)} bytes; expected a name of at most {_NAME - 1}; shorten it")
    return encoded.ljust(_NAME, b"\0")


def _parameters(runtime: Runtime, identity: int) -> Iterator[bytes | memoryview]:
    parts = [runtime.arena[start : start + size] for start, size, _ in _spans(runtime)]
    checksum = 0
    for part in parts:
        checksum = crc32(part, checksum)
    yield _PARAMETERS.pack(PARAMETERS_MAGIC, layout.INTERFACE, checksum, identity, sum(map(len, parts)))
    yield from parts


def _write(path: str, parts: Iterable[bytes | memoryview]) -> None:
    try:
        write_whole(path, parts)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path} ({error}); expected room for it in a folder that can be written; free some space or "
            "name another folder"
        ) from error


# -- reading --------------------------------------------------------------------------------------------------------


def _verify(path: str, fd: int, identity: int, spans: list[tuple[int, bool]]) -> None:
    """Check all of a file of parameters, whose spans have so many bytes, and must be finite or not."""
    header, found = bytearray(_PARAMETERS.size), os.fstat(fd).st_size
    read_at(fd, memoryview(header), 0)
    magic, interface, checksum, model, there = _PARAMETERS.unpack(header)
    size = _PARAMETERS.size + sum(count for count, _ in spans)
    if magic != PARAMETERS_MAGIC:
        problem = f"does not begin with {PARAMETERS_MAGIC.decode()}; expected parameters that a program in C saved"
    elif interface != layout.INTERFACE:
        problem = (
            f"has interface version {interface}; expected {layout.INTERFACE}, that of this edgerev; use the version "
            "that it was made with"
        )
    elif found >= _PARAMETERS.size and (model, there + _PARAMETERS.size) != (identity, size):
        problem = (
            "belongs to another net, kind of optimizer or kind of loss; expected those of this learner; load the "
            "checkpoint that the model was made from"
        )
    elif found != size:
        problem = f"has {found} bytes; expected {size}; it is cut off, or was changed: copy it again"
    else:
        problem = _problem(fd, spans, checksum)
    if problem:
        raise CheckpointError(f"{path} {problem}")


def _problem(fd: int, spans: list[tuple[int, bool]], expected: int) -> str:
    """Return what is wrong with the bytes behind the header, or nothing."""
    chunk, at, checksum, finite = memoryview(bytearray(_CHUNK_BYTES)), _PARAMETERS.size, 0, True
    for size, must in spans:
        end = at + size
        while at < end:
            part = chunk[: end - at]
            if read_at(fd, part, at) != len(part):
                return "became shorter while it was read; copy it again"
            checksum = crc32(part, checksum)
            # Python adds in float64, so the sum is finite if and only if all of them are
            finite = finite and (not must or math.isfinite(sum(part.cast("f"))))
            at += len(part)
    if checksum != expected:
        return "is damaged: its checksum is another one; copy it again, or go back to an older one"
    return "" if finite else "holds NaN or infinity; expected finite parameters; go back to an older one"


def _fill(path: str, fd: int, runtime: Runtime) -> None:
    at = _PARAMETERS.size
    for start, size, _ in _spans(runtime):
        if read_at(fd, runtime.arena[start : start + size], at) != size:
            raise CheckpointError(f"{path} became shorter while it was read; copy it again")
        at += size

"""The C interface: the same bits as Python from two plain files, no allocation but the arena, and no file half read.

The first run compiles a C library for each processor (up to a minute each); Zig keeps it.
"""

import ast
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from binascii import crc32
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from edgerev import (
    SGD,
    AdamW,
    Augment,
    BinaryCrossEntropy,
    Block,
    CrossEntropy,
    Dense,
    Head,
    Learner,
    Lion,
    MeanSquaredError,
    Net,
    RateSchedule,
    ReLU,
)
from edgerev.deploy.c_model import PARAMETERS_FILE, PROGRAM_FILE, read_parameters, write_c_model, write_program
from edgerev.deploy.cross import archive_library, link_library, link_program
from edgerev.errors import CheckpointError, UsageError
from edgerev.files import open_exclusive, unlink_own
from edgerev.kernels import layout
from edgerev.kernels.targets import host_target
from edgerev.presets import preset
from edgerev.recipe import Schedule

ROOT = Path(__file__).parents[1]
HEADER, TRAIN = ROOT / "deploy" / "c" / "edgerev.h", ROOT / "deploy" / "c" / "train.c"
COUNTED = Path(__file__).parent / "c" / "count_train.c"
EMULATORS, VALGRIND = {"aarch64": "qemu-aarch64-static", "armv7-vfp": "qemu-arm-static"}, "valgrind"
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
FUNCTION = (Dense(8), ReLU(), Dense(8))
HEADER_BYTES, PARAMETERS_HEADER = 1952, 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: python -m pip install ziglang")
    return tmp_path_factory.mktemp("c")


@pytest.fixture(scope="module")
def library(folder):
    """Give a function that returns the static library for a target."""

    def archive(target):
        path = folder / f"{target}.a"
        return path if path.exists() else archive_library(target, path)

    return archive


@pytest.fixture(scope="module")
def program(folder, library):
    """Give a function that returns the command of train.c, statically linked for a target."""

    def command(target):
        path, emulator = folder / f"train-{target}", [] if target == host_target().name else [EMULATORS[target]]
        if emulator and shutil.which(emulator[0]) is None:
            pytest.skip(f"{emulator[0]} is not installed: apt install qemu-user-static")
        if not path.exists():
            link_program(target, [TRAIN, library(target)], path, static=True)
        return [*emulator, path]

    return command


@pytest.fixture
def train(program, tmp_path):
    """Give a function that trains on a stream with the files in this test's folder."""

    def run(stream, *words, target=None):
        command = [*program(target or host_target().name), tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE, *words]
        return subprocess.run(list(map(str, command)), input=stream, capture_output=True, timeout=550)

    return run


def records(x, y):
    """Return samples and their targets as one stream."""
    x = np.ascontiguousarray(x, "<f4")
    y = np.ascontiguousarray(y, "<i4" if y.dtype.kind in "iu" else "<f4")
    return b"".join(sample.tobytes() + target.tobytes() for sample, target in zip(x, y))


def digits(epochs=1):
    data = load_digits()
    order = np.concatenate([np.random.default_rng(epoch).permutation(len(data.target)) for epoch in range(epochs)])
    return data.images[order].astype("f4")[..., None], data.target[order].astype("i4")


def small(**options):
    """Return a learner that is quick anywhere, and samples for it."""
    random = np.random.default_rng(0)
    options = {"batch": 8, "optimizer": SGD(0.05, momentum=0.9), **options}
    learner = Learner(Net((5,), Dense(16), (Block(FUNCTION, repeat=2),), Head(3)), **options)
    return learner, random.normal(size=(50, 5)).astype("f4"), random.integers(0, 3, 50).astype("i4")


def small_ridge():
    """Return a learner whose ridge head has samples already, three of them at a time, and more for it."""
    net = Net((5,), Dense(16), (Block(FUNCTION, repeat=2),), Head(3, kind="ridge"))
    learner = Learner(net, batch=8, optimizer=SGD(0.05), schedule=Schedule(micro_batch=3, chunk=3))
    random = np.random.default_rng(0)
    x, y = random.normal(size=(50, 5)).astype("f4"), random.integers(0, 3, 50).astype("i4")
    learner.learn_many(x, y)
    learner.remember_many(x[:20], y[:20])
    return learner, x[20:], y[20:]


def kept(learner, folder):
    """Return the parameters' file that Python would write now."""
    folder.mkdir(exist_ok=True)
    write_c_model(learner, folder)
    return (folder / PARAMETERS_FILE).read_bytes()


# -- the header ----------------------------------------------------------------------------------------------------


def test_constants_are_those_of_the_layout():
    found = dict(re.findall(r"\bEDGEREV_(\w+) = (\d+)", HEADER.read_text()))
    own = {"NAME": 32, "SECTIONS": 16, "TENSORS": 16, "SPANS": 8}
    kinds = (layout.Status, layout.DType, layout.LossKind)
    expected = {member.name: int(member) for kind in kinds for member in kind}
    names = [name for name in found if name not in (*own, *expected)]
    expected |= own | {name: getattr(layout, name) for name in names}
    assert {name: int(value) for name, value in found.items()} == expected
    assert {"INTERFACE", "STATUS_LINE", "BARRIER_SPINS", "BARRIER_YIELD", "ROW"} <= set(names)


@pytest.mark.parametrize("words", [["gcc", "-std=c99"], ["g++", "-std=c++11", "-x", "c++"]], ids=["C99", "C++"])
def test_no_warnings_of_the_systems_compiler(words, tmp_path):
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    source = TRAIN if words[0] == "gcc" else HEADER
    subprocess.run([*words, *WARNINGS, "-O2", "-c", source, "-o", tmp_path / "out.o"], check=True)


@pytest.mark.parametrize("target", ["x86_64-linux-musl", "arm-linux-musleabihf", "aarch64-linux-musl"])
def test_no_warnings_elsewhere(target, folder, tmp_path):
    words = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-std=c99", *WARNINGS, "-O2"]
    subprocess.run([*words, "-c", TRAIN, "-o", tmp_path / "out.o"], check=True)


# -- the same bits -------------------------------------------------------------------------------------------------


def digits_learner():
    learner = Learner(
        preset("digits"), batch=16, optimizer=AdamW(2e-3), rate_schedule=RateSchedule("cosine", warmup=20, steps=300),
        loss=CrossEntropy(weights=(1, 1, 1, 1, 1.5, 1, 1, 1, 1, 1)), augment=Augment(shift=1), seed=7, budget="1500kB",
    )  # fmt: skip
    learner.set_standardisation([4.9], [1 / 6])
    learner.rate_factor = 0.75
    return learner


# emulated, a sample takes 30 to 60 ms
@pytest.mark.parametrize(("target", "epochs", "most"), [
    (None, 3, None), ("aarch64", 1, 250), pytest.param("aarch64", 1, None, marks=pytest.mark.long),
    pytest.param("armv7-vfp", 1, 250, marks=pytest.mark.long),
])  # fmt: skip
def test_digits(target, epochs, most, train, tmp_path):
    learner, (x, y) = digits_learner(), digits(epochs)
    x, y = x[:most], y[:most]
    assert len(x) % 16
    write_c_model(learner, tmp_path)
    done = train(records(x, y), target=target)
    assert done.returncode == 0, done.stderr
    report = learner.learn_many(x, y)
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()
    assert report.accuracy > 0.7 or epochs < 3
    last = done.stderr.decode().splitlines()[-2]
    assert re.fullmatch(rf"{len(x)} samples: loss \d\.\d{{4}}, accuracy \d+\.\d\d %", last)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), MeanSquaredError(weights=(1, 2, 3))])
def test_targets_for_each_output(loss, train, tmp_path):
    learner, x, _ = small(loss=loss, optimizer=Lion(1e-3))
    y = np.random.default_rng(1).random((50, 3)).astype("f4")
    write_c_model(learner, tmp_path)
    done = train(records(x, y))
    assert done.returncode == 0, done.stderr
    learner.learn_many(x, y)
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()
    assert (b"accuracy" in done.stderr) == isinstance(loss, BinaryCrossEntropy)


def test_there_and_back(train, tmp_path):
    """C, Python, checkpoint, C: as if one of them had done it all."""
    learner, x, y = small()
    alone = small()[0]
    write_c_model(learner, tmp_path)
    assert train(records(x[:20], y[:20])).returncode == 0
    read_parameters(learner, tmp_path / PARAMETERS_FILE)
    assert learner.steps == 3
    learner.learn_many(x[20:30], y[20:30])
    learner.save(str(tmp_path / "model.edgerev"))
    (tmp_path / PARAMETERS_FILE).unlink()
    write_c_model(Learner.load(str(tmp_path / "model.edgerev")), tmp_path)
    assert train(records(x[30:], y[30:]), tmp_path / "out").returncode == 0
    for part in (slice(20), slice(20, 30), slice(30, None)):
        alone.learn_many(x[part], y[part])
    assert kept(alone, tmp_path / "python") == (tmp_path / "out").read_bytes()


def test_a_ridge_head_learns_by_its_sums_alone(train, tmp_path):
    learner, x, y = small_ridge()
    write_c_model(learner, tmp_path)
    before = learner.predict_proba_many(x)
    done = train(records(x, y))
    assert done.returncode == 0, done.stderr
    assert re.match(rb"30 samples added\npeak RSS", done.stderr)
    alone = small_ridge()[0]
    alone.remember_many(x, y)
    assert kept(alone, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()
    read_parameters(learner, tmp_path / PARAMETERS_FILE)
    assert (learner.predict_proba_many(x) == alone.predict_proba_many(x)).all()
    assert (learner.predict_proba_many(x) != before).any()


@pytest.mark.parametrize("poison", ["NaN", "label", "huge"])
def test_a_bad_sample_for_a_ridge_head(poison, train, tmp_path):
    """Those before it are in the sums, up to its own run of three."""
    learner, x, y = small_ridge()
    write_c_model(learner, tmp_path)
    x[19, 2] = {"NaN": np.nan, "huge": 1e6}.get(poison, x[19, 2])
    y[19] = 3 if poison == "label" else y[19]
    done = train(records(x, y))
    assert done.returncode == (3 if poison == "huge" else 1)
    assert re.search(rb"18 samples added\ntrain: error: status \d .* at sample 19 of the stream", done.stderr)
    assert b"train: what was learned before is saved" in done.stderr
    learner.remember_many(x[:18], y[:18])
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()


def test_parameters_fit_another_batch_and_rate(train, tmp_path):
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    other = small(batch=5, optimizer=SGD(0.01, momentum=0.9), schedule="stored")[0]
    write_program(other, tmp_path)
    assert train(records(x, y)).returncode == 0
    other.learn_many(x, y)
    assert kept(other, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()


def test_parameters_that_are_there_are_not_replaced(tmp_path):
    learner, *_ = small()
    before, program = kept(learner, tmp_path), (tmp_path / PROGRAM_FILE).read_bytes()
    with pytest.raises(CheckpointError, match=r"is there already, and may have been trained since; .*write_program"):
        write_c_model(small(batch=4)[0], tmp_path)
    assert (tmp_path / PARAMETERS_FILE).read_bytes() == before
    assert (tmp_path / PROGRAM_FILE).read_bytes() == program


def test_a_failed_write_leaves_nothing(tmp_path):
    learner, *_ = small(batch=4)
    learner.runtime.view("stem.0.weight")[0] = np.nan
    with pytest.raises(CheckpointError, match=r"stem\.0\.weight holds NaN"):
        write_c_model(learner, tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot write .*folder that can be written"):
        write_c_model(small()[0], tmp_path / "missing")
    assert not list(tmp_path.iterdir())


def test_names_that_do_not_fit_are_refused(tmp_path):
    learner, *_ = small()
    learner.runtime.program.blocks[0] = "x" * 32
    with pytest.raises(UsageError, match="32 bytes; expected a name of at most 31"):
        write_c_model(learner, tmp_path)
    assert not list(tmp_path.iterdir())


# -- files that do not fit -----------------------------------------------------------------------------------------


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


CHANGES = {
    "empty": (lambda data: b"", "is cut off"),
    "half a header": (lambda data: data[:20], "is cut off"),
    "cut off": (lambda data: data[:-1], r"has \d+ bytes; expected \d+; it is cut off"),
    "too long": (lambda data: data + b"\0", r"has \d+ bytes; expected \d+"),
    "another kind": (lambda data: b"something else" * 500, "does not begin with edge"),
    "another version": (lambda data: data[:8] + b"\x63\0\0\0" + data[12:], "interface version 99; expected "),
    "damaged": (lambda data: flipped(data, len(data) - 9), "is damaged: its checksum"),
    "damaged early": (lambda data: flipped(data, HEADER_BYTES + 70), "is damaged: its checksum"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", [PROGRAM_FILE, PARAMETERS_FILE])
def test_bad_files_are_refused_by_c(name, change, train, tmp_path):
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    alter, message = CHANGES[change]
    path = tmp_path / name
    path.write_bytes(alter(path.read_bytes()))
    before = (tmp_path / PARAMETERS_FILE).read_bytes()
    done = train(records(x, y))
    assert done.returncode == 1
    assert re.search(f"train: error: .*{name} .*{message}", done.stderr.decode()), done.stderr
    assert (tmp_path / PARAMETERS_FILE).read_bytes() == before


@pytest.mark.parametrize("change", CHANGES)
def test_bad_files_are_refused_by_python(change, tmp_path):
    learner, x, y = small()
    alter, message = CHANGES[change]
    changed = alter(kept(learner, tmp_path))
    if message == "is cut off":
        message = "does not begin with" if not changed else r"has \d+ bytes; expected \d+; it is cut off"
    (tmp_path / PARAMETERS_FILE).write_bytes(changed)
    learner.learn_many(x, y)
    before = kept(learner, tmp_path / "before")
    with pytest.raises(CheckpointError, match=f"{PARAMETERS_FILE} .*{message}"):
        read_parameters(learner, tmp_path / PARAMETERS_FILE)
    assert kept(learner, tmp_path / "after") == before


def not_finite(learner, data, value):
    """Return parameters with another weight of the head and the checksum that is right then."""
    data, weight = bytearray(data), bytes(learner.runtime.view("head.0.weight").cast("B"))
    struct.pack_into("<f", data, data.index(weight), value)
    struct.pack_into("<I", data, 12, crc32(data[PARAMETERS_HEADER:]))
    return bytes(data)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_that_are_not_finite(value, train, tmp_path):
    """With a right checksum, as by a program that does not look."""
    learner, x, y = small()
    data = not_finite(learner, kept(learner, tmp_path), value)
    (tmp_path / PARAMETERS_FILE).write_bytes(data)
    learner.learn_many(x, y)
    before = kept(learner, tmp_path / "before")
    with pytest.raises(CheckpointError, match=f"{PARAMETERS_FILE} holds NaN or infinity; expected finite parameters"):
        read_parameters(learner, tmp_path / PARAMETERS_FILE)
    assert kept(learner, tmp_path / "after") == before
    done = train(b"")
    assert (done.returncode, b"holds NaN or infinity" in done.stderr) == (1, True)
    assert (tmp_path / PARAMETERS_FILE).read_bytes() == data


def test_every_byte_of_a_header_counts(train, tmp_path):
    write_c_model(small()[0], tmp_path)
    for name, count in ((PROGRAM_FILE, HEADER_BYTES), (PARAMETERS_FILE, PARAMETERS_HEADER)):
        path = tmp_path / name
        whole = path.read_bytes()
        for at in range(0, count, 41 if count > 100 else 1):
            path.write_bytes(flipped(whole, at))
            assert train(b"", tmp_path / "out").returncode == 1, at
            assert not (tmp_path / "out").exists()
        path.write_bytes(whole)


def test_parameters_of_another_model(train, tmp_path):
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    other = small(optimizer=AdamW(1e-3))[0]
    (tmp_path / PARAMETERS_FILE).write_bytes(kept(other, tmp_path / "other"))
    done = train(records(x, y))
    assert (done.returncode, b"belongs to another model than " in done.stderr) == (1, True)
    with pytest.raises(CheckpointError, match="belongs to another net, kind of optimizer or kind of loss"):
        read_parameters(learner, tmp_path / PARAMETERS_FILE)


def test_missing_files_and_arguments(train, tmp_path):
    done = train(b"")
    assert (done.returncode, b"model.program: No such file" in done.stderr) == (1, True)
    assert train(b"", "a", "b").returncode == 2
    with pytest.raises(CheckpointError, match=r"cannot open .*expected parameters"):
        read_parameters(small()[0], tmp_path / "missing")


def test_a_place_that_cannot_be_written(train, tmp_path):
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    done = train(records(x, y), tmp_path / "missing" / "out")
    assert done.returncode == 1
    assert b"cannot save" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [PARAMETERS_FILE, PROGRAM_FILE]


def test_links_are_followed(train, tmp_path):
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / PARAMETERS_FILE).rename(tmp_path / "disk" / "there")
    (tmp_path / PARAMETERS_FILE).symlink_to(tmp_path / "disk" / "there")
    assert train(records(x, y)).returncode == 0
    learner.learn_many(x, y)
    assert (tmp_path / PARAMETERS_FILE).is_symlink()
    assert kept(learner, tmp_path / "python") == (tmp_path / "disk" / "there").read_bytes()


# -- streams that do not fit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("poison", "message"), [
    ("NaN", r"status 1 in stem at sample 19 of the stream: it holds NaN"),
    ("label", r"status 2 in head at sample 19 of the stream: its label is out of range"),
    ("huge", r"status 5 in \S+ at sample 19 of the stream: the state left its range"),
    ("cut off", r"standard input ended 13 bytes before the end of sample 19; expected whole records of 24 bytes"),
])  # fmt: skip
def test_a_bad_sample(poison, message, train, tmp_path):
    """Batches before it are learned and saved, its own is not."""
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    x[19, 2] = {"NaN": np.nan, "huge": 1e6}.get(poison, x[19, 2])
    y[19] = 3 if poison == "label" else y[19]
    stream = records(x, y)
    done = train(stream[: 20 * 24 - 13] if poison == "cut off" else stream)
    assert done.returncode == (3 if poison == "huge" else 1)
    assert re.search(f"train: error: {message}", done.stderr.decode()), done.stderr
    assert b"train: what was learned before is saved" in done.stderr
    learner.learn_many(x[:16], y[:16])
    if poison == "cut off":
        learner.learn_many(x[16:19], y[16:19])
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()


def test_an_empty_stream_changes_nothing(train, tmp_path):
    before = kept(small()[0], tmp_path)
    assert train(b"").returncode == 0
    assert (tmp_path / PARAMETERS_FILE).read_bytes() == before


def test_a_model_that_is_half_updated_is_not_saved(train, tmp_path):
    learner, x, y = small(optimizer=SGD(0.01))
    for name, factor in (("block1.F.0.weight", 1e37), ("block1.F.2.weight", 1e-37), ("head.0.weight", 1e4)):
        view = np.frombuffer(learner.runtime.view(name), "f4")
        view *= np.float32(factor)
    before = kept(learner, tmp_path)
    done = train(records(x, y))
    assert done.returncode == 3, done.stderr
    assert b"status 7 in block1.F: the gradient is not finite" in done.stderr
    assert b"half updated, so it was not saved" in done.stderr
    assert (tmp_path / PARAMETERS_FILE).read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_after_a_step(number, program, tmp_path):
    learner, x, y = small()
    x, y = np.tile(x, (16, 1)), np.tile(y, 16)
    write_c_model(learner, tmp_path)
    command = [*program(host_target().name), tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(records(x, y))
        process.stdin.flush()
        assert process.stderr.readline().startswith(b"800 samples")
        process.send_signal(number)
        assert process.wait(60) == 0
    learner.learn_many(x, y)
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()


def test_a_source_that_fails(program, tmp_path):
    """What came before is saved."""
    learner, x, y = small()
    x, y = np.tile(x, (16, 1)), np.tile(y, 16)
    write_c_model(learner, tmp_path)
    command = [*program(host_target().name), tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE]
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sensor:
        source = server.accept()[0]
        with subprocess.Popen(command, stdin=source, stderr=subprocess.PIPE) as process:
            source.close()
            sensor.sendall(records(x, y))
            assert process.stderr.readline().startswith(b"800 samples")
            sensor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sensor.close()  # so this is a reset
            said = process.stderr.read()
            assert process.wait(60) == 1
    assert b"train: error: cannot read standard input: Connection reset" in said
    assert b"train: what was learned before is saved" in said
    learner.learn_many(x, y)
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()


@pytest.mark.parametrize("times", [1, 17])
def test_nobody_reads_the_reports(times, program, tmp_path):
    """Neither those at the end nor those in between end it."""
    learner, x, y = small()
    x, y = np.tile(x, (times, 1)), np.tile(y, times)
    write_c_model(learner, tmp_path)
    command = [*program(host_target().name), tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stderr.close()
        process.stdin.write(records(x, y))
        process.stdin.close()
        assert process.wait(60) == 0
    learner.learn_many(x, y)
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()


def test_it_is_saved_before_it_is_reported(program, tmp_path):
    """As if the reader of the reports waited: the pipe is full, and what was learned is there all the same."""
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    learner.learn_many(x, y)
    expected = kept(learner, tmp_path / "python")
    command = [*program(host_target().name), tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, bytes(1 << 12)):
            pass
    os.set_blocking(writer, True)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=writer) as process:
        process.stdin.write(records(x, y))
        process.stdin.close()
        end, there = time.monotonic() + 60, b""
        while there != expected and time.monotonic() < end:
            there = (tmp_path / PARAMETERS_FILE).read_bytes()
        waiting = process.poll() is None
        os.close(writer)
        os.close(reader)  # lets it go on
        assert process.wait(60) == 0
    assert there == expected
    assert waiting


def test_c_and_python_wait_for_one_another(program, tmp_path):
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    before = (tmp_path / PARAMETERS_FILE).read_bytes()
    temporary = str(tmp_path / f".{PARAMETERS_FILE}.tmp")
    held = open_exclusive(temporary, wait=False)
    command = [*program(host_target().name), tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(records(x, y))
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):  # it cannot end, however long this waits
            process.wait(0.5)
        assert (tmp_path / PARAMETERS_FILE).read_bytes() == before
        unlink_own(held, temporary)
        os.close(held)
        assert process.wait(60) == 0
    learner.learn_many(x, y)
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [PARAMETERS_FILE, PROGRAM_FILE]


# -- memory --------------------------------------------------------------------------------------------------------


def test_memory_besides_the_arena(train, tmp_path):
    learner = Learner(preset("mlp16"), batch=16)
    write_c_model(learner, tmp_path)
    random = np.random.default_rng(0)
    done = train(records(random.normal(size=(40, 64)), random.integers(0, 10, 40)))
    peak, arena = map(int, re.search(rb"peak RSS (\d+) bytes, of which arena (\d+)", done.stderr).groups())
    assert arena == learner.plan.arena_bytes
    assert 0 < peak - arena <= 1_500_000


def test_nothing_is_allocated_but_the_arena(folder, library, tmp_path):
    target = host_target().name
    counted = link_program(target, [COUNTED, library(target)], folder / "counted")
    learner, x, y = small()
    write_c_model(learner, tmp_path)
    command = [counted, tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE]
    done = subprocess.run(command, input=records(np.tile(x, (20, 1)), np.tile(y, 20)), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"allocations 1\n"), done.stderr
    assert b"800 samples: loss" in done.stderr


def test_valgrind_finds_nothing(library, tmp_path):
    if shutil.which(VALGRIND) is None:
        pytest.skip(f"{VALGRIND} is not installed: apt install valgrind")
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: apt install gcc libc6-dev")
    target = "x86-64-v3" if host_target().architecture == "x86_64" else host_target().name  # it knows no AVX-512
    plain = tmp_path / "train"
    subprocess.run(["cc", "-O2", "-g", TRAIN, library(target), "-o", plain], check=True)
    learner, x, y = small(augment=Augment(noise=0.1))
    write_c_model(learner, tmp_path)
    checked = [VALGRIND, "--quiet", "--error-exitcode=9", "--leak-check=full", "--track-fds=yes"]
    command = [*checked, plain, tmp_path / PROGRAM_FILE, tmp_path / PARAMETERS_FILE]
    done = subprocess.run(command, input=records(x, y)[:-3], capture_output=True, timeout=300)
    assert (done.returncode, b"ended 3 bytes before" in done.stderr) == (1, True), done.stderr
    assert b"Invalid" not in done.stderr
    learner.learn_many(x[:-1], y[:-1])
    assert kept(learner, tmp_path / "python") == (tmp_path / PARAMETERS_FILE).read_bytes()


# -- the page ------------------------------------------------------------------------------------------------------


PAGE = ROOT / "docs" / "c.md"


def fences(language):
    """Return (language, text) of the page's blocks, in their order."""
    return re.findall(rf"^```({language})\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


@pytest.mark.parametrize("learner_and_samples", [small, small_ridge])
def test_any_python_trains(learner_and_samples, folder, tmp_path):
    """The page's example, which uses nothing but the files and the shared library."""
    [(_, text)] = fences("py")
    ast.parse(text, feature_version=(3, 4))
    (tmp_path / "c").mkdir()
    link_library(host_target().name, tmp_path / "c" / "libedgerev.so")
    learner, x, y = learner_and_samples()
    model = tmp_path / "model"
    expected = kept(learner, model)
    command = [sys.executable, "-I", "-S", "-c", text]
    done = subprocess.run(command, input=records(x, y), cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (learner.learn_many if learner_and_samples is small else learner.remember_many)(x, y)
    assert expected != kept(learner, tmp_path / "python") == (model / PARAMETERS_FILE).read_bytes()


def test_the_example_saves_finite_parameters_only(folder, tmp_path):
    [(_, text)] = fences("py")
    (tmp_path / "c").mkdir()
    link_library(host_target().name, tmp_path / "c" / "libedgerev.so")
    learner, *_ = small()
    data = not_finite(learner, kept(learner, tmp_path / "model"), np.nan)
    (tmp_path / "model" / PARAMETERS_FILE).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", text], input=b"", cwd=tmp_path, capture_output=True, timeout=60)
    assert (done.returncode, b"a parameter is NaN or infinite: not saved" in done.stderr) == (1, True)
    assert (tmp_path / "model" / PARAMETERS_FILE).read_bytes() == data


def test_the_page_works_as_typed(folder, tmp_path):
    """From an empty folder to a trained model; installing and bundles are tested elsewhere."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler: apt install gcc libc6-dev")
    said = []
    for language, text in fences(r"python|py|sh"):
        if language == "py":
            (tmp_path / "train.py").write_text(text)
            continue
        lines = [line for line in text.splitlines() if not line.startswith(("pip ", "edgerev build "))]
        words = {"sh": ["sh", "-e", "-c", "\n".join(lines)], "python": [sys.executable, "-c", text]}[language]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, timeout=550)
        assert done.returncode == 0, done.stderr
        said.append(done.stderr.decode())
    assert re.search(r"1797 samples: loss .*, accuracy", "".join(said))
    learner = Learner.load(str(tmp_path / "model.edgerev"))
    x, y = digits()
    assert learner.steps == 113
    assert (learner.predict_many(x) == y).mean() > 0.85
    assert (tmp_path / "c-aarch64" / "train").stat().st_size > 10_000

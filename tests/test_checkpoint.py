import errno
import hashlib
import os
import re
import struct
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from edgerev import checkpoint
from edgerev.errors import CheckpointError, UsageError

METADATA = {"net": '{"blocks": 2}', "position": "3 é"}


def tensors(seed=0):
    weights = array("f", [seed + i / 7 for i in range(6)])
    return [
        ("stem.weight", "F32", (2, 3), memoryview(weights)),
        ("flags", "U8", (3,), memoryview(bytes([seed, 2, 3]))),
        ("empty", "F32", (0, 4), memoryview(array("f"))),
        ("step", "I64", (), memoryview(array("q", [seed + 5]))),
    ]


def buffers():
    return {name: bytearray(view.nbytes) for name, _, _, view in tensors()}


def views(into):
    return {name: memoryview(buffer) for name, buffer in into.items()}


def contents(seed=0):
    return {name: view.tobytes() for name, _, _, view in tensors(seed)}


def load(path):
    into = buffers()
    read_whole(path, views(into))
    return {name: bytes(buffer) for name, buffer in into.items()}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "model.edgerev"
    checkpoint.save(file, tensors(), METADATA)
    return file


def read_whole(path, into):
    with checkpoint.verified(path) as whole:
        checkpoint.read(whole, into)
        return whole.header


def resealed(data):
    """Return a file's bytes with the checksum that they have."""
    plain = data[: checkpoint._DIGEST_AT] + b"0" * 64 + data[checkpoint._DIGEST_END :]
    digest = hashlib.sha256(plain).hexdigest().encode()
    return data[: checkpoint._DIGEST_AT] + digest + data[checkpoint._DIGEST_END :]


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def test_what_is_saved_is_loaded(path):
    assert load(path) == contents()
    header = checkpoint.verify(path)
    assert header.metadata == METADATA
    assert [(name, entry.dtype, entry.shape) for name, entry in header.tensors.items()] == [
        (name, dtype, shape) for name, dtype, shape, _ in tensors()
    ]
    assert header.tensors["stem.weight"].offset % 8 == 0
    assert names(path) == ["model.edgerev"]


def test_the_safetensors_package_reads_it(path):
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, "numpy") as file:
        assert {key: value for key, value in file.metadata().items() if key != "sha256"} == METADATA
        assert {name: file.get_tensor(name).tobytes() for name in file.keys()} == contents()  # noqa: SIM118
        assert file.get_tensor("stem.weight").shape == (2, 3)


def test_nothing_at_all_can_be_saved(tmp_path):
    checkpoint.save(tmp_path / "empty", [], {})
    assert read_whole(tmp_path / "empty", {}) == checkpoint.Header({}, {})


def test_every_flipped_bit_is_found(path):
    whole = path.read_bytes()
    into = buffers()
    with path.open("r+b", buffering=0) as file:
        for place in range(len(whole)):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[place] ^ 1 << bit]), place)
                with pytest.raises(CheckpointError, match="no whole checkpoint"):
                    checkpoint.verify(path)
            with pytest.raises(CheckpointError, match="no whole checkpoint"):
                read_whole(path, views(into))
            os.pwrite(file.fileno(), whole[place : place + 1], place)
    assert into == buffers()
    assert load(path) == contents()


def test_every_truncation_and_a_longer_file_are_found(path):
    whole = path.read_bytes()
    into = buffers()
    for damaged in [whole[:length] for length in range(len(whole))] + [whole + b"\0"]:
        path.write_bytes(damaged)
        for read in (checkpoint.verify, lambda p: read_whole(p, views(into))):
            with pytest.raises(CheckpointError, match="no whole checkpoint"):
                read(path)
    assert into == buffers()


def test_no_other_file_makes_the_header_reader_stumble(path):
    whole = path.read_bytes()
    size = struct.unpack("<Q", whole[:8])[0]
    text = whole[8 : 8 + size]
    bad = [
        text.replace(b'"F32"', b'"F33"'),
        text.replace(b"[2,3]", b"[2,4]"),
        text.replace(b"[2,3]", b"[2.0]"),
        text.replace(b"[0,24]", b"[24,0]"),
        text.replace(b"[0,24]", b"[0]"),
        text.replace(b"[24,27]", b"[23,26]"),
        text.replace(b'"net":"', b'"net":7,"a":"'),
        text.rstrip()[:-1],
        text[:92] + b"[" * 100_000,
        text[:92] + b'"},"a":' + b"9" * 10_000 + b"}",
    ]
    for header in bad:
        assert header != text
        path.write_bytes(resealed(struct.pack("<Q", len(header)) + header + whole[8 + size :]))
        with pytest.raises(CheckpointError, match=r"its header cannot be read|its tensors end at"):
            checkpoint.verify(path)


def test_an_absurd_header_length_is_refused_before_reading(path):
    with path.open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 41)
    with pytest.raises(CheckpointError, match="its header would have"):
        checkpoint.verify(path)


def test_a_file_of_safetensors_without_checksum_is_refused(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    np = pytest.importorskip("numpy")
    numpy.save_file({"a": np.zeros(99)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.verify(tmp_path / "other")


def test_the_previous_generation_is_kept_and_named_in_errors(path):
    with pytest.raises(CheckpointError, match=r"no \.previous beside it"):
        checkpoint.verify(path.with_name("absent"))
    checkpoint.save(path, tensors(1), METADATA)
    checkpoint.save(path, tensors(2), METADATA)
    previous = checkpoint.previous_path(path)
    assert (load(path), load(previous)) == (contents(2), contents(1))
    assert names(path) == ["model.edgerev", "model.edgerev.previous"]
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=re.escape(f"in {previous}: load that")):
        load(path)


def test_another_net_changes_nothing(path):
    into = buffers()
    del into["flags"]
    into["head.bias"] = bytearray(4)
    into["step"] = bytearray(4)
    with pytest.raises(CheckpointError, match=r"lacks head.bias; has flags besides; step has 8 bytes, not 4"):
        read_whole(path, views(into))
    assert not any(any(buffer) for buffer in into.values())


def test_a_buffer_that_cannot_be_filled(path):
    into = {**buffers(), "flags": bytes(3)}
    with pytest.raises(UsageError, match="flags"):
        read_whole(path, views(into))


@pytest.mark.parametrize("name", ["replace", "fsync", "link", "write", "pwrite"])
def test_a_failing_call_leaves_the_old_files(path, monkeypatch, name):
    checkpoint.save(path, tensors(1), METADATA)

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "simulated")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(CheckpointError, match=r"cannot save .*simulated.*save again"):
        checkpoint.save(path, tensors(2), METADATA)
    monkeypatch.undo()
    assert (load(path), load(checkpoint.previous_path(path))) == (contents(1), contents(0))
    assert names(path) == ["model.edgerev", "model.edgerev.previous"]


CALLS = ("replace", "link", "unlink", "fsync", "write", "pwrite", "ftruncate")


@pytest.mark.parametrize("links", [True, False])
def test_at_every_instant_a_whole_file_is_there(path, monkeypatch, links):
    checkpoint.save(path, tensors(1), METADATA)
    generations = [contents(i) for i in range(3)]
    missing = []

    def check():
        found = [load(p) for p in (path, checkpoint.previous_path(path)) if os.path.exists(p)]
        assert all(generation in generations for generation in found)
        assert found
        missing.append(not path.exists())

    def watched(call):
        def run(*args, **kwargs):
            if call is os_link and not links:
                raise OSError(errno.EPERM, "no hard links here")
            result = call(*args, **kwargs)
            check()
            return result

        return run

    os_link = os.link
    for name in CALLS:
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    checkpoint.save(path, tensors(2), METADATA)
    monkeypatch.undo()
    assert len(missing) >= 8
    assert any(missing) == (not links)
    assert (load(path), load(checkpoint.previous_path(path))) == (contents(2), contents(1))


def test_without_links_a_failed_rename_is_taken_back(path, monkeypatch):
    rename = os.replace

    def replace(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "simulated")
        rename(source, target)

    def link(*args):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "link", link)
    with pytest.raises(CheckpointError, match="simulated"):
        checkpoint.save(path, tensors(1), METADATA)
    assert load(path) == contents()
    assert names(path) == ["model.edgerev"]


CRASH = """
import os, sys
sys.path.insert(0, {tests!r})
from edgerev import checkpoint
from test_checkpoint import METADATA, tensors
def die(*args, **kwargs):
    os._exit(7)
os.{name} = die
checkpoint.save({path!r}, tensors(1), METADATA)
"""


@pytest.mark.parametrize("name", ["write", "pwrite", "fsync", "link", "replace"])
def test_a_killed_process_leaves_a_whole_file_and_the_next_save_cleans_up(path, name):
    code = CRASH.format(tests=str(Path(__file__).parent), name=name, path=str(path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert load(path) == contents()
    checkpoint.save(path, tensors(2), METADATA)
    assert load(path) == contents(2)
    assert names(path) == ["model.edgerev", "model.edgerev.previous"]


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from edgerev import checkpoint, errors
from test_checkpoint import METADATA
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    checkpoint.save({path!r}, [("big", "U8", (1_000_000,), memoryview(bytes(1_000_000)))], METADATA)
except errors.CheckpointError as error:
    print(error)
"""


def test_a_file_that_may_not_grow(path):
    code = LIMITED.format(tests=str(Path(__file__).parent), path=str(path))
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "cannot save" in result.stdout
    assert load(path) == contents()
    assert names(path) == ["model.edgerev"]


def test_a_full_disk(tmp_path):
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small tmpfs")
    try:
        path = tmp_path / "model.edgerev"
        half = memoryview(bytes(600_000))
        checkpoint.save(path, [("a", "U8", (600_000,), half)], METADATA)
        with pytest.raises(CheckpointError, match=r"No space left.*free some space"):
            checkpoint.save(path, [("a", "U8", (600_000,), half)], METADATA)
        assert checkpoint.verify(path).tensors["a"].nbytes == 600_000
        assert names(path) == ["model.edgerev"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("wrong", "metadata", "message"),
    [
        (("a", "F32", (2,), memoryview(bytes(4))), {}, "expected 8 contiguous"),
        (("a", "F31", (1,), memoryview(bytes(4))), {}, "expected a new name"),
        (("a", "U8", (2,), memoryview(bytes(4))[::2]), {}, "contiguous"),
        (("__metadata__", "U8", (4,), memoryview(bytes(4))), {}, "expected a new name"),
        (("stem.weight", "U8", (4,), memoryview(bytes(4))), {}, "expected a new name"),
        (("a", "U8", (4,), memoryview(bytes(4))), {"sha256": "0"}, "without the key sha256"),
        (("a", "U8", (4,), memoryview(bytes(4))), {"step": 1}, "str to str"),
    ],
)
def test_arguments_that_do_not_fit_write_nothing(path, wrong, metadata, message):
    before = path.read_bytes()
    with pytest.raises(UsageError, match=message):
        checkpoint.save(path, [*tensors(1), wrong], metadata)
    assert path.read_bytes() == before
    assert names(path) == ["model.edgerev"]


def test_paths_that_cannot_be_saved_to(tmp_path):
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "folder", tmp_path / "absent" / "model"):
        with pytest.raises(CheckpointError, match="cannot save"):
            checkpoint.save(target, tensors(), METADATA)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "model"
    link.symlink_to(tmp_path / "disk" / "model")
    for seed in range(2):
        checkpoint.save(link, tensors(seed), METADATA)
    assert link.is_symlink()
    assert load(link) == contents(1)
    assert names(tmp_path / "disk" / "model") == ["model", "model.previous"]


def test_two_processes_at_once(path):
    fd = checkpoint.open_exclusive(str(path.with_name(".model.edgerev.tmp")), wait=False)
    try:
        with pytest.raises(CheckpointError, match="by another process"):
            checkpoint.save(path, tensors(1), METADATA)
    finally:
        os.close(fd)
    checkpoint.save(path, tensors(1), METADATA)
    assert load(path) == contents(1)


MEMORY = """
import sys
from edgerev import checkpoint
data = bytearray(64 << 20)
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
checkpoint.save(sys.argv[1] + "small", [("a", "U8", (4,), memoryview(bytes(4)))], {})
before = peak()
checkpoint.save(sys.argv[1], [("a", "U8", (len(data),), memoryview(data))], {"k": "v"})
with checkpoint.verified(sys.argv[1]) as whole:
    checkpoint.read(whole, {"a": memoryview(data)})
print(peak() - before)
"""


def test_neither_saving_nor_loading_copies_the_tensors(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path / "model")], check=True, capture_output=True, text=True
    )
    assert int(result.stdout) <= 1536  # KiB, for 64 MiB of tensors

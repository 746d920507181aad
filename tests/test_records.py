import struct
import subprocess
import sys

import pytest

from edgerev.data import Permutation, Records
from edgerev.errors import DataError, UsageError

COUNT = 41
RECORD = 6


def sample(i):
    return bytes((i * 7 + j) % 256 for j in range(RECORD))


@pytest.fixture
def path(tmp_path):
    """Write 41 records of 6 bytes from byte 10, then their labels 0 to 4 in turn."""
    file = tmp_path / "set.records"
    labels = struct.pack(f"={COUNT}i", *(i % 5 for i in range(COUNT)))
    file.write_bytes(bytes(10) + b"".join(sample(i) for i in range(COUNT)) + labels)
    return file


@pytest.fixture
def records(path):
    return Records(path, 10, COUNT, (3, 2), "uint8", target_offset=10 + COUNT * RECORD, classes=list("abcde"))


def read(records, i):
    buffer = bytearray(RECORD)
    records.read_into(i, memoryview(buffer))
    return bytes(buffer)


def test_reads_samples_and_labels(records):
    assert len(records) == COUNT
    assert [read(records, i) for i in range(COUNT)] == [sample(i) for i in range(COUNT)]
    assert [records.label(i) for i in range(COUNT)] == [i % 5 for i in range(COUNT)]


def test_reads_blocks(records):
    buffer = bytearray(3 * RECORD)
    records.read_block(4, 3, memoryview(buffer))
    assert bytes(buffer) == sample(4) + sample(5) + sample(6)
    targets = bytearray(3 * 4)
    records.read_targets(4, 3, memoryview(targets))
    assert struct.unpack("=3i", targets) == (4, 0, 1)


def test_subset_keeps_the_order_and_reads_the_same_bytes(records):
    part = records.subset({1, 3})
    places = [i for i in range(COUNT) if i % 5 in (1, 3)]
    assert len(part) == len(places)
    assert [read(part, i) for i in range(len(part))] == [sample(i) for i in places]
    assert [part.label(i) for i in range(len(part))] == [i % 5 for i in places]
    buffer = bytearray(len(part) * RECORD)
    part.read_block(0, len(part), memoryview(buffer))
    assert bytes(buffer) == b"".join(sample(i) for i in places)
    assert part.classes == records.classes
    assert part.shape == records.shape


def test_subset_of_a_subset_and_of_nothing(records):
    part = records.subset([1, 3]).subset([3])
    assert [part.label(i) for i in range(len(part))] == [3] * 8
    assert len(records.subset([9])) == 0
    with pytest.raises(IndexError):
        records.subset([9]).label(0)


def test_pick_splits_off_a_validation_part(records):
    order = Permutation(COUNT, 1, 0)
    part = records.pick(order[i] for i in range(8))
    rest = records.pick(order[i] for i in range(8, COUNT))
    seen = {read(part, i) for i in range(8)} | {read(rest, i) for i in range(COUNT - 8)}
    assert seen == {sample(i) for i in range(COUNT)}
    with pytest.raises(IndexError):
        records.pick([COUNT])


def test_an_index_leaves_no_file_behind(records, path):
    part = records.subset([1])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    del records
    assert part.label(0) == 1


def test_float_targets(tmp_path):
    file = tmp_path / "set.records"
    file.write_bytes(struct.pack("=4f", 1, 2, 3, 4) + struct.pack("=4f", 0.5, 1.5, 2.5, 3.5))
    records = Records(file, 0, 2, (2,), "float32", target_offset=16, target_shape=(2,), target_dtype="float32")
    target = bytearray(8)
    records.read_target_into(1, memoryview(target))
    assert struct.unpack("=2f", target) == (2.5, 3.5)
    with pytest.raises(UsageError, match="expected class ids"):
        records.label(0)
    with pytest.raises(UsageError, match="expected class ids"):
        records.subset([1])


def test_without_targets(path):
    records = Records(path, 10, COUNT, (RECORD,), "uint8")
    assert read(records, 3) == sample(3)
    with pytest.raises(UsageError, match="no targets"):
        records.label(0)


@pytest.mark.parametrize("index", [-1, COUNT])
def test_no_such_sample(records, index):
    with pytest.raises(IndexError):
        read(records, index)
    with pytest.raises(IndexError):
        records.label(index)
    with pytest.raises(IndexError):
        records.read_block(index, 2, memoryview(bytearray(2 * RECORD)))


@pytest.mark.parametrize("buffer", [bytearray(RECORD - 1), bytearray(RECORD + 1), bytes(RECORD)])
def test_a_buffer_that_cannot_be_used(records, buffer):
    with pytest.raises(UsageError, match="expected a writable one of 6"):
        records.read_into(0, memoryview(buffer))


def test_a_file_that_is_too_short_or_absent(path):
    with pytest.raises(DataError, match="expected at least 616"):
        Records(path, 10, 101, (RECORD,), "uint8")
    with pytest.raises(DataError, match="cannot open"):
        Records(path.with_name("absent"), 0, 1, (1,), "uint8")


def test_a_file_cut_short_while_in_use(records, path):
    with path.open("r+b") as file:
        file.truncate(10 + 3 * RECORD + 1)
    assert read(records, 2) == sample(2)
    with pytest.raises(DataError, match="inside record 3"):
        read(records, 3)


@pytest.mark.parametrize(
    "args",
    [(0, 1, (2,), "int64"), (-1, 1, (2,), "uint8"), (0, -1, (2,), "uint8"), (0, 1, (), "uint8"), (0, 1, (0,), "uint8")],
)
def test_arguments_that_make_no_sense(path, args):
    with pytest.raises(UsageError):
        Records(path, *args)


def test_an_index_that_cannot_be_written(records, tmp_path):
    with pytest.raises(DataError, match="pass folder="):
        records.subset([1], folder=tmp_path / "absent")


def test_reading_needs_no_numpy():
    code = "import sys, edgerev.data, edgerev.checkpoint; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sample_and_its_target_are_looked_up_once(records, monkeypatch):
    chosen, looked = records.pick([3, 1]), []
    place = chosen._place
    monkeypatch.setattr(chosen, "_place", lambda index: looked.append(index) or place(index))
    sample, target = bytearray(records.record_bytes), bytearray(records.target_bytes)
    chosen.read_into(1, memoryview(sample), memoryview(target))
    assert looked == [1]
    ref_sample, ref_target = bytearray(records.record_bytes), bytearray(records.target_bytes)
    records.read_into(1, memoryview(ref_sample))
    records.read_target_into(1, memoryview(ref_target))
    assert (sample, target) == (ref_sample, ref_target)

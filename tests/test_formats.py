import csv
import gzip
import os
import re
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from edgerev.data import blocks, dataset, open_dataset
from edgerev.errors import DataError, UsageError

RNG = np.random.default_rng(11)
X = RNG.normal(size=(23, 5)).astype(np.float32)
Y = RNG.integers(0, 4, 23)


@pytest.fixture
def opened(tmp_path):
    """Open a data set with the cache in a folder of its own."""

    def run(path, **options):
        return open_dataset(path, cache=tmp_path / "cache", **options)

    return run


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


def samples(records):
    buffer = bytearray(len(records) * records.record_bytes)
    records.read_block(0, len(records), memoryview(buffer))
    return np.frombuffer(buffer, records.dtype).reshape(len(records), *records.shape)


def targets(records):
    buffer = bytearray(len(records) * records.target_bytes)
    records.read_targets(0, len(records), memoryview(buffer))
    return np.frombuffer(buffer, records.target_dtype).reshape(len(records), *records.target_shape)


def assert_holds(records, x, y):
    np.testing.assert_array_equal(samples(records), x, strict=True)
    np.testing.assert_array_equal(targets(records), y)


def write_idx(path, array, code=0x08, magic=None):
    head = magic or bytes([0, 0, code, array.ndim])
    data = head + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_mnist(folder, suffix="", count=9):
    x = RNG.integers(0, 256, (count + 4, 6, 5)).astype(np.uint8)
    y = np.arange(count + 4, dtype=np.uint8) % 3
    write_idx(folder / f"train-images-idx3-ubyte{suffix}", x[:count])
    write_idx(folder / f"train-labels-idx1-ubyte{suffix}", y[:count])
    write_idx(folder / f"t10k-images-idx3-ubyte{suffix}", x[count:])
    write_idx(folder / f"t10k-labels-idx1-ubyte{suffix}", y[count:])
    return x[..., None], y


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(opened, source, suffix):
    x, y = write_mnist(source, suffix)
    data = opened(source)
    assert_holds(data.train, x[:9], y[:9])
    assert_holds(data.test, x[9:], y[9:])
    assert data.train.classes == ["0", "1", "2"]
    one = opened(source / f"t10k-images-idx3-ubyte{suffix}")
    assert_holds(one.train, x[9:], y[9:])
    assert one.test is None


def test_idx_whose_names_say_test(opened, source):
    x, y = write_mnist(source)
    for path in [*source.glob("t10k-*")]:
        path.rename(path.with_name(path.name.replace("t10k", "test")))
    assert_holds(opened(source).test, x[9:], y[9:])


def test_idx_of_no_split_is_refused(opened, source):
    write_mnist(source)
    (source / "t10k-images-idx3-ubyte").rename(source / "valid-images-idx3-ubyte")
    assert_refused(opened, source, "valid-images-idx3-ubyte, which belongs to no split", "begin with train, t10k, test")


def test_mnist(opened, shared_data):
    data = opened(shared_data / "mnist")
    assert (len(data.train), len(data.test)) == (60000, 10000)
    assert data.train.shape == (28, 28, 1)
    assert data.train.dtype == "uint8"
    assert data.train.classes == [str(digit) for digit in range(10)]
    assert [data.train.label(i) for i in range(5)] == [5, 0, 4, 1, 9]
    assert np.bincount(targets(data.test).reshape(-1)).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    assert samples(data.test).sum(dtype=np.int64) == 264_923_200


def test_gas_drift(opened, shared_data):
    path = shared_data / "gas-drift" / "gas_drift.npz"
    with np.load(path) as file:
        assert_holds(opened(path).train, file["x"], file["y"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(opened, source, save):
    save(source / "set.npz", x=X, y=Y, batch=Y)
    assert_holds(opened(source / "set.npz").train, X, Y)
    save(source / "set.npz", x_train=X, y_train=Y, x_test=X[:3], y_test=Y[:3])
    data = opened(source)
    assert_holds(data.train, X, Y)
    assert_holds(data.test, X[:3], Y[:3])


def test_npy(opened, source):
    np.save(source / "x.npy", X)
    np.save(source / "y.npy", Y)
    assert_holds(opened(source).train, X, Y)
    assert_holds(opened(source / "x.npy").train, X, Y)
    for name, part in (("train", slice(0, 20)), ("test", slice(20, 23))):
        (source / "split").mkdir(exist_ok=True)
        np.save(source / "split" / f"x_{name}.npy", X[part])
        np.save(source / "split" / f"y_{name}.npy", Y[part])
    assert_holds(opened(source / "split").test, X[20:], Y[20:])


def test_csv(opened, source):
    names = ["pear", "apple", "10", "9"]
    rows = [[*row[:2], names[y], *row[2:]] for row, y in zip(X.tolist(), Y, strict=True)]
    write_csv(source / "set.csv", ["a", "b", "kind", "c", "d", "e"], rows)
    data = opened(source / "set.csv", label="kind")
    assert data.train.classes == ["10", "9", "apple", "pear"]
    assert_holds(data.train, X, np.array([3, 2, 0, 1])[Y])


def test_csv_as_people_write_it(opened, source):
    (source / "set.csv").write_bytes(b'\xef\xbb\xbfa,"b",label\r\n1, 2 ,10\r\n\r\n"3",4e0, 9\r\n5,6,010\r\n')
    data = opened(source)
    assert_holds(data.train, np.array([[1, 2], [3, 4], [5, 6]], np.float32), [1, 0, 1])
    assert data.train.classes == ["9", "10"]


def test_csv_with_float_targets_and_without_any(opened, source):
    write_csv(source / "set.csv", ["a", "p", "b", "q"], [[1, 0.5, 2, 1], [3, 1.5, 4, 0]])
    data = opened(source, label=["q", "p"])
    x = np.array([[1, 2], [3, 4]], np.float32)
    assert_holds(data.train, x, np.array([[1, 0.5], [0, 1.5]], np.float32))
    assert (data.train.target_shape, data.train.classes) == ((2,), None)
    bare = opened(source, label=None).train
    assert bare.shape == (4,)
    assert bare.target_offset is None


def test_without_labels_the_partner_is_not_needed(opened, source):
    np.save(source / "x.npy", X)
    np.testing.assert_array_equal(samples(opened(source, label=None).train), X)
    with pytest.raises(DataError, match=r"y\.npy"):
        opened(source)


def test_a_folder_is_concatenated_in_the_order_of_names(opened, source):
    (source / "README.md").write_text("not data")
    for name, part in (("b", slice(10, 23)), ("a", slice(0, 10))):
        np.savez(source / f"{name}.npz", x=X[part], y=Y[part])
    assert_holds(opened(source).train, X, Y)
    (source / "csv").mkdir()
    for name, part in (("02", slice(10, 23)), ("01", slice(0, 10))):
        rows = [[*row, y] for row, y in zip(X[part].tolist(), Y[part], strict=True)]
        write_csv(source / "csv" / f"{name}.csv", [*"abcde", "label"], rows)
    assert_holds(opened(source / "csv").train, X, Y)
    (source / "npy").mkdir()
    for name, part in (("_2", slice(10, 23)), ("_1", slice(0, 10))):
        np.save(source / "npy" / f"x{name}.npy", X[part])
        np.save(source / "npy" / f"y{name}.npy", Y[part])
    assert_holds(opened(source / "npy").train, X, Y)


def test_train_and_test_as_files_and_as_folders(opened, source):
    for name, part in (("train", slice(0, 20)), ("test", slice(20, 23))):
        np.savez(source / f"{name}.npz", x=X[part], y=Y[part])
        (source / "split" / name).mkdir(parents=True)
        np.savez(source / "split" / name / "part.npz", x=X[part], y=Y[part])
    for path in (source, source / "split"):
        data = opened(path)
        assert_holds(data.train, X[:20], Y[:20])
        assert_holds(data.test, X[20:], Y[20:])


@pytest.mark.parametrize(
    ("shape", "dtype", "expected", "kind"),
    [
        ((4, 6), "uint8", (6,), "uint8"),
        ((4, 6, 5), "uint8", (6, 5, 1), "uint8"),
        ((4, 6, 5), "int8", (6, 5), "float32"),
        ((4, 6, 5), ">f8", (6, 5), "float32"),
        ((4, 6, 5), "float16", (6, 5), "float32"),
        ((4, 6, 5, 3), "uint8", (6, 5, 3), "uint8"),
        ((4, 6, 5, 3), "int64", (6, 5, 3), "float32"),
        ((4, 6), "bool", (6,), "float32"),
        ((1, 200_000), "int16", (200_000,), "float32"),
    ],
)
def test_shapes_and_types(opened, source, shape, dtype, expected, kind):
    x = RNG.integers(0, 100, shape).astype(dtype)
    np.savez(source / "set.npz", x=x, y=np.arange(len(x)))
    assert_holds(opened(source).train, x.astype(kind).reshape(-1, *expected), np.arange(len(x)))


@pytest.mark.parametrize(
    ("y", "classes", "expected"),
    [
        ([7, -2, 7, 30], ["-2", "7", "30"], [1, 0, 1, 2]),
        (["b", "a", "b", "ü"], ["a", "b", "ü"], [1, 0, 1, 2]),
        ([True, False, True, True], ["0", "1"], [1, 0, 1, 1]),
        (np.array([2**64 - 1, 0, 0, 0], np.uint64), ["0", str(2**64 - 1)], [1, 0, 0, 0]),
        ([0.5, 1.5, 2.0, 3.0], None, np.array([[0.5], [1.5], [2], [3]], np.float32)),
        ([[1, 0], [0, 1], [1, 1], [0, 0]], None, np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32)),
    ],
)
def test_targets(opened, source, y, classes, expected):
    np.savez(source / "set.npz", x=X[:4], y=np.array(y))
    train = opened(source).train
    assert train.classes == classes
    assert_holds(train, X[:4], expected)


def test_sets_of_many_blocks(opened, source):
    x = RNG.integers(-100, 100, (40_000, 9)).astype(np.int16)
    y = RNG.integers(0, 300, 40_000)
    assert x.nbytes > 2 * blocks.BLOCK_BYTES
    np.savez(source / "set.npz", x=x, y=y)
    assert_holds(opened(source).train, x.astype(np.float32), y)


# --- the cache


def test_the_cache_is_used_until_the_source_changes(opened, source, tmp_path, monkeypatch):
    np.savez(source / "set.npz", x=X, y=Y)
    opened(source)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "_make", None)
        assert_holds(opened(source).train, X, Y)
    np.savez(source / "set.npz", x=X[:9], y=Y[:9])
    assert_holds(opened(source).train, X[:9], Y[:9])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_is_not_whole_is_made_again(opened, source, tmp_path):
    np.savez(source / "set.npz", x=X, y=Y)
    opened(source)
    [file] = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for damaged in (
        b"",
        whole[:30],
        whole[:200],
        whole[:-1],
        bytes(64) + whole[64:],
        whole[:8] + b"\xff" * 8 + whole[16:],
    ):
        file.write_bytes(damaged)
        assert_holds(opened(source).train, X, Y)


def test_the_default_folder(source, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    np.savez(source / "set.npz", x=X, y=Y)
    assert open_dataset(source).train.path.startswith(str(tmp_path / "xdg" / "edgerev" / "data"))


def test_an_error_in_the_source_leaves_nothing(opened, source, tmp_path):
    np.savez(source / "set.npz", x=X, y=Y[:5])
    with pytest.raises(DataError):
        opened(source)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_a_failed_conversion_leaves_nothing(opened, source, tmp_path, monkeypatch, name):
    def fail(*args):
        raise OSError(28, "No space left on device")

    np.savez(source / "set.npz", x=X, y=Y)
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(DataError, match=r"cannot write .*No space left.*XDG_CACHE_HOME"):
        opened(source)
    assert list((tmp_path / "cache").iterdir()) == []


KILLED = """
import os, sys
from edgerev.data import open_dataset
os.replace = lambda *args: os._exit(7)
open_dataset(sys.argv[1], cache=sys.argv[2])
"""


def test_a_killed_conversion_leaves_nothing_that_looks_whole(opened, source, tmp_path):
    np.savez(source / "set.npz", x=X, y=Y)
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "cache")]
    for rows in (X, X[:9], X):
        np.savez(source / "set.npz", x=rows, y=Y[: len(rows)])
        assert subprocess.run(command, check=False).returncode == 7
        assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".part"]
    assert_holds(opened(source).train, X, Y)
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".records"]


def test_processes_that_convert_at_once(opened, source, tmp_path):
    np.savez(source / "set.npz", x=np.tile(X, (5000, 1)), y=np.tile(Y, 5000))
    code = "import sys, edgerev.data as data; print(len(data.open_dataset(sys.argv[1], cache=sys.argv[2]).train))"
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["115000"] * 3
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".records"]


def test_a_source_that_changes_while_it_is_read(opened, source, monkeypatch):
    np.savez(source / "set.npz", x=X, y=Y)
    make = dataset._make

    def make_and_touch(*args):
        make(*args)
        os.utime(source / "set.npz", (1, 1))

    monkeypatch.setattr(dataset, "_make", make_and_touch)
    with pytest.raises(DataError, match="changed while it was read"):
        opened(source)


# --- what cannot be used


def assert_refused(opened, path, *words, **options):
    with pytest.raises(DataError) as info:
        opened(path, **options)
    message = str(info.value)
    assert "expected" in message
    assert message.count(";") >= 1
    for word in words:
        assert word in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1e300])
def test_values_that_float32_cannot_hold_are_named(opened, source, value):
    x = np.zeros((9000, 5))
    x[8123, 3] = value
    np.savez(source / "set.npz", x=x, y=np.zeros(9000, int))
    assert_refused(opened, source, "set.npz (x), row 8123, column 3", str(value))
    np.savez(source / "set.npz", x=x.reshape(9000, 5, 1), y=np.zeros(9000, int))
    assert_refused(opened, source, "row 8123, column (3, 0)")
    np.savez(source / "set.npz", x=np.zeros((9000, 5)), y=x)
    assert_refused(opened, source, "set.npz (y), row 8123, column 3")
    path = source / "set.csv"
    write_csv(path, ["a", "b", "label"], [[1, 2, 3], [4, repr(float(value)), 6]])
    assert_refused(opened, path, f"{path}, line 3, column b")


def test_an_empty_set(opened, source):
    np.savez(source / "set.npz", x=X[:0], y=Y[:0])
    assert_refused(opened, source, "no samples")
    write_csv(source / "set.csv", ["a", "label"], [])
    assert_refused(opened, source / "set.csv", "no samples")
    (source / "set.csv").write_text("")
    assert_refused(opened, source / "set.csv", "is empty")
    (source / "empty").mkdir()
    assert_refused(opened, source / "empty", "no samples in a supported format")
    assert_refused(opened, source / "absent", "does not exist")


def test_labels_and_samples_of_different_count(opened, source):
    np.savez(source / "set.npz", x=X, y=Y[:-1])
    assert_refused(opened, source, "23 samples", "22 targets")
    write_mnist(source)
    write_idx(source / "train-labels-idx1-ubyte", np.zeros(8, np.uint8))
    assert_refused(opened, source / "train-images-idx3-ubyte", "9 samples", "8 targets")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_truncated_and_too_long_idx(opened, source, suffix):
    write_mnist(source, suffix)
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        path = source / (name + suffix)
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert_refused(opened, source, str(path))
        path.write_bytes(whole + b"\1")
        assert_refused(opened, source, str(path))
        path.write_bytes(whole)
    opened(source)


def test_every_flipped_bit_of_a_packed_file_is_an_error_or_harmless(opened, source):
    x, y = write_mnist(source, ".gz", count=2)
    path = source / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        os.utime(path, ns=(place, place))
        try:
            data = opened(source)
        except DataError:
            continue
        assert_holds(data.train, x[:2], y[:2])


def test_wrong_idx_magic(opened, source):
    write_mnist(source)
    path = source / "train-images-idx3-ubyte"
    for magic in (b"\0\0\x08\1", b"\0\0\x07\3", b"\1\0\x08\3", b"\x1f\x8b\x08\0"):
        write_idx(path, np.zeros((9, 6, 5), np.uint8), magic=magic)
        assert_refused(opened, source, f"0x{magic.hex()}", "0x00000803")


def test_damaged_npz_and_npy(opened, source):
    path = source / "set.npz"
    np.savez_compressed(path, x=X, y=Y)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert_refused(opened, source, "set.npz")
    at = whole.index(b"x.npy") + 40
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
    assert_refused(opened, source, "set.npz (x)")
    np.save(source / "x.npy", X)
    np.save(source / "y.npy", Y)
    whole = (source / "x.npy").read_bytes()
    headers = whole.replace(b"'shape': (", b"'shape':(("), whole.replace(b"{'descr'", b"{\n  x\n y")
    for damaged in (b"", whole[:7], whole[:60], whole[:-1], whole + b"\0", b"\x93NUMPY\3" + whole[7:], *headers):
        (source / "x.npy").write_bytes(damaged)
        assert_refused(opened, source / "x.npy", "x.npy")


def test_pickles_are_never_loaded(opened, source):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(source / "exploded"),))

    np.save(source / "x.npy", np.array([[Bomb()]], object), allow_pickle=True)
    np.save(source / "y.npy", np.zeros(1, int))
    assert_refused(opened, source, "pickled objects")
    assert not (source / "exploded").exists()


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.asfortranarray(X), Y, "Fortran order"),
        (X.astype(complex), Y, "complex128"),
        (X.astype("U8"), Y, "<U8"),
        (X[:, 0], Y, "(23,)"),
        (X.reshape(23, 5, 1, 1, 1), Y, "(23, 5, 1, 1, 1)"),
        (X[:, :0], Y, "(23, 0)"),
        (X, Y.astype(complex), "complex128"),
        (X, np.array(0), "()"),
        (X, X[:, :0], "(23, 0)"),
        (X, np.full((23, 2), "a"), "<U1"),
    ],
)
def test_arrays_that_cannot_be_samples_or_targets(opened, source, x, y, words):
    np.savez(source / "set.npz", x=x, y=y)
    assert_refused(opened, source, words)


def test_a_header_of_absurd_size(opened, source):
    write_mnist(source)
    head = b"\0\0\x08\3" + struct.pack(">3I", 9, 2**31, 2**31)
    (source / "train-images-idx3-ubyte").write_bytes(head)
    assert_refused(opened, source, "header may be damaged")


def test_missing_keys(opened, source):
    np.savez(source / "set.npz", data=X, y=Y)
    assert_refused(opened, source, "data, y", "x_train")
    np.savez(source / "set.npz", x=X, label=Y)
    assert_refused(opened, source, "no array y", "label")


CSV_ERRORS = {
    "a,b,label\n1,2,3\n4,5\n": "line 3 has 2 fields",
    "a,b,label\n1,2,3\n4,5,6,7\n": "line 3 has 4 fields",
    "a,b,class\n1,2,3\n": "no column label; expected it among its columns a, b, class",
    "a,b,label\n1,,3\n": "line 2, column b is ''",
    "a,b,label\n\n1,two,3\n": "line 3, column b is 'two'",
    "a,b,label\n1,2,\n": "line 2 has no label",
    "a,b,label\n1,2,x\n1,2,NaN\n": "line 3 has no label",
    "a,a,label\n1,2,3\n": "several columns named 'a'",
    "label\n1\n": "no other",
    'a,b,label\n1,"2,3\n': "damaged",
    'a,b,label\n1,"2"x,3\n': "damaged",
}


@pytest.mark.parametrize("text", CSV_ERRORS)
def test_csv_errors(opened, source, text):
    (source / "set.csv").write_text(text)
    assert_refused(opened, source, "set.csv", CSV_ERRORS[text])


def test_csv_that_is_no_text(opened, source):
    (source / "set.csv").write_bytes(b"a,label\n\xff\xfe\n")
    assert_refused(opened, source, "set.csv", "damaged")
    (source / "set.csv").write_bytes(b"a,label\n" + b"1" * (1 << 23))
    assert_refused(opened, source, "a line of over")


def test_too_many_classes(opened, source):
    np.savez(source / "set.npz", x=np.zeros((70_000, 1), np.uint8), y=np.arange(70_000))
    assert_refused(opened, source, "label=['price']")


def test_a_test_label_that_training_lacks(opened, source):
    np.savez(source / "set.npz", x_train=X[:3], y_train=[4, 5, 4], x_test=X[:2], y_test=[4, 6])
    assert_refused(opened, source, "lacks: 6", "4, 5")


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (X[:, :4], Y, "(4,)"),
        (X.astype(np.uint8), Y, "uint8"),
        (X, Y.astype(float), "float32"),
        (X, X[:, :2], "float32"),
    ],
)
def test_files_that_do_not_fit_together(opened, source, x, y, words):
    np.savez(source / "a.npz", x=X, y=Y)
    np.savez(source / "b.npz", x=x, y=y)
    assert_refused(opened, source, "b.npz", "a.npz", words)


def test_columns_in_another_order(opened, source):
    write_csv(source / "train.csv", ["a", "b", "label"], [[1, 2, 3]])
    write_csv(source / "test.csv", ["b", "a", "label"], [[1, 2, 3]])
    assert_refused(opened, source, "'b'", "'a'", "same columns")
    write_csv(source / "test.csv", ["a", "label"], [[1, 3]])
    assert_refused(opened, source, "(1,)")


def test_names_that_cannot_be_understood(opened, source):
    (source / "set.parquet").write_text("")
    assert_refused(opened, source / "set.parquet", "unsupported", ".csv, .npz")
    assert_refused(opened, source, "no samples in a supported format")
    np.savez(source / "train.npz", x=X, y=Y)
    np.savez(source / "more.npz", x=X, y=Y)
    assert_refused(opened, source, "more.npz")
    (source / "train.npz").rename(source / "also.npz")
    write_csv(source / "set.csv", ["a", "label"], [[1, 2]])
    assert_refused(opened, source, "mixes formats")
    (source / "npy").mkdir()
    np.save(source / "npy" / "train.npy", X)
    assert_refused(opened, source / "npy", "x*.npy")
    (source / "alone" / "test").mkdir(parents=True)
    np.savez(source / "alone" / "test" / "a.npz", x=X, y=Y)
    assert_refused(opened, source / "alone", "test part alone")
    (source / "twice" / "train").mkdir(parents=True)
    np.savez(source / "twice" / "train" / "a.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    assert_refused(opened, source / "twice", "itself split")


def test_an_encrypted_or_oddly_packed_archive(opened, source):
    with zipfile.ZipFile(source / "set.npz", "w") as archive:
        archive.writestr("x.npy", b"12345678")
    data = bytearray((source / "set.npz").read_bytes())
    for at in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
        data[at] |= 1
    (source / "set.npz").write_bytes(data)
    assert_refused(opened, source, "set.npz (x)", "encrypted", label=None)


@pytest.mark.parametrize("label", ["", [], [""], [1]])
def test_a_label_that_names_no_column(opened, source, label):
    with pytest.raises(UsageError, match=re.escape(repr(label))):
        opened(source, label=label)


# --- memory

BOUND_KIB = 4096
MEMORY = """
import sys
from edgerev.data import Permutation, open_dataset
from edgerev.data.standardise import statistics

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

def epoch(path):
    train = open_dataset(path, cache=sys.argv[3]).train
    train.subset([0, 1])
    statistics(train)
    buffer = bytearray(train.record_bytes)
    order = Permutation(len(train), 1, 0)
    for i in range(0, len(train), 8):
        train.read_into(order[i], memoryview(buffer))
    return train.count * train.record_bytes

epoch(sys.argv[1])
before = peak()
size = epoch(sys.argv[2])
print(peak() - before, size // 1024)
"""


def write_large(path, rows):
    """Write a packed NPZ of 400-byte rows without holding it, labels 0 to 6."""
    block = RNG.integers(0, 50, (500, 400)).astype(np.uint8).tobytes()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, dtype, shape in (("x", "|u1", (rows, 400)), ("y", "<i8", (rows,))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
                for start in range(0, rows, 500):
                    file.write(block if name == "x" else (np.arange(start, start + 500) % 7).tobytes())


def test_memory_does_not_grow_with_the_set(tmp_path):
    write_large(tmp_path / "small.npz", 5_000)
    write_large(tmp_path / "large.npz", 215_000)
    command = [sys.executable, "-c", MEMORY, *(str(tmp_path / name) for name in ("small.npz", "large.npz", "cache"))]
    grown, size = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert size > 20 * BOUND_KIB
    assert grown < BOUND_KIB // 4


def test_targets_of_another_width(opened, source):
    np.savez(source / "a.npz", x=X, y=X[:, :2])
    np.savez(source / "b.npz", x=X, y=X[:, :3])
    assert_refused(opened, source, "targets of shape (3,)", "(2,)")

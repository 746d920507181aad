"""Bad files on the command line: exit code, message, and every file on disk as it was."""

import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
import toys

from edgerev import checkpoint
from edgerev.checkpoint_reader import verified
from edgerev.contents import peek
from edgerev.data import open_dataset
from edgerev.errors import CheckpointError, DataError
from edgerev.learner import Learner

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Give a folder with data, a configuration, and a model that was trained on it (and its previous generation)."""
    folder = tmp_path_factory.mktemp("trained")
    toys.tree_set(folder / "data")
    (folder / "config.toml").write_text(toys.CONFIG)
    data = open_dataset(folder / "data", cache=folder / "cache")
    from edgerev.config import load_config
    from edgerev.train import Trainer

    Trainer(load_config(str(folder / "config.toml")), data, str(folder / "model.edgerev"), toys.Quiet).run()
    shutil.rmtree(folder / "cache")
    return folder


@pytest.fixture
def work(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "work")


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(cli, work):
    """Give a function that runs a command which must fail and leave every file as it was."""

    def check(code, match, *arguments):
        before = files(work)
        done = cli(*arguments)
        assert done.code == code, done
        assert done.err.startswith("edgerev: error: ")
        assert re.sub(toys.PLANNED, "", done.out) == ""
        assert re.search(match, done.err, flags=re.S), done.err
        assert files(work) == before
        return done.err

    return check


def train(work, *more, config="config.toml", data="data", output="new.edgerev"):
    return ["train", work / config, "--data", work / data, "-o", work / output, *more]


# -- data ----------------------------------------------------------------------------------------------------------


def bad_csv(change):
    def write(folder):
        lines = (folder / "train.csv").read_text().splitlines()
        (folder / "train.csv").write_text("\n".join(change(lines)) + "\n")

    return write


def npz(**arrays):
    def write(folder):
        for path in folder.iterdir():
            path.unlink()
        np.savez(folder / "train.npz", **arrays)

    return write


X, Y = toys.rows(20)
BAD = X.copy()
BAD[7, 1] = np.nan
DATA = {
    "NaN": (npz(x=BAD, y=Y), r"train\.npz \(x\), row 7, column 1 is nan; expected a number .*; remove or repair"),
    "infinity": (npz(x=np.where(np.isnan(BAD), np.inf, BAD), y=Y), "row 7, column 1 is inf; expected"),
    "NaN in CSV": (bad_csv(lambda lines: [*lines[:3], "1,2,nan,4,ash", *lines[3:]]), r"train\.csv, line 4.*nan"),
    "text in CSV": (bad_csv(lambda lines: [*lines[:3], "1,2,x,4,ash", *lines[3:]]), r"'x'; .* the line, or the column"),
    "short line": (bad_csv(lambda lines: [*lines[:3], "1,2,ash"]), "line 4 has 3 fields; expected 5.*; repair or"),
    "no label column": (bad_csv(lambda lines: ["a,b,c,d,e", *lines[1:]]), "has no column label; expected .*data.label"),
    "semicolons": (bad_csv(lambda lines: [line.replace(",", ";") for line in lines]), "be separated by commas; write"),
    "other columns": (bad_csv(lambda lines: ["f1,f0,f2,f3,label", *lines[1:]]), "expected the same columns"),
    "no samples": (npz(x=X[:0], y=Y[:0]), "holds no samples; expected at least one; check how it was made"),
    "header alone": (bad_csv(lambda lines: lines[:1]), "holds no samples; expected at least one"),
    "empty file": (bad_csv(lambda lines: [""]), "is empty; expected a line with the names of the columns|no column"),
    "no labels": (npz(x=X), "has no array y; expected it beside x; save it with"),
    "fewer labels": (npz(x=X, y=Y[:19]), "20 samples but .* has 19 targets; expected as many"),
    "complex": (npz(x=X.astype(complex), y=Y), "holds complex128; expected integers or floats; convert it"),
    "text": (npz(x=X.astype(str), y=Y), "holds <U.*; expected integers or floats; convert it"),
    "objects": (npz(x=X.astype(object), y=Y), "holds pickled objects; expected numbers"),
    "labels of another type": (npz(x=X, y=Y.astype(complex)), "holds complex128 of shape .*; expected"),
    "labels beyond 64 bits of classes": (npz(x=X, y=X[:, 0]), "targets are float32; .*choose another loss or label"),
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()], "has no samples in a supported format"),
    "missing": (shutil.rmtree, "does not exist; expected a file or a folder with a data set; check the path"),
    "cut short": (lambda folder: [npz(x=X, y=Y)(folder), cut(folder / "train.npz", 300)], "; expected a.*again"),
}


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("name", DATA)
def test_data_that_cannot_be_trained_on(name, refused, work):
    write, match = DATA[name]
    write(work / "data")
    refused(1, match, *train(work))
    refused(1, match, *train(work, "--force", output="model.edgerev"))


def test_test_labels_that_training_lacks(refused, work):
    x, y = toys.rows(9)
    toys.write_csv(work / "data" / "test.csv", x, [("ash", "birch", "elm")[label] for label in y])
    refused(1, "the test part has labels that the training part lacks: elm; expected only ash, birch,", *train(work))


def test_a_full_disk_for_the_converted_data(tmp_path, small_disk):
    toys.write_npz(tmp_path / "large.npz", np.zeros((20000, 32), "f4"), np.zeros(20000, int))
    with pytest.raises(DataError, match=r"cannot write the converted data set .*No space.*; free some space, or name"):
        open_dataset(tmp_path / "large.npz", cache=small_disk)
    assert list(small_disk.iterdir()) == []


# -- configuration and output --------------------------------------------------------------------------------------

CONFIGS = {
    "unknown key": ("[train]\n", "[train]\nepoch = 3\n", 2, "train.epoch: unknown key; did you mean 'epochs'"),
    "type": ("batch = 8", 'batch = "8"', 2, "train.batch: expected a valid integer, not '8'"),
    "budget": ("batch = 8", 'batch = 8\nbudget = "9kB"', 2, r"needs [\d,]+ bytes .*; the budget is 9,000\. Not even"),
    "kind": ('kind = "adamw"', 'kind = "adam"', 2, "optimizer: expected the key kind with one of .* mean 'adamw'"),
    "preset": ('stem = { layer = "dense", channels = 16 }', 'preset = "mpl4"', 2, "net.preset: no preset 'mpl4'"),
    "shape": ('layer = "dense", channels = 16', 'layer = "conv2d", channels = 16', 2, r"does not fit samples of shape"),
    "odd": ("channels = 16", "channels = 15", 2, "odd number of channels cannot be split in halves; use an even one"),
    "outputs": ("[net]\n", "[net]\noutputs = 2\n", 2, "net.outputs is 2, but the data has 3 classes .*; expected"),
    "loss": ("[train]\n", '[loss]\nkind = "mean_squared_error"\n[train]\n', 1, "targets are int32; .* needs float32"),
    "weights": ("[train]\n", '[loss]\nkind = "cross_entropy"\nweights = [1, 2]\n[train]\n', 2, "2 weights, the head"),
    "overflow": ("[train]\n", '[data]\nstandardise = "none"\n[train]\n', 1, "took the state out of its range"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_that_cannot_be_trained(name, refused, work):
    old, new, code, match = CONFIGS[name]
    assert old in toys.CONFIG
    (work / "config.toml").write_text(toys.CONFIG.replace(old, new, 1))
    if name == "overflow":
        x, y = toys.rows(60)
        toys.write_csv(work / "data" / "train.csv", x * 1e5, [toys.NAMES[label] for label in y])
    refused(code, match, *train(work))
    refused(code, match, *train(work, "--force", output="model.edgerev"))


def test_class_incremental_data_without_classes(refused, work):
    (work / "config.toml").write_text('[net]\npreset = "table"\nhead = "ridge"\n[continual]\n')
    npz(x=X, y=X[:, :3])(work / "data")
    refused(1, "targets are values; a class-incremental stream needs classes", *train(work))


def test_missing_files_and_folders(refused, work):
    refused(2, r"none\.toml: No such file .*; give the path", *train(work, config="none.toml"))
    refused(2, r"the folder of .*none/new\.edgerev does not exist; .*make it", *train(work, output="none/new.edgerev"))
    refused(2, "data is a folder; expected the name of a file; add one", *train(work, output="data"))
    refused(2, "data is a folder; expected the name of a file", *train(work, "--force", output="data"))
    refused(2, "is there already; .* add --resume to go on from it, or --force", *train(work, output="model.edgerev"))
    for verb in ("eval", "predict"):
        missing = [verb, work / "none.edgerev", "--data", work / "data"]
        refused(1, r"cannot open the checkpoint .*none\.edgerev .*No such file", *missing)
        refused(1, "none does not exist; expected a file", verb, work / "model.edgerev", "--data", work / "none")
    refused(1, "cannot open the checkpoint", "inspect", work / "none.edgerev")
    refused(2, "the folder of .* does not exist", "demo", "-o", work / "none" / "model.edgerev")
    refused(2, "is there already; .*add --force to replace it", "demo", "-o", work / "model.edgerev")


# -- checkpoints ---------------------------------------------------------------------------------------------------


def readers(work, model="model.edgerev"):
    """Return every command that reads a checkpoint."""
    return [
        ["eval", work / model, "--data", work / "data"], ["inspect", work / model],
        ["predict", work / model, "--data", work / "data", "--label", "label"], train(work, "--resume", output=model),
    ]  # fmt: skip


def damage(name):
    def flip(at):
        def change(data):
            data[at] ^= 4
            return data

        return change

    return {
        "cut in the header": lambda data: data[:100], "cut in the data": lambda data: data[: len(data) - 200],
        "one byte less": lambda data: data[:-1], "one byte more": lambda data: data + b"\0", "empty": lambda data: b"",
        "length": flip(0), "checksum": flip(60), "net": flip(200), "last number": flip(-1), "number": flip(-5000),
        "zeros": lambda data: bytes(len(data)), "text": lambda data: b"[net]\npreset = 1\n" * 100,
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["cut in the header", "cut in the data", "one byte less", "one byte more", "empty",
                                  "length", "checksum", "net", "last number", "number", "zeros", "text"])  # fmt: skip
def test_damaged_checkpoints(name, refused, work):
    path = work / "model.edgerev"
    path.write_bytes(damage(name)(bytearray(path.read_bytes())))
    for command in readers(work):
        text = refused(1, r"model\.edgerev is no whole checkpoint: .*; expected a file made by save; ", *command)
        assert f"the generation before it is in {path}.previous: move that to {path}" in text


def test_every_flipped_bit_is_found(work):
    """In memory: a learner that restores a damaged file is as it was."""
    path, random = work / "model.edgerev", np.random.default_rng(0)
    whole = path.read_bytes()
    learner = Learner.load(str(path))
    learner.learn_many(X, Y)
    before = bytes(learner.runtime.arena)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [*range(0, header, 23), *random.integers(header, len(whole), 60)]
    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
        for call in (learner.restore, Learner.load, peek):
            with pytest.raises(CheckpointError, match="is no whole checkpoint"):
                call(str(path))
    for size in random.integers(0, len(whole), 30):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="is no whole checkpoint"):
            learner.restore(str(path))
    assert bytes(learner.runtime.arena) == before


METADATA = {
    "nothing": {}, "another format": {"format": "1"}, "no net": {"net": None}, "broken net": {"net": "{"},
    "a list": {"net": "[]"}, "a layer that is new": {"net": lambda text: text.replace("dense", "attention")},
    "a net that does not fit": {"net": lambda text: text.replace('"channels": 16', '"channels": 14')},
    "a recipe that is new": {"recipe": lambda text: text.replace("adamw", "adam")}, "no recipe": {"recipe": "null"},
    "no position": {"position": None}, "a position that is new": {"position": '{"hour": 3}'},
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_whole_files_that_hold_something_else(name, refused, work):
    """The checksum is right, but it is another program's file, or another version's."""
    path = str(work / "model.edgerev")
    with verified(path) as whole:
        metadata = dict(whole.metadata) if METADATA[name] else {}
    for key, change in METADATA[name].items():
        text = change(metadata[key]) if callable(change) else change
        assert text != metadata[key]
        metadata = {**metadata, key: text} if text is not None else {k: v for k, v in metadata.items() if k != key}
    (work / "model.edgerev.previous").unlink()
    checkpoint.save(path, [("x", "F32", (2,), memoryview(bytes(8)))], metadata)
    for command in readers(work):
        refused(1, r"is of format .*; expected 2.*use the version|metadata that cannot be used .*; expected a check|"
                "belongs to another net", *command)  # fmt: skip


OTHER = {
    "net": ("channels = 8 }, { layer = \"relu\"", "channels = 9 }, { layer = \"relu\""),
    "state": ("[net]\n", '[net]\nstate = "int16"\n'),
    "optimizer": ('kind = "adamw"', 'kind = "lion"'),
    "moments": ('kind = "adamw"', 'kind = "sgd"'),
    "loss": ("[train]", '[loss]\nkind = "cross_entropy"\nweights = [1, 1, 1]\n[train]'),
    "seed": ("[train]\n", "[train]\nseed = 3\n"),
}


@pytest.mark.parametrize("name", OTHER)
def test_resuming_with_something_else(name, refused, work):
    (work / "config.toml").write_text(toys.CONFIG.replace(*OTHER[name], 1))
    text = refused(1, "expected the same", *train(work, "--resume", output="model.edgerev"))
    assert {"moments": "optimizer", "net": "backbone"}.get(name, name) in text
    assert "start anew in another file" in text


# -- a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """Give a file system of its own with room for a few models; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_while_training(cli, work, small_disk):
    """Two generations fit, beside them no third: the two stay, and so does the resumed training."""
    size = (work / "model.edgerev").stat().st_size
    filler = small_disk / "filler"
    room = 65536 - 2 * 4096 * -(-size // 4096) - 4096
    filler.write_bytes(bytes(room))
    output = small_disk / "model.edgerev"
    (work / "config.toml").write_text(toys.CONFIG.replace("batch = 8", "batch = 8\ncheckpoint_steps = 1"))
    done = cli("train", work / "config.toml", "--data", work / "data", "-o", output)
    assert done.code == 1
    assert re.search(r"cannot save .*No space left.*; expected room for it beside the old one, .*", done.err)
    assert done.err.endswith("still whole: free some space or name another folder, then save again\n")
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "model.edgerev", "model.edgerev.previous"]
    steps = [Learner.load(path).steps for path in (str(output), f"{output}.previous")]
    assert steps == [2, 1]
    filler.unlink()
    assert cli("train", work / "config.toml", "--data", work / "data", "-o", output, "--resume").code == 0
    assert output.read_bytes() == (work / "model.edgerev").read_bytes()


def test_a_limit_on_the_size_of_files(work, cache):
    """As above where nothing may be mounted; the model that is there stays."""
    open_dataset(work / "data")
    before = files(work)
    code = "import sys; from edgerev.cli import main; sys.exit(main(sys.argv[1:]))"
    size = (work / "model.edgerev").stat().st_size
    command = [sys.executable, "-c", code, *train(work, "--force", output="model.edgerev")]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
    )  # fmt: skip
    assert (done.returncode, re.sub(toys.PLANNED, "", done.stdout)) == (1, ""), done
    assert re.fullmatch(r"edgerev: error: cannot save .*File too large.*; expected room .* again\n", done.stderr)
    assert files(work) == before


# -- eval and predict ----------------------------------------------------------------------------------------------


def test_eval_of_data_that_does_not_fit(refused, work):
    def evaluate(*more):
        return ["eval", work / "model.edgerev", "--data", work / "other.csv", *more]

    x, y = toys.rows(12)
    names = [toys.NAMES[label] for label in y]
    toys.write_csv(work / "other.csv", x, [name.replace("ash", "elm") for name in names])
    refused(1, "classes that the model does not know: elm; expected only ash, birch, cedar; leave", *evaluate())
    toys.write_csv(work / "other.csv", x[:, :3], names)
    refused(1, r"error: \S*/other\.csv: samples have shape \(3,\); the net takes \(4,\); use data", *evaluate())
    toys.write_csv(work / "other.csv", x, names, "tree")
    refused(1, "has no column label; expected it among its columns", *evaluate())
    toys.write_csv(work / "other.csv", x, y + 0.5, "tree")
    refused(1, "does not know: 0.5, 1.5, 2.5", *evaluate("--label", "tree"))
    np.savez(work / "x.npz", x=x)
    refused(1, "has no array y", "eval", work / "model.edgerev", "--data", work / "x.npz")
    refused(2, r"threads 0: expected a whole number, 1 \.\. 16", *readers(work)[0], "--threads", 0)


def test_predicting_what_does_not_fit(refused, work):
    def predict(*more):
        return ["predict", work / "model.edgerev", "--data", work / "x.npz", *more]

    for x in (X[:, :3], X.reshape(20, 2, 2), np.zeros((20, 4, 4), "u1")):
        np.savez(work / "x.npz", x=x)
        refused(1, r"error: \S*/x\.npz: samples have shape .*; the net takes \(4,\); use data of .* last", *predict())
    np.savez(work / "x.npz", x=BAD)
    refused(1, r"row 7, column 1 is nan; expected", *predict())
    np.savez(work / "x.npz", x=X * 1e30)
    refused(1, "took the state out of its range for sample", *predict())


def test_json_on_standard_output_is_all_or_nothing(cli, work):
    done = cli("eval", work / "model.edgerev", "--data", work / "data", "--json")
    assert json.loads(done.out)["samples"] == 30
    assert done.err == ""

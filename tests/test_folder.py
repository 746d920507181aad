"""The daemon's watched folder: files are taken in once, as a whole, or refused with the reason."""

import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
from daemon_harness import Daemon, samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerev.daemon.folder import Folder
from edgerev.daemon.service import Service
from edgerev.daemon.settings import FolderTable, load_settings
from edgerev.errors import UsageError

pytestmark = pytest.mark.usefixtures("cache")
HEADER = "a,b,c,d,label\n"


def csv_text(found):
    return HEADER + "".join(",".join(map(repr, one["x"])) + f",{one['y']}\n" for one in found)


def drop(inbox, name, data):
    """Write a file as the documentation says: under another name, then renamed."""
    (inbox / f".{name}").write_bytes(data if isinstance(data, bytes) else data.encode())
    os.replace(inbox / f".{name}", inbox / name)


@pytest.fixture
def inbox(folder):
    (folder / "inbox").mkdir()
    return folder / "inbox"


def serve(folder, tables="", **keys):
    path = folder / "inbox"
    return Daemon(folder, f'[serve.folder]\npath = "{path}"\nseconds = 0.02\n{tables}', **keys)


@pytest.fixture
def door(folder, inbox):
    """Give a door that looks when it is told to."""
    (folder / "edgerev.toml").write_text(f'[serve]\nmodel = "{folder}/model.edgerev"\nstore = "{folder}/edgerev.db"\n')
    made = Folder(Service(load_settings(str(folder / "edgerev.toml"))), FolderTable(str(inbox)))
    yield made
    made._service.store.close()


def look(door):
    """Look twice: what did not change between is taken in."""
    door._look()
    door._look()
    return [(event.kind, event.facts) for event in door._service.events.recent]


def listed(path):
    return sorted(name for name in os.listdir(path) if not os.path.isdir(path / name))


def test_files_are_learned(folder, inbox):
    daemon = serve(folder)
    drop(inbox, "1.csv", csv_text(samples(320)))
    found = samples(320, seed=1)
    np.savez(folder / "2.npz", x=np.array([one["x"] for one in found]), y=np.array([one["y"] for one in found]))
    os.replace(folder / "2.npz", inbox / "2.npz")
    daemon.until(lambda status: status["steps"] == 80)
    for _ in range(100_000):
        if listed(inbox / "done") == ["1.csv", "2.npz"]:
            break
        daemon.ask("GET", "/v1/status")
    daemon.end()
    assert listed(inbox) == []
    assert listed(inbox / "done") == ["1.csv", "2.npz"]


def test_rows_are_what_was_written(door, inbox):
    np.savez(inbox / "a.npz", x=np.arange(8, dtype=np.uint8).reshape(2, 4), y=np.array([2, 0]))
    drop(inbox, "b.csv", "label,a,b,c,d\r\nleft,1,2,3,4\r\n\r\n\"rest\",5,6,7,8\r\n2,9,10,11,12\r\n,0,0,0,0")
    np.savez(inbox / "c.npz", x=np.ones((1, 2, 2)))
    look(door)
    ready = door._service.store.ready(0, 99)
    assert [np.frombuffer(one.x, "f").tolist() for one in ready] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]
    ]  # fmt: skip
    assert [int.from_bytes(one.y, "little") for one in ready] == [2, 0, 0, 2, 2]
    assert len(door._service.store) == 7  # two wait for labels
    assert listed(inbox) == []


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.csv", "", "expected 4 different ones, and at will 'label'"), ("a.csv", "a,b,c,d,e,f\n", "of 6 names"),
        ("a.csv", "a,b,c,a,label\n", "4 different ones"), ("a.csv", HEADER + "1,2,3\n", "line 2 has 3 fields"),
        ("a.csv", HEADER + "1,2,3,x,left\n", "line 2: could not convert"),
        ("a.csv", HEADER + "1,2,3,4,left\n1,2,3,nan,left\n", "line 3: sample 0 has 4 values; expected 4 finite"),
        ("a.csv", HEADER + "1,2,3,4,left\n" * 300 + "1,2,3,4,up\n", "line 302: label 'up'"),
        ("a.csv", HEADER + "1,2,3,4,-1\n", "label '-1'"), ("a.csv", b"\xff\xfe\x00", "not CSV"),
        ("a.csv", HEADER + "0" * 2_000_000, "a line of over"), ("a.csv", HEADER + '1,2,3,4,"left', "not CSV"),
        ("a.npz", b"PK\3\4", "damaged, cut short"), ("a.npz", b"", "damaged, cut short"),
    ],
)  # fmt: skip
def test_bad_files_are_refused_whole(door, inbox, name, data, reason):
    drop(inbox, name, data)
    (kind, facts), = look(door)
    assert (kind, facts["file"]) == ("file_refused", name)
    assert reason in facts["message"]
    assert len(door._service.store) == 0
    assert listed(inbox) == []
    assert listed(inbox / "refused") == [name, name + ".txt"]
    assert reason in (inbox / "refused" / (name + ".txt")).read_text()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"z": np.ones(3)}, "has no array x"), ({"x": np.ones((3, 5))}, "samples of shape (5,)"),
        ({"x": np.ones((3, 4)), "y": np.ones(2, int)}, "expected as many of both"),
        ({"x": np.ones((3, 4)), "y": np.array([0, 1, 3])}, "row 2: label 3"),
        ({"x": np.ones((3, 4)), "y": np.ones(3)}, "row 0: label [1.0]"),
        ({"x": np.full((3, 4), np.inf), "y": np.ones(3, int)}, "finite"),
        ({"x": np.array([[{}] * 4])}, "pickled objects"),
    ],
)  # fmt: skip
def test_bad_arrays_are_refused(door, inbox, arrays, reason):
    np.savez(inbox / "a.npz", **arrays)
    (kind, facts), = look(door)
    assert kind == "file_refused"
    assert reason in facts["message"]


def test_what_is_not_a_whole_file_is_left_alone(door, inbox):
    text = csv_text(samples(3))
    for name in (".a.csv", "a.csv.tmp", "a.txt"):
        (inbox / name).write_text(text)
    os.mkfifo(inbox / "pipe.csv")
    (inbox / "link.csv").symlink_to(inbox / "a.txt")
    (inbox / "folder.csv").mkdir()
    with open(inbox / "grows.csv", "w") as file:
        for line in text.splitlines(keepends=True):
            file.write(line)
            file.flush()
            door._look()
    assert len(door._service.store) == 0
    look(door)
    assert len(door._service.store) == 3
    assert not (inbox / "grows.csv").exists()
    assert len(os.listdir(inbox)) == 7  # those above and done/


def test_equal_names_and_equal_files_are_all_taken(door, inbox):
    """A file is known only until it is put away: the same readings may come again."""
    for _ in range(2):
        drop(inbox, "a.csv", csv_text(samples(3)))
        look(door)
    assert len(door._service.store) == 6
    assert listed(inbox / "done") == ["a-2.csv", "a.csv"]
    assert door._service.store.notes("") == {}


def test_names_that_are_not_utf8(door, inbox):
    path = os.fsencode(inbox) + b"/\xff\xfe.csv"
    with open(path, "w") as file:
        file.write(csv_text(samples(2)))
    look(door)
    assert len(door._service.store) == 2


def test_files_may_be_deleted(folder, inbox):
    daemon = serve(folder, 'taken = "delete"')
    drop(inbox, "a.csv", csv_text(samples(8)))
    daemon.until(lambda status: status["steps"] == 1 and not os.listdir(inbox))
    daemon.end()


def test_a_full_queue_waits(folder, inbox):
    drop(inbox, "a.csv", csv_text(samples(800)))
    daemon = serve(folder, "[serve.training]\ngeneration_samples = 16", most_samples=80)
    daemon.until(lambda status: status["trained"] == 800 and listed(inbox) == [])
    daemon.end()


def test_a_file_that_cannot_be_put_away_is_not_taken_twice(door, inbox):
    (inbox / "done").write_text("in the way")
    drop(inbox, "a.csv", csv_text(samples(3)))
    assert look(door)[0][0] == "file_waits"
    (inbox / "done").unlink()
    door._later.clear()  # as after a minute
    assert look(door)[-1] == ("file_taken", {"door": "folder", "file": "a.csv", "rows": 3})
    assert len(door._service.store) == 3


def test_the_folder_must_be_there(door, inbox):
    with pytest.raises(UsageError, match="expected a folder"):
        Folder(door._service, FolderTable(str(inbox / "none")))
    inbox.rmdir()
    assert [kind for kind, _ in look(door)] == ["folder_unreadable"]
    inbox.mkdir()
    drop(inbox, "a.csv", csv_text(samples(1)))
    assert look(door)[-1][0] == "file_taken"


CHILD = """
import sys
from edgerev.daemon.folder import Folder
from edgerev.daemon.service import Service
from edgerev.daemon.settings import FolderTable, load_settings
service = Service(load_settings(sys.argv[1]))
service.store.most_samples = 10**6
door = Folder(service, FolderTable(sys.argv[2]))
door._rows_at_once = 1
put = service.store.put
def told(*arguments):
    ids = put(*arguments)
    print(ids[0], flush=True)
    return ids
service.store.put = told
door._look()
door._look()
"""


@pytest.mark.parametrize("cuts", [4, pytest.param(200, marks=pytest.mark.long)])
def test_each_row_once_across_cuts(folder, inbox, door, cuts):
    """A process that takes in files a row at a time is killed again and again; the rest is taken in at last."""
    door._service.store.close()
    moments, found = random.Random(0), samples(40 * cuts)
    for number in range(0, len(found), 20):
        drop(inbox, f"{number:06d}.csv", csv_text(found[number : number + 20]))
    for _ in range(cuts):
        command = [sys.executable, "-c", CHILD, str(folder / "edgerev.toml"), str(inbox)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        for _ in range(moments.randint(1, 60)):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.communicate()
    last = Folder(Service(load_settings(str(folder / "edgerev.toml"))), FolderTable(str(inbox)))
    look(last)
    ready = last._service.store.ready(0, 10**6)
    last._service.store.close()
    assert [one.x for one in ready] == [np.array(one["x"], "f").tobytes() for one in found]
    assert listed(inbox) == []


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text("0123456789.,-e\n\"left\x00é ", max_size=60), header=st.booleans(),
    kind=st.sampled_from(["csv", "npz"]),
)  # fmt: skip
def test_any_text_is_taken_or_refused(door, inbox, text, header, kind):
    before = len(door._service.store)
    drop(inbox, f"a.{kind}", HEADER * header + text)
    kinds = [kind for kind, _ in look(door)]
    assert kinds[-1] in ("file_taken", "file_refused")
    assert listed(inbox) == []
    assert kinds[-1] == "file_taken" or len(door._service.store) == before

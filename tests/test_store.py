"""The daemon's file: what is acknowledged stays, what is trained on is gone, whenever the power goes."""

import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_child import SIZE, newest, sample, trained

from edgerev.daemon import store as store_module
from edgerev.daemon.store import PART_BYTES, Arrival, Store
from edgerev.errors import DataError, QueueFullError, StoreError, UsageError

CHILD = Path(__file__).with_name("store_child.py")


@pytest.fixture
def store(tmp_path):
    made = Store(str(tmp_path / "daemon.db"), 2, 1, 10)
    yield made
    made.close()


def labelled(*numbers):
    return [Arrival(b"x%d" % n, b"%d" % n) for n in numbers]


# -- the way of a sample -------------------------------------------------------------------------------------------


def test_samples_come_out_in_the_order_of_their_labels(store):
    first, second = store.put([Arrival(b"x1"), Arrival(b"x2")])
    store.put(labelled(3))
    assert store.label([(second, b"2"), (99, b"9")]) == [99]
    assert store.label([(first, b"1"), (second, b"2")]) == [second]
    assert [(one.x, one.y) for one in store.ready(0, 9)] == [(b"x3", b"3"), (b"x2", b"2"), (b"x1", b"1")]
    assert [one.x for one in store.ready(store.ready(0, 1)[0].number, 1)] == [b"x2"]
    assert len(store) == 3


def test_a_generation_takes_its_samples_with_it(store):
    store.put(labelled(1, 2, 3))
    two = store.ready(0, 2)
    store.advance(two[-1].number, [b"model"])
    assert [one.x for one in store.ready(0, 9)] == [b"x3"]
    assert len(store) == 1
    assert newest(store) == (b"model", two[-1].number)
    with pytest.raises(UsageError, match="later"):
        store.advance(0, [b"older"])
    assert b"".join(store.generation(store.generations()[0])) == b"model"


def test_two_generations_are_kept(store):
    for number in range(5):
        store.advance(0, [b"model %d" % number])
    assert [b"".join(store.generation(number)) for number in store.generations()] == [b"model 4", b"model 3"]
    with pytest.raises(StoreError, match="generation 1 is not whole"):
        list(store.generation(1))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(0, 3 * PART_BYTES), max_size=4))
def test_parts_of_any_size(tmp_path_factory, sizes):
    store = Store(str(tmp_path_factory.mktemp("parts") / "daemon.db"), 2, 1, 10)
    parts = [os.urandom(size) for size in sizes]
    assert b"".join(store.generation(store.advance(0, map(memoryview, parts)))) == b"".join(parts)
    store.close()


def test_a_key_is_taken_once(store):
    (first,) = store.put([Arrival(b"x1", b"1", "a")])
    assert store.put([Arrival(b"x9", b"9", "a"), Arrival(b"x2", None, "b")])[0] == first
    store.advance(store.ready(0, 9)[-1].number, [])
    assert store.put([Arrival(b"x1", b"1", "a")]) == [first]
    assert store.ready(0, 9) == []
    assert len(store) == 1


def test_old_keys_are_forgotten(store, monkeypatch):
    monkeypatch.setattr(store_module, "KEYS_KEPT", 2)
    for key in "abcd":
        store.put([Arrival(b"xx", None, key)])
    known = store.put([Arrival(b"xx", None, "d")])
    assert known == [4]
    assert store.put([Arrival(b"xx", None, "a")]) == [5]


def test_labels_that_never_come(store):
    store.put([Arrival(b"x1"), *labelled(2)])
    assert store.expire(0) == 0
    assert store.expire(2**40) == 1
    assert len(store) == 1


def test_a_full_queue_takes_nothing(store):
    store.put(labelled(*range(9)))
    with pytest.raises(QueueFullError, match="9 of 10 samples wait already; expected room for 2 more"):
        store.put(labelled(1, 2))
    assert len(store) == 9
    store.put(labelled(1))
    store.advance(store.ready(0, 20)[-1].number, [])
    store.put(labelled(*range(9)))


@pytest.mark.parametrize("arrival", [Arrival(b"123", b"1"), Arrival(b"12", b"22"), Arrival(b"", None)])
def test_sizes_are_checked(store, arrival):
    with pytest.raises(DataError, match="expected"):
        store.put([Arrival(b"12", b"1"), arrival])
    assert len(store) == 0


# -- the file ------------------------------------------------------------------------------------------------------


def test_requests_that_come_together_share_a_commit(store):
    before, threads = store.commits, []
    with store._lock:  # as if a commit were under way
        for number in range(5):
            threads.append(threading.Thread(target=store.put, args=(labelled(number),)))
            threads[-1].start()
        while len(store._requests) < 5:
            pass
    for thread in threads:
        thread.join()
    assert len(store.ready(0, 9)) == 5
    assert store.commits == before + 1


def test_a_request_too_many_does_not_harm_its_companions(store):
    found = []

    def put(count):
        try:
            found.append(len(store.put(labelled(*range(count)))))
        except QueueFullError:
            found.append("full")

    with store._lock:
        threads = [threading.Thread(target=put, args=(count,)) for count in (8, 8, 2)]
        for number, thread in enumerate(threads):
            thread.start()
            while len(store._requests) < number + 1:
                pass
    for thread in threads:
        thread.join()
    assert sorted(map(str, found)) == ["2", "8", "full"]
    assert len(store) == 10


def test_another_model_s_file(tmp_path, store):
    store.put(labelled(1))
    with pytest.raises(StoreError, match=r"was made for .*'x_bytes': 2.*expected .*'x_bytes': 3"):
        Store(store.path, 3, 1, 10)


@pytest.mark.parametrize("content", [b"no database at all, but some text", b"SQLite format 3\0" + b"x" * 4000])
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "daemon.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="expected a whole SQLite file"):
        Store(str(path), 2, 1, 10)
    assert path.read_bytes() == content


def test_a_full_disk_changes_nothing(store):
    store.put(labelled(1))
    store._db.execute("PRAGMA max_page_count=1").fetchall()  # SQLite's own way to be out of room
    with pytest.raises(StoreError, match=r"full.*free some space"):
        store.advance(0, [os.urandom(1 << 20)])
    store._db.execute("PRAGMA max_page_count=100000").fetchall()
    assert store.generations() == []
    assert len(store.ready(0, 9)) == len(store) == 1


def test_samples_are_not_left_in_the_file(tmp_path):
    store = Store(str(tmp_path / "daemon.db"), SIZE, 4, 100)
    secrets = [sample(number) for number in range(100)]
    store.put([Arrival(secret, b"long") for secret in secrets])
    there = Path(store.path).read_bytes() + Path(store.path + "-wal").read_bytes()
    assert all(secret in there for secret in secrets)
    store.advance(store.ready(0, 100)[-1].number, [b"model"])
    there = Path(store.path).read_bytes() + Path(store.path + "-wal").read_bytes()
    assert not any(secret in there for secret in secrets)
    store.close()


def test_only_the_owner_may_read(store):
    assert os.stat(store.path).st_mode & 0o777 == 0o600


def test_notes_are_written_with_their_samples(store):
    store.put(labelled(1), {"file a": "1", "file b": "5"})
    with pytest.raises(QueueFullError):
        store.put(labelled(*range(10)), {"file a": "11"})
    store.put([], {"file b": "6"})
    assert store.notes("file ") == {"file a": "1", "file b": "6"}
    store.put([], {"file a": ""})
    assert store.notes("") == {"file b": "6"}


# -- power cuts ----------------------------------------------------------------------------------------------------


def killed_after(path, first, lines):
    """Run the child until it has acknowledged some samples, kill it; return all that were acknowledged."""
    child = subprocess.Popen([sys.executable, str(CHILD), str(path), str(first)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    got = b""
    while got.count(b"\n") < lines and select.select([child.stdout], [], [], 60)[0]:
        piece = os.read(child.stdout.fileno(), 4096)
        assert piece, "the child ended by itself"
        got += piece
    child.send_signal(signal.SIGKILL)
    got += child.stdout.read()
    child.wait()
    return [int(line) for line in got.split(b"\n")[:-1]]


def check_after_cuts(path, sent):
    """Everything acknowledged was trained on once, in order, or waits."""
    store = Store(str(path), SIZE, 4, 1000)
    model, after = newest(store)
    model = trained(model, store.ready(after, 10**6))
    stored = store._one("SELECT max(number) FROM ready") or after
    store.close()
    assert stored >= len(sent)  # one more than was acknowledged may have been written
    expected = b""
    for number in range(stored):
        expected = trained(expected, [Arrival(sample(number), number.to_bytes(4, "little"))])
    assert model == expected


@pytest.mark.parametrize("cuts", [12, pytest.param(500, marks=pytest.mark.long)])
def test_kills_at_random_moments(tmp_path, cuts):
    moments, path, sent = random.Random(0), tmp_path / "daemon.db", []
    for _ in range(cuts):
        sent += killed_after(path, len(sent), moments.randint(1, 40))
        assert sent == list(range(len(sent)))
        check_after_cuts(path, sent)
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)

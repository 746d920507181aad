"""The daemon's file: what is acknowledged stays, what is trained on is gone, whenever the power goes."""

import os
import random
import select
import shutil
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
from edgerev.daemon.generations import PART_BYTES
from edgerev.daemon.store import Arrival, Store
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
    assert store.expire(1) == 0
    assert store.expire(0) == 1
    assert len(store) == 1


def test_samples_grow_old_while_the_store_is_open(tmp_path, monkeypatch):
    now = [1000.25]
    monkeypatch.setattr(store_module, "monotonic", lambda: now[0])
    path = str(tmp_path / "daemon.db")
    store = Store(path, 2, 1, 10)
    store.put([Arrival(b"x1")])
    now[0] += 50.5
    store.put([Arrival(b"x2")])
    for _ in range(30):  # parts of a second are not lost each time
        now[0] += 0.5
        store.advance(0, [])
    store.close()
    now[0] = 3.0  # booted again, after any time
    store = Store(path, 2, 1, 10)
    assert store.expire(66) == 0
    now[0] += 1
    assert store.expire(66) == 1
    assert store._db.execute("SELECT x FROM waiting").fetchall() == [(b"x2",)]
    now[0] += 49
    assert store.expire(66) == 0
    now[0] += 1
    assert store.expire(66) == 1
    store.close()


def test_a_power_cut_takes_ten_minutes_of_age_at_most(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(store_module, "monotonic", lambda: now[0])
    store = Store(str(tmp_path / "daemon.db"), 2, 1, 10)
    store.put([Arrival(b"x1")])
    for second in range(5000):
        now[0] = float(second)
        assert store.expire(10_000) == 0
    assert store.writes.commits == 1 + 4999 // store_module.REMEMBER_SECONDS
    shutil.copytree(tmp_path, tmp_path / "cut")
    store.close()
    now[0] = 0.0
    store = Store(str(tmp_path / "cut" / "daemon.db"), 2, 1, 10)
    assert 5000 - store_module.REMEMBER_SECONDS <= store._now() <= 5000
    store.close()


def test_the_clock_of_the_wall_does_not_matter(store, monkeypatch):
    store.put([Arrival(b"x1")])
    for time in (0.0, 4e9, -1.0):
        monkeypatch.setattr("time.time", lambda time=time: time)
        assert store.expire(60) == 0


def test_ids_and_numbers_are_never_used_again(tmp_path):
    seen, numbers = [], []
    for round_ in range(6):
        store = Store(str(tmp_path / "daemon.db"), 2, 1, 10)
        seen += store.put([Arrival(b"x1"), Arrival(b"x2", b"2"), Arrival(b"x3", None)])
        store.label([(seen[-1], b"3")])
        numbers += [one.number for one in store.ready(store.trained, 9)]
        if round_ % 2:
            store.expire(0)
        if round_ % 3:
            store.advance(numbers[-1], [])
            assert store.ready(0, 9) == []
            assert numbers == sorted(set(numbers))
        else:
            numbers = numbers[:-2]
        store.close()
    assert seen == list(range(1, 19))


def test_what_samples_wait_for_is_counted(tmp_path):
    store = Store(str(tmp_path / "daemon.db"), 2, 1, 10)
    ids = store.put([*labelled(1, 2), Arrival(b"x3"), Arrival(b"x4"), Arrival(b"x5"), Arrival(b"x6")])
    store.label([(ids[2], b"3"), (ids[2], b"3"), (99, b"3")])
    assert (store.unlabelled, store.newest, len(store)) == (3, 3, 6)
    with pytest.raises(QueueFullError):
        store.put([Arrival(b"x7")] * 5)
    store.forget(ids[3:4])
    assert (store.unlabelled, store.newest, len(store)) == (2, 3, 5)
    store.close()
    store = Store(str(tmp_path / "daemon.db"), 2, 1, 10)
    store.advance(2, [])
    assert (store.unlabelled, store.newest, len(store)) == (2, 3, 3)
    assert store.expire(0) == 2
    assert (store.unlabelled, store.newest, len(store)) == (0, 3, 1)
    store.close()


@pytest.mark.parametrize("number", [0, -1, 2, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**30])
def test_labels_for_ids_that_never_were(store, number):
    store.put([Arrival(b"x1")])
    assert store.label([(number, b"1"), (1, b"1"), (1, b"1")]) == [number, 1]
    assert len(store.ready(0, 9)) == 1


@pytest.mark.parametrize("key", ["k" * 201, "\u00e9" * 101, "\ud800"])
def test_keys_that_cannot_be_kept(store, key):
    with pytest.raises(DataError, match="expected"):
        store.put([Arrival(b"x1", b"1"), Arrival(b"x2", b"2", key)])
    assert len(store) == 0
    assert store.put([Arrival(b"x1", b"1", "\u00e9" * 100), Arrival(b"x1", b"1", ""), Arrival(b"x1", b"1", "a\0b")])


def test_a_full_queue_takes_nothing(store):
    store.put(labelled(*range(9)))
    with pytest.raises(QueueFullError, match=r"for 2, and there is room for 1 of serve\.most_samples 10; training"):
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
    before, threads = store.writes.commits, []
    with store._lock:  # as if a commit were under way
        for number in range(5):
            threads.append(threading.Thread(target=store.put, args=(labelled(number),)))
            threads[-1].start()
        while len(store._requests) < 5:
            pass
    for thread in threads:
        thread.join()
    assert len(store.ready(0, 9)) == 5
    assert store.writes.commits == before + 1


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
    store.close()
    with pytest.raises(StoreError, match=r"made for another model or version: bytes of a sample: 2, not 3; expected"):
        Store(store.path, 3, 1, 10)


def test_a_full_disk_changes_nothing(store):
    store.put(labelled(1))
    store._db.execute("PRAGMA max_page_count=1").fetchall()  # SQLite's own way to be out of room
    with pytest.raises(StoreError, match=r"full.*free some space"):
        store.advance(0, [os.urandom(1 << 20)])
    store._db.execute("PRAGMA max_page_count=100000").fetchall()
    assert store.generations() == []
    assert len(store.ready(0, 9)) == len(store) == 1


def test_samples_are_not_left_in_the_file(tmp_path):
    store = Store(str(tmp_path / "daemon.db"), SIZE, 4, 300)
    secrets = [sample(number) for number in range(300)]

    def there():
        content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
        return [secret in content for secret in secrets]

    store.put([Arrival(secret, b"long") for secret in secrets[:100]])
    ids = store.put([Arrival(secret) for secret in secrets[100:]])
    assert all(there())
    store.label((number, b"long") for number in ids[:50])
    store.forget(ids[50:100])
    store.expire(0)
    store.advance(store.ready(0, 300)[-1].number, [b"model"])
    assert len(store) == 0
    assert not any(there())
    store.close()
    assert not any(there())


def test_only_the_owner_may_read(store):
    assert os.stat(store.path).st_mode & 0o777 == 0o600


def test_a_second_one_is_refused(store):
    store.put(labelled(1))
    with pytest.raises(StoreError, match=r"another process serves from .*name another file"):
        Store(store.path, 2, 1, 10)
    store.put(labelled(2))
    assert len(store.ready(0, 9)) == 2


def test_once_it_is_closed(store):
    store.close()
    store.close()
    for ask in (lambda: store.put(labelled(1)), lambda: store.ready(0, 1), lambda: store.advance(0, [])):
        with pytest.raises(StoreError, match="expected an open file"):
            ask()


def test_others_go_on_while_somebody_reads_a_generation(store):
    parts = [os.urandom(PART_BYTES) for _ in range(3)]
    pieces = store.generation(store.advance(0, parts))
    assert next(pieces) == parts[0]
    other = threading.Thread(target=store.put, args=(labelled(1, 2),))
    other.start()
    other.join()
    assert list(pieces) == parts[1:]
    assert len(store) == 2
    pieces = store.generation(1)
    next(pieces)
    for _ in range(2):
        store.advance(0, [])
    with pytest.raises(StoreError, match="generation 1 is not whole"):
        list(pieces)


def test_many_threads_at_once(tmp_path):
    store, given, problems = Store(str(tmp_path / "daemon.db"), 4, 4, 100_000), [], []

    def send(sender):
        try:
            for number in range(150):
                key = f"{number % 50}" if number % 3 == 0 else f"{sender} {number}"  # some are everybody's
                x = (1000 * sender + number).to_bytes(4, "little")
                given.append((key, *store.put([Arrival(x, x if number % 2 else None, key)])))
                if not number % 2:
                    store.label([(given[-1][1], x), (-1, x)])
                store.expire(10_000)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(6)]
    for thread in threads:
        thread.start()
    seen, after = [], 0
    while any(thread.is_alive() for thread in threads) or len(store.ready(after, 1)):
        batch = store.ready(after, 7)
        seen += batch
        after = batch[-1].number if batch else after
        store.advance(after, [b"model"])
    assert problems == []
    ids = dict(given)
    assert len(set(ids.values())) == len(ids)
    assert all(ids[key] == number for key, number in given)
    waiting = store._db.one("SELECT count(*) FROM waiting")
    assert len(seen) == len({one.x for one in seen}) == len(ids) - waiting
    assert [one.number for one in seen] == list(range(1, len(seen) + 1))
    assert len(store) == waiting
    store.close()


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
    stored = store.newest
    assert store.salvaged is None
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

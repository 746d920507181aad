"""A damaged store: what is whole is found again, told, and learned once; the damaged file is kept."""

import random
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from adaptation_child import EVERY, SETTINGS, SHAPE, adaptation, arrivals, learner, weights

from edgerev.daemon.adaptation import Adaptation
from edgerev.daemon.database import PAGE_BYTES, SALVAGED
from edgerev.daemon.salvage import NEW_IDS
from edgerev.daemon.schema import PARTS
from edgerev.daemon.store import Arrival, Store
from edgerev.errors import DamagedError, StoreError

pytestmark = pytest.mark.usefixtures("cache")
SENT, UNLABELLED = 90, 20


class Whole(NamedTuple):
    """A store's files as a power cut leaves them, and what is in them."""

    folder: Path
    models: dict  # weights by the number of the generation, or None
    ready: list
    waiting: list
    newest_id: int


@pytest.fixture(scope="module")
def whole(_cache_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    made = adaptation(str(folder / "daemon.db"))
    models = {None: weights(made)}
    samples = [one._replace(key=f"key {place}") for place, one in enumerate(arrivals(SENT + UNLABELLED))]
    made.store.put(samples[:SENT])
    made.store.put([one._replace(y=None) for one in samples[SENT:]])
    while made.saved < 4 * EVERY:
        made.step()
        if made.saved == made.after:
            models[made.store.generations()[0]] = weights(made)
    for place, one in enumerate(samples[:30]):
        made.store.put([one._replace(key=f"late {place}")])
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("cut") / "whole")
    found = Whole(
        copy, models, made.store.ready(made.saved, 999),
        made.store._db.execute("SELECT id, x FROM waiting ORDER BY id").fetchall(), made.store._id,
    )  # fmt: skip
    made.store.close()
    assert (found.folder / "daemon.db-wal").stat().st_size > 10 * PAGE_BYTES
    return found


@pytest.fixture
def path(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "now")
    return tmp_path / "now" / "daemon.db"


def started(path):
    """Do what the daemon does at its start."""
    store = Store(str(path), 4 * SHAPE, 4, 10_000)
    try:
        return Adaptation(learner(), store, SETTINGS)
    except StoreError as error:
        if not store.mend(str(error)):
            raise
        return Adaptation(learner(), store, SETTINGS)


def damage(path, choose):
    """Do to a file what media, a bad driver or a careless copy do."""
    content = bytearray(path.read_bytes())
    kind = choose.choice(("bits", "short", "page", "zeros", "noise"))
    start = choose.randrange(len(content))
    if kind == "bits":
        for _ in range(choose.choice((1, 1, 3, 30))):
            content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    elif kind == "short":
        del content[start:]
    elif kind == "page":
        start -= start % PAGE_BYTES
        content[start : start + PAGE_BYTES] = bytes(len(content[start : start + PAGE_BYTES]))
    else:
        size = min(choose.randrange(1, 8000), len(content) - start)
        content[start : start + size] = choose.randbytes(size) if kind == "noise" else bytes(size)
    path.write_bytes(content)


def check(made, whole):
    """The model is one that was; each sample is as it was sent, and there once, and none that it learned."""
    store = made.store
    assert weights(made) in whole.models.values()
    ready = store.ready(made.after, 999)
    assert len(ready) == store._db.one("SELECT count(*) FROM ready")
    known = {one.number: one for one in whole.ready}
    assert sum(one != known.get(one.number) for one in ready) <= 30  # bits inside a sample are not found out
    assert len(store) == len(ready) + store._db.one("SELECT count(*) FROM waiting")
    (new,) = store.put([Arrival(bytes(4 * SHAPE), bytes(4), "quite new")])
    assert store.put([Arrival(bytes(4 * SHAPE), bytes(4), "quite new")]) == [new]
    assert store.ready(made.after, 999)[-1].x == bytes(4 * SHAPE)
    while made.step():
        pass
    made.save()
    assert store.problem == ""
    return new


@pytest.mark.parametrize("trials", [30, pytest.param(1000, marks=pytest.mark.long)])
def test_damage_at_random_places(path, whole, tmp_path, trials):
    choose, salvaged, generations = random.Random(0), 0, []
    for _ in range(trials):
        shutil.rmtree(path.parent)
        shutil.copytree(whole.folder, path.parent)
        for name in choose.choice(((path.name,), (path.name + "-wal",), (path.name, path.name + "-wal"))):
            damage(path.with_name(name), choose)
        damaged = path.read_bytes()
        made = started(path)
        found = made.store.salvaged
        new = check(made, whole)
        made.store.close()
        if found:
            salvaged += 1
            generations.append(found.generation)
            assert new > whole.newest_id
            if "no generation" not in found.reason:  # then the file could be read, and its log was written back
                assert Path(found.moved_to).read_bytes() == damaged, found.reason
            assert found.moved_to in str(found)
    assert salvaged > trials / 3
    assert len(generations) - generations.count(None) > len(generations) / 2


def test_no_single_page_takes_both_generations(path, whole):
    content = path.read_bytes()
    choose = random.Random(0)
    assert len(content) > 20 * PAGE_BYTES
    assert content[100] == 13  # all tables are named on the first page, which is put there anew
    for start in range(0, len(content), PAGE_BYTES):
        shutil.rmtree(path.parent)
        shutil.copytree(whole.folder, path.parent)
        page = choose.choice((bytes(PAGE_BYTES), choose.randbytes(PAGE_BYTES)))
        path.write_bytes(content[:start] + page + content[start + PAGE_BYTES :])
        made = started(path)
        assert weights(made) != whole.models[None]
        check(made, whole)
        made.store.close()


def test_damage_within_the_log_is_found_out(path, whole):
    log = path.with_name("daemon.db-wal")
    content = bytearray(log.read_bytes())
    frames = (len(content) - 32) // (PAGE_BYTES + 24)
    commits = [n for n in range(frames) if any(content[32 + n * (PAGE_BYTES + 24) + 4 :][:4])]
    assert len(commits) == 30
    for damaged, kept in ((0, 0), (14, 14), (27, 27), (28, 28), (29, 29)):
        broken = bytearray(content)
        broken[32 + commits[damaged] * (PAGE_BYTES + 24) + 100] ^= 1
        shutil.rmtree(path.parent)
        shutil.copytree(whole.folder, path.parent)
        log.write_bytes(broken)
        made = started(path)
        store = made.store
        assert len(store.ready(0, 999)) == SENT - 4 * EVERY + kept
        if damaged == 29:  # as if the power had gone while it was written
            assert store.salvaged is None
        else:
            assert f"log is damaged before the last {30 - damaged} commits" in store.salvaged.reason
            assert store.salvaged.lost == ("log",)
            assert store.put([Arrival(bytes(4 * SHAPE))])[0] > NEW_IDS
        store.close()


@pytest.mark.parametrize(
    "change", [
        "UPDATE ready SET x = 'text' WHERE number = 70", "UPDATE ready SET y = x'00' WHERE number = 70",
        "UPDATE waiting SET x = x'' WHERE id = 95", "UPDATE waiting SET arrived = x'00' WHERE id = 95",
        "UPDATE facts SET value = 'text' WHERE name = 'x_bytes'", "UPDATE facts SET name = 'y' WHERE name = 'x_bytes'",
        "UPDATE facts SET value = x'00' WHERE name = 'seconds'", "DELETE FROM facts", "DROP TABLE facts",
        "DROP TABLE waiting", "UPDATE generations SET trained = 'text'", "UPDATE generations SET trained = 99",
    ],
)  # fmt: skip
def test_rows_that_cannot_have_been_written(path, whole, change):
    with sqlite3.connect(path) as other:
        other.execute(change)
    other.close()
    made = started(path)
    assert made.store.salvaged is not None
    assert weights(made) != whole.models[None]
    check(made, whole)
    made.store.close()


def contents(path):
    store = Store(str(path), 4 * SHAPE, 4, 10_000)
    tables = ("waiting", "ready", "keys", "generations", "history", *PARTS)
    found = [store._db.execute(f"SELECT * FROM {table}").fetchall() for table in tables], store._id
    store.close()
    return found, store.salvaged


def break_page(path, page):
    with open(path, "r+b") as file:
        file.seek(page * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))


@pytest.mark.parametrize("cuts", [10, pytest.param(200, marks=pytest.mark.long)])
def test_power_cuts_while_salvaging(whole, disk, cuts):
    code = f"import sys; from edgerev.daemon.store import Store; Store(sys.argv[1], {4 * SHAPE}, 4, 99).close()"
    path = disk.folder / "daemon.db"
    shutil.copytree(whole.folder, disk.folder, dirs_exist_ok=True)
    break_page(path, 10)
    damaged = path.read_bytes()
    assert disk.run([sys.executable, "-c", code, path])
    expected, salvaged = contents(path)
    assert salvaged is None  # it was then
    choose, done = random.Random(0), 0
    for _ in range(cuts):
        disk.cut(choose)
        found, salvaged = contents(path)
        assert found == expected
        done += salvaged is None
        assert path.with_name("daemon.db.damaged-1").read_bytes() == damaged
        assert not path.with_name("daemon.db.damaged-2").exists()
        assert not path.with_name("daemon.db" + SALVAGED).exists()
    assert 0 < done < cuts


def test_two_damaged_files_are_kept(path):
    for number in range(1, 5):
        Store(str(path), 4 * SHAPE, 4, 10_000).close()
        break_page(path, 2)
        there = path.read_bytes()
        store = Store(str(path), 4 * SHAPE, 4, 10_000)
        store.close()
        assert store.salvaged.moved_to == f"{path}.damaged-{number}"
        assert path.with_name(f"{path.name}.damaged-{number}").read_bytes() == there
    kept = sorted(one.name for one in path.parent.iterdir() if not one.name.endswith("-wal"))
    assert kept == ["daemon.db", "daemon.db-lock", "daemon.db.damaged-3", "daemon.db.damaged-4"]


@pytest.mark.parametrize("content", [b"", b"no database at all, but some text", b"SQLite format 3\0" + b"x" * 4000])
def test_what_is_no_database_is_moved_aside(tmp_path, content):
    path = tmp_path / "daemon.db"
    path.write_bytes(content)
    store = Store(str(path), 2, 1, 10)
    assert store.put([Arrival(b"12", b"1")])[0] > NEW_IDS
    store.close()
    assert Path(store.salvaged.moved_to).read_bytes() == content
    assert store.salvaged.generation is None
    assert "the model of the settings, 0 samples with label" in str(store.salvaged)


def test_a_database_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "daemon.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE precious(x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="holds other tables"):
        Store(str(path), 2, 1, 10)
    assert path.read_bytes() == before


def test_a_page_that_is_damaged_while_it_runs(path):
    store = Store(str(path), 4 * SHAPE, 4, 10_000)
    store._db.tidy()
    store._db.execute("PRAGMA cache_size=0").fetchall()
    store._db.execute("PRAGMA shrink_memory").fetchall()
    with open(path, "r+b") as file:
        for page in range(1, path.stat().st_size // PAGE_BYTES):
            file.seek(page * PAGE_BYTES)
            file.write(b"\xff" * PAGE_BYTES)
    for ask in (
        lambda: store.ready(0, 99), lambda: store.put(arrivals(1)), lambda: store.label([(1, bytes(4))]),
        lambda: store.expire(0), lambda: store.advance(999, [b"model"]), store.generations,
        lambda: list(store.generation(4)),
    ):  # fmt: skip
        with pytest.raises(DamagedError, match="start the daemon again"):
            ask()
    assert "damaged" in store.problem
    store.close()
    again = Store(str(path), 4 * SHAPE, 4, 10_000)
    assert again.salvaged is not None
    again.put(arrivals(1))
    again.close()

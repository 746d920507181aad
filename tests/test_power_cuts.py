"""Power cuts: whenever the power goes, no sample that was acknowledged is lost, and each is learned once."""

import random
import shutil
import sys
from pathlib import Path

import pytest
from adaptation_child import adaptation, filled, weights
from disk import Contents, Disk
from store_child import SIZE, newest, sample, trained

from edgerev.daemon.store import Arrival, Store
from edgerev.errors import StoreError

CHILD, LEARNING_CHILD = (Path(__file__).with_name(name) for name in ("store_child.py", "adaptation_child.py"))


def run_child(disk, first, lines, *words):
    assert not disk.run([sys.executable, CHILD, disk.folder / "daemon.db", first, *words], lines)


def copied(folder):
    copy = folder.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    return shutil.copytree(folder, copy)


def check(folder, sent):
    """Open a copy: every sample that was acknowledged was learned once, in order, or waits."""
    copy = copied(folder)
    store = Store(str(copy / "daemon.db"), SIZE, 4, 1000)
    model, after = newest(store)
    waiting = store.ready(after, 10**6)
    store.close()
    stored = waiting[-1].number if waiting else after
    assert store.salvaged is None
    assert stored >= sent, f"{sent - stored} acknowledged samples are lost"
    assert stored <= sent + 1  # the one after the last acknowledged one may have been written
    expected = b""
    for number in range(stored):
        expected = trained(expected, [Arrival(sample(number), number.to_bytes(4, "little"))])
    assert trained(model, waiting) == expected


def test_the_records_are_all_that_happened(disk):
    code = "import sys; from edgerev.daemon.store import Arrival, Store; s = Store(sys.argv[1], 1, 1, 99)\n"
    code += "for n in range(50): s.put([Arrival(b'x', b'y', str(n))]); n % 20 or s.advance(n, [bytes(9999)])\n"
    disk.run([sys.executable, "-c", code, disk.folder / "daemon.db"])
    assert Contents({}, disk.records()).now() == {path.name: path.read_bytes() for path in disk.folder.iterdir()}


def test_what_is_written_is_counted(disk):
    disk.run([sys.executable, CHILD.with_name("writing_child.py"), disk.folder / "daemon.db"])
    places, records = {}, disk.records()
    for place, record in enumerate(records):
        if record.kind == "A":
            said, *numbers = record.data.decode().split()
            places[said] = place, list(map(int, numbers))
    part = records[places["begin"][0] : places["end"][0]]
    syncs = sum(record.kind in "FD" for record in part)
    heads = sum(record.kind == "W" and len(record.data) == 32 for record in part)  # of the log, when it was empty
    commits, counted_syncs, written = places["end"][1]
    assert commits == 400 + 20 + 2
    assert counted_syncs == syncs
    assert heads > 20
    if written == 0:
        pytest.skip("this file system is in memory, so the kernel counts no bytes")
    asked_for = sum(len(record.data) for record in part if record.kind == "W")
    assert asked_for < written < 4 * asked_for


@pytest.mark.parametrize("cuts", [20, pytest.param(500, marks=pytest.mark.long)])
def test_cuts_that_tear_what_was_not_synced(disk, cuts):
    choose, sent = random.Random(0), 0
    for _ in range(cuts):
        run_child(disk, sent, choose.randint(1, 40))
        sent += len(disk.cut(choose))
        check(disk.folder, sent)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_a_store_that_does_not_sync_is_found_out(disk_library, tmp_path, synchronous):
    choose, found, number = random.Random(0), 0, 0
    while found < 2:  # what is on its way at a cut is up to the clock
        assert number < 40
        number += 1
        (tmp_path / str(number)).mkdir()
        disk = Disk(disk_library, tmp_path / str(number))
        run_child(disk, 0, 40, synchronous)
        try:
            check(disk.folder, len(disk.cut(choose)))
        except (AssertionError, StoreError):  # samples are lost, or pages, or a generation is not whole
            found += 1


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("cuts", [4, pytest.param(50, marks=pytest.mark.long)])
def test_the_model_after_cuts_is_that_of_a_run_without(disk, tmp_path, cuts):
    filled(tmp_path / "daemon.db").store.close()
    begun = (tmp_path / "daemon.db").read_bytes()
    expected = learned_to_the_end(tmp_path)
    choose = random.Random(0)
    through = True
    for _ in range(cuts):
        if through:  # with nothing beside it: the log of another file would be taken for its own
            shutil.rmtree(disk.folder)
            disk.folder.mkdir()
            (disk.folder / "daemon.db").write_bytes(begun)
        through = disk.run([sys.executable, LEARNING_CHILD, disk.folder / "daemon.db"], choose.randint(1, 20))
        disk.cut(choose)
        assert learned_to_the_end(copied(disk.folder)) == expected


def learned_to_the_end(folder):
    made = adaptation(str(folder / "daemon.db"))
    while made.step():
        pass
    made.save()
    made.store.close()
    assert made.store.salvaged is None, str(made.store.salvaged)
    return weights(made)

"""A disk that is full, failing, read-only or not ours any more: the daemon says so, and goes on when that is over."""

import errno
import json
import shutil
import signal
import subprocess
import sys

import pytest
from daemon_harness import Daemon, samples
from test_salvage import break_page

from edgerev.daemon.database import PAGE_BYTES
from edgerev.daemon.service import Service
from edgerev.daemon.settings import ServeSettings, TrainingTable

pytestmark = pytest.mark.usefixtures("cache")
TRAINING = "[serve.training]\ngeneration_samples = 64\ngeneration_seconds = 0\n[serve.guard]\non = false"


class Telling(Daemon):
    """A daemon that may have something to tell before it serves; it is in `told`."""

    def start(self):
        command = [sys.executable, "-m", "edgerev", "serve", "--config", str(self.folder / "edgerev.toml")]
        self.process, self.told = subprocess.Popen(command, stderr=subprocess.PIPE, text=True), []
        while not self.told or '"serving"' not in self.told[-1]:
            line = self.process.stderr.readline()
            assert line, self.told
            self.told.append(line)
        self.where = json.loads(line)["listen"]


@pytest.fixture
def daemon(folder, disk, monkeypatch):
    """Give a daemon whose store is on a disk that can be struck."""
    for name, value in disk.environment().items():
        monkeypatch.setenv(name, value)
    made = Telling(folder, TRAINING, store=str(disk.folder / "edgerev.db"))
    yield made
    if made.process.poll() is None:
        made.end(signal.SIGKILL)


def send(daemon, count, seed=0):
    return daemon.ask("POST", "/v1/samples", {"samples": samples(count, seed)})


FEW = [("ENOSPC", True), ("EIO", False)]
MORE = [("ENOSPC", False), ("EROFS", False), ("EACCES", False), ("EDQUOT", True)]
TROUBLES = FEW + [pytest.param(*one, marks=pytest.mark.long) for one in MORE]


def learned(daemon, steps):
    """Wait until so many batches of 8 are learned: the step counter moves before the position."""
    return daemon.until(lambda status: status["steps"] == steps and status["trained"] == 8 * steps)


def taken(status):
    return tuple(status[name] for name in ("to_learn", "unlabelled", "unsaved"))


@pytest.mark.parametrize(("error", "growing"), TROUBLES)
def test_it_goes_on_once_the_disk_does(daemon, disk, error, growing):
    assert send(daemon, 20)[0] == 202
    unlabelled = daemon.ask("POST", "/v1/samples", {"samples": [{"x": [0, 0, 0, 0]}]})[1]["ids"]
    before = learned(daemon, 2)
    disk.strike(getattr(errno, error), growing=growing)
    for _ in range(3):
        code, answer = send(daemon, 8, 1)
        assert code == 503
        assert "cannot write" in answer["error"]
        assert daemon.ask("POST", "/v1/labels", {"labels": [{"id": unlabelled[0], "y": 1}]})[0] == 503
    assert daemon.ask("POST", "/v1/predict", {"samples": [[0, 0, 0, 0]]})[0] == 200
    status = daemon.ask("GET", "/v1/status")[1]
    assert taken(status) == taken(before) == (4, 1, 16)
    assert "cannot write" in status["store_problem"]
    disk.strike(0)
    code, answer = send(daemon, 43, 2)
    assert code == 202
    assert answer["ids"] == list(range(22, 65))  # those that were refused took no number
    assert daemon.ask("POST", "/v1/labels", {"labels": [{"id": unlabelled[0], "y": 1}]}) == (200, {"unknown": []})
    status = daemon.until(lambda status: status["saved"] == 64)
    assert taken(status) == (0, 0, 0)
    assert status["store_problem"] == ""
    assert daemon.end() == 0


@pytest.mark.parametrize(("error", "growing"), TROUBLES)
def test_what_cannot_be_saved_at_the_end_is_learned_again(daemon, disk, error, growing):
    send(daemon, 40)
    daemon.until(lambda status: status["steps"] == 5)
    answers = daemon.ask("POST", "/v1/predict", {"samples": [one["x"] for one in samples(5, 3)]})
    disk.strike(getattr(errno, error), growing=growing)
    assert daemon.end() == 0
    disk.strike(0)
    daemon.start()
    daemon.until(lambda status: status["steps"] == 5)
    assert daemon.ask("POST", "/v1/predict", {"samples": [one["x"] for one in samples(5, 3)]}) == answers


def test_starting_on_a_full_disk(daemon, disk):
    send(daemon, 12)
    daemon.until(lambda status: status["steps"] == 1)
    daemon.end(signal.SIGKILL)
    disk.strike(errno.ENOSPC, growing=True)
    daemon.start()
    assert taken(learned(daemon, 1)) == (4, 0, 8)
    assert send(daemon, 4)[0] == 503
    disk.strike(0)
    assert send(daemon, 4)[0] == 202
    daemon.until(lambda status: status["steps"] == 2)


def refused(daemon):
    """Start a daemon that cannot; return what it says."""
    command = [sys.executable, "-m", "edgerev", "serve", "--config", str(daemon.folder / "edgerev.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_starting_on_a_read_only_disk(daemon, disk):
    send(daemon, 12)
    daemon.end(signal.SIGKILL)
    disk.strike(errno.EROFS)
    assert "edgerev.db" in refused(daemon)
    disk.strike(0)
    daemon.start()
    assert taken(learned(daemon, 1)) == (4, 0, 8)


def test_no_room_to_salvage(daemon, disk):
    path = disk.folder / "edgerev.db"
    send(daemon, 67)
    daemon.until(lambda status: status["saved"] == 64)
    assert "another process serves from" in refused(daemon)
    daemon.end(signal.SIGKILL)
    with open(path, "r+b") as file:
        file.write(bytes(PAGE_BYTES))
    disk.strike(errno.ENOSPC, growing=True)
    assert "expected room for two copies" in refused(daemon)
    assert {one.name for one in disk.folder.iterdir()} <= {path.name, f"{path.name}-wal", f"{path.name}-lock"}
    disk.strike(0)
    daemon.start()
    assert "salvaged" in "".join(daemon.told)
    daemon.until(lambda status: status["steps"] == 8 and status["to_learn"] == 3)


def test_a_small_file_system_that_is_full(folder, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if shutil.which("mount") is None or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        daemon = Telling(folder, TRAINING, store=str(place / "edgerev.db"))
        sent = 0
        with pytest.raises(OSError, match="No space left"):
            (place / "filler").write_bytes(bytes(1 << 20))
        for _ in range(50):
            code, answer = send(daemon, 8, sent)
            if code == 503:
                break
            sent += 8
        assert code == 503
        assert "full" in answer["error"]
        (place / "filler").unlink()
        assert send(daemon, 64 - sent % 64, sent)[0] == 202
        sent += 64 - sent % 64
        daemon.until(lambda status: status["saved"] == sent)
        assert daemon.end() == 0
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_generation_that_finds_no_room(folder):
    training = TrainingTable(generation_samples=64, generation_seconds=0)
    service = Service(ServeSettings(str(folder / "model.edgerev"), str(folder / "edgerev.db"), training=training))
    heard = service.events.listen()
    service.take(samples(128))
    pages = service.store._db.one("PRAGMA page_count")
    service.store._db.execute(f"PRAGMA max_page_count={pages}").fetchall()
    service.start()
    kinds = [heard.get(60).kind for _ in range(2)]
    assert sorted(kinds) == ["store", "trouble"]
    assert len(service.store) == 128
    service.store._db.execute("PRAGMA max_page_count=100000").fetchall()
    service.resume()
    while heard.get(60).facts.get("message") != f"{service.store.path} can be written again":
        pass
    service.stop()
    assert len(service.store) == 0
    assert service.problem == ""


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.long)])
def test_it_comes_up_with_a_damaged_store(daemon, disk, step):
    for seed in range(3):
        send(daemon, 64, seed)
        daemon.until(lambda status, seed=seed: status["saved"] == 64 * (seed + 1))
    send(daemon, 3, 9)
    daemon.end(signal.SIGKILL)
    path, found = disk.folder / "edgerev.db", 0
    pages = range(step, path.stat().st_size // PAGE_BYTES, step)
    for page in pages:
        copies = {one: one.read_bytes() for one in disk.folder.iterdir()}
        break_page(path, page)
        daemon.start()
        found += "salvaged" in "".join(daemon.told)
        status = daemon.ask("GET", "/v1/status")[1]
        assert status["steps"] in (16, 24)
        assert send(daemon, 1, 9)[0] == 202
        assert daemon.end() == 0
        for one in disk.folder.iterdir():
            one.unlink()
        for one, content in copies.items():
            one.write_bytes(content)
    assert found > 0

"""The daemon as a process: what systemd hears of it, its signals, and what keeps it from starting."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from daemon_harness import Daemon, Socket, samples, save_model
from test_serve import daemon  # noqa: F401  # a fixture

pytest.importorskip("waitress", reason="the package waitress is not installed")
pytestmark = pytest.mark.usefixtures("cache")
HANGING = Path(__file__).with_name("hanging_child.py")
WATCHDOG_SECONDS = 0.5


@pytest.fixture
def systemd(tmp_path_factory, monkeypatch):
    """Give a socket that daemons started from here on tell how they are."""
    place = tmp_path_factory.mktemp("systemd") / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        door.bind(str(place))
        door.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(place))
        monkeypatch.setenv("WATCHDOG_USEC", str(round(1e6 * WATCHDOG_SECONDS)))
        yield door


def told(systemd, beginning):
    """Return the lines of the next message that has a line beginning so."""
    for _ in range(1000):
        lines = systemd.recv(4096).decode().split("\n")
        if any(line.startswith(beginning) for line in lines):
            return lines
    raise AssertionError(beginning)


def event(running, kind):
    """Return the next event of a kind that the daemon logs."""
    for text in running.process.stderr:
        line = json.loads(text)
        if line["event"] == kind:
            return line
    raise AssertionError(kind)


def change(running, old, new):
    """Write `new` for `old` in the configuration, and let the daemon read it."""
    config = running.folder / "edgerev.toml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    running.process.send_signal(signal.SIGHUP)


# -- systemd ------------------------------------------------------------------------------------------------------


def test_systemd_hears_how_it_is(systemd, daemon):  # noqa: F811
    assert told(systemd, "READY")[1] == "STATUS=0 steps, 0 samples to learn, 0 not saved yet"
    assert daemon.ask("GET", "/v1/status")[0] == 200
    for _ in range(2):
        assert "WATCHDOG=1" in told(systemd, "STATUS")
    change(daemon, "generation_samples = 64", 'generation_samples = 64\nhours = "00:00-00:01"\nidle_seconds = 1e9')
    assert told(systemd, "RELOADING")[1].startswith("MONOTONIC_USEC=")
    assert told(systemd, "READY") == ["READY=1"]
    daemon.ask("POST", "/v1/predict", {"samples": [[0, 0, 0, 0]]})
    daemon.ask("POST", "/v1/samples", {"samples": samples(8)})
    lines = told(systemd, "STATUS=0 steps, 8 samples to learn, 0 not saved yet; training waits: ")  # which is no hang
    assert "WATCHDOG=1" in lines
    assert "WATCHDOG=1" in told(systemd, "STATUS")
    daemon.process.send_signal(signal.SIGTERM)
    told(systemd, "STOPPING=1")
    assert daemon.process.wait(60) == 0


class Hanging(Daemon):
    """A daemon in which something never ends: each "step", or each answer about its "status"."""

    def __init__(self, folder, what):
        self.command = [sys.executable, str(HANGING), str(folder / "edgerev.toml"), what]
        super().__init__(folder)

    def start(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        self.where = event(self, "serving")["listen"]


@pytest.mark.long
def test_the_watchdog_strikes_when_all_requests_hang(systemd, folder):
    daemon = Hanging(folder, "status")  # noqa: F811
    connections = [Socket(daemon.socket) for _ in range(32)]
    for connection in connections:
        connection.request("GET", "/v1/status")
    assert told(systemd, "STATUS=requests hang") == ["STATUS=requests hang: all threads are at others"]
    assert "WATCHDOG=1" not in told(systemd, "STATUS")
    assert daemon.end(signal.SIGTERM) == 0  # it does not wait for them for ever
    for connection in connections:
        connection.close()


def test_the_watchdog_strikes_when_training_hangs(systemd, folder):
    daemon = Hanging(folder, "step")  # noqa: F811
    assert told(systemd, "STATUS=training hangs") == ["STATUS=training hangs, in a step for more than 0.5 s"]
    for _ in range(2):
        assert "WATCHDOG=1" not in told(systemd, "STATUS")
    daemon.process.send_signal(signal.SIGTERM)
    told(systemd, "STOPPING=1")
    event(daemon, "stopping")
    daemon.process.send_signal(signal.SIGTERM)  # the first one waits for the step
    assert daemon.process.wait(60) == -signal.SIGTERM
    daemon.process.stderr.close()


# -- signals ------------------------------------------------------------------------------------------------------


def test_reloading(daemon):  # noqa: F811
    change(daemon, "generation_samples = 64", "generation_samples = 1024\nevery_samples = 100")
    assert "was read again" in event(daemon, "reloaded")["message"]
    daemon.ask("POST", "/v1/samples", {"samples": samples(99)})
    assert daemon.ask("GET", "/v1/status")[1]["steps"] == 0
    daemon.ask("POST", "/v1/samples", {"samples": samples(1)})
    assert daemon.until(lambda status: status["steps"] == 12)["saved"] == 0
    text = "every_samples = 100"
    change(daemon, "[serve.training]", "threads = 2\n[serve.limits]\nmemory = '1G'\nceslius = 3\n[serve.training]")
    line = event(daemon, "not reloaded")
    assert line["level"] == "warning"
    assert "did you mean 'celsius'" in line["message"]
    change(daemon, "ceslius = 3", "celsius = 99")
    assert event(daemon, "reloaded")["left"] == ["threads", "limits.memory"]
    change(daemon, text, "every_samples = 'many'")
    assert "training.every_samples" in event(daemon, "not reloaded")["message"]
    assert daemon.ask("GET", "/v1/status")[0] == 200
    assert daemon.end() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_end_under_load_loses_nothing_acknowledged(folder, how):
    daemon = Daemon(folder, "[serve.training]\ngeneration_samples = 64")  # noqa: F811
    acknowledged, begun = [], threading.Semaphore(0)

    def send(seed):
        try:
            while True:
                code, answer = daemon.ask("POST", "/v1/samples", {"samples": samples(8, seed)})
                acknowledged.extend(answer["ids"] if code == 202 else [])
                begun.release()
        except (OSError, ValueError, AssertionError) as error:
            return error

    hanging = [socket.socket(socket.AF_UNIX) for _ in range(6)]
    for number, client in enumerate(hanging):  # more of them than threads that answer
        client.connect(daemon.socket)
        client.sendall(b"POST /v1/samples HTTP/1.1\r\nContent-Length: 500\r\n" + b"\r\n{" * (number % 2))
    threads = [threading.Thread(target=send, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        assert begun.acquire(timeout=60)
    assert daemon.end(how) == 0
    for thread in threads:
        thread.join()
    for client in hanging:
        client.close()
    assert not os.path.exists(daemon.socket)
    daemon.start()
    status = daemon.until(lambda status: status["to_learn"] < 8)
    assert len(set(acknowledged)) == len(acknowledged)
    assert status["trained"] + status["to_learn"] >= len(acknowledged)
    daemon.end()


# -- what keeps it from starting ----------------------------------------------------------------------------------


def refused(folder, **settings):
    """Start a daemon that ends at once; return what it says."""
    lines = {"model": str(folder / "model.edgerev"), "store": str(folder / "other.db"), **settings}
    limits = "\n[serve.limits]\nmemory = '24M'" if lines.pop("small", False) else ""
    config = folder / "other.toml"
    config.write_text("[serve]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()) + limits)
    command = [sys.executable, "-m", "edgerev", "serve", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    return done.stderr


def test_what_another_daemon_has(daemon):  # noqa: F811
    folder = daemon.folder
    message = refused(folder, store=str(folder / "edgerev.db"), listen="127.0.0.1:0")
    assert "another process serves from" in message
    assert "another program listens on" in refused(folder, listen=f"unix:{daemon.socket}")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refused(folder, listen=f"127.0.0.1:{port}")
    assert "expected an address of this machine that no other program has" in message
    assert daemon.ask("GET", "/v1/status")[0] == 200


def test_what_a_socket_cannot_be(folder):
    (folder / "file").write_text("mine")
    assert "is there and is no socket" in refused(folder, listen=f"unix:{folder / 'file'}")
    assert (folder / "file").read_text() == "mine"
    assert "No such file" in refused(folder, listen=f"unix:{folder / 'no' / 'where'}")
    assert "expected a folder that may be written to" in refused(folder, store=str(folder / "no" / "where.db"))


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"units": 12}, "stem.channels 8, not 12; backbone.0.F.1.channels 4, not 6"),
        ({"inputs": 5}, "bytes of a sample: 16, not 20"),
    ],
)
def test_a_store_of_another_model(folder, other, difference):
    Daemon(folder).end()
    model = str(folder / "another.edgerev")
    save_model(Path(model), **other)
    message = refused(folder, store=str(folder / "edgerev.db"), model=model, listen="127.0.0.1:0")
    assert difference in message
    assert "name another store, or the model that this one was made with" in message
    assert "damage" not in message
    assert len(message) < 600
    Daemon(folder).end()  # it is as it was


def test_the_log_says_what_the_model_was(folder):
    daemon = Daemon(folder)  # noqa: F811
    model, store = str(folder / "model.edgerev"), str(folder / "edgerev.db")
    assert daemon.serving["message"].endswith(f"sock, beginning with {model}; {store} keeps the model from now on")
    daemon.ask("POST", "/v1/samples", {"samples": samples(1600)})
    daemon.until(lambda status: status["trained"] == 1600)
    daemon.end()
    daemon.start()
    going_on = rf", going on from generation \d of {store} \(trained 1,600 samples\)"
    assert re.search(rf"{going_on}; {model} was taken only at the first start$", daemon.serving["message"])
    daemon.end()


def test_without_waitress(folder, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "waitress", None)
    (folder / "edgerev.toml").write_text(f"[serve]\nmodel = '{folder}/model.edgerev'")
    shown = cli("serve", "--config", folder / "edgerev.toml")
    assert shown.code == 2
    assert "pip install 'edgerev[serve]'" in shown.err
    assert 'build that with --run "serve --config FILE"' in shown.err


def test_too_little_memory(folder):
    message = refused(folder, small=True)
    assert "limits.memory allows 25165824; raise it" in message
    assert not (folder / "other.db").exists()

"""`edgerev serve` as a process of its own, asked over a Unix socket."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from edgerev import AdamW, Block, Dense, Head, Learner, Net, ReLU
from edgerev.daemon.turn import Turn

pytest.importorskip("waitress", reason="the package waitress is not installed")
pytestmark = pytest.mark.usefixtures("cache")
CENTRES = 3 * np.eye(3, 4)


class Socket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """A running daemon; `ask` returns status and answer."""

    def __init__(self, folder, tables="", **settings):
        self.folder, self.socket = folder, str(folder / "edgerev.sock")
        lines = {"model": str(folder / "model.edgerev"), "store": str(folder / "edgerev.db"), **settings}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
        (folder / "edgerev.toml").write_text(f'[serve]\nlisten = "unix:{self.socket}"\n{text}{tables}\n')
        self.start()

    def start(self):
        command = [sys.executable, "-m", "edgerev", "serve", "--config", str(self.folder / "edgerev.toml")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        assert "serving" in line, line + self.process.stderr.read()

    def ask(self, method, path, body=None):
        connection = Socket(self.socket)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, data)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(60)
        self.process.stderr.close()
        return self.process.returncode

    def until(self, condition):
        """Ask for the status until it is as wanted; each request lets the training thread go on."""
        for _ in range(100_000):
            status = self.ask("GET", "/v1/status")[1]
            if condition(status):
                return status
        raise AssertionError(status)


@pytest.fixture
def folder(tmp_path):
    learner = Learner(
        Net((4,), Dense(8), (Block((ReLU(), Dense(4))),), Head(3)), optimizer=AdamW(1e-2), batch=8, seed=1
    )
    learner.classes = ["left", "right", "rest"]
    learner.save(str(tmp_path / "model.edgerev"))
    return tmp_path


@pytest.fixture
def daemon(folder):
    made = Daemon(folder, "[serve.training]\ngeneration_samples = 64")
    yield made
    if made.process.poll() is None:
        made.end(signal.SIGKILL)


def samples(count, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, count)
    x = CENTRES[y] + random.normal(size=(count, 4))
    return [{"x": row.tolist(), "y": ("left", "right", "rest")[label]} for row, label in zip(x, y)]


def right(daemon):
    asked = samples(200, seed=9)
    found = daemon.ask("POST", "/v1/predict", {"samples": [one["x"] for one in asked]})[1]["predictions"]
    return np.mean([one["answer"] == other["y"] for one, other in zip(found, asked)])


def test_it_learns_what_it_is_sent(daemon):
    before = right(daemon)
    for part in range(20):
        code, answer = daemon.ask("POST", "/v1/samples", {"samples": samples(32, part)})
        assert code == 202
        assert answer["ids"] == list(range(32 * part + 1, 32 * part + 33))
    status = daemon.until(lambda status: status["steps"] == 80)
    assert status["problem"] == ""
    assert right(daemon) > max(0.8, before)


def test_labels_may_come_later(daemon):
    sent = samples(8)
    ids = daemon.ask("POST", "/v1/samples", {"samples": [{"x": one["x"]} for one in sent]})[1]["ids"]
    assert daemon.ask("GET", "/v1/status")[1]["steps"] == 0
    labels = [{"id": number, "y": one["y"]} for number, one in zip(ids, sent)]
    assert daemon.ask("POST", "/v1/labels", {"labels": [*labels, {"id": 999, "y": 1}]}) == (200, {"unknown": [999]})
    daemon.until(lambda status: status["steps"] == 1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_goes_on_where_it_was(daemon, how):
    daemon.ask("POST", "/v1/samples", {"samples": samples(100)})
    before = daemon.until(lambda status: status["steps"] == 12)
    answers = daemon.ask("POST", "/v1/predict", {"samples": [one["x"] for one in samples(5, 3)]})
    assert daemon.end(how) == (0 if how == signal.SIGTERM else -how)
    daemon.start()
    after = daemon.until(lambda status: status["steps"] == 12)
    assert after["trained"] == before["trained"]
    assert daemon.ask("POST", "/v1/predict", {"samples": [one["x"] for one in samples(5, 3)]}) == answers


def test_a_full_queue_says_so(folder):
    daemon = Daemon(folder, "[serve.training]\ngeneration_samples = 8", most_samples=16)
    code, answer = daemon.ask("POST", "/v1/samples", {"samples": [{"x": [0, 0, 0, 0]}] * 17})
    assert code == 429
    assert "0 of 16 samples wait already" in answer["error"]
    assert daemon.ask("POST", "/v1/samples", {"samples": [{"x": [0, 0, 0, 0]}] * 16})[0] == 202
    daemon.end()


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("samples", b"{", "not JSON"), ("samples", b'{"samples": [{"x": [NaN, 0, 0, 0]}]}', "NaN is no number"),
        ("samples", [], "one list, samples"), ("samples", {"samples": [3]}, "object with x"),
        ("samples", {"samples": [{"x": [1, 2]}]}, "sample 0 has 2 values; expected 4"),
        ("samples", {"samples": [{"x": [1, 2, 3, 1e300]}]}, "sample 0"),
        ("samples", {"samples": [{"x": [1, 2, 3, "4"]}]}, "is not a number"),
        ("samples", {"samples": [{"x": [1, 2, 3, 4], "y": "up"}]}, "expected one of left, right, rest"),
        ("samples", {"samples": [{"x": [1, 2, 3, 4], "key": 5}]}, "expected a text"),
        ("labels", {"labels": [{"id": "1", "y": 1}]}, "a whole number"),
        ("labels", {"labels": [{"id": 1, "y": 3}]}, "label 3 at 0"),
        ("predict", {"samples": [[1, 2, 3]]}, "has 3 values"), ("predict", b"[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_bad_requests(daemon, path, body, message):
    code, answer = daemon.ask("POST", f"/v1/{path}", body)
    assert code == 400
    assert message in answer["error"]
    assert daemon.ask("GET", "/v1/status")[0] == 200


def test_unknown_paths_and_methods(daemon):
    assert daemon.ask("GET", "/v2/status")[0] == 404
    assert daemon.ask("GET", "/v1/samples")[0] == 405
    assert daemon.ask("POST", "/v1/predict", {"samples": []}) == (200, {"predictions": []})


def test_turns_come_in_the_order_of_asking():
    turn, order, threads = Turn(), [], []

    def ask(number):
        with turn:
            order.append(number)

    with turn:
        for number in range(5):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            while len(turn._waiting) <= number:
                pass
    for thread in threads:
        thread.join()
    assert order == list(range(5))

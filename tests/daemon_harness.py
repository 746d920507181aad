"""`edgerev serve` as a process of its own, and a small model for it."""

import contextlib
import http.client
import io
import json
import signal
import socket
import subprocess
import sys

import numpy as np

from edgerev import AdamW, Block, Dense, Head, Learner, Net, ReLU

CLASSES = ("left", "right", "rest")
NPZ = {"Content_Type": "application/x-npz"}
CENTRES = 3 * np.eye(3, 4)


def save_model(path, inputs=4, units=8):
    """Write an untrained model of three named classes."""
    net = Net((inputs,), Dense(units), (Block((ReLU(), Dense(units // 2))),), Head(3))
    learner = Learner(net, optimizer=AdamW(1e-2), batch=8, seed=1)
    learner.classes = list(CLASSES)
    learner.save(str(path))


def samples(count, seed=0):
    """Return labelled samples around the classes' centres, as requests have them."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, count)
    x = CENTRES[y] + random.normal(size=(count, 4))
    return [{"x": row.tolist(), "y": CLASSES[label]} for row, label in zip(x, y)]


class Socket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """A running daemon with the model in a folder; `ask` returns status and answer.

    `tables` are added to the configuration as they are; `listen` is a Unix socket unless it is set. `serving` is its
    log's first line.
    """

    def __init__(self, folder, tables="", **settings):
        self.folder = folder
        defaults = {"model": str(folder / "model.edgerev"), "store": str(folder / "edgerev.db")}
        lines = {**defaults, "listen": f"unix:{folder / 'edgerev.sock'}", **settings}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
        (folder / "edgerev.toml").write_text(f"[serve]\n{text}{tables}\n")
        self.start()

    def start(self):
        command = [sys.executable, "-m", "edgerev", "serve", "--config", str(self.folder / "edgerev.toml")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        line = self.process.stderr.readline()
        assert '"serving"' in line, line + self.process.stderr.read()
        self.serving = json.loads(line)
        self.where = self.serving["listen"]

    @property
    def socket(self):
        """Path of the Unix socket."""
        return self.where.removeprefix("unix:")

    @property
    def port(self):
        return int(self.where.rpartition(":")[2])

    def connect(self):
        """Return a connection that is not open yet."""
        if self.where.startswith("unix:"):
            return Socket(self.socket)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def open(self, method, path, body=None, **headers):
        """Return the response, whose body is not read, and its connection; JSON unless a body is bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = self.connect()
        connection.request(method, path, data, {"Content-Type": "application/json", **named})
        return connection.getresponse(), connection

    def ask(self, method, path, body=None, **headers):
        response, connection = self.open(method, path, body, **headers)
        content = response.read()
        connection.close()
        return response.status, json.loads(content) if content else None

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


@contextlib.contextmanager
def another(folder, tables="", **lines):
    """Run a daemon of its own in a folder."""
    save_model(folder / "model.edgerev")
    made = Daemon(folder, tables, **lines)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.end(signal.SIGKILL)


def packed(**arrays):
    """Return an NPZ file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def head(size):
    """Return the headers of a request with a body of `size` bytes."""
    return (
        b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % size
    )


def raw(daemon, data):
    """Send bytes over a TCP connection of their own; return what comes until it ends."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
        sock.sendall(data)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)

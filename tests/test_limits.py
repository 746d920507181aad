"""What slow, greedy and hostile clients of the daemon cannot do."""

import contextlib
import json
import os
import socket
import time

import pytest
from daemon_harness import another, head, raw, samples

from edgerev.daemon.pace import Pace
from edgerev.errors import QueueFullError

pytest.importorskip("waitress", reason="the package waitress is not installed")

SLOW = 0.3  # seconds that the daemon of these tests gives a request


def test_bodies_at_the_limit(daemon):
    padding = b" " * (200_000 - len(b'{"samples": []}'))
    assert daemon.ask("POST", "/v1/predict", b'{"samples": []}' + padding) == (200, {"predictions": []})
    code, answer = daemon.ask("POST", "/v1/predict", b'{"samples": []}' + padding + b" ")
    assert code == 413
    assert "error" in answer


@pytest.mark.parametrize("size", [400_000, 20_000_000])
def test_who_sends_too_much_still_hears_why(daemon, size):
    """The daemon answers before it has read all, and goes on reading for a while so that the answer is not lost."""
    assert raw(daemon, head(size) + b" " * size).startswith(b"HTTP/1.1 413 ")


def test_chunks_are_bounded_too(daemon):
    chunked = head(0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    assert b" 413 " in raw(daemon, chunked + b"186a0\r\n" + b" " * 100_000 + b"\r\n186a0\r\n" + b" " * 100_000)
    assert raw(daemon, chunked + b"xyz\r\n").startswith(b"HTTP/1.1 400 Bad Request")
    good = chunked.replace(b"Transfer", b"Connection: close\r\nTransfer")
    assert b'{"predictions": []}' in raw(daemon, good + b'f\r\n{"samples": []}\r\n0\r\n\r\n')


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", 431), (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400), (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n\r\n", 403),
    ],
)  # fmt: skip
def test_errors_of_the_server_are_json(daemon, request_, code):
    head, _, body = raw(daemon, request_).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == code
    assert b"Content-Type: application/json" in head
    assert json.loads(body).keys() == {"error"}


HEAD = head(1000)


@pytest.mark.parametrize("count", [50, pytest.param(150, marks=pytest.mark.long)])
def test_slow_clients_hold_nobody_up(tmp_path, cache, count):
    """Half of them trickle headers, half bodies; more than may be connected make room for who comes."""
    with another(tmp_path, listen="127.0.0.1:0") as daemon, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port))) for _ in range(count)]
        for number in range(20):
            for place, sock in enumerate(socks):
                with contextlib.suppress(OSError):  # it had to make room
                    sock.sendall(HEAD[number : number + 1] if place % 2 else (HEAD, b" ")[number > 0])
            assert daemon.ask("POST", "/v1/predict", {"samples": [[0, 0, 0, 0]]})[0] == 200


@pytest.mark.parametrize("start", [b"", b"GET / HT", HEAD, HEAD + b"{"])
def test_slow_requests_are_closed(daemon, start):
    """Also if a byte comes now and then."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
        began = time.monotonic()
        sock.sendall(start)
        sock.settimeout(0.05)
        while True:
            with contextlib.suppress(TimeoutError):
                if not sock.recv(100):
                    break
            if start:
                sock.sendall(b" ")
            assert time.monotonic() - began < 20
        assert time.monotonic() - began > SLOW / 2


def test_who_takes_no_answer_is_closed(daemon):
    """A stream whose client reads nothing ends, though there is always more to say."""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        many = json.dumps({"samples": [[0, 0, 0, 0]] * 14_000}).encode()
        sock.sendall(head(len(many)) + many)
        for _ in range(1000):
            if daemon.ask("GET", "/v1/status")[1]["counts"]["predictions"] >= 14_000:
                break
        while True:  # closed, not merely ended: what is sent now is refused
            try:
                sock.sendall(b"x")
            except ConnectionError:
                return
            assert daemon.ask("GET", "/v1/status")[0] == 200


def test_more_bodies_than_may_come_at_once(daemon):
    with contextlib.ExitStack() as stack:
        for number in range(20):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), timeout=30))
            sock.sendall(head(199_999))
            if number >= 8:
                answer = sock.recv(1000)
                assert answer.startswith(b"HTTP/1.1 503")
                assert b"Retry-After: 1" in answer
    daemon.until(lambda status: status["to_learn"] == 0)


def test_samples_per_second(tmp_path, cache):
    with another(tmp_path, "[serve.limits]\nsamples_per_second = 10") as daemon:
        assert daemon.ask("POST", "/v1/samples", {"samples": samples(51)})[0] == 202
        response, connection = daemon.open("POST", "/v1/samples", {"samples": samples(100)})
        assert response.status == 429
        assert int(response.headers["Retry-After"]) == 1
        assert b"asked for room for 100, and there is room for none: 1 too many came before" in response.read()
        connection.close()
        assert daemon.ask("GET", "/v1/status")[1]["counts"]["refused"] == 100


def test_pace():
    pace = Pace(1e-3)
    pace.spend(1000)
    with pytest.raises(QueueFullError) as found:
        pace.spend(1)
    assert 990e3 < found.value.seconds <= 1000e3
    Pace(0).spend(10**9)


def test_a_queue_that_is_nearly_full_says_when_there_will_be_room(tmp_path, cache):
    tables = "[serve.training]\ngeneration_samples = 32\ngeneration_seconds = 0"
    with another(tmp_path, tables, most_samples=64) as daemon:
        daemon.ask("POST", "/v1/samples", {"samples": samples(32)})
        daemon.until(lambda status: status["saved"] == 32)  # learned, and deleted with the generation
        unlabelled = [{"x": one["x"]} for one in samples(60)]
        assert daemon.ask("POST", "/v1/samples", {"samples": unlabelled})[0] == 202
        response, connection = daemon.open("POST", "/v1/samples", {"samples": unlabelled[:1]})
        assert response.status == 429  # 3 places are left, for calls that come together
        assert 1 <= int(response.headers["Retry-After"]) < 60  # known from the pace of training
        connection.close()


def opened(daemon):
    folder = f"/proc/{daemon.process.pid}/fd"
    names = []
    for number in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # a connection that has just ended
            names.append(os.readlink(f"{folder}/{number}"))
    return sorted(names)


def test_bodies_are_never_spilled_to_files(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0", request_bytes=1_000_000) as daemon:
        before = [name for name in opened(daemon) if "socket" not in name]
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
            sock.sendall(head(1_000_000) + b" " * 999_999)
            for _ in range(200):  # in each round of the server, two for a request, 8 kB of it are read
                assert daemon.ask("GET", "/v1/status")[0] == 200
            assert [name for name in opened(daemon) if "socket" not in name] == before
            sock.sendall(b" ")
            assert sock.recv(100).startswith(b"HTTP/1.1 400 ")

"""`edgerev serve` as a process of its own, asked over a Unix socket."""

import json
import signal
import threading

import numpy as np
import pytest
from daemon_harness import Daemon, samples

from edgerev.daemon.turn import Turn

pytest.importorskip("waitress", reason="the package waitress is not installed")
pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def daemon(folder):
    made = Daemon(folder, "[serve.training]\ngeneration_samples = 64")
    yield made
    if made.process.poll() is None:
        made.end(signal.SIGKILL)


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
    assert code == 400
    assert "17 samples at once; expected at most 16" in answer["error"]
    assert daemon.ask("POST", "/v1/samples", {"samples": [{"x": [0, 0, 0, 0]}] * 15})[0] == 202
    response, connection = daemon.open("POST", "/v1/samples", {"samples": [{"x": [0, 0, 0, 0]}] * 1})
    assert (response.status, response.headers["Retry-After"]) == (429, "60")  # nothing has been trained yet
    message = json.loads(response.read())["error"]
    assert "asked for room for 1, and there is room for 0: of serve.most_samples 16, 0 are to be learned" in message
    assert "15 have no label, 0 are learned and not saved yet, and 1 are left for requests that come to" in message
    connection.close()
    daemon.ask("POST", "/v1/control", {"do": "pause"})
    code, answer = daemon.ask("POST", "/v1/samples", {"samples": [{"x": [0, 0, 0, 0]}] * 2})
    assert code == 429
    assert "training and saving make room, but training waits: paused; send them again in 60 s" in answer["error"]
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
        ("labels", {"labels": [{"id": "1", "y": 1}]}, "id, that of a sample"),
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

"""The daemon's standard input: lines of JSON in, lines of JSON out."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from daemon_harness import Daemon, samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerev.daemon.service import Service
from edgerev.daemon.settings import load_settings
from edgerev.daemon.stdin import StandardInput

pytestmark = pytest.mark.usefixtures("cache")


def configure(folder, **settings):
    lines = {"model": str(folder / "model.edgerev"), "store": str(folder / "edgerev.db"), **settings}
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())
    path = folder / "edgerev.toml"
    path.write_text(f'[serve]\nlisten = "unix:{folder / "edgerev.sock"}"\n{text}')
    return path


def piped(folder, text, **settings):
    command = [sys.executable, "-m", "edgerev", "serve", "--stdin", "--config", str(configure(folder, **settings))]
    done = subprocess.run(command, input=text, capture_output=True, timeout=120, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def lines(bodies):
    return "".join(json.dumps(body) + "\n" for body in bodies).encode()


def status(folder):
    """Return the status of the daemon as it is when it starts again."""
    service = Service(load_settings(str(folder / "edgerev.toml")))
    found = service.status()
    service.store.close()
    return found


def test_a_file_is_learned_and_saved_and_the_daemon_ends(folder):
    code, answers, errors = piped(folder, lines(samples(803)).rstrip(b"\n"))
    assert code == 0, errors
    assert answers == [{"id": number} for number in range(1, 804)]
    after = status(folder)
    assert (after["steps"], after["trained"], after["to_learn"]) == (100, 800, 3)


def test_labels_predictions_and_errors_in_order(folder):
    one = samples(1)[0]
    _, answers, _ = piped(
        folder, lines([{"x": one["x"], "key": "a"}, {"x": one["x"], "key": "a"}, {"x": [1]}, one])
        + b'{"x": [NaN]}\n\n{"id": 1, "y": "left"}\n{"id": 1, "y": "left"}\n{"id": 5}\n[]\n'
        + lines([{"predict": one["x"]}, {"predict": [1]}, {"predict": one["x"], "id": 1}]) + b"\xff\n" + b"[" * 9999,
    )  # fmt: skip
    assert [answer.get("id") for answer in answers[:6]] == [1, 1, None, 2, None, 1]
    assert "has 1 values" in answers[2]["error"]
    assert "NaN is no number" in answers[4]["error"]
    assert "no sample waits under id 1" in answers[6]["error"]
    assert "id, that of a sample, and y" in answers[7]["error"]
    assert "with x, id or predict" in answers[8]["error"]
    assert answers[9]["answer"] in ("left", "right", "rest")
    assert "has 1 values" in answers[10]["error"]
    assert "alone" in answers[11]["error"]
    assert all("not JSON" in answer["error"] for answer in answers[12:])
    assert len(answers) == 14


def test_long_lines_are_refused_and_the_next_are_read(folder):
    one = lines(samples(1))
    _, answers, _ = piped(folder, b"7" * 200_000 + b"\n" + one + b"[" * 5000 + b"\n" + one, request_bytes=1000)
    assert ["id" in answer for answer in answers] == [False, True, False, True]
    assert "a line of over 1000 bytes" in answers[0]["error"]


def test_a_full_queue_pushes_back(folder):
    """More lines than may wait go in, for training makes room."""
    path = configure(folder, most_samples=64)
    path.write_text(path.read_text() + "[serve.training]\ngeneration_samples = 8\n")
    command = [sys.executable, "-m", "edgerev", "serve", "--stdin", "--config", str(path)]
    done = subprocess.run(command, input=lines(samples(400)), capture_output=True, timeout=120, check=False)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == list(range(1, 401))
    assert status(folder)["trained"] == 400


def started(folder, *options):
    command = [sys.executable, "-m", "edgerev", "serve", "--config", str(configure(folder)), "--stdin", *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert b"serving" in process.stderr.readline()
    return process


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_acknowledged_is_there_after_a_cut(folder, how):
    process = started(folder)
    process.stdin.write(lines(samples(20)))
    process.stdin.flush()
    for number in range(1, 21):
        assert json.loads(process.stdout.readline()) == {"id": number}
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (0 if how == signal.SIGTERM else -how)
    found = status(folder)
    assert found["trained"] + found["to_learn"] == 20


def test_it_may_stay_after_the_end_of_its_input(folder):
    process = started(folder, "--stay")
    process.stdin.write(lines(samples(8)))
    process.stdin.close()
    assert len(process.stdout.readlines(1)) == 1
    daemon = Daemon.__new__(Daemon)  # asks only
    daemon.where = f"unix:{folder / 'edgerev.sock'}"
    daemon.until(lambda status: status["steps"] == 1)
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    process.stdout.close()
    process.stderr.close()
    assert process.returncode == 0


def test_to_stay_needs_standard_input(folder, cli):
    done = cli("serve", "--config", configure(folder), "--stay")
    assert done.code == 2
    assert "add --stdin" in done.err


def test_a_reader_that_leaves_ends_the_input(folder):
    process = started(folder)
    process.stdout.close()
    process.stdin.write(lines(samples(1)))
    process.stdin.flush()
    assert process.wait(60) == 0
    process.stdin.close()
    process.stderr.close()


@pytest.fixture
def door(folder):
    """Give a function that sends bytes to a door, and returns its answers."""
    service = Service(load_settings(str(configure(folder, request_bytes=5000))))

    def ask(pieces):
        (source, write), (read, target) = os.pipe(), os.pipe()
        made = StandardInput(service, None, source, target)
        made.start()
        writer = threading.Thread(target=_write_all, args=(write, pieces))
        writer.start()
        made._thread.join(60)
        writer.join(60)
        os.close(target)
        with os.fdopen(read, "rb") as file:
            answers = [json.loads(line) for line in file]
        made.stop()
        os.close(source)
        return answers

    yield ask
    service.store.close()


def _write_all(fd, pieces):
    for piece in pieces:
        os.write(fd, piece)
    os.close(fd)


NAMES = ["x", "y", "key", "id", "predict"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30), max_size=8))
def test_each_line_has_one_answer_whatever_it_is(door, found):
    bodies = [line.replace(b"\n", b" ") for line in found]
    text = b"\n".join(bodies)
    answers = door([text[start : start + 7] for start in range(0, len(text), 7)])
    assert len(answers) == sum(bool(body.strip()) for body in bodies)
    assert all(answer.keys() in ({"id"}, {"error"}, {"answer", "probabilities"}) for answer in answers)

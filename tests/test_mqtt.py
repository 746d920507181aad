"""The daemon's MQTT with a real broker: what is acknowledged is learned once, whoever is killed."""

import json
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest
from daemon_harness import Daemon, samples, save_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("paho.mqtt.client", reason="the package paho-mqtt is not installed")
from broker import Broker, Peer, needs_mosquitto

NAMES = ["x", "y", "key", "id", "samples", "labels"]
pytestmark = [pytest.mark.usefixtures("cache"), needs_mosquitto]


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path / "broker")
    yield made
    if made.process.poll() is None:
        made.end()


@pytest.fixture
def serve(folder, broker):
    made = []

    def start(lines="", tables="[serve.training]\ngeneration_samples = 64", **settings):
        text = f'[serve.mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\nclient_id = "daemon"\n{lines}\n{tables}'
        made.append(Daemon(folder, text, **settings))
        return made[-1]

    yield start
    for daemon in made:
        if daemon.process.poll() is None:
            daemon.end(signal.SIGKILL)


@pytest.fixture
def peer(broker):
    made = Peer(broker, "edgerev/#", "homeassistant/#", "answers/#")
    yield made
    made.close()


def online(peer):
    return peer.get("edgerev/availability", lambda body: body == "online")


def test_samples_are_learned(serve, peer):
    daemon = serve()
    online(peer)
    for part in range(10):
        peer.send("edgerev/samples", {"samples": samples(31, part)})
        peer.send("edgerev/samples", samples(1, part)[0])
    daemon.until(lambda status: status["steps"] == 40)


@pytest.mark.long
def test_the_status_follows(serve, peer):
    serve()
    online(peer)
    for part in range(3):
        peer.send("edgerev/samples", {"samples": samples(8, part)})
        peer.get("edgerev/status", lambda body: body["steps"] == part + 1)  # noqa: B023  # called at once


def test_labels_come_later_and_answers_go_where_they_are_wanted(serve, peer):
    daemon = serve()
    online(peer)
    sent = samples(8)
    body = {"samples": [{"x": one["x"]} for one in sent]}
    peer.send("edgerev/samples", body, reply="answers/a", correlation=b"\x00\xff")
    message = peer.get("answers/a")
    assert message.body == {"ids": [1, 2, 3, 4, 5, 6, 7, 8]}
    assert message.correlation == b"\x00\xff"
    peer.send("edgerev/labels", {"labels": [{"id": i, "y": one["y"]} for i, one in enumerate(sent[:7], 1)]})
    peer.send("edgerev/labels", {"id": 8, "y": sent[7]["y"]}, reply="answers/b")
    assert peer.get("answers/b").body == {"unknown": []}
    daemon.until(lambda status: status["steps"] == 1)
    peer.send("edgerev/labels", {"id": 99, "y": 1})
    assert "no sample waits under the ids [99]" in peer.get("edgerev/errors").body["error"]


def test_predictions(serve, peer):
    serve()
    online(peer)
    x = samples(1)[0]["x"]
    peer.send("edgerev/predict", {"x": x, "key": 7})
    found = peer.get("edgerev/predictions").body
    assert found["key"] == 7
    assert found["answer"] in ("left", "right", "rest")
    peer.send("edgerev/predict", {"samples": [x, x]}, reply="answers/p", correlation=b"1")
    message = peer.get("answers/p")
    assert len(message.body["predictions"]) == 2
    assert message.correlation == b"1"


def test_commands(serve, peer):
    daemon = serve()
    online(peer)
    peer.send("edgerev/command", "pause")
    peer.get("edgerev/events", lambda body: body["kind"] == "paused")
    peer.send("edgerev/samples", {"samples": samples(20)}, reply="answers/s")
    peer.get("answers/s")
    assert daemon.ask("GET", "/v1/status")[1]["steps"] == 0
    peer.send("edgerev/command", "resume")
    daemon.until(lambda status: status["steps"] == 2)
    peer.send("edgerev/command", "save", reply="answers/c")
    assert peer.get("answers/c").body == {"done": "save"}
    assert daemon.ask("GET", "/v1/status")[1]["saved"] == 16
    peer.send("edgerev/command", "explode")
    assert "expected one of pause, resume, save, rollback" in peer.get("edgerev/errors").body["error"]


def test_availability_is_kept_by_the_broker(serve, peer, broker):
    daemon = serve()
    online(peer)
    peer.get("edgerev/status")
    late = Peer(broker, "edgerev/#", "homeassistant/#")
    for topic in ("edgerev/availability", "edgerev/status", "homeassistant/device/daemon/config"):
        late.get(topic)
    late.close()
    daemon.end(signal.SIGKILL)
    assert peer.get("edgerev/availability").body == "offline"  # the last will
    daemon.start()
    online(peer)
    assert daemon.end() == 0
    assert peer.get("edgerev/availability").body == "offline"


def test_home_assistant_finds_it(serve, peer):
    serve('name = "Kitchen"')
    found = peer.get("homeassistant/device/daemon/config").body
    assert found["device"]["name"] == "Kitchen"
    assert found["origin"]["name"] == "edgerev"
    assert found["availability"] == [{"topic": "edgerev/availability"}]
    parts = found["components"]
    assert {part["platform"] for part in parts.values()} == {"sensor", "binary_sensor", "button"}
    assert len({part["unique_id"] for part in parts.values()}) == len(parts)
    status = peer.get("edgerev/status").body
    for key, part in parts.items():
        if part["platform"] == "sensor":
            assert part["value_template"] == f"{{{{ value_json.{key} }}}}"
            assert key in status
        if part["platform"] == "button":
            assert (part["command_topic"], part["payload_press"]) == ("edgerev/command", key)


@pytest.mark.long
def test_discovery_may_be_off(serve, peer):
    daemon = serve('discovery = ""\ntopic = "edgerev/attic"')
    peer.get("edgerev/attic/availability")
    daemon.end()
    peer.get("edgerev/attic/availability")
    assert all(one.topic.startswith("edgerev/attic") for one in peer.kept)


# -- what goes wrong -----------------------------------------------------------------------------------------------


def taken(status):
    """Return how many samples were taken in: those that are gone since they are in a generation, and the others."""
    return status["trained"] + status["to_learn"] + status["unlabelled"]


def test_what_came_while_the_daemon_was_away_is_learned(serve, peer):
    daemon = serve()
    online(peer)
    for how, expected in ((signal.SIGTERM, 800), (signal.SIGKILL, 1600)):
        daemon.end(how)
        peer.get("edgerev/availability", lambda body: body == "offline")
        for part in range(100):
            peer.send("edgerev/samples", {"samples": samples(8, part)})
        peer.send("edgerev/command", "pause")  # is not kept for it
        daemon.start()
        online(peer)
        daemon.until(lambda status: status["trained"] == expected)  # noqa: B023  # called at once


@pytest.mark.long
def test_the_broker_is_not_there_and_comes_and_goes(serve, peer, broker):
    broker.end()
    daemon = serve()
    assert daemon.ask("POST", "/v1/samples", {"samples": samples(8)})[0] == 202
    daemon.until(lambda status: status["steps"] == 1)
    for turn in range(2, 4):
        broker.start()
        online(peer)
        peer.send("edgerev/samples", {"samples": samples(8)}, reply="answers/s")
        peer.get("answers/s")
        daemon.until(lambda status: status["steps"] == turn)  # noqa: B023  # called at once
        broker.end()


@pytest.mark.parametrize("turns", [2, pytest.param(20, marks=pytest.mark.long)])
def test_nothing_is_lost_or_learned_twice_whoever_ends(serve, peer, broker, turns):
    """Samples with keys go in while the daemon is killed and the broker ends, in turn."""
    daemon, sent = serve(), 0
    online(peer)
    for turn in range(turns):
        infos = []
        for _ in range(40):
            body = {"samples": [{**one, "key": f"{sent}-{i}"} for i, one in enumerate(samples(4, sent))]}
            infos.append(peer.client.publish("edgerev/samples", json.dumps(body), qos=1))
            sent += 1
        if turn % 2:
            broker.end()
            broker.start()
        else:
            daemon.end(signal.SIGKILL)
            daemon.start()
        for info in infos:
            info.wait_for_publish(60)
    status = daemon.until(lambda status: status["trained"] >= 4 * sent)
    assert (status["trained"], taken(status)) == (4 * sent, 4 * sent)


@pytest.mark.long
def test_a_killed_broker_repeats_what_it_remembers(serve, peer, broker):
    """It comes back with an older state, in which messages that were acknowledged still wait; keys tell them."""
    daemon = serve()
    online(peer)
    daemon.end()
    for part in range(10):
        peer.send("edgerev/samples", {**samples(1, part)[0], "key": str(part)})
    broker.save()
    daemon.start()
    daemon.until(lambda status: taken(status) == 10)
    broker.end(signal.SIGKILL)
    broker.start()
    online(peer)
    peer.send("edgerev/samples", samples(1)[0], reply="answers/s")
    assert peer.get("answers/s").body == {"ids": [11]}


@pytest.mark.long
def notes_kept(folder):
    """Return how many notes a copy of the store has: nobody else may open it."""
    for name in ("edgerev.db", "edgerev.db-wal"):
        shutil.copy(folder / name, folder / f"copy-{name}")
    with closing(sqlite3.connect(folder / "copy-edgerev.db")) as store:
        return store.execute("SELECT count(*) FROM notes").fetchone()[0]


def test_a_new_session_counts_anew(serve, peer, broker):
    """A broker that lost its memory gives numbers again; equal samples under equal numbers are others all the same."""
    daemon = serve()
    online(peer)

    def send():
        for _ in range(3):
            peer.send("edgerev/samples", {"x": [1, 2, 3, 4], "y": 0})

    send()
    daemon.until(lambda status: taken(status) == 3)
    broker.end()
    (broker.folder / "mosquitto.db").unlink()
    broker.start()
    online(peer)
    daemon.until(lambda _: notes_kept(daemon.folder) == 0)
    daemon.process.send_signal(signal.SIGSTOP)
    send()  # to a daemon that does not take them
    daemon.end(signal.SIGKILL)
    daemon.start()
    daemon.until(lambda status: taken(status) == 6)


@pytest.mark.parametrize("kills", [1, pytest.param(30, marks=pytest.mark.long)])
def test_a_redelivered_message_is_recognised_without_keys(serve, peer, kills):
    """The daemon is killed again and again while samples without keys come; the broker repeats what is not sure."""
    daemon, sent = serve(), 0
    online(peer)
    for _ in range(kills):
        infos = [peer.client.publish("edgerev/samples", json.dumps(samples(1, sent + i)[0]), qos=1) for i in range(50)]
        sent += 50
        daemon.until(lambda status: taken(status) > sent - 50)  # noqa: B023  # called at once
        daemon.end(signal.SIGKILL)
        for info in infos:
            info.wait_for_publish(60)
        daemon.start()
    peer.send("edgerev/samples", samples(1)[0], reply="answers/last")
    assert peer.get("answers/last").body == {"ids": [sent + 1]}


def test_a_full_queue_pushes_back(serve, peer):
    daemon = serve(tables="[serve.training]\ngeneration_samples = 8", most_samples=64)
    online(peer)
    peer.send("edgerev/command", "pause", reply="answers/c")
    peer.get("answers/c")
    for part in range(100):
        peer.send("edgerev/samples", {"samples": samples(8, part)})
    peer.get("edgerev/events", lambda body: body["kind"] == "door_waits")
    status = daemon.ask("GET", "/v1/status")[1]
    assert (status["to_learn"], status["steps"]) == (56, 0)  # a little is left for calls that come together
    peer.send("edgerev/command", "resume")  # is not held back behind the samples
    daemon.until(lambda status: status["trained"] == 800)
    peer.get("edgerev/events", lambda body: body["kind"] == "door_goes_on")


@pytest.mark.parametrize(
    ("topic", "body", "reason"),
    [
        ("samples", b"{", "not JSON"), ("samples", b"\xff\x00", "not JSON"), ("samples", b"", "not JSON"),
        ("samples", {"samples": 3}, "one list, samples"), ("samples", [], "expected an object"),
        ("samples", {"x": [1]}, "has 1 values"), ("samples", {"x": [0] * 4, "key": "\ud800"}, "is no text"),
        ("samples", {"samples": [{"x": [0] * 4}] * 6000}, "divide it"),
        ("labels", {"id": 2**80, "y": 1}, "that of a sample"),
        ("labels", {"id": 1, "y": "up"}, "label 'up'"), ("predict", {"x": [1, 2]}, "has 2 values"),
        ("predict", b"[" * 100_000, "not JSON"), ("predict", {"y": 1}, "expected an object with x"),
        ("command", b"\xff", "expected one of"),
    ],
)  # fmt: skip
def test_bad_messages_are_told_and_the_next_are_taken(running, topic, body, reason):
    _, peer = running
    peer.send(f"edgerev/{topic}", body, reply="answers/bad")
    assert reason in peer.get("edgerev/errors", lambda body: body["topic"] == f"edgerev/{topic}").body["error"]
    assert reason in peer.get("answers/bad").body["error"]
    peer.send("edgerev/samples", samples(1)[0], reply="answers/good")
    assert "ids" in peer.get("answers/good").body


@pytest.fixture(scope="module")
def running(tmp_path_factory, _cache_folder):
    """One daemon and one broker for tests that leave both as they were."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(_cache_folder))
        path = tmp_path_factory.mktemp("running")
        save_model(path / "model.edgerev")
        broker = Broker(path / "broker")
        peer = Peer(broker, "edgerev/#", "answers/#")
        daemon = Daemon(path, f'[serve.mqtt]\nhost = "127.0.0.1"\nport = {broker.port}')
        online(peer)
        yield daemon, peer
        daemon.end()
        peer.close()
        broker.end()


messages = st.binary(max_size=40) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner), max_leaves=6,
).map(lambda value: json.dumps(value).encode())  # fmt: skip


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(topic=st.sampled_from(["samples", "labels", "predict"]), body=messages)
def test_any_message_has_one_answer(running, topic, body):
    _, peer = running
    peer.send(f"edgerev/{topic}", body, reply="answers/any")
    assert peer.get("answers/any").body.keys() & {"ids", "unknown", "error", "answer", "predictions"}


def test_a_huge_message_stays_at_the_broker(running):
    daemon, peer = running
    before = peak(daemon)
    peer.send("edgerev/samples", b" " * (1 << 25))
    peer.send("edgerev/samples", samples(1)[0], reply="answers/good")
    assert "ids" in peer.get("answers/good").body
    assert peak(daemon) < before + (1 << 13)


def peak(daemon):
    """Return the most memory that the daemon had, in KiB."""
    with open(f"/proc/{daemon.process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

"""`edgerev ctl` and a running daemon."""

import json
import socket
import threading

import pytest
from daemon_harness import samples
from test_serve import daemon  # noqa: F401  # a fixture

from edgerev import Learner

pytest.importorskip("waitress", reason="the package waitress is not installed")


def config(daemon):  # noqa: F811
    return str(daemon.folder / "edgerev.toml")


def test_status(daemon, cli):  # noqa: F811
    daemon.ask("POST", "/v1/samples", {"samples": samples(8)})
    daemon.until(lambda status: status["steps"] == 1)
    shown = cli("ctl", "status", "--config", config(daemon))
    assert shown.code == 0
    lines = dict(line.split(maxsplit=1) for line in shown.out.splitlines())
    assert lines["steps"] == "1"
    assert lines["waits_for"] == "-"
    assert lines["rss_bytes"].endswith("MiB)")
    status = json.loads(cli("ctl", "status", "--config", config(daemon), "--json").out)
    assert status["steps"] == 1
    assert status["rss_bytes"] <= status["peak_rss_bytes"]


def test_training_waits_and_goes_on(daemon, cli):  # noqa: F811
    assert cli("ctl", "pause", "--config", config(daemon)).code == 0
    daemon.until(lambda status: status["waits_for"] == "paused")
    daemon.ask("POST", "/v1/samples", {"samples": samples(16)})
    assert daemon.ask("GET", "/v1/status")[1]["steps"] == 0
    assert cli("ctl", "resume", "--config", config(daemon)).code == 0
    assert daemon.until(lambda status: status["steps"] == 2)["saved"] == 0
    shown = cli("ctl", "save", "--config", config(daemon), "--json")
    assert json.loads(shown.out)["saved"] == 16


def test_an_export_is_the_model_as_it_is(daemon, cli):  # noqa: F811
    daemon.ask("POST", "/v1/samples", {"samples": samples(40)})
    daemon.until(lambda status: status["steps"] == 5)
    path = daemon.folder / "exported.edgerev"
    assert cli("ctl", "export", "--config", config(daemon), path).code == 0
    learner, asked = Learner.load(str(path)), [one["x"] for one in samples(5, 3)]
    assert learner.steps == 5
    assert learner.classes == ["left", "right", "rest"]
    answers = daemon.ask("POST", "/v1/predict", {"samples": asked})[1]["predictions"]
    assert [answer["probabilities"] for answer in answers] == [learner.predict_proba_one(x) for x in asked]
    before = path.read_bytes()
    again = cli("ctl", "export", "--config", config(daemon), path)
    assert again.code == 2
    assert "add --force to replace it" in again.err
    assert cli("ctl", "export", "--config", config(daemon), path, "--force").code == 0
    assert path.read_bytes() == before


def test_what_the_daemon_refuses(daemon, cli):  # noqa: F811
    config_ = daemon.folder / "edgerev.toml"
    code, answer = daemon.ask("POST", "/v1/control", {"do": "fly"})
    assert code == 400
    assert "expected an object with do, one of pause, resume" in answer["error"]
    config_.write_text(config_.read_text().replace("[serve.training]", 'token_file = "gone"\n[serve.training]'))
    shown = cli("ctl", "status", "--config", config_)
    assert shown.code == 1
    assert "gone: No such file or directory; expected the daemon's token" in shown.err


def test_without_a_daemon(tmp_path, cli):
    path = tmp_path / "edgerev.toml"
    path.write_text(f'[serve]\nmodel = "m"\nlisten = "unix:{tmp_path}/no.sock"\n')
    shown = cli("ctl", "pause", "--config", path)
    assert shown.code == 1
    assert "no daemon answers on unix:" in shown.err
    assert "start it: edgerev serve" in shown.err
    assert cli("ctl", "status", "--config", tmp_path / "no.toml").code == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "no daemon answers on 127.0.0.1"), (b"", "no daemon answers on 127.0.0.1"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\nnever", "refuses, with 403: never"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", "was cut off"),
    ],
)  # fmt: skip
def test_others_that_answer(tmp_path, cli, answer, message):
    with socket.create_server(("127.0.0.1", 0)) as other:
        path = tmp_path / "edgerev.toml"
        path.write_text(f'[serve]\nmodel = "m"\nlisten = "127.0.0.1:{other.getsockname()[1]}"\n')

        def say():
            client, _ = other.accept()
            client.recv(10_000)
            client.sendall(answer)
            client.close()

        thread = threading.Thread(target=say)
        thread.start()
        shown = cli("ctl", "status", "--config", path)
        thread.join()
    assert shown.code == 1
    assert message in shown.err
    assert shown.out == ""

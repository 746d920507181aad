"""`edgerev ctl` and a running daemon."""

import json
import re
import socket
import threading

import pytest
from daemon_harness import samples
from test_serve import daemon  # noqa: F401  # a fixture

from edgerev import Learner
from edgerev.cli.told import ago, lines, outcome, span
from edgerev.errors import DaemonError

pytest.importorskip("waitress", reason="the package waitress is not installed")


def config(daemon):  # noqa: F811
    return str(daemon.folder / "edgerev.toml")


def test_status(daemon, cli):  # noqa: F811
    daemon.ask("POST", "/v1/samples", {"samples": samples(8)})
    daemon.until(lambda status: status["steps"] == 1)
    shown = cli("ctl", "status", "--config", config(daemon))
    assert shown.code == 0
    told = dict(re.split("  +", line[2:]) for line in shown.out.splitlines() if line.startswith("  "))
    assert told["steps"] == "1"
    assert told["to learn"] == "0"
    assert told["not saved yet"] == "8, learned since the last generation"
    assert told["process"].endswith(" MiB")
    status = json.loads(cli("ctl", "status", "--config", config(daemon), "--json").out)
    assert status["steps"] == 1
    assert status["rss_bytes"] <= status["peak_rss_bytes"]


def test_what_was_done_is_a_line(daemon, cli):  # noqa: F811
    def said(action):
        shown = cli("ctl", action, "--config", config(daemon))
        assert (shown.code, shown.err) == (0, "")
        assert shown.out.count("\n") == 1
        return shown.out

    assert said("save") == "nothing to write: generation 1 has all that was learned\n"
    assert said("pause").endswith("edgerev ctl resume lets training go on; still to learn: 0\n")
    daemon.ask("POST", "/v1/samples", {"samples": samples(41)})
    assert said("pause").endswith("still to learn: 41\n")
    assert said("resume").startswith("resumed: training goes on; still to learn: ")
    daemon.until(lambda status: status["trained"] == 40)
    assert said("save") == "generation 2 written, 40 samples learned since the last\n"
    assert said("rollback").startswith("went back to the accepted model, which is generation 3 now")
    assert daemon.ask("GET", "/v1/status")[1]["rollbacks"] == 1


def test_the_status_in_words():
    status = {
        "model": "m.edgerev", "version": "1", "uptime_seconds": 11_550, "problem": "", "store_problem": "full",
        "problems": ["generation 3 cannot be used"], "waits_for": "paused", "to_learn": 1234, "unlabelled": 5,
        "batch": 16, "unsaved": 678, "most_samples": 10_000,
        "steps": 12_345, "trained": 98_765, "generation": 12, "saved": 98_087,
        "latest": [1000.0, 98_765, 0.25, 0.969, 0.9], "answers": [[4590.5, "left", 0.5]], "usual_accuracy": None,
        "drifts": 0, "rollbacks": 0, "refused_batches": 0, "memory_limit": 64 << 20, "guard_bytes": 0,
        "arena_bytes": 2_500_000, "rss_bytes": 28_000_000, "peak_rss_bytes": 29_000_000, "commits": 1000, "syncs": 2000,
        "written_bytes": 5 << 30, "celsius": 54.25, "counts": {"accepted": 100_000}, "events": {"drift": 2},
    }
    found = list(lines(status, now=4600.0))
    assert found[:4] == [
        "m.edgerev, edgerev 1, running for 3 h 12 min", "training waits: paused", "problem: full",
        "problem: generation 3 cannot be used",
    ]
    short = {**status, "waits_for": "", "samples_per_second": 0, "to_learn": 6}
    assert list(lines(short))[1] == "idle; waiting for 10 more samples, for 16 are learned at once"
    told = dict(re.split("  +", line[2:]) for line in found if line.startswith("  "))
    assert told == {
        "to learn": "1,234", "without label": "5", "not saved yet": "678, learned since the last generation",
        "in the store": "1,917 of 10,000", "steps": "12,345", "trained": "98,765 samples in all",
        "generation": "12, of 98,087 samples", "accuracy": "96.9%; the accepted model: 90.0%", "loss": "0.250",
        "measured": "1 h ago", "last answer": "left, 50.0% sure, 9 s ago", "usual accuracy": "not known yet",
        "drifts": "0", "rollbacks": "0", "batches left out": "0", "arena": "2.4 MiB", "process": "26.7 MiB of 64.0 MiB",
        "at most": "27.7 MiB", "commits": "1,000", "syncs": "2,000", "written": "5.0 GiB", "temperature": "54.2 C",
        "accepted": "100,000", "drift": "2",
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (90_000, "1 d 1 h")]
)
def test_spans(seconds, text):
    assert span(seconds) == text
    assert ago(seconds) == ("just now" if seconds < 1 else " ".join(text.split()[:2]) + " ago")


def test_nothing_to_go_back_to():
    status = {"rollbacks": 0, "problems": ["there is no model to go back to yet"]}
    with pytest.raises(DaemonError, match="did not go back: there is no model to go back to yet; expected"):
        outcome("rollback", status, status)


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

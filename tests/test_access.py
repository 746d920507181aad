"""Who may ask the daemon: tokens, hosts, origins."""

import socket
import stat

import pytest
from daemon_harness import another

from edgerev.daemon.access import Access, load_token
from edgerev.daemon.events import Events
from edgerev.errors import ConfigError

pytest.importorskip("waitress", reason="the package waitress is not installed")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "localhost:x", "", "[::2]", "127.0.0.2"])
def test_other_hosts_are_refused(daemon, host):
    code, answer = daemon.ask("GET", "/v1/status", Host=host)
    assert code == 403
    assert "expected localhost" in answer["error"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9000", "[::1]:1"])
def test_names_of_this_machine(daemon, host):
    assert daemon.ask("GET", "/v1/status", Host=host)[0] == 200


def test_pages_of_other_origins_are_refused(daemon):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"http://localhost:{daemon.port}"):
        assert daemon.ask("POST", "/v1/control", {"do": "resume"}, Origin=origin)[0] == 403
    assert daemon.ask("POST", "/v1/control", {"do": "resume"}, Origin=f"http://127.0.0.1:{daemon.port}")[0] == 200
    assert daemon.ask("GET", "/v1/status", Sec_Fetch_Site="cross-site")[0] == 403
    assert daemon.ask("GET", "/v1/status", Sec_Fetch_Site="same-origin")[0] == 200
    response, connection = daemon.open("GET", "/", Sec_Fetch_Site="cross-site")  # a link to the page
    assert response.status == 200
    connection.close()


def test_token(tmp_path, cache):
    path = tmp_path / "token"
    with another(tmp_path, listen="0.0.0.0:0", token_file=str(path)) as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        token = path.read_text().strip()
        assert len(token) == 43
        response, connection = daemon.open("GET", "/v1/status", Host="device.example")
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, 'Bearer realm="edgerev"')
        connection.close()
        for wrong in (f"Bearer {token}x", f"Bearer {token[:-1]}", token, f"Basic {token}", "Bearer ", "Bearer \xe9"):
            assert daemon.ask("GET", "/v1/status", Authorization=wrong)[0] == 401
        right = {"Authorization": f"Bearer {token}"}
        code, status = daemon.ask("GET", "/v1/status", Host="device.example", **right)
        assert code == 200
        assert status["events"] == {"serving": 1, "denied": 1}  # told once a minute, counted each time
        response, connection = daemon.open("GET", "/metrics", **right)
        assert 'edgerev_denied_requests_total{reason="token"} 7' in response.read().decode()
        connection.close()
        response, connection = daemon.open("GET", "/", Host="device.example")  # the page asks for the token
        assert response.status == 200
        connection.close()
        daemon.end()
        daemon.start()
        assert daemon.ask("GET", "/v1/status", **right)[0] == 200


def test_a_body_without_the_token_is_not_read(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0", token_file=str(tmp_path / "token")) as daemon:
        head = b"POST /v1/samples HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n"
        with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as sock:
            sock.sendall(head)
            assert sock.recv(100).startswith(b"HTTP/1.1 401 Unauthorized")


def test_files_that_hold_no_token(tmp_path):
    path = tmp_path / "token"
    bad = (("a" * 32, 0o644, "mode 644"), ("short", 0o600, "holds no token"), ("", 0o600, "no token"))
    for content, mode, message in bad:
        path.write_text(content)
        path.chmod(mode)
        with pytest.raises(ConfigError, match=message):
            load_token(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        load_token(str(tmp_path / "nowhere" / "token"))
    path.write_text("a" * 16 + "\n")
    assert load_token(str(path)) == "a" * 16
    assert [*tmp_path.iterdir()] == [path]


def test_wrong_tokens_fill_no_log():
    events = Events()
    access = Access("right", events)
    for _ in range(1000):
        assert access.refusal("/v1/status", {"AUTHORIZATION": "Bearer wrong"}, "10.0.0.1").code == 401
    told = [event.facts["message"] for event in events.recent]
    assert told == ["1 request without the right token, the last from 10.0.0.1"]
    assert access.denied.to_dict()["token"] == 1000

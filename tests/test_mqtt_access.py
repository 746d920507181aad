"""Who a broker lets in, and which broker the daemon trusts: TLS and passwords, with a real broker."""

import subprocess

import pytest

pytest.importorskip("paho.mqtt.client", reason="the package paho-mqtt is not installed")
from broker import Broker, needs_mosquitto

from edgerev.daemon.mqtt import Mqtt
from edgerev.daemon.service import Service
from edgerev.daemon.settings import MqttTable, load_settings
from edgerev.errors import UsageError

pytestmark = [pytest.mark.usefixtures("cache"), needs_mosquitto]


@pytest.fixture
def told(folder):
    """Give a function that connects a door in this process, and returns what it tells of that."""
    (folder / "edgerev.toml").write_text(f'[serve]\nmodel = "{folder}/model.edgerev"\nstore = "{folder}/edgerev.db"\n')
    service = Service(load_settings(str(folder / "edgerev.toml")))
    listener = service.events.listen()

    def connect(broker, **settings):
        door = Mqtt(service, MqttTable("127.0.0.1", broker.port, **settings))
        door.start()
        event = listener.get(60)
        door.stop()
        return event.kind, event.facts.get("message", "")

    yield connect
    service.store.close()


def certificates(folder, name):
    """Make an authority and a certificate of 127.0.0.1 that it vouches for."""
    folder.mkdir(exist_ok=True)
    ca, key, request, cert = (str(folder / f"{name}{end}") for end in (".ca", ".key", ".csr", ".pem"))
    made = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for command in (
        [*made, "-x509", "-keyout", f"{ca}.key", "-out", ca, "-days", "3650", "-subj", f"/CN={name}"],
        [*made, "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", f"{ca}.key", "-CAcreateserial", "-out", cert,
         "-days", "3650", "-copy_extensions", "copy"],
    ):  # fmt: skip
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return ca, cert, key


def test_tls(told, tmp_path):
    ca, cert, key = certificates(tmp_path / "tls", "right")
    wrong, _, _ = certificates(tmp_path / "tls", "wrong")
    broker = Broker(tmp_path / "encrypted", f"cafile {ca}", f"certfile {cert}", f"keyfile {key}")
    kind, message = told(broker, tls=True, ca_file=wrong)
    assert kind == "mqtt_lost"
    assert "CERTIFICATE_VERIFY_FAILED" in message
    assert "expected a certificate that ca_file vouches for" in message
    assert told(broker, tls=True)[0] == "mqtt_lost"  # no authority of the system vouches for it
    assert told(broker)[0] == "mqtt_lost"  # without encryption
    assert told(broker, tls=True, ca_file=ca) == ("mqtt_connected", "")
    broker.end()


@pytest.mark.long
def test_a_certificate_for_the_client(told, tmp_path):
    ca, cert, key = certificates(tmp_path / "tls", "right")
    lines = (f"cafile {ca}", f"certfile {cert}", f"keyfile {key}", "require_certificate true")
    broker = Broker(tmp_path / "encrypted", *lines)
    assert told(broker, tls=True, ca_file=ca)[0] == "mqtt_lost"
    assert told(broker, tls=True, ca_file=ca, cert_file=cert, key_file=key) == ("mqtt_connected", "")
    broker.end()


def test_passwords(told, tmp_path):
    users, secret = tmp_path / "users", tmp_path / "secret"
    users.touch(0o600)
    subprocess.run(["mosquitto_passwd", "-b", users, "edge", "open sesame"], check=True)
    broker = Broker(tmp_path / "guarded", f"password_file {users}")
    secret.write_text("open sesame\n")
    secret.chmod(0o640)
    with pytest.raises(UsageError, match="has mode 640; expected 600"):
        told(broker, username="edge", password_file=str(secret))
    secret.chmod(0o600)
    assert told(broker, username="edge", password_file=str(secret)) == ("mqtt_connected", "")
    secret.write_text("guess")
    kind, message = told(broker, username="edge", password_file=str(secret))
    assert kind == "mqtt_lost"
    assert "the broker refuses: Not authorized" in message
    broker.end()


def test_files_that_cannot_be_used(told, tmp_path):
    broker = Broker(tmp_path / "broker")
    with pytest.raises(UsageError, match=r"password_file .* cannot be read"):
        told(broker, password_file=str(tmp_path / "none"))
    with pytest.raises(UsageError, match="expected certificates and a key in PEM"):
        told(broker, tls=True, ca_file=str(tmp_path / "none"))
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="expected certificates and a key in PEM"):
        told(broker, tls=True, ca_file=str(tmp_path / "empty"))
    broker.end()

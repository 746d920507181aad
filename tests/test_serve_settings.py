"""The configuration of the daemon: all errors at once, each with its path."""

import pytest

from edgerev.daemon.settings import GuardTable, LimitsTable, ServeSettings, TrainingTable, load_settings
from edgerev.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "edgerev.toml"
        path.write_text(text)
        return load_settings(str(path))

    return load


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected a table \[serve\]"), ("[serve]", "serve.model: missing"), ("[serve", "not valid TOML"),
        ("serve = 3", "serve 3: expected a table"), ("[serve]\nmodel = 'x'\nguard = 3", "serve.guard 3: expected a"),
        ("[serve]\nmodel = 'x'\nlisten_ = 'y'", "serve.listen_: unknown key; did you mean 'listen'"),
        ("[serve]\nmodel = 'x'\nlisten = '0.0.0.0:80'", "others can reach it; expected a token"),
        ("[serve]\nmodel = 'x'\nlisten = 'somewhere'", "expected host:port"),
        ("[serve]\nmodel = 'x'\nlisten = 'unix:'", "expected host:port or unix:PATH"),
        ("[serve]\nmodel = 'x'\nrequest_seconds = 0", "serve.request_seconds 0: expected a finite number"),
        ("[serve]\nmodel = 3", "expected a text such as 'model.edgerev'"),
        ("[serve]\nmodel = 'x'\nmost_samples = 9", "at most half of most_samples, 9"),
        ("[serve]\nmodel = 'x'\n[serve.training]\nhours = '24:00-25:00'", "serve.training.hours '24:00-25:00'"),
        ("[serve]\nmodel = 'x'\n[serve.training]\nunlabelled = 'keep'", "expected one of delete, pseudo"),
        ("[serve]\nmodel = 'x'\n[serve.training]\nafter_drift = 1", "expected true or false"),
        ("[serve]\nmodel = 'x'\n[serve.mqtt]", "serve.mqtt.host: missing"),
        ("[serve]\nmodel = 'x'\n[serve.mqtt]\nhost = 'b'\ntopic = 'a/#'", "serve.mqtt.topic 'a/#': expected a text"),
        ("[serve]\nmodel = 'x'\n[serve.mqtt]\nhost = 'b'\npassword = 'p'", "serve.mqtt.password: unknown key"),
        ("[serve]\nmodel = 'x'\n[serve.mqtt]\nhost = 'b'\nca_file = 'c'", "serve.mqtt.tls false: expected true"),
        ("[serve]\nmodel = 'x'\n[serve.mqtt]\nhost = 'b'\ntls = true\nkey_file = 'c'", "expected both or none"),
        ("[serve]\nmodel = 'x'\n[serve.mqtt]\nhost = 'b'\nclient_id = 'a b'", "serve.mqtt.client_id 'a b'"),
        ("[serve]\nmodel = 'x'\n[serve.folder]", "serve.folder.path: missing"),
        ("[serve]\nmodel = 'x'\n[serve.folder]\npath = 'p'\ntaken = 'keep'", "expected one of move, delete"),
        ("[serve]\nmodel = 'x'\n[serve.limits]\nmemory = '5 parsecs'", "serve.limits.memory: .*not a size"),
    ],
)  # fmt: skip
def test_bad_settings(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_all_errors_at_once(load):
    with pytest.raises(ConfigError) as found:
        load("[serve]\nmodell = 'x'\nthreads = 0\n[serve.guard]\nwindow = 0\nwindo = 1")
    lines = str(found.value).split("\n")
    assert "5 errors" in lines[0]
    paths = [line.split()[0].rstrip(":") for line in lines[1:]]
    assert paths == ["serve.guard.windo", "serve.guard.window", "serve.model", "serve.modell", "serve.threads"]


def test_settings(load):
    found = load(
        '[serve]\nmodel = "m"\nthreads = 2\n[serve.training]\nhours = "22:00-06:00"\n[serve.guard]\non = false\n'
        '[serve.limits]\nmemory = "64MiB"\n'
    )
    assert found == ServeSettings(
        "m", threads=2, training=TrainingTable(hours="22:00-06:00"), guard=GuardTable(on=False),
        limits=LimitsTable(memory=64 << 20),
    )  # fmt: skip

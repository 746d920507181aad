"""The configuration of the daemon: all errors at once, each with its path."""

import re
import typing
from pathlib import Path

import pytest

from edgerev.daemon.settings import GuardTable, LimitsTable, ServeSettings, Table, TrainingTable, load_settings
from edgerev.errors import ConfigError
from edgerev.toml import tomllib


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


# -- the documentation ---------------------------------------------------------------------------------------------

DOCS = (Path(__file__).parents[1] / "docs" / "daemon.md").read_text(encoding="utf-8")


def tables(cls=ServeSettings, path="serve"):
    """Yield (path, class) of a table and of those within it."""
    yield path, cls
    for name, hint in typing.get_type_hints(cls).items():
        for inner in (hint, *typing.get_args(hint)):
            if isinstance(inner, type) and issubclass(inner, Table):
                yield from tables(inner, f"{path}.{name}")


@pytest.mark.parametrize(("path", "cls"), list(tables()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_key_is_documented_with_its_default(path, cls):
    found = re.search(rf"^\| key of `\[{re.escape(path)}\]` \|.*\n(?:\|.*\n)+", DOCS, flags=re.M)
    assert found, f"docs/daemon.md has no table of [{path}]"
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) ?\|", found[0], flags=re.M))
    inner = {name for name, hint in typing.get_type_hints(cls).items() if "Table" in str(hint)}
    assert set(rows) == set(cls._fields) - inner
    for name, text in rows.items():
        written = text.strip("` ")
        default = cls._field_defaults.get(name, "")
        assert (tomllib.loads(f"x = {written}")["x"] if written else "") == default, f"{path}.{name}"

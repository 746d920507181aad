"""The configuration of `edgerev serve`: the table ``[serve]`` of a TOML file and the tables in it.

Checked by hand rather than by pydantic, which the configuration of training uses: that would take a third of the memory
of a daemon that waits. All errors are told at once, each with its path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

from edgerev.errors import ConfigError, UsageError
from edgerev.numbers import FLOAT32_MAX, INT32_MAX, TINY, finite32, whole
from edgerev.toml import read_toml
from edgerev.units import parse_bytes
from edgerev.value import Value

Check = Callable[[str, Any], Any]  # takes a path and a value, returns what is kept; raises ConfigError
_TOPIC = r"[^/+#\0]([^+#\0]*[^/+#\0])?"  # of MQTT, without wildcards
LOCAL = ("unix", "127.0.0.1", "localhost", "[::1]")


def _count(low: int, high: int = INT32_MAX) -> Check:
    return lambda path, value: whole(path, value, low, high, ConfigError)


def _number(low: float, high: float = FLOAT32_MAX) -> Check:
    return lambda path, value: finite32(path, value, low, high, ConfigError)


def _one_of(*words: str) -> Check:
    def check(path: str, value: Any) -> str:
        if value not in words:
            raise ConfigError(f"{path} {value!r}: expected one of {', '.join(words)}; change it")
        return value

    return check


def _text(example: str, pattern: str = "(?s).*") -> Check:
    def check(path: str, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ConfigError(f"{path} {value!r}: expected a text such as {example!r}; change it")
        return value

    return check


def _switch(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{path} {value!r}: expected true or false; change it")
    return value


def _bytes(path: str, value: Any) -> int:
    """Check a number of bytes, also as text; 0 stands for no limit."""
    try:
        size = parse_bytes(value) if isinstance(value, str) else value
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from error
    return whole(path, size, 0, 2**63 - 1, ConfigError)


def _table(cls: type[Table]) -> Check:
    def check(path: str, value: Any) -> Any:
        return value if isinstance(value, cls) or value is None else read_table(cls, value, path)

    return check


class Table(Value):
    """A table of the configuration; `checks` has the check of each field.

    Raises
    ------
    ConfigError
        The message has a line for each error.
    """

    checks: ClassVar[Mapping[str, Check]] = {}

    def __post_init__(self) -> None:
        problems: list[str] = []
        for name, check in self.checks.items():
            try:
                object.__setattr__(self, name, check(name, getattr(self, name)))
            except ConfigError as error:
                problems += str(error).split("\n")
        if not problems:
            problems = self.across()
        if problems:
            raise ConfigError("\n".join(problems))

    def across(self) -> list[str]:
        """Return what fields say against each other."""
        return []


def read_table(cls: type[Table], data: Any, path: str) -> Any:
    """Return the table that TOML data describe; in messages, `path` is before each key.

    Raises
    ------
    ConfigError
        See `Table`; also where a key is unknown or missing.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{path} {data!r}: expected a table; write [{path}]")
    problems = []
    for key in data.keys() - set(cls._fields):
        from difflib import get_close_matches  # memory that a daemon without errors does without

        close = get_close_matches(key, cls._fields, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(cls._fields)}"
        problems.append(f"{path}.{key}: unknown key; {advice}")
    for name in cls._fields:
        if name not in data and name not in cls._field_defaults:
            problems.append(f"{path}.{name}: missing; expected this key, for it has no default; add it")
            data = {**data, name: ""}
    try:
        table = cls(**{name: data[name] for name in cls._fields if name in data})
    except ConfigError as error:
        known = {problem.partition(":")[0] for problem in problems}
        named = [f"{path}.{line}" for line in str(error).split("\n")]
        problems += [line for line in named if line.partition(" ")[0] not in known]
    if problems:
        raise ConfigError("\n".join(sorted(problems)))
    return table


class TrainingTable(Table):
    """Table ``[serve.training]``: when the model is trained, and on what.

    Parameters
    ----------
    every_samples : so many labelled samples wait before training begins; 0 is one batch
    idle_seconds : training begins so long after the last request for a prediction
    hours : of the day, local time, in which training may run, as "22:00-06:00"; "" is all
    after_drift : whether to learn only for a while after a drift was detected; else what is labelled is learned
    drift_samples : how many samples are learned after a drift
    generation_samples : at least so many samples lie between two generations of the model
    generation_seconds : at least so long, unless half of the samples that may wait do
    fading : what a sample counts less with each that follows, for heads in closed form; 1 is nothing
    unlabelled : what becomes of a sample whose label did not come in time: "delete", or "pseudo" to learn the model's
        own answer if it is sure enough
    confidence : least probability of such an answer
    """

    every_samples: int = 0
    idle_seconds: float = 0.0
    hours: str = ""
    after_drift: bool = False
    drift_samples: int = 1024
    generation_samples: int = 1024
    generation_seconds: float = 60.0
    fading: float = 1.0
    unlabelled: str = "delete"
    confidence: float = 0.95

    checks = {  # noqa: RUF012  # not changed
        "every_samples": _count(0), "idle_seconds": _number(0), "after_drift": _switch, "drift_samples": _count(1),
        "hours": _text("22:00-06:00", r"|([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d"),
        "generation_samples": _count(1), "generation_seconds": _number(0), "fading": _number(TINY, 1),
        "unlabelled": _one_of("delete", "pseudo"), "confidence": _number(0, 1),
    }  # fmt: skip


class GuardTable(Table):
    """Table ``[serve.guard]``: when a model that got worse gives way to the last accepted one.

    Parameters
    ----------
    on : whether there is a guard; it takes the bytes of the parameters
    window : samples between two decisions
    probation : windows in a row, none of which speaks against it, after which a model is accepted and written
    accuracy_loss : most by which the model's accuracy may lie below the accepted one's in a window
    """

    on: bool = True
    window: int = 256
    probation: int = 4
    accuracy_loss: float = 0.02

    checks = {  # noqa: RUF012
        "on": _switch, "window": _count(10), "probation": _count(1), "accuracy_loss": _number(0, 1),
    }  # fmt: skip


class LimitsTable(Table):
    """Table ``[serve.limits]``: what the daemon may take; 0 is no limit.

    Parameters
    ----------
    memory : most bytes of the whole process; what is known to pass it is refused at the start
    cpu_share : of one core that training may take, over time
    celsius : training pauses above this temperature
    battery_percent : training pauses below this charge, unless it is being charged
    samples_per_second : that are taken in, over some seconds
    """

    memory: int = 0
    cpu_share: float = 0.0
    celsius: float = 0.0
    battery_percent: float = 0.0
    samples_per_second: float = 0.0

    checks = {  # noqa: RUF012
        "memory": _bytes, "cpu_share": _number(0, 16), "celsius": _number(0, 200),
        "battery_percent": _number(0, 100), "samples_per_second": _number(0),
    }  # fmt: skip


class MqttTable(Table):
    """Table ``[serve.mqtt]``: a broker from which samples come.

    Parameters
    ----------
    host, port : of the broker; port 0 is 1883, or 8883 with TLS
    topic : what all topics begin with
    client_id : under which the broker keeps what was not acknowledged; "" is one made of the machine and the topic
    username, password_file : for the broker; the file must be its owner's alone
    tls : whether the connection is encrypted
    ca_file : certificates that may vouch for the broker; "" is those of the system
    cert_file, key_file : of this client, where the broker asks for them
    keepalive : seconds after which a silent connection is probed
    discovery : prefix of topics by which Home Assistant finds the daemon; "" to be found by none
    name : of this device, for people
    """

    host: str
    port: int = 0
    topic: str = "edgerev"
    client_id: str = ""
    username: str = ""
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    keepalive: int = 60
    discovery: str = "homeassistant"
    name: str = "edgerev"

    checks = {  # noqa: RUF012
        "host": _text("127.0.0.1", "[^\\s/]+"), "port": _count(0, 65_535), "topic": _text("edgerev", _TOPIC),
        "client_id": _text("edgerev-kitchen", "[A-Za-z0-9_-]{0,64}"), "username": _text("edgerev"),
        "password_file": _text("mqtt.password"), "tls": _switch, "ca_file": _text("ca.pem"),
        "cert_file": _text("client.pem"), "key_file": _text("client.key"), "keepalive": _count(5, 65_535),
        "discovery": _text("homeassistant", "|" + _TOPIC), "name": _text("edgerev", ".+"),
    }  # fmt: skip

    def across(self) -> list[str]:
        problems = []
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            problems.append("tls false: expected true beside ca_file, cert_file or key_file; change it, or drop these")
        if bool(self.cert_file) != bool(self.key_file):
            problems.append("cert_file or key_file is missing: expected both or none; add it")
        return problems


class FolderTable(Table):
    """Table ``[serve.folder]``: a folder whose files are taken in.

    Parameters
    ----------
    path : the folder
    seconds : between two looks at it
    label : column of a CSV file that holds labels
    taken : what becomes of a file that was taken in: "move" to done/ in the folder, or "delete"
    """

    path: str
    seconds: float = 5.0
    label: str = "label"
    taken: str = "move"

    checks = {  # noqa: RUF012
        "path": _text("inbox", "(?s).+"), "seconds": _number(0.01, 86_400), "label": _text("label", ".+"),
        "taken": _one_of("move", "delete"),
    }  # fmt: skip


class ServeSettings(Table):
    """How the daemon runs: table ``[serve]``.

    Parameters
    ----------
    model : checkpoint to start from; generations in the store are newer
    store : the daemon's SQLite file
    listen : "host:port", or "unix:" and the path of a socket
    token_file : file with the token that requests must carry; needed, and made, where others can reach the address
    threads : that compute together
    most_samples : samples that the store may have before more are refused
    label_seconds : after which a sample without label is deleted
    request_bytes : most bytes of a request
    request_seconds : after which a connection is closed whose request is not there yet, or whose answer is not taken
    training, guard, limits : see `TrainingTable`, `GuardTable`, `LimitsTable`
    mqtt, folder : see `MqttTable`, `FolderTable`; None is without
    """

    model: str
    store: str = "edgerev.db"
    listen: str = "127.0.0.1:8350"
    token_file: str = ""
    threads: int = 1
    most_samples: int = 10_000
    label_seconds: int = 86_400
    request_bytes: int = 1 << 20
    request_seconds: float = 30.0
    training: TrainingTable = TrainingTable()
    guard: GuardTable = GuardTable()
    limits: LimitsTable = LimitsTable()
    mqtt: MqttTable | None = None
    folder: FolderTable | None = None

    checks = {  # noqa: RUF012
        "model": _text("model.edgerev", "(?s).+"), "store": _text("edgerev.db", "(?s).+"),
        "listen": _text("127.0.0.1:8350"), "token_file": _text("edgerev.token"), "threads": _count(1, 16),
        "most_samples": _count(1), "label_seconds": _count(1), "request_bytes": _count(1),
        "request_seconds": _number(TINY),
        "training": _table(TrainingTable), "guard": _table(GuardTable), "limits": _table(LimitsTable),
        "mqtt": _table(MqttTable), "folder": _table(FolderTable),
    }  # fmt: skip

    @property
    def host(self) -> str:
        """The address without its port; "unix" for a socket."""
        return self.listen.rpartition(":")[0] if not self.listen.startswith("unix:") else "unix"

    def across(self) -> list[str]:
        problems = []
        if 2 * self.training.generation_samples > self.most_samples:
            problems.append(
                f"training.generation_samples {self.training.generation_samples}: expected at most half of "
                f"most_samples, {self.most_samples}, for samples wait until the generation that learned them is "
                "written; change one"
            )
        tried = self.guard.window * self.guard.probation
        if self.guard.on and tried < self.training.generation_samples:
            problems.append(
                f"guard.window {self.guard.window} times guard.probation {self.guard.probation}: expected at least "
                f"training.generation_samples, {self.training.generation_samples}, for each model that is accepted is "
                "written; raise them"
            )
        place = self.listen.rpartition(":")[2] if self.host != "unix" else self.listen.removeprefix("unix:")
        fits = bool(place) if self.host == "unix" else place.isdigit() and int(place) < 65_536
        if not self.host or not fits:
            problems.append(f"listen {self.listen!r}: expected host:port or unix:PATH; change it")
        elif self.host not in LOCAL and not self.token_file:
            problems.append(
                f"listen {self.listen!r}: others can reach it; expected a token that they must know; name a file for "
                "it with token_file, or listen on 127.0.0.1"
            )
        return problems


_LIVE = ("most_samples", "label_seconds", "training", "guard", "limits")  # what may change while the daemon runs,
_FIXED = ("guard.on", "limits.memory")  # but for these


def merge(old: ServeSettings, new: ServeSettings) -> tuple[ServeSettings, list[str]]:
    """Return the settings that a daemon can change to while it runs, and the keys in which these differ from `new`."""
    merged = old.replace(**{name: getattr(new, name) for name in _LIVE})
    for key in _FIXED:
        table, _, name = key.partition(".")
        kept = getattr(new, table).replace(**{name: getattr(getattr(old, table), name)})
        merged = merged.replace(**{table: kept})
    return merged, [*_differing(merged, new)]


def _differing(one: Table, other: Table, path: str = "") -> Iterator[str]:
    for name in one._fields:
        here, there = getattr(one, name), getattr(other, name)
        if isinstance(here, Table) and isinstance(there, Table):
            yield from _differing(here, there, f"{path}{name}.")
        elif here != there:
            yield path + name


def load_settings(path: str) -> ServeSettings:
    """Read and check the table ``[serve]`` of a configuration.

    Raises
    ------
    ConfigError
        The file cannot be read, or has errors; the message lists all of them with their paths.
    """
    table = read_toml(path).get("serve")
    if table is None:
        raise ConfigError(f"{path}: expected a table [serve] with the key model, the checkpoint to start from; add it")
    try:
        return read_table(ServeSettings, table, "serve")
    except ConfigError as error:
        lines = str(error).split("\n")
        listed = "".join(f"\n  {line}" for line in lines)
        raise ConfigError(f"{path} has {len(lines)} error{'s' * (len(lines) > 1)}:{listed}") from error

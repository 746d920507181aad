"""The configuration of `edgerev serve`: the table ``[serve]`` of a TOML file.

Checked by hand rather than by pydantic, which the configuration of training uses: that would take a third of the memory
of a daemon that waits.
"""

from __future__ import annotations

import difflib

from edgerev.errors import ConfigError
from edgerev.numbers import INT32_MAX, of_type, settle, whole
from edgerev.toml import read_toml
from edgerev.value import Value


class ServeSettings(Value):
    """How the daemon runs.

    Parameters
    ----------
    model : checkpoint to start from; generations in the store are newer
    store : the daemon's SQLite file
    listen : "host:port", or "unix:" and the path of a socket
    threads : that compute together
    most_samples : samples that may wait before more are refused
    generation_samples : samples between two generations of the model
    label_seconds : after which a sample without label is deleted
    request_bytes : most bytes of a request
    """

    model: str
    store: str = "edgerev.db"
    listen: str = "127.0.0.1:8350"
    threads: int = 1
    most_samples: int = 10_000
    generation_samples: int = 1024
    label_seconds: int = 86_400
    request_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, example in (("model", "model.edgerev"), ("store", "edgerev.db"), ("listen", "127.0.0.1:8350")):
            of_type(f"serve.{name}", getattr(self, name), str, repr(example), ConfigError)
        counts = ("most_samples", "generation_samples", "label_seconds", "request_bytes")
        settle(self, ConfigError, threads=(whole, 1, 16), **dict.fromkeys(counts, (whole, 1, INT32_MAX)))
        if 2 * self.generation_samples > self.most_samples:
            raise ConfigError(
                f"serve.generation_samples {self.generation_samples}: expected at most half of serve.most_samples, "
                f"{self.most_samples}, for samples wait until the generation that learned them is written; change one"
            )
        host, _, port = self.listen.rpartition(":")
        if not host or (host != "unix" and not (port.isdigit() and 0 <= int(port) < 65_536)):
            raise ConfigError(f"serve.listen {self.listen!r}: expected host:port or unix:PATH; change it")
        if host != "unix" and host not in ("127.0.0.1", "localhost", "[::1]"):
            raise ConfigError(
                f"serve.listen {self.listen!r}: expected this machine itself, such as 127.0.0.1:{port}: there is no "
                "access control yet; change it, or put a proxy that has one in front"
            )


def load_settings(path: str) -> ServeSettings:
    """Read and check the table ``[serve]`` of a configuration.

    Raises
    ------
    ConfigError
        The file cannot be read, or a key is missing, unknown or of another type.
    """
    table = read_toml(path).get("serve")
    if not isinstance(table, dict) or "model" not in table:
        raise ConfigError(f"{path}: expected a table [serve] with the key model, the checkpoint to start from; add it")
    for key in table.keys() - set(ServeSettings._fields):
        close = difflib.get_close_matches(key, ServeSettings._fields, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(ServeSettings._fields)}"
        raise ConfigError(f"{path}: unknown key serve.{key}; {advice}")
    return ServeSettings(**table)

"""The daemon as a process of its own, asked over its Unix socket."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgerev.errors import UsageError
from edgerev.tools.child import module_command


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the answer, decoded."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        response = self.getresponse()
        return response.status, json.loads(response.read())


class DaemonProcess:
    """`edgerev serve` in a folder of its own; ends with the block.

    Parameters
    ----------
    folder : where configuration, socket and store are
    model : checkpoint to start from
    tables : settings of ``[serve]``; those of the tables in it are mappings
    """

    def __init__(self, folder: str, model: str, **tables: Any) -> None:
        self.socket = os.path.join(folder, "edgerev.sock")
        settings = {"model": model, "store": os.path.join(folder, "edgerev.db"), "listen": f"unix:{self.socket}"}
        config = Path(folder, "edgerev.toml")
        config.write_text(_toml("serve", {**settings, **tables}))
        self.command = module_command("edgerev", "serve", "--config", str(config))
        self.start()

    def start(self) -> None:
        """Start it, and wait until it takes requests."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if "serving" in line:
                return
        raise UsageError(f"the daemon ended with {self.process.wait()}; expected it to serve; start {self.command}")

    def __enter__(self) -> DaemonProcess:
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    def end(self, how: int = signal.SIGTERM) -> int:
        """End it; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(60)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def memory(self) -> dict[str, int]:
        """Return its resident set now and at its peak, in bytes."""
        with open(f"/proc/{self.process.pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return {
            name: int(fields[field].split()[0]) << 10
            for name, field in (("rss_bytes", "VmRSS"), ("peak_rss_bytes", "VmHWM"))
        }


def _toml(name: str, table: Mapping[str, Any]) -> str:
    """Return a table and those in it; its values are texts, numbers and switches, which JSON writes as TOML does."""
    plain = [f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, Mapping)]
    inner = [_toml(f"{name}.{key}", value) for key, value in table.items() if isinstance(value, Mapping)]
    return "".join([f"[{name}]\n", *plain, *inner])

"""The systemd service of a bundle: for the whole system if root installs, else for the user."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from .root import RefusedError, remove

UNIT = "edgerev.service"
STATE = Path("state") / "model.edgerev"
PRINTED_BY = "# the bundle's edgerev prints the unit, for what follows from its configuration: "  # then words, as JSON
RUNNING = Path("/run/systemd/system")  # is there where systemd runs
SYSTEM = Path("/etc/systemd/system")
WATCH_SECONDS = 10.0
_POLL_SECONDS = 0.5


def write_safely(path: Path, data: bytes) -> None:
    """Write a file that has its old content or the new one, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-new")
    try:
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        remove(new)


class Service:
    """The unit of the user who installs.

    Parameters
    ----------
    root : folder of the bundles
    """

    def __init__(self, root: Path) -> None:
        self.root, self.system = root, os.geteuid() == 0
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        self.file = (SYSTEM if self.system else settings / "systemd" / "user") / UNIT
        self.here = RUNNING.is_dir()

    def control(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run systemctl."""
        environment = {**os.environ, "LC_ALL": "C"}
        folder = f"/run/user/{os.geteuid()}"
        if "XDG_RUNTIME_DIR" not in environment and os.path.isdir(folder):
            environment["XDG_RUNTIME_DIR"] = folder  # `su`, and ssh without PAM, do not set it
        command = ["systemctl", *([] if self.system else ["--user"]), *words]
        return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def text(self, place: Path) -> bytes:
        """Return the unit as a bundle wants it here, empty if it wants none."""
        template = place / UNIT
        if not template.is_file():
            return b""
        wanted = "multi-user.target" if self.system else "default.target"
        values = {"@ROOT@": str(self.root), "@WANTED_BY@": wanted, "@MODEL@": str(self.root / STATE)}
        text = template.read_text()
        if text.startswith(PRINTED_BY):
            return self._printed(place, json.loads(text.removeprefix(PRINTED_BY)))
        for name, value in values.items():
            text = text.replace(name, value)
        return text.encode()

    def _printed(self, place: Path, words: list[str]) -> bytes:
        """Return the unit that the bundle's own program prints; relative paths start at the user's home."""
        command: list[str | Path] = [place / "venv" / "bin" / "edgerev", *words]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            command, cwd=Path.home(), env=environment, stdin=subprocess.DEVNULL, capture_output=True
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise RefusedError(f"there is no unit for its configuration: {said}")
        return done.stdout

    def installed(self) -> bytes:
        """Return the unit that is installed, empty if there is none."""
        return self.file.read_bytes() if self.file.is_file() else b""

    def ours(self) -> bool:
        """Return whether the unit that is installed starts from this folder of bundles."""
        return f"ExecStart={self.root}/current/".encode() in self.installed()

    def fits(self, place: Path) -> bool:
        """Return whether the service is installed as a bundle wants it."""
        if not self.here:
            return True
        try:
            text = self.text(place)
        except RefusedError:
            return False
        if not text:
            return not self.ours()
        return self.installed() == text and self.control("is-enabled", "--quiet", UNIT).returncode == 0

    def check(self, place: Path) -> None:
        """Refuse a bundle whose service could not be started, before anything is switched."""
        if not self.here or not ((place / UNIT).is_file() or self.ours()):
            return
        if self.installed() and not self.ours():
            raise RefusedError(
                f"{self.file} is there already and does not start from {self.root}; expected none, or that of this "
                "folder; remove it, or name the other folder with --path"
            )
        asked = self.control("show", "--property=Version")
        if asked.returncode:
            advice = "sudo loginctl enable-linger $USER, then log in again by ssh with PAM, with XDG_RUNTIME_DIR set"
            raise RefusedError(
                f"systemd cannot be reached ({asked.stderr.strip() or asked.returncode}); expected a running manager "
                f"for the service of this bundle; {'look at journalctl' if self.system else advice}"
            )

    def apply(self, place: Path, *, watch: bool = True) -> str:
        """Let the service be what a bundle wants, and start it anew; return what went wrong, or ""."""
        if not self.here:
            if (place / UNIT).is_file():
                print(f"edgerev: no systemd here, so nothing starts {self.root}/current/venv/bin/edgerev")
            return ""
        try:
            text = self.text(place)
        except RefusedError as error:
            return str(error)
        if not text:
            return self.withdraw()
        try:
            write_safely(self.file, text)
        except OSError as error:
            return f"{self.file} cannot be written ({error})"
        self.control("reset-failed", UNIT)  # so that its restarts are counted from 0
        for words in (["daemon-reload"], ["enable", "--quiet", UNIT], ["restart", UNIT]):
            done = self.control(*words)
            if done.returncode:
                return f"systemctl {words[0]}: {done.stderr.strip() or done.returncode}"
        return self.watch() if watch else ""

    def withdraw(self) -> str:
        """Stop and remove the service, if it is of this folder; return ""."""
        if self.here and self.ours():
            self.control("disable", "--now", UNIT)
            remove(self.file)
            self.control("daemon-reload")
            print(f"edgerev: service {UNIT} removed: this bundle has none")
        return ""

    def watch(self) -> str:
        """Look at the service for some seconds; return how it failed, or ""."""
        end, first = time.monotonic() + WATCH_SECONDS, ""
        while True:
            state = self._show()
            first = first or state["NRestarts"]
            if state["ActiveState"] == "failed" or state["Result"] != "success" or state["NRestarts"] != first:
                return f"its program ended at once ({state['Result']}, {state['NRestarts']} restarts)"
            if state["ActiveState"] == "inactive":
                print(f"edgerev: service {UNIT} has ended already, without an error")
                return ""
            if time.monotonic() >= end:
                break
            time.sleep(_POLL_SECONDS)
        print(f"edgerev: service {UNIT} runs")
        if not self.system:
            print("edgerev: for it to run without anyone logged in: sudo loginctl enable-linger $USER")
        return ""

    def _show(self) -> dict[str, str]:
        asked = self.control("show", UNIT, "-p", "ActiveState", "-p", "NRestarts", "-p", "Result").stdout
        told = dict(line.split("=", 1) for line in asked.splitlines() if "=" in line)
        return {"ActiveState": "", "NRestarts": "0", "Result": "success", **told}

"""A real systemd in a container: a bundle's daemon is installed, confined, reloaded, hung, restarted and stopped."""

import json
import os
import shutil
import subprocess

import pytest
from daemon_harness import samples

from edgerev.cli import main
from edgerev.kernels.targets import host_target

pytestmark = pytest.mark.long
# Of this machine the container has /usr, and nothing else: its configuration, state and network are its own.
NSPAWN = [
    "systemd-nspawn", "--quiet", "--directory=/", "--volatile=yes", "--register=no", "--keep-unit", "--private-network",
    "--machine=edgerev-test", "--console=pipe",
]  # fmt: skip
UNITS = {
    "test.target": "[Unit]\nRequires=test.service\n",
    "test.service": (
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nTimeoutStartSec=300\n"
        "Environment=HOME=/root PATH=/usr/sbin:/usr/bin\nExecStart=/bin/sh -eux /test/run.sh\n"
        "StandardOutput=append:/test/log\nStandardError=append:/test/log\nExecStopPost=/bin/systemctl exit --force\n"
    ),
}
CONFIG = """\
[serve]
model = "/root/.local/share/edgerev/current/model/model.edgerev"
listen = "unix:/run/edgerev/edgerev.sock"
[serve.training]
generation_samples = 72
generation_seconds = 0
[serve.limits]
memory = "64MiB"
"""
SEND = """\
import http.client, socket
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/run/edgerev/edgerev.sock")
connection = Connection("localhost", timeout=60)
connection.request("POST", "/v1/samples", open("/test/samples.json"), {"Content-Type": "application/json"})
print(connection.getresponse().status)
"""
# the daemon is stopped as a hung one is, with batches in its memory that no generation holds yet
RUN = """\
trap 'journalctl -u edgerev -o cat' EXIT
cp /test/edgerev.toml /etc/
sh /test/bundle/install.sh
ctl() { /root/.local/share/edgerev/current/venv/bin/edgerev ctl "$@" --config /etc/edgerev.toml; }
show() { systemctl show edgerev --value -p "$1"; }
[ "$(python3 /test/send.py)" = 202 ]
until ctl status --json | grep '"steps": 16,'; do :; done
ctl status --json >/test/before.json
pid=$(show MainPID)
grep -E 'Uid|CapEff|NoNewPrivs|Seccomp:' /proc/$pid/status >/test/status
show MemoryMax >/test/memory
systemctl reload edgerev
journalctl -u edgerev -o cat | grep '"event": "reloaded"'
kill -STOP "$pid"
until [ "$(show NRestarts)" = 1 ] && [ "$(show ActiveState)" = active ]; do sleep 1; done
until ctl status --json | grep '"steps": 16,'; do :; done
ctl status --json >/test/after.json
systemctl stop edgerev
show Result >/test/result
journalctl -u edgerev -o cat >/test/journal
"""


@pytest.fixture(scope="module")
def container():
    if os.geteuid() or shutil.which("systemd-nspawn") is None:
        pytest.skip("no container without root and systemd-nspawn; on Debian: apt install systemd-container")
    if subprocess.run([*NSPAWN, "/bin/true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode:
        pytest.skip("systemd-nspawn cannot make a container here")


def test_a_bundles_daemon_under_systemd(container, folder, tmp_path):
    test = tmp_path / "test"
    test.mkdir()
    asked = ["/usr/bin/python3", "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    python = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    words = ["build", str(folder / "model.edgerev"), "--target", host_target().name, "-o", str(test / "bundle")]
    assert main([*words, "--python", python, "--run", "serve --config /etc/edgerev.toml"]) == 0
    body = json.dumps({"samples": samples(128)})
    files = {"edgerev.toml": CONFIG, "send.py": SEND, "run.sh": RUN, "samples.json": body, **UNITS}
    for name, text in files.items():
        (test / name).write_text(text)
    binds = [f"--bind-ro={test / name}:/etc/systemd/system/{name}" for name in UNITS]
    command = [*NSPAWN, "--boot", f"--bind={test}:/test", *binds, "--", "--unit=test.target"]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=400)
    log = (test / "log").read_text()
    assert (test / "journal").is_file(), log
    status = dict(line.split(":", 1) for line in (test / "status").read_text().splitlines())
    assert int(status["Uid"].split()[0]) >= 61184  # a user that is made for the daemon alone
    assert [status[name].strip() for name in ("CapEff", "NoNewPrivs", "Seccomp")] == ["0" * 16, "1", "2"]
    assert (test / "memory").read_text() == f"{64 << 20}\n"
    before, after = (json.loads((test / name).read_text()) for name in ("before.json", "after.json"))
    assert (before["trained"], before["saved"]) == (after["trained"], after["saved"]) == (128, 72)
    assert (test / "result").read_text() == "success\n"
    events = [json.loads(line)["event"] for line in (test / "journal").read_text().splitlines() if line[0] == "{"]
    assert events == ["serving", "reloaded", "serving", "stopping", "ended"]


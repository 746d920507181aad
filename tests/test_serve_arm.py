"""The daemon on aarch64 under qemu: it learns, survives SIGKILL, and answers with the bits of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from daemon_harness import Daemon, samples

from edgerev.deploy.wheel import make_wheel

waitress = pytest.importorskip("waitress", reason="the package waitress is not installed")
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("cache")]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Give a folder with edgerev's wheel for aarch64 and waitress, and nothing else: the daemon needs no NumPy."""
    folder = tmp_path_factory.mktemp("arm")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    there = ["--no-deps", "--platform=manylinux_2_17_aarch64", "--only-binary=:all:", "--target", folder / "packages"]
    subprocess.run([*command, *there, make_wheel("aarch64", folder)], check=True)
    shutil.copytree(Path(waitress.__file__).parent, folder / "packages" / "waitress")
    return folder / "packages"


class ArmDaemon(Daemon):
    """A daemon on the device, whose home is the folder; its socket is reached from here."""

    def __init__(self, root, packages, folder, *rest, **settings):
        binds = {"/dev": "/dev", "/proc": "/proc", packages: "/packages", folder: folder}
        self.command = [
            "proot", "-q", "qemu-aarch64-static", "-r", root,
            *(word for here, there in binds.items() for word in ("-b", f"{here}:{there}")), "-w", folder,
            "/usr/bin/env", "-i", "HOME=/root", "PATH=/usr/bin:/bin", "PYTHONPATH=/packages",
            "python3", "-m", "edgerev", "serve", "--config", folder / "edgerev.toml",
        ]  # fmt: skip
        asked = [*map(str, self.command[:-5]), "-c", "import os; print(os.uname().machine)"]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout == "aarch64\n"
        super().__init__(folder, *rest, **settings)

    def start(self):
        self.process = subprocess.Popen([*map(str, self.command)], stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if '"serving"' in line:
                self.where = json.loads(line)["listen"]
                return
        raise AssertionError(line)

    def end(self, how=signal.SIGTERM):
        """Send a signal to the emulated Python, which is a child of proot."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), how)
        self.process.wait(60)
        self.process.stderr.close()
        return self.process.returncode


def test_arm_learns_the_same_bits(arm_root, packages, folder):
    """On the device it is killed in between; here it is not."""
    asked = {"samples": [one["x"] for one in samples(50, 9)]}
    tables, answers = "[serve.training]\ngeneration_samples = 72\ngeneration_seconds = 0", []
    with tempfile.TemporaryDirectory(prefix="edgerev-") as short:  # a socket's path has at most 107 bytes
        for make in (lambda: ArmDaemon(arm_root, packages, Path(short), tables), lambda: Daemon(folder, tables)):
            shutil.copyfile(folder / "model.edgerev", Path(short) / "model.edgerev")
            daemon = make()
            for part in range(6):
                code, answer = daemon.ask("POST", "/v1/samples", {"samples": samples(32, part)})
                assert (code, answer["ids"][-1]) == (202, 32 * (part + 1))
                if part == 3:
                    status = daemon.until(lambda status: status["trained"] == 128)
                    if isinstance(daemon, ArmDaemon):
                        assert status["saved"] == 72  # so that seven batches are learned again
                        daemon.end(signal.SIGKILL)
                        daemon.start()
            status = daemon.until(lambda status: status["trained"] == 192)
            assert (status["steps"], status["problem"]) == (24, "")
            answers.append(daemon.ask("POST", "/v1/predict", asked))
            assert daemon.end() == 0
    assert answers[0] == answers[1]
    assert answers[0][0] == 200

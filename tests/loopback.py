"""A real sshd on loopback with keys and configuration of its own, and a way to cut or damage what is sent through it.

Run as a program it is the latter: ``loopback.py MODE BYTES PID ssh ...`` runs ssh and passes its input on, until BYTES
have been sent: then MODE is done, one of `MODES`, or the last byte is changed (flip).
"""

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import psutil
import pytest

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
SetEnv HOME={home} PATH={python}:/usr/bin:/bin
"""
HOST = f"{getpass.getuser()}@127.0.0.1"


class Loopback:
    """A running sshd: `ssh` is the command that reaches it, `home` the user's home there."""

    def __init__(self, ssh, home, pid):
        self.ssh, self.home, self.pid = ssh, home, pid

    def interfering(self, mode, count):
        """Return an ssh command that does `mode` once `count` bytes have been sent."""
        return shlex.join([sys.executable, __file__, mode, str(count), str(self.pid)]) + " " + self.ssh


def namespaces(*options):
    """Return the command that gives what it starts namespaces of its own, or skip the test where that is forbidden."""
    command = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *options]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces here ({error}); they need root, or kernel.unprivileged_userns_clone=1")
    return shlex.join(command)


@contextmanager
def loopback(folder, shell=""):
    """Run an sshd whose files lie in `folder`; `shell` is run in place of the user's shell, with the command in $1."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("no sshd or ssh here; on Debian: apt install openssh-server openssh-client")
    home = folder / "home"
    home.mkdir(parents=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = os.path.dirname(os.path.realpath(sys.executable))  # so that "python3" there is of this version
    text = CONFIG.format(port=port, folder=folder, home=home, python=python)
    if shell:
        text += f'ForceCommand sh {shell} "$SSH_ORIGINAL_COMMAND"\n'
    (folder / "sshd_config").write_text(text)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd wants it; Debian's unit would make it
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    log = []
    try:
        for line in process.stderr:
            log.append(line)
            if "Server listening" in line:
                break
        else:
            pytest.fail(f"sshd did not start: {''.join(log)}")
        threading.Thread(target=log.extend, args=(process.stderr,), daemon=True).start()
        ssh = [
            "ssh", "-F", "none", "-p", str(port), "-i", str(folder / "user"), "-o", "IdentitiesOnly=yes", "-o",
            f"UserKnownHostsFile={folder / 'known_hosts'}", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR",
        ]  # fmt: skip
        yield Loopback(shlex.join(ssh), home, process.pid)
    finally:
        sessions = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        for session in sessions:
            if session.is_running():
                session.terminate()
        psutil.wait_procs(sessions, timeout=30)
        process.wait(timeout=30)
        process.stderr.close()


def kill_client(ssh, server):
    ssh.kill()


def kill_sessions(ssh, server):
    """Kill what sshd started for this connection, and the connection with it."""
    started = []
    while not started and ssh.poll() is None:  # ssh takes input before it is connected
        started = [child for child in psutil.Process(server).children(recursive=True) if child.name() == "sshd"]
    for child in started:
        child.kill()


MODES = {"client": kill_client, "server": kill_sessions}


def main(mode, count, server, *command):
    ssh = subprocess.Popen(command, stdin=subprocess.PIPE)
    left = int(count)
    try:
        while block := sys.stdin.buffer.raw.read(min(left, 1 << 16) if left > 0 else 1 << 16):
            left -= len(block)
            if left == 0:
                left = -1
                if mode == "flip":
                    block = block[:-1] + bytes([block[-1] ^ 1])
                else:
                    MODES[mode](ssh, int(server))
            ssh.stdin.write(block)
            ssh.stdin.flush()
        ssh.stdin.close()
    except BrokenPipeError:
        pass
    code = ssh.wait()
    return code if code >= 0 else 255


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""A bundle installed for real on ARM without network: over ssh into Debian's arm64 packages under qemu, and by hand."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import HOST, loopback, namespaces
from test_bundle import small_bundle
from test_push import model

from edgerev.cli import main
from edgerev.deploy.bundle import verify
from edgerev.deploy.push import Host, push
from edgerev.errors import BundleError

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def device(arm_root, arm_ssh, tmp_path_factory):
    """Give an sshd whose sessions run on the ARM device, whose home folder is empty."""
    folder = tmp_path_factory.mktemp("arm")
    (folder / "root").symlink_to(arm_root)
    shutil.copy(arm_ssh, folder / "ssh")
    (folder / "shell").write_text(f'exec {namespaces("--net")} {folder}/ssh board "$1"\n')
    with loopback(folder, shell=folder / "shell") as running:
        yield running


@pytest.fixture(scope="module")
def python(device):
    return Host(HOST, device.ssh).ask("~").python


@pytest.fixture(scope="module")
def bundle(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    words = ["build", str(model(folder / "m.edgerev", 1)), "--target", "aarch64", "-o", str(folder / "bundle")]
    assert main([*words, "--python", python]) == 0
    return folder / "bundle"


def on(device, *words):
    """Run words on the device and return the lines they print."""
    lines = []
    Host(HOST, device.ssh).run(words, report=lines.append)
    return lines


def test_the_sandbox_is_another_machine(device, python):
    assert on(device, "uname", "-m") == ["aarch64"]
    code = "import socket; socket.create_connection(('127.0.0.1', 22))"
    with pytest.raises(BundleError, match=r"OSError|unreachable|refused"):
        on(device, "python3", "-c", code)
    asked = Host(HOST, device.ssh).ask("~/edgerev", ["venv", "ensurepip", "numpy"])
    assert (asked.machine, asked.python, asked.missing) == ("aarch64", python, ["numpy"])
    assert asked.root == f"{device.home}/edgerev"


def test_a_bundle_for_another_machine_is_refused(device, bundle, tmp_path):
    other = small_bundle(tmp_path / "bundle", target="x86-64-v3", architecture="x86_64", pythons=["3.8"])
    message = r"the bundle is for x86-64-v3 \(x86_64\), the device is aarch64; (?s:.*)3\.8, the device has 3\.\d+; "
    with pytest.raises(BundleError, match=message):
        push(other, Host(HOST, device.ssh))
    with loopback(tmp_path / "sshd") as here, pytest.raises(BundleError, match=r"is for aarch64 .*, the device is x86"):
        push(bundle, Host(HOST, here.ssh))


def test_the_wheel_of_a_bundle_is_that_made_alone(bundle, tmp_path, capsys):
    assert main(["build", "--wheel", "--target", "aarch64", "-o", str(tmp_path / "dist"), "--json"]) == 0
    wheel = Path(json.loads(capsys.readouterr().out)["wheel"])
    assert wheel.read_bytes() == (bundle / "wheels" / wheel.name).read_bytes()


def test_a_bundle_runs_on_arm_without_network(device, bundle, capsys):
    assert main(["push", str(bundle), HOST, "--ssh", device.ssh]) == 0
    assert capsys.readouterr().out == f"{HOST}: bundle {verify(bundle).name} is current\n"
    current = f"{device.home}/.local/share/edgerev/current"
    (shown,) = on(device, "readlink", current)
    assert shown == f"bundles/{verify(bundle).name}"
    shown = on(device, f"{current}/venv/bin/edgerev", "inspect", f"{current}/model/model.edgerev")
    assert ": whole, " in shown[0]
    code = (
        "from edgerev import Learner; from edgerev.kernels.library import load;"
        f"learner = Learner.load('{current}/model/model.edgerev');"
        "print(load().target, learner.predict_proba_one([0.5] * 6), learner.learn_one([0.5] * 6, 1).loss)"
    )
    arm = on(device, f"{current}/venv/bin/python", "-c", code)
    command = [sys.executable, "-c", code.replace(current, str(bundle))]
    here = subprocess.run(command, capture_output=True, text=True, check=True)
    assert arm[-1].split()[0] == "aarch64"
    assert arm[-1].split()[1:] == here.stdout.split()[1:]  # to the bit

"""Pushing over a real sshd on loopback: what is refused is refused by name, and the device keeps what it had."""

import dataclasses
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import zipfile

import numpy as np
import psutil
import pytest
from loopback import HOST, loopback, namespaces
from test_bundle import WHEEL, small_bundle
from test_install import Systemd

from edgerev import Block, Dense, Head, Learner, Net, ReLU
from edgerev.cli import main
from edgerev.deploy.bundle import MANIFEST, SUMS, UNIT, Manifest, make, seal, verify
from edgerev.deploy.device.root import MARKER
from edgerev.deploy.push import Device, Host, check_fit, push, rollback
from edgerev.deploy.systemd import service
from edgerev.errors import BundleError, UsageError
from edgerev.kernels.layout import INTERFACE
from edgerev.kernels.targets import TARGETS, host_target

ROOT = ".local/share/edgerev"
PYTHON = ".".join(map(str, sys.version_info[:2]))
PROGRAM = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)\n"
KEPT = "the device keeps running what it had"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    with loopback(tmp_path_factory.mktemp("sshd")) as running:
        yield running


def here(**changes):
    """Return what a manifest says of a bundle for this machine."""
    machine = os.uname().machine
    return {"target": host_target().name, "architecture": machine, "pythons": [PYTHON], **changes}


def push_quietly(folder, sshd, ssh=None):
    lines = []
    push(folder, Host(HOST, ssh or sshd.ssh), report=lines.append)
    return lines


# -- refused before anything is sent ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "riscv64", "target": "vf2"}, r"bundle is for vf2 \(riscv64\), the device is \w+; make one"),
        ({"pythons": ["3.8", "3.9"]}, rf"wheels for Python 3\.8, 3\.9, the device has {PYTHON}; .*--python {PYTHON}"),
        ({"libc": "9.1"}, r"needs GNU libc 9\.1 or newer, the device has 2\.\d+; update its system"),
        ({"system": [["nonesuch", "python3-nonesuch"]]}, r"lacks nonesuch; on it: sudo apt install python3-nonesuch"),
    ],
)
def test_what_does_not_fit_is_not_sent(sshd, tmp_path, changes, message):
    bundle = small_bundle(tmp_path / "bundle", **here(**changes))
    with pytest.raises(BundleError, match=rf"{message}(?s:.*)nothing was sent; {KEPT}"):
        push_quietly(bundle, sshd)
    assert list(sshd.home.iterdir()) == []


def test_a_damaged_bundle_is_not_sent(tmp_path):
    bundle = small_bundle(tmp_path / "bundle", **here())
    (bundle / "model/model.edgerev").write_bytes(b"")
    with pytest.raises(BundleError, match=r"is damaged: model/model\.edgerev"):
        push(bundle, Host("nobody@127.0.0.1", "false"))  # ssh would fail


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the processor that lacks something is an x86-64 here")
def test_a_processor_that_is_too_old(sshd, tmp_path, monkeypatch):
    """It says of itself what it has, and what the target's kernels use is known here."""
    bundle = small_bundle(tmp_path / "bundle", **here(target="x86-64-v4"))
    host = Host(HOST, sshd.ssh)
    device = host.ask("~")
    assert {*TARGETS["x86-64-v2"].requires} <= {*device.processor}
    old = dataclasses.replace(device, processor=list(TARGETS["x86-64-v3"].requires))
    monkeypatch.setattr(host, "ask", lambda *words: old)
    with pytest.raises(BundleError, match=r"is for x86-64-v4, whose processor has avx512bw, .*; the device's has not"):
        push(bundle, host)
    assert list(sshd.home.iterdir()) == []


def test_a_board_that_is_too_old(tmp_path):
    """A Raspberry Pi 4, by the bits that its kernel reports, takes bundles for itself and not for a Raspberry Pi 5."""
    device = Device("/root", "aarch64", "3.11", "2.36", 1 << 40, True, False, 0x887, "", "", [])
    check_fit(verify(small_bundle(tmp_path / "4", target="rpi4")), device, "pi")
    with pytest.raises(BundleError, match=r"is for rpi5, whose processor has asimddp, .*; the device's has not"):
        check_fit(verify(small_bundle(tmp_path / "5", target="rpi5")), device, "pi")
    other = verify(small_bundle(tmp_path / "x86", target="x86-64-v3", architecture="x86_64"))
    with pytest.raises(BundleError, match=r"is for x86-64-v3 \(x86_64\), the device is aarch64; .*\nnothing was sent"):
        check_fit(other, device, "pi")


def test_a_folder_that_is_not_edgerevs(sshd, tmp_path):
    bundle = small_bundle(tmp_path / "bundle", **here())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    with pytest.raises(BundleError, match=r"/mine is not empty and not edgerev's; expected .*; name one with --path"):
        push(bundle, Host(HOST, sshd.ssh), root=str(tmp_path / "mine"))
    assert os.listdir(tmp_path / "mine") == ["file"]


@pytest.mark.parametrize("root", ["with space", "with'quote"])
def test_a_folder_that_scripts_do_not_take(sshd, tmp_path, root):
    bundle = small_bundle(tmp_path / "bundle", **here())
    with pytest.raises(BundleError, match=r"letters that units and scripts do not take(?s:.*)nothing was sent"):
        push(bundle, Host(HOST, sshd.ssh), root=str(sshd.home / root))


def test_a_shell_that_greets(tmp_path):
    shell = tmp_path / "shell"
    shell.write_text("printf 'Welcome! '\nexec sh -c \"$1\"\n")
    with loopback(tmp_path / "sshd", shell=shell) as device:
        assert Host(HOST, device.ssh).ask("~/edgerev").root == str(device.home / "edgerev")


def test_a_terminal_is_not_asked_for(sshd):
    assert Host(HOST, f"{sshd.ssh} -o RequestTTY=force").ask("~/edgerev").machine


def test_a_wheel_that_is_none(sshd, tmp_path):
    bundle = small_bundle(tmp_path / "bundle")
    (bundle / WHEEL).write_bytes(b"nothing")
    seal(bundle, Manifest("0.1.0", INTERFACE, libc="2.17", **here()))
    with pytest.raises(BundleError, match=rf"{WHEEL} is not a wheel \(File is not a zip file\); make the bundle again"):
        push_quietly(bundle, sshd)


def test_a_disk_that_is_full(sshd, tmp_path, monkeypatch):
    bundle = small_bundle(tmp_path / "bundle", **here())
    monkeypatch.setattr("edgerev.deploy.push._VENV_BYTES", 1 << 60)
    with pytest.raises(BundleError, match=r"the bundle needs .* TiB in .*, the device has .* free; free some, or"):
        push_quietly(bundle, sshd)


def test_a_device_that_is_not_there(tmp_path):
    bundle = small_bundle(tmp_path / "bundle", **here())
    with pytest.raises(BundleError, match=r"the connection to \w+@127.0.0.1 failed or was cut: (?s:.*)refused"):
        push(bundle, Host(HOST, "ssh -F none -p 1"))
    with pytest.raises(BundleError, match=r"nossh cannot be started .*; on Debian: apt install openssh-client"):
        push(bundle, Host(HOST, "nossh"))


@pytest.mark.parametrize(("host", "ssh"), [("", "ssh"), ("-oProxyCommand=true", "ssh"), ("a", ""), ("a", "ssh 'x")])
def test_hosts_that_are_none(host, ssh):
    with pytest.raises(UsageError, match="--ssh"):
        Host(host, ssh)


@pytest.mark.parametrize("words", [["bundle"], ["--rollback", "bundle", "host"], ["a", "b", "c"]])
def test_usage_of_push(words, capsys):
    assert main(["push", *words]) == 2
    assert "words: expected" in capsys.readouterr().err


def test_no_previous_bundle(sshd):
    with pytest.raises(BundleError, match=r"no previous bundle in /.*; expected two that were pushed; push the one"):
        rollback(Host(HOST, sshd.ssh))


# -- refused by the device ----------------------------------------------------------------------------------------


def library(path, interface):
    """Compile a library that says it has an interface version."""
    code = f"int edgerev_interface(void) {{ return {interface}; }}"
    command = ["gcc", "-shared", "-nostdlib", "-x", "c", "-", "-o", path]
    subprocess.run(command, input=code, text=True, check=True)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here; on Debian: apt install gcc")
@pytest.mark.parametrize(("part", "found"), [("library", 9), ("model.program", 8), ("model.parameters", 7)])
def test_another_interface_version(sshd, tmp_path, part, found):
    bundle = small_bundle(tmp_path / "bundle")
    library(bundle / "c/libedgerev.so", found if part == "library" else INTERFACE)
    if part != "library":
        (bundle / "model" / part).write_bytes(struct.pack("<8si", b"edgerev", found))
    seal(bundle, Manifest("0.1.0", INTERFACE, libc="2.17", **here()))
    message = rf"{part} has interface version {found}, its manifest {INTERFACE}; (?s:.*){KEPT}"
    with pytest.raises(BundleError, match=message):
        push_quietly(bundle, sshd)
    assert left(sshd) == []


def left(sshd):
    """Return what of bundles is in the root, once nothing holds its lock any more."""
    root = sshd.home / ROOT
    with open(root / MARKER) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return sorted(path.name for path in root.iterdir() if path.name != MARKER)


def test_kernels_that_cannot_be_loaded(sshd, tmp_path):
    bundle = small_bundle(tmp_path / "bundle", **here())
    with pytest.raises(BundleError, match=r"the bundle's kernels cannot be loaded \(.*; make the bundle again"):
        push_quietly(bundle, sshd)
    assert left(sshd) == []


# -- a device that runs something ---------------------------------------------------------------------------------


def model(path, seed):
    """Write a small model that was trained on noise."""
    net = Net((6,), Dense(16), (Block((Dense(8), ReLU(), Dense(8)), repeat=2),), Head(3))
    learner = Learner(net, batch=8, seed=seed)
    learner.learn_many(np.random.default_rng(seed).random((32, 6), dtype="f4"), np.arange(32) % 3)
    learner.save(str(path))
    return path


def variant(bundle, folder, **changes):
    """Copy a bundle, with files replaced or removed and its fields changed, as whole as the first."""
    shutil.copytree(bundle, folder)
    fields = {**vars(verify(bundle).manifest), "files": {}}
    for name, value in changes.items():
        if name in fields:
            fields[name] = value
    for path, data in changes.get("replaced", {}).items():
        (folder / path).unlink() if data is None else (folder / path).write_bytes(data)
    seal(folder, Manifest(**fields))
    return folder


class Site:
    """A device that runs a program from its first bundle, while other bundles come."""

    def __init__(self, sshd, folder):
        self.sshd, self.root = sshd, sshd.home / ROOT
        self.first = folder / "first"
        make(model(folder / "m.edgerev", 1), host_target().name, self.first, pythons=[PYTHON], report=lambda text: None)
        self.second = self.other(2)
        push_quietly(self.first, sshd)
        python = self.root / "current/venv/bin/python"
        self.program = subprocess.Popen(
            [python, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )  # fmt: skip

    def other(self, seed):
        data = model(self.first.with_name(f"{seed}.edgerev"), seed).read_bytes()
        return variant(self.first, self.first.with_name(f"bundle{seed}"), replaced={"model/model.edgerev": data})

    def points(self, name):
        return os.path.basename(os.readlink(self.root / name))

    def check(self, current, previous=None):
        """Check what is there, and that it runs, and that what ran before still does."""
        assert left(self.sshd) == sorted(["bundles", "current"] + ["previous"] * bool(previous))
        names = [verify(bundle).name for bundle in (current, previous) if bundle]
        assert [self.points(name) for name in ("current", "previous")[: len(names)]] == names
        assert sorted(os.listdir(self.root / "bundles")) == sorted(names)
        shown = [self.root / "current/venv/bin/edgerev", "inspect", self.root / "current/model/model.edgerev"]
        assert ": whole, " in subprocess.run(shown, capture_output=True, text=True, check=True).stdout
        self.program.stdin.write("still here\n")
        self.program.stdin.flush()
        assert self.program.stdout.readline() == "still here\n"


@pytest.fixture(scope="module")
def site(sshd, tmp_path_factory):
    site = Site(sshd, tmp_path_factory.mktemp("site"))
    yield site
    site.program.communicate()


@pytest.mark.long
def test_the_same_model_gives_the_same_bundle(site, tmp_path):
    again = make(site.first.with_name("m.edgerev"), host_target().name, tmp_path / "again", pythons=[PYTHON])
    assert again.name == verify(site.first).name


@pytest.mark.long
def test_what_was_pushed_runs(site):
    site.check(site.first)
    script = (site.root / "current/venv/bin/edgerev").read_text()
    assert "/incoming-" not in script
    assert main(["push", str(site.first), HOST, "--ssh", site.sshd.ssh]) == 0
    assert "is installed already, and runs" in push_quietly(site.first, site.sshd)[-1]
    site.check(site.first)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["client", "server", "flip"])
def test_cut_or_damaged_on_the_way(site, mode):
    sent = verify(site.second).nbytes
    for count in (1, 5000, sent // 2, sent - 5000):
        message = rf"bundle.* (damaged|arrive whole)(?s:.*){KEPT}" if mode == "flip" else "failed or was cut"
        with pytest.raises(BundleError, match=message):
            push_quietly(site.second, site.sshd, site.sshd.interfering(mode, count))
        site.check(site.first)


@pytest.mark.long
def test_cut_while_installing(site):
    """All of it has arrived; the device notices at its next word that nobody listens, and cleans up."""

    def hang_up(line):
        if "making the virtual environment" in line:
            for child in psutil.Process().children():
                if child.name() == "ssh":
                    child.kill()

    with pytest.raises(BundleError, match=r"was cut(?s:.*)or this bundle if all of it had arrived; push again"):
        push(site.second, Host(HOST, site.sshd.ssh), report=hang_up)
    site.check(site.first)


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "data", "message"),
    [
        ("model/model.edgerev", b"nothing", r"the bundle does not run on this device: .*model\.edgerev"),
        ("wheels/pydantic-*", None, r"pip cannot install the bundle's wheels(?s:.*)pydantic"),
    ],
)
def test_a_bundle_that_does_not_run(site, tmp_path, path, data, message):
    (found,) = site.first.glob(path)
    changes = {str(found.relative_to(site.first)): data}
    bundle = variant(site.first, tmp_path / "bundle", replaced=changes)
    with pytest.raises(BundleError, match=rf"{message}(?s:.*){KEPT}"):
        push_quietly(bundle, site.sshd)
    site.check(site.first)


@pytest.mark.long
def test_kernels_for_another_processor(site, tmp_path):
    if host_target().name != "x86-64-v3":
        pytest.skip("needs a processor with AVX2 and without AVX-512")
    from edgerev.deploy.wheel import make_wheel

    wheel = make_wheel("x86-64-v4", tmp_path)
    changes = {f"wheels/{wheel.name}": wheel.read_bytes()}
    bundle = variant(site.first, tmp_path / "bundle", replaced=changes)
    with pytest.raises(BundleError, match=rf"does not run on this device: no compiled kernels for this (?s:.*){KEPT}"):
        push_quietly(bundle, site.sshd)
    site.check(site.first)


@pytest.mark.long
def test_one_at_a_time(site):
    with open(site.root / MARKER) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BundleError, match=rf"something else is being installed in (?s:.*){KEPT}"):
            push_quietly(site.second, site.sshd)
    site.check(site.first)


@pytest.mark.long
def test_installing_by_hand_checks_as_well(site, tmp_path):
    copy = shutil.copytree(site.second, tmp_path / "stick")
    (copy / MANIFEST).write_bytes((copy / MANIFEST).read_bytes() + b" ")
    (copy / "more").write_bytes(b"")
    command = ["sh", copy / "install.sh", "--path", site.root]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert "edgerev: error: the bundle is damaged: files are missing or changed" in done.stderr
    shutil.copyfile(site.second / MANIFEST, copy / MANIFEST)
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        3, "edgerev: error: the bundle is damaged: these files do not belong to it: more; copy or push it again\n"
    )  # fmt: skip
    site.check(site.first)


@pytest.mark.long
def test_switching_forth_and_back(site):
    """After what a power cut may have left: half a bundle, one that never became current, a link that waits."""
    half = site.root / f"incoming-{'0' * 64}"
    half.mkdir()
    (half / SUMS).write_bytes(b"half")
    shutil.copytree(site.second, site.root / "bundles" / verify(site.second).name)
    (site.root / ".previous-next").symlink_to(f"bundles/{verify(site.first).name}")
    push_quietly(site.second, site.sshd)
    site.check(site.second, site.first)

    host = Host(HOST, site.sshd.ssh)
    assert rollback(host, report=lambda text: None) == verify(site.first).name
    site.check(site.first, site.second)
    assert main(["push", "--rollback", HOST, "--ssh", site.sshd.ssh]) == 0
    site.check(site.second, site.first)
    assert "has this bundle already; trying it there" in "".join(push_quietly(site.first, site.sshd))
    site.check(site.first, site.second)

    # power failed after `current` was replaced, before `previous` was
    os.rename(site.root / "previous", site.root / ".previous-next")
    (site.root / "previous").symlink_to("bundles/gone")
    push_quietly(site.first, site.sshd)
    third = site.other(3)
    done = subprocess.run(["sh", third / "install.sh", "--path", site.root], capture_output=True, text=True, check=True)
    assert "is current in" in done.stdout
    site.check(third, site.first)
    subprocess.run(["sh", site.root / "current/install.sh", "--path", site.root, "--rollback"], check=True)
    site.check(site.first, third)


@pytest.mark.long
@pytest.mark.parametrize("hurt", ["venv", "model/model.edgerev", "install.sh"])
def test_a_broken_installation_is_repaired(site, hurt):
    """By pushing the same bundle again, which is sent only if its own files are damaged."""
    push_quietly(site.second, site.sshd)
    push_quietly(site.first, site.sshd)
    broken = site.root / "current" / hurt
    shutil.rmtree(broken) if broken.is_dir() else broken.write_bytes(b"exit 7\n")
    lines = "".join(push_quietly(site.first, site.sshd))
    assert ("sending" in lines) == (hurt != "venv")
    if hurt != "venv":
        assert (site.root / "damaged" / hurt).read_bytes() == b"exit 7\n"
        shutil.rmtree(site.root / "damaged")
    site.check(site.first, site.second)


@pytest.mark.long
def test_a_previous_bundle_that_broke(site):
    push_quietly(site.second, site.sshd)
    push_quietly(site.first, site.sshd)
    (site.root / "previous/model/model.edgerev").write_bytes(b"")
    with pytest.raises(BundleError, match=rf"the bundle is damaged: files are missing or changed(?s:.*){KEPT}"):
        rollback(Host(HOST, site.sshd.ssh))
    assert site.points("current") == verify(site.first).name
    push_quietly(site.second, site.sshd)
    shutil.rmtree(site.root / "damaged")
    site.check(site.second, site.first)


@pytest.mark.long
def test_a_package_that_the_system_has(site, tmp_path):
    """NumPy lies outside of the virtual environment, as it does where it has no wheel."""
    (wheel,) = site.first.glob("wheels/numpy-*")
    changes = {str(wheel.relative_to(site.first)): None}
    bundle = variant(site.first, tmp_path / "bundle", replaced=changes, system=[["numpy", "python3-numpy"]])
    with loopback(tmp_path / "sshd") as other:
        if Host(HOST, other.ssh).ask("~", ["numpy"]).missing:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(other.home / f".local/lib/python{PYTHON}/site-packages")
        assert "one prediction made" in "".join(push_quietly(bundle, other))
        code = "import numpy; print(numpy.__file__)"
        done = subprocess.run(
            [other.home / ROOT / "current/venv/bin/python", "-c", code], env={**os.environ, "HOME": str(other.home)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "/venv/" not in done.stdout


# -- a service ----------------------------------------------------------------------------------------------------

# There is no systemd where tests run: a folder that says it runs, and a systemctl that starts what it is told.
SHELL = """\
exec {namespace} sh -c '
mount -t tmpfs none /run && mkdir -p /run/systemd/system && mount --bind {folder}/units /etc/systemd/system || exit 9
PATH={folder}:$PATH exec sh -c "$1"
' sh "$1"
"""


@pytest.mark.long
def test_a_service(site, tmp_path):
    if not os.path.isdir("/etc/systemd/system"):
        pytest.skip("no folder for systemd's units here; on Debian: apt install systemd")
    namespace = namespaces("--mount")
    systemd = Systemd(tmp_path / "systemd")
    (systemd.folder / "shell").write_text(SHELL.format(namespace=namespace, folder=systemd.folder))
    first, second = (
        variant(bundle, tmp_path / name, replaced={UNIT: service(words).encode()}, service=True)
        for name, bundle, words in (
            ("first", site.first, "inspect @MODEL@"), ("second", site.second, "train nonesuch.toml")
        )
    )  # fmt: skip
    with loopback(tmp_path / "sshd", shell=systemd.folder / "shell") as device:
        root = device.home / ROOT
        current, state = root / "current", root / "state/model.edgerev"
        assert "has ended already, without an error" in "".join(push_quietly(first, device))
        assert systemd.told() == ["daemon-reload", f"enable --quiet {UNIT}", f"restart {UNIT}"]
        text = systemd.unit.read_text()
        assert f'ExecStart={current}/venv/bin/edgerev "inspect" "{state}"\n' in text
        assert state.read_bytes() == (site.first / "model/model.edgerev").read_bytes()

        with pytest.raises(BundleError, match=rf"does not start: its program ended(?s:.*)journalctl(?s:.*){KEPT}"):
            push_quietly(second, device)
        assert systemd.told().count(f"restart {UNIT}") == 2
        assert os.readlink(current) == f"bundles/{verify(first).name}"
        assert systemd.unit.read_text() == text
        assert left(device) == ["bundles", "current", "state"]
        assert os.listdir(root / "bundles") == [verify(first).name]

        push_quietly(site.first, device)
        assert f"disable --now {UNIT}" in systemd.told()
        assert os.listdir(systemd.unit.parent) == []

"""The installer on the device, function by function: stopped after any step, what is current works and can go on."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_bundle import small_bundle

from edgerev.deploy.bundle import UNIT, Manifest, seal, verify
from edgerev.deploy.device import install, service
from edgerev.deploy.device.root import MARKER, SUMS, DamagedError, RefusedError, Root, check_files
from edgerev.deploy.systemd import service as unit

PYTHON = ".".join(map(str, sys.version_info[:2]))
STEPS = ("mkdir", "open", "rename", "replace", "rmdir", "symlink", "sync", "unlink")
# Stands for what pip installs: it runs as long as it is there.
PROGRAM = "#!/bin/sh\nexec sleep 1000\n"


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path / "root")


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """Make virtual environments of one file, in a world without systemd."""

    def make_venv(place, manifest):
        install.remove(place / "venv")
        (place / "venv" / "bin").mkdir(parents=True)
        (place / "venv" / "bin" / "edgerev").write_text(PROGRAM)
        (place / "venv" / "bin" / "edgerev").chmod(0o755)
        install.try_it(place, manifest)

    def try_it(place, manifest):
        if not (place / "venv" / "bin" / "edgerev").is_file() or (place / "model" / "refused").exists():
            raise RefusedError("the bundle does not run on this device")
        return "it runs"

    monkeypatch.setattr(install, "make_venv", make_venv)
    monkeypatch.setattr(install, "try_it", try_it)
    monkeypatch.setattr(install, "check_interface", lambda manifest, source: None)
    monkeypatch.setattr(service, "RUNNING", tmp_path / "no systemd")


def bundle(folder, seed, run="", **files):
    """Write a bundle for this machine, unlike those of other seeds."""
    small_bundle(folder)
    (folder / "model/model.edgerev").write_bytes(bytes([seed]) * 1000)
    for name, data in files.items():
        (folder / "model" / name).write_bytes(data)
    if run:
        (folder / UNIT).write_text(unit(run))
    manifest = json.loads((folder / "manifest.json").read_text())
    seal(folder, Manifest(**{
        **manifest, "architecture": install.architecture(), "pythons": [PYTHON], "libc": "", "files": {},
        "service": bool(run),
    }))  # fmt: skip
    return folder


def put(root, source):
    with root.locked():
        install.install(root, source)
    return verify_name(source)


def verify_name(source):
    return hashlib.sha256((source / SUMS).read_bytes()).hexdigest()


def links(root):
    return root.bundle_of("current"), root.bundle_of("previous")


def check(root, current, previous=""):
    """Check that two bundles are there, that the first runs, and that nothing else was left."""
    assert links(root) == (current, previous)
    assert sorted(os.listdir(root.bundles)) == sorted(filter(None, [current, previous]))
    assert (root.path / "current" / "venv" / "bin" / "edgerev").is_file()
    for name in filter(None, [current, previous]):
        assert verify(root.place(name)).name == name
    extra = {MARKER, "bundles", "current", "previous", "state", "damaged"}
    assert {path.name for path in root.path.iterdir()} <= extra


# -- whose folder it is -------------------------------------------------------------------------------------------


def test_a_folder_of_others_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RefusedError, match=r"not empty, and has no \.edgerev-root .*; expected a new or an empty"):
        put(Root(tmp_path), bundle(tmp_path.with_name(f"{tmp_path.name}-bundle"), 1))
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_only_bundles_are_removed(root, tmp_path):
    first = put(root, bundle(tmp_path / "1", 1))
    mine = ("incoming-data", "incoming-", f"incoming-{'0' * 63}", f"incoming-{'A' * 64}", "bundles/notes", "0" * 64)
    for name in mine:
        (root.path / name).mkdir()
        (root.path / name / "file").write_text("mine")
    for name in (f"incoming-{'0' * 64}", f"bundles/{'f' * 64}"):
        (root.path / name).mkdir()
    second = put(root, bundle(tmp_path / "2", 2))
    assert links(root) == (second, first)
    assert [(root.path / name / "file").read_text() for name in mine] == ["mine"] * len(mine)
    assert not (root.path / f"incoming-{'0' * 64}").exists()
    assert not (root.bundles / ("f" * 64)).exists()


def test_one_at_a_time(root, monkeypatch):
    monkeypatch.setattr("edgerev.deploy.device.root.LOCK_SECONDS", 0)
    with root.locked(), pytest.raises(RefusedError, match="something else is being installed"), root.locked():
        pass


@pytest.mark.parametrize("path", ["relative", "/with space", "/a'b", "/a%h"])
def test_paths_that_cannot_be(path, capsys):
    with pytest.raises(SystemExit):
        install.main(["--path", path])
    assert f"edgerev: error: --path {path}: expected a whole path of letters" in capsys.readouterr().err


# -- installing, going back, repairing ----------------------------------------------------------------------------


def test_forth_and_back(root, tmp_path, capsys):
    first, second = put(root, bundle(tmp_path / "1", 1)), put(root, bundle(tmp_path / "2", 2))
    check(root, second, first)
    third = put(root, bundle(tmp_path / "3", 3))
    check(root, third, second)
    put(root, root.place(second))
    check(root, second, third)
    put(root, tmp_path / "3")
    check(root, third, second)
    put(root, tmp_path / "3")
    assert "is installed already, and runs" in capsys.readouterr().out


@pytest.mark.parametrize("hurt", ["venv", "venv/bin/edgerev"])
@pytest.mark.parametrize("which", ["current", "previous"])
@pytest.mark.parametrize("own", [False, True])
def test_a_broken_environment_is_made_anew(root, tmp_path, hurt, which, own):
    first, second = put(root, bundle(tmp_path / "1", 1)), put(root, bundle(tmp_path / "2", 2))
    install.remove(root.path / which / hurt)
    name, source = (second, tmp_path / "2") if which == "current" else (first, tmp_path / "1")
    put(root, root.place(name) if own else source)
    check(root, name, first if which == "current" else second)


@pytest.mark.parametrize("hurt", ["model/model.program", SUMS])
@pytest.mark.parametrize("which", ["current", "previous"])
def test_damaged_files_come_again(root, tmp_path, hurt, which):
    first, second = put(root, bundle(tmp_path / "1", 1)), put(root, bundle(tmp_path / "2", 2))
    (root.path / which / hurt).write_bytes(b"")
    name, source = (second, tmp_path / "2") if which == "current" else (first, tmp_path / "1")
    with pytest.raises(DamagedError, match="is damaged"):  # its own installer cannot help
        put(root, root.place(name))
    assert links(root) == (second, first)
    put(root, source)
    check(root, name, first if which == "current" else second)


def test_a_model_that_was_trained_inside_a_bundle_is_kept(root, tmp_path):
    name = put(root, bundle(tmp_path / "1", 1))
    (root.path / "current/model/model.edgerev").write_bytes(b"weeks of training")
    (root.path / "current/more").write_bytes(b"notes")
    put(root, tmp_path / "1")
    check(root, name)
    assert (root.path / "damaged/model/model.edgerev").read_bytes() == b"weeks of training"
    assert (root.path / "damaged/more").read_bytes() == b"notes"


def test_what_pip_wrote_is_compared(tmp_path):
    site = tmp_path / f"venv/lib/python{PYTHON}/site-packages"
    (site / "a-1.dist-info").mkdir(parents=True)
    (site / "a.py").write_text("1\n")
    value = base64.urlsafe_b64encode(hashlib.sha256(b"1\n").digest()).decode().rstrip("=")
    (site / "a-1.dist-info/RECORD").write_text(f"a.py,sha256={value},2\na-1.dist-info/RECORD,,\n")
    install.check_installed(tmp_path)
    (site / "a.py").write_text("2\n")
    with pytest.raises(RefusedError, match=r"a\.py is missing or changed"):
        install.check_installed(tmp_path)
    (site / "a.py").unlink()
    with pytest.raises(RefusedError, match=r"a\.py is missing or changed"):
        install.check_installed(tmp_path)


def test_a_bundle_that_does_not_run_leaves_nothing(root, tmp_path):
    first = put(root, bundle(tmp_path / "1", 1))
    with pytest.raises(RefusedError, match="does not run"):
        put(root, bundle(tmp_path / "2", 2, refused=b""))
    check(root, first)


@pytest.mark.parametrize(("path", "message"), [
    ("model/model.program", r"files are missing or changed: model/model\.program"), ("more", r"not belong to it: more"),
])  # fmt: skip
def test_a_damaged_bundle_is_refused(root, tmp_path, path, message):
    first = put(root, bundle(tmp_path / "1", 1))
    (bundle(tmp_path / "2", 2) / path).write_bytes(b"x")
    with pytest.raises(DamagedError, match=message):
        put(root, tmp_path / "2")
    check(root, first)


def test_there_is_nothing_to_go_back_to(root, tmp_path, capsys):
    put(root, bundle(tmp_path / "1", 1))
    assert install.main(["--path", str(root.path), "--rollback"]) == 1
    assert "there is no bundle before the current one" in capsys.readouterr().err


# -- stopped after any step ---------------------------------------------------------------------------------------


def stop_after(steps, work):
    """Do `work` in a process that ends after `steps` system calls that change something; return whether it did."""
    child = os.fork()
    if not child:
        left = [steps]

        def counted(call):
            def called(*args, **kwargs):
                if left[0] == 0:
                    os._exit(3)
                left[0] -= 1
                return call(*args, **kwargs)

            return called

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(4)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 3)
    return code == 3


def stop_everywhere(work, start, root, judge):
    """Stop `work` after every single step, from the same start each time, and judge what is there; count the steps."""
    for steps in range(1000):
        shutil.rmtree(root.path, ignore_errors=True)
        shutil.copytree(start, root.path, symlinks=True)
        if not stop_after(steps, work):
            return steps
        judge()
    raise AssertionError


@pytest.fixture
def two(root, tmp_path):
    """Install two bundles; return their names, a copy of the root, and a third bundle."""
    names = put(root, bundle(tmp_path / "1", 1)), put(root, bundle(tmp_path / "2", 2))
    shutil.copytree(root.path, tmp_path / "start", symlinks=True)
    return names, tmp_path / "start", bundle(tmp_path / "3", 3)


def runs(root):
    place = root.path / "current"
    assert install.try_it(place, {})
    assert check_files(place).name == root.bundle_of("current")


def test_a_new_bundle_stopped_anywhere(two, root):
    (first, second), start, source = two
    third, seen = verify_name(source), set()

    def judge():
        runs(root)
        before = links(root)
        seen.add(before)
        assert before[0] in (second, third)
        put(root, source)
        check(root, third, second)

    assert stop_everywhere(lambda: put(root, source), start, root, judge) > 20
    assert seen == {(second, first), (third, first), (third, second)}


def test_going_back_stopped_anywhere(two, root):
    (first, second), start, _ = two

    def judge():
        runs(root)
        assert links(root) in ((second, first), (first, first), (first, second))
        put(root, root.place(first))
        check(root, first, second)

    assert stop_everywhere(lambda: put(root, root.place(first)), start, root, judge) > 5


def test_a_first_bundle_stopped_anywhere(root, tmp_path):
    source = bundle(tmp_path / "1", 1)
    (tmp_path / "start").mkdir()

    def judge():
        if (root.path / "current").exists():
            runs(root)
        put(root, source)
        check(root, verify_name(source))

    assert stop_everywhere(lambda: put(root, source), tmp_path / "start", root, judge) > 10


def test_a_repair_stopped_anywhere(two, root):
    (first, second), start, source = two
    source = source.with_name("2")
    for path in ("venv/bin/edgerev", "model/model.program"):
        (start / "bundles" / second / path).unlink()

    def judge():
        put(root, source)
        check(root, second, first)

    assert stop_everywhere(lambda: put(root, source), start, root, judge) > 20


def test_all_is_on_disk_before_it_becomes_current(root, tmp_path, monkeypatch):
    calls = []

    def record(name, real):
        def call(*args):
            calls.append((name, os.path.basename(args[-1]) if args else ""))
            return real(*args)

        monkeypatch.setattr(os, name, call)

    for name in ("sync", "replace", "rename"):
        record(name, getattr(os, name))
    name = put(root, bundle(tmp_path / "1", 1))
    moved, became = calls.index(("rename", name)), calls.index(("replace", "current"))
    assert ("sync", "") in calls[moved:became]
    assert ("sync", "") in calls[became:]


# -- its service --------------------------------------------------------------------------------------------------

# Behaves like systemctl where it matters: `restart` is content once a program was started, and only `show` tells
# what became of it. What it is told is written down.
SYSTEMCTL = """\
#!{python} -S
import os, re, shlex, signal, subprocess, sys
here, words = {folder!r}, [word for word in sys.argv[1:] if word != "--user"]
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_DFL)  # the installer ignores them while it switches; systemd's programs do not
bus, pid, unit = (os.path.join(here, name) for name in ("no-bus", "pid", "units/edgerev.service"))
print(*words, file=open(os.path.join(here, "told"), "a"))
if os.path.exists(bus):
    sys.exit("Failed to connect to bus: No medium found")
if "enable" in words or "disable" in words:
    open(os.path.join(here, "enabled"), "w").write(words[0])
if "is-enabled" in words:
    sys.exit(not os.path.exists(os.path.join(here, "enabled")))
if ("restart" in words or "disable" in words) and os.path.exists(pid):
    try:
        os.killpg(int(open(pid).read()), signal.SIGTERM)
    except OSError:
        pass
    os.remove(pid)
if "restart" in words:
    line = re.search("^ExecStart=(.*)$", open(unit).read(), re.M)[1]
    script = "status=0; " + shlex.join(shlex.split(line)) + " || status=$?; echo $status >" + pid + ".code"
    open(pid + ".code", "w").close()
    program = subprocess.Popen(["sh", "-c", script], start_new_session=True, stdout=-3, stderr=-3)
    open(pid, "w").write(str(program.pid))
if "show" in words and os.path.exists(pid + ".code"):
    code = open(pid + ".code").read().strip()
    state, result = {{"": ("active", "success"), "0": ("inactive", "success")}}.get(code, ("activating", "exit-code"))
    print("ActiveState=" + state, "NRestarts=0", "Result=" + result, sep="\\n")
"""


class Systemd:
    """A systemctl that starts what a unit says, in a folder of its own."""

    def __init__(self, folder):
        self.folder, self.unit = folder, folder / "units" / UNIT
        self.unit.parent.mkdir(parents=True)
        (folder / "systemctl").write_text(SYSTEMCTL.format(python=sys.executable, folder=str(folder)))
        (folder / "systemctl").chmod(0o755)

    def told(self):
        """Return what systemctl was asked to change since the last time."""
        path = self.folder / "told"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith(("show", "is-", "reset"))]

    def stop(self):
        subprocess.run([self.folder / "systemctl", "disable"], check=True)


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    running = Systemd(tmp_path / "systemd")
    monkeypatch.setenv("PATH", f"{running.folder}:{os.environ['PATH']}")
    monkeypatch.setattr(service, "RUNNING", running.folder)
    monkeypatch.setattr(service, "SYSTEM", running.unit.parent)
    monkeypatch.setattr(service, "WATCH_SECONDS", 0.3)
    monkeypatch.setattr(service, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    yield running
    running.stop()


STARTED = ["daemon-reload", f"enable --quiet {UNIT}", f"restart {UNIT}"]


def break_programs(monkeypatch, text="#!/bin/sh\nexit 1\n"):
    """Let programs that are installed from now on end at once."""
    monkeypatch.setattr(sys.modules[__name__], "PROGRAM", text)


def test_a_service_is_started(root, tmp_path, systemd, capsys):
    put(root, bundle(tmp_path / "1", 1, "train a.toml"))
    assert systemd.told() == STARTED
    text = systemd.unit.read_text()
    assert f'ExecStart={root.path}/current/venv/bin/edgerev "train" "a.toml"\n' in text
    assert "@" not in text
    assert f"service {UNIT} runs" in capsys.readouterr().out
    put(root, tmp_path / "1")
    assert systemd.told() == []


def test_a_program_that_dies_at_once_is_rolled_back(root, tmp_path, systemd, monkeypatch):
    first = put(root, bundle(tmp_path / "1", 1, "train a.toml"))
    text = systemd.unit.read_bytes()
    systemd.told()
    break_programs(monkeypatch)
    with pytest.raises(RefusedError, match=r"does not start: its program ended at once \(exit-code.*; what was cur"):
        put(root, bundle(tmp_path / "2", 2, "train b.toml"))
    assert systemd.told() == [*STARTED, *STARTED]
    check(root, first)
    assert systemd.unit.read_bytes() == text
    assert "ActiveState=active" in service.Service(root.path).control("show", UNIT).stdout


def test_the_bundle_before_stays_what_can_be_gone_back_to(root, tmp_path, systemd, monkeypatch):
    first = put(root, bundle(tmp_path / "1", 1, "train a.toml"))
    second = put(root, bundle(tmp_path / "2", 2, "train a.toml"))
    break_programs(monkeypatch)
    with pytest.raises(RefusedError, match="does not start"):
        put(root, bundle(tmp_path / "3", 3, "train a.toml"))
    check(root, second, first)


def test_a_first_service_that_fails_leaves_nothing(root, tmp_path, systemd, monkeypatch):
    break_programs(monkeypatch)
    with pytest.raises(RefusedError, match="does not start"):
        put(root, bundle(tmp_path / "1", 1, "train a.toml --output @MODEL@"))
    assert links(root) == ("", "")
    assert os.listdir(root.bundles) == []
    assert not systemd.unit.exists()
    assert not (root.path / service.STATE).exists()


def test_a_service_that_has_done_its_work(root, tmp_path, systemd, monkeypatch, capsys):
    break_programs(monkeypatch, "#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(service, "WATCH_SECONDS", 60)
    put(root, bundle(tmp_path / "1", 1, "train a.toml"))
    assert "has ended already, without an error" in capsys.readouterr().out


def test_a_restart_is_a_failure(root, monkeypatch):
    states = iter([{"NRestarts": "0"}, {"NRestarts": "1"}])
    found = service.Service(root.path)
    monkeypatch.setattr(
        found, "_show", lambda: {"ActiveState": "active", "Result": "success", **next(states)}
    )
    monkeypatch.setattr(service, "_POLL_SECONDS", 0)
    assert "1 restarts" in found.watch()


def test_without_a_bus_nothing_is_switched(root, tmp_path, systemd, monkeypatch):
    first = put(root, bundle(tmp_path / "1", 1))
    (systemd.folder / "no-bus").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "config/systemd").mkdir(parents=True)
    (tmp_path / "config/systemd/user").symlink_to(systemd.unit.parent)
    message = r"cannot be reached \(Failed to connect to bus.*\); expected .*loginctl enable-linger.*XDG_RUNTIME_DIR"
    with pytest.raises(RefusedError, match=message):
        put(root, bundle(tmp_path / "2", 2, "train a.toml"))
    check(root, first)
    (systemd.folder / "no-bus").unlink()
    put(root, tmp_path / "2")
    assert "WantedBy=default.target" in systemd.unit.read_text()


def test_the_service_of_others_is_left_alone(root, tmp_path, systemd):
    systemd.unit.write_text("[Service]\nExecStart=/usr/bin/true\n")
    put(root, bundle(tmp_path / "1", 1))
    with pytest.raises(RefusedError, match="is there already and does not start from"):
        put(root, bundle(tmp_path / "2", 2, "train a.toml"))
    assert "/usr/bin/true" in systemd.unit.read_text()
    assert systemd.told() == []


def test_a_bundle_without_a_service_removes_the_one_before(root, tmp_path, systemd):
    put(root, bundle(tmp_path / "1", 1, "train a.toml"))
    systemd.told()
    put(root, bundle(tmp_path / "2", 2))
    assert systemd.told() == [f"disable --now {UNIT}", "daemon-reload"]
    assert not systemd.unit.exists()


def test_a_full_disk_does_not_empty_the_unit(root, tmp_path, systemd, monkeypatch):
    first = put(root, bundle(tmp_path / "1", 1, "train a.toml"))
    text = systemd.unit.read_bytes()

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RefusedError, match=r"cannot be written \(.*No space left"):
        put(root, bundle(tmp_path / "2", 2, "train b.toml"))
    assert systemd.unit.read_bytes() == text
    assert os.listdir(systemd.unit.parent) == [UNIT]
    assert links(root) == (first, "")


def test_a_switch_that_stopped_before_the_service_is_finished(root, tmp_path, systemd):
    put(root, bundle(tmp_path / "1", 1, "train a.toml"))
    second = put(root, bundle(tmp_path / "2", 2))
    systemd.told()
    root.point("current", put(root, tmp_path / "1"))
    root.point("current", second)
    put(root, tmp_path / "2")
    assert not systemd.unit.exists()
    root.point("current", verify_name(tmp_path / "1"))
    systemd.told()
    put(root, tmp_path / "1")
    assert systemd.told() == STARTED


def test_the_model_of_a_service_is_given_once(root, tmp_path, systemd):
    put(root, bundle(tmp_path / "1", 1))
    assert not (root.path / "state").exists()
    put(root, bundle(tmp_path / "2", 2, "train a.toml --output @MODEL@ --label '@MODEL@x'"))
    state = root.path / "state/model.edgerev"
    assert f'"--output" "{state}" "--label" "\\x40MODEL\\x40x"\n' in systemd.unit.read_text()
    assert state.read_bytes() == b"\2" * 1000
    state.write_bytes(b"trained on")
    third = put(root, bundle(tmp_path / "3", 3, "train a.toml --output @MODEL@"))
    put(root, tmp_path / "2")
    put(root, root.place(third))
    assert state.read_bytes() == b"trained on"
    assert os.listdir(state.parent) == ["model.edgerev"]


def test_the_bootstrap_names_what_is_missing(tmp_path):
    folder = bundle(tmp_path / "bundle", 1)
    for name, text in (("bin", ""), ("old", "#!/bin/sh\n[ $1 = --version ] && echo Python 3.9.2\nexit 1\n")):
        (tmp_path / name).mkdir()
        for tool in ("sh", "dirname"):
            (tmp_path / name / tool).symlink_to(shutil.which(tool))
        if text:
            Path(tmp_path / name / "python3").write_text(text)
            Path(tmp_path / name / "python3").chmod(0o755)
    for name, message in (("bin", "python3 is missing; on Debian: apt install python3 python3-venv"),
                          ("old", "Python 3.9.2 is here; expected Python 3.10 or newer")):  # fmt: skip
        done = subprocess.run(
            ["sh", folder / "install.sh"], env={"PATH": str(tmp_path / name)}, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 1
        assert f"edgerev: error: {message}" in done.stderr

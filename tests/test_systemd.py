"""The unit of a daemon: what it lets the daemon do follows from its configuration, and systemd takes it."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from edgerev.cli import main
from edgerev.daemon.settings import LimitsTable, ServeSettings
from edgerev.deploy import systemd
from edgerev.deploy.device.root import RefusedError
from edgerev.deploy.device.service import UNIT, Service
from edgerev.deploy.systemd import daemon_unit, service

MOST_EXPOSURE = 2.0  # systemd calls it OK

LOCAL = ServeSettings("model.edgerev")
UNIX = ServeSettings("model.edgerev", listen="unix:/run/edgerev/edgerev.sock", limits=LimitsTable(memory=64 << 20))
OPEN = ServeSettings("model.edgerev", listen="0.0.0.0:8350", token_file="token")


@pytest.fixture
def root_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def analyze(tmp_path, text, *words):
    """Let systemd read a unit; return what it says, without errors."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here; on Debian: apt install systemd")
    (tmp_path / UNIT).write_text(re.sub("ExecStart=[^ ]+", "ExecStart=/bin/true", text))
    done = subprocess.run(["systemd-analyze", *words, str(tmp_path / UNIT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize(("settings", "most"), [(LOCAL, 1.3), (UNIX, 0.6), (OPEN, 1.5)], ids=["local", "unix", "open"])
def test_the_exposure_is_small(tmp_path, root_user, settings, most):
    text = daemon_unit("/etc/edgerev.toml", settings)
    assert analyze(tmp_path, text, "verify", "--man=no") == ""
    said = analyze(tmp_path, text, "security", "--offline=true", "--no-pager")
    exposure = float(re.search(r"Overall exposure level for .*?: ([\d.]+)", said)[1])
    assert exposure <= most <= MOST_EXPOSURE


def lines(text):
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def test_no_network_beyond_what_is_configured(root_user):
    local, unix, open_ = (lines(daemon_unit("/etc/e.toml", settings)) for settings in (LOCAL, UNIX, OPEN))
    assert (local["IPAddressDeny"], local["IPAddressAllow"]) == ("any", "localhost")
    assert (unix["PrivateNetwork"], unix["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")
    assert (unix["MemoryMax"], unix["MemorySwapMax"]) == (str(64 << 20), "0")
    assert not {"IPAddressDeny", "PrivateNetwork", "MemoryMax"} & open_.keys()


def test_what_lies_in_homes_is_seen(root_user, monkeypatch):
    monkeypatch.setattr(sys, "prefix", "/home/pi/venv")
    text = daemon_unit("/home/pi/edgerev.toml", ServeSettings("/root/models/m.edgerev"))
    assert re.findall("BindReadOnlyPaths=(.*)", text) == ["/home/pi/venv", "/home/pi", "/root/models"]
    monkeypatch.setattr(sys, "prefix", "/opt/edgerev/venv")
    assert "BindReadOnlyPaths" not in daemon_unit("/etc/edgerev.toml", LOCAL)


def test_a_bundles_unit_goes_on_with_the_next_bundle(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "bundles" / "a" / "venv"))
    (tmp_path / ".edgerev-root").touch()
    text = daemon_unit("/etc/edgerev.toml", LOCAL)
    assert f'ExecStart={tmp_path}/current/venv/bin/edgerev "serve" "--config" "/etc/edgerev.toml"' in text
    assert systemd._installation()[1] == str(tmp_path)


@pytest.mark.parametrize("euid", [0, 1000])
def test_a_users_manager_gets_what_it_takes(tmp_path, monkeypatch, euid):
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    text = daemon_unit("/etc/edgerev.toml", UNIX)
    found = lines(text)
    assert found["WantedBy"] == ("default.target" if euid else "multi-user.target")
    assert {"DynamicUser", "PrivateNetwork", "ProtectSystem"} & found.keys() == (
        set() if euid else {"DynamicUser", "PrivateNetwork", "ProtectSystem"}
    )
    assert (found["Type"], found["WatchdogSec"], found["MemoryDenyWriteExecute"]) == ("notify", "30", "yes")
    assert found["MemoryMax"] == str(64 << 20)
    assert analyze(tmp_path, text, "verify", "--man=no") == ""


def test_the_installer_lets_the_bundle_print_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    program = tmp_path / "venv" / "bin" / "edgerev"
    program.write_text('#!/bin/sh\nprintf "%s|" "$PWD" "$@" "$PYTHONPATH"\nexit "$(cat code)"\n')
    program.chmod(0o755)
    (tmp_path / "code").write_text("0")
    (tmp_path / UNIT).write_text(service("serve --config 'my edgerev.toml'"))
    wanted = f"{tmp_path}|serve|--config|my edgerev.toml|--print-unit||"
    assert Service(tmp_path).text(tmp_path).decode() == wanted
    (tmp_path / "code").write_text("2")
    with pytest.raises(RefusedError, match="there is no unit for its configuration"):
        Service(tmp_path).text(tmp_path)


def test_the_command_line_prints_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "edgerev.toml").write_text('[serve]\nmodel = "m"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert main(["serve", "--config", "edgerev.toml", "--print-unit"]) == 0
    assert capsys.readouterr().out == daemon_unit(str(tmp_path / "edgerev.toml"), ServeSettings("m"))

"""`edgerev rss` on ARM, under qemu, which knows no tracing: figures are sampled, and say so."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgerev import tools
from edgerev.tools.child import link_package
from edgerev.tools.rss import START

pytestmark = pytest.mark.long

MIB = 1 << 20
GROW = "x = b'1' * (60 << 20); import platform, time; print(platform.machine(), flush=True); time.sleep(1)"


def check(figures, most_mib):
    assert figures["method"] == "sample"
    assert any("tracing is refused here" in note for note in figures["notes"])
    assert 60 * MIB < figures["peak_rss_bytes"] <= figures["peak_tree_rss_bytes"] < most_mib * MIB
    assert figures["processes"] == 1
    names = {Path(row["name"]).name for row in figures["at_peak"]["mappings"]}
    assert {"anonymous", "libc.so.6"} <= names
    assert max(figures["timeline"]["rss_bytes"]) > 60 * MIB


def test_aarch64(arm_root, tmp_path):
    """The whole verb, and a process that runs already."""
    link_package(str(tmp_path))
    shutil.copytree(tmp_path, tmp_path / "device", ignore=shutil.ignore_patterns("__pycache__", "device"))
    device = ["proot", "-q", "qemu-aarch64-static", "-r", arm_root, "-b", "/dev", "-b", "/proc"]
    device += ["-b", f"{tmp_path}/device:/packages", "-w", "/root", "/usr/bin/env", "-i", "PATH=/usr/bin:/bin"]
    verb = [*device, "PYTHONPATH=/packages", "python3", "-m", "edgerev", "rss", "--json"]
    done = subprocess.run([*verb, "--", "python3", "-c", GROW], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "aarch64\n")
    check(json.loads(done.stdout), 110)
    code = GROW.replace("time.sleep(1)", "input()")
    with subprocess.Popen([*device, "python3", "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout.readline() == "aarch64\n"
        attached = [*verb, "--attach", str(process.pid), "--seconds", "1"]
        figures = json.loads(subprocess.run(attached, capture_output=True, check=True, timeout=120).stdout)
        process.communicate("\n")
    assert figures["peak_rss_bytes"] > 60 * MIB
    assert figures["processes"] == 2  # proot, and what it runs


def test_armv7(arm32_root):
    """The part that measures; proot knows too little of 32-bit ARM to run the rest."""
    python = ["qemu-arm-static", "-L", arm32_root, "-E", f"PYTHONHOME={arm32_root}/usr"]
    python += [f"{arm32_root}/usr/bin/python3", "-I", "-S", "-c"]
    package = str(Path(tools.__path__[0]).parent)
    words = [START, package, "2", "0.02", "command", "trace", *python, GROW]
    done = subprocess.run([*python, *words], capture_output=True, text=True, timeout=120)
    assert (done.returncode, re.match("arm", done.stdout) is not None) == (0, True)
    check(json.loads(done.stderr), 110)

"""What a device pays: the memory and the modules of a process that trains with the wheel's kernels."""

import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

from edgerev import Block, Dense, Head, Learner, Net, ReLU
from edgerev.deploy.cross import link_library
from edgerev.deploy.wheel import make_wheel
from edgerev.kernels.targets import host_target
from edgerev.machine import read_fields

ROOT = Path(__file__).resolve().parents[1]
BUFFERS_BYTES, NUMPY_BYTES = 14_000_000, 30_000_000  # most resident memory besides the arena
DAEMON_BYTES = 24_000_000  # most resident memory of a daemon that waits, with a model of some KB
DEBIAN_BYTES = 7_900_000  # of Debian 12's Python 3.11 that runs nothing, for which these limits were set
COMPILERS = {"numba", "llvmlite"}
HEAVY = COMPILERS | {
    "dataclasses", "hashlib", "inspect", "json", "numpy", "pathlib", "pydantic", "queue", "subprocess", "tqdm",
}

PEAK = """
def peak_bytes():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
"""

BUFFERS = """
from array import array
x = array("f", (number % 101 / 101 - 0.5 for number in range(16 * 64)))
y = array("i", (sample % 10 for sample in range(16)))
"""

# numpy.random is left alone: it imports hashlib, and so OpenSSL, which together are 6 MB
NUMPY = """
import numpy as np
x = np.arange(16 * 64, dtype="f4").reshape(16, 64) % 101 / 101 - 0.5
y = np.arange(16) % 10
"""

TRAIN = """
import sys
from edgerev import SGD, Learner, preset
learner = Learner(preset("mlp16"), optimizer=SGD(1e-3), batch=16)
for _ in range(50):
    learner.learn_many(x, y)
learner.predict_many(x)
print(peak_bytes(), learner.plan.arena_bytes, *sys.modules)
"""


class Trained(NamedTuple):
    """Resident bytes of a training process at its peak, bytes of its arena, and the packages that it imported."""

    peak_bytes: int
    arena_bytes: int
    packages: set[str]


def run(*command):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def train(code, *python):
    peak, arena, *modules = run(*python, "-I", "-c", PEAK + code + TRAIN)
    return Trained(int(peak), int(arena), {name.partition(".")[0] for name in modules})


def test_training_from_buffers_imports_nothing_heavy(tmp_path):
    """From the sources, without any installed package; Python's own start would hide some in an editable one."""
    target = host_target().name
    link_library(target, tmp_path / f"{target}.so")
    package = tmp_path / "edgerev"
    package.mkdir()
    for entry in (*(ROOT / "edgerev").iterdir(), ROOT / "kernels"):
        (package / entry.name).symlink_to(entry)
    installed = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from edgerev.kernels import library
library.FOLDER = {str(tmp_path)!r}
"""
    trained = train(installed + BUFFERS, sys.executable, "-S")
    assert "edgerev" in trained.packages
    assert not trained.packages & HEAVY


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Give the Python of an environment with the wheel for this machine and what it requires."""
    folder = tmp_path_factory.mktemp("device")
    wheel = make_wheel(host_target().name, folder)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", f"{wheel}[serve]")
    return python


@pytest.mark.long
@pytest.mark.parametrize(
    ("code", "most_bytes", "absent"), [(BUFFERS, BUFFERS_BYTES, HEAVY), (NUMPY, NUMPY_BYTES, COMPILERS)],
    ids=["buffers", "numpy"],
)  # fmt: skip
def test_training_takes_little_memory_besides_the_arena(python, code, most_bytes, absent):
    (alone,) = map(int, run(python, "-I", "-S", "-c", PEAK + "print(peak_bytes())"))
    trained = train(code, python)
    rest = trained.peak_bytes - trained.arena_bytes
    figures = (
        f"peak {trained.peak_bytes:,d} B, arena {trained.arena_bytes:,d} B, so {rest:,d} B besides, at most "
        f"{most_bytes:,d}; Python alone takes {alone:,d} B of them, Debian's {DEBIAN_BYTES:,d} B"
    )
    print(figures)
    assert not trained.packages & absent
    assert rest <= most_bytes, figures


@pytest.mark.long
def test_a_daemon_that_waits_takes_little_memory(python, tmp_path):
    (alone,) = map(int, run(python, "-I", "-S", "-c", PEAK + "print(peak_bytes())"))
    Learner(Net((4,), Dense(8), (Block((ReLU(), Dense(4))),), Head(3)), batch=8).save(str(tmp_path / "m.edgerev"))
    (tmp_path / "edgerev.toml").write_text('[serve]\nmodel = "m.edgerev"\nlisten = "unix:socket"\n')
    command = [python, "-I", "-m", "edgerev", "serve", "--config", "edgerev.toml"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as daemon:
        assert "serving" in daemon.stderr.readline()
        fields = read_fields(f"/proc/{daemon.pid}/status")
        maps = Path(f"/proc/{daemon.pid}/maps").read_text()
        daemon.terminate()
    peak = int(fields["VmHWM"].split()[0]) << 10
    print(f"peak {peak:,d} B, at most {DAEMON_BYTES:,d}; Python alone takes {alone:,d} B of them")
    assert peak <= DAEMON_BYTES
    assert not [name for name in ("numpy", "libcrypto", "pydantic") if name in maps]

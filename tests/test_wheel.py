"""Wheels: what setup.py builds for this machine, what `make_wheel` builds for any, and the demo run from one."""

import platform
import shutil
import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from edgerev.deploy.wheel import generic_targets, make_wheel, platform_tag
from edgerev.errors import KernelError, UsageError
from edgerev.kernels.targets import host_target

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("edgerev", "kernels", "deploy", "tools", "setup.py", "pyproject.toml", "README.md", "LICENSE")
WHEEL_BYTES, LIBRARY_BYTES = 3_000_000, 1_000_000

DEMO = """
import sys
from edgerev.cli import main
code = main(["demo", "--json"])
assert not {"numba", "llvmlite"} & {name.partition(".")[0] for name in sys.modules}, "the compiler was imported"
from edgerev.kernels import library
assert library.load().path.endswith(".so"), library.load()
sys.exit(code)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Give a wheel for this machine's own target."""
    return make_wheel(host_target().name, tmp_path_factory.mktemp("dist"))


def libraries(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = [file for file in archive.infolist() if file.filename.endswith(".so")]
    return {Path(file.filename).stem: file.file_size for file in files}


def test_a_wheel_is_small_and_for_every_python(wheel):
    assert wheel.name.endswith(f"-py3-none-{platform_tag(host_target())}.whl")
    assert wheel.stat().st_size <= WHEEL_BYTES
    assert list(libraries(wheel)) == [host_target().name]
    assert max(libraries(wheel).values()) <= LIBRARY_BYTES


def test_the_same_input_gives_the_same_bytes(wheel, tmp_path):
    assert make_wheel(host_target().name, tmp_path).read_bytes() == wheel.read_bytes()


def test_a_wheel_holds_all_that_is_installed(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for package, folder in (("edgerev", "edgerev"), ("edgerev/kernels", "kernels"), ("edgerev/deploy", "deploy")):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and file.suffix != ".pyc":
                assert f"{package}/{file.relative_to(ROOT / folder)}" in names
    assert not any("__pycache__" in name for name in names)


def test_no_such_target(tmp_path):
    with pytest.raises(UsageError, match=r"target 'vax': expected one of .*rpi4.*x86-64-v3"):
        make_wheel("vax", tmp_path)


def test_each_architecture_has_libraries_for_all_its_machines():
    assert generic_targets("x86_64") == ["x86-64-v2", "x86-64-v3", "x86-64-v4"]
    assert generic_targets("aarch64") == ["aarch64"]
    assert generic_targets("armv7l") == ["armv7", "armv7-vfp"]
    assert host_target().name in generic_targets()
    with pytest.raises(KernelError, match="no kernels for riscv64; expected one of aarch64, armv7l, x86_64"):
        generic_targets("riscv64")


def build_host_wheel(folder):
    """Let pip build the wheel where nothing is installed, from a copy of the sources: it leaves files beside them."""
    (folder / "sources").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "sources" / name)
    venv.create(folder / "builder", with_pip=True)
    python = str(folder / "builder" / "bin" / "python")
    command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", "./sources"]
    subprocess.run(command, cwd=folder, check=True, timeout=900)
    (wheel,) = (folder / "dist").iterdir()
    return wheel


@pytest.mark.long
def test_the_demo_runs_from_the_wheel_without_a_compiler(tmp_path):
    wheel = build_host_wheel(tmp_path)
    assert set(libraries(wheel)) == set(generic_targets(platform.machine()))
    assert wheel.stat().st_size <= WHEEL_BYTES
    assert max(libraries(wheel).values()) <= LIBRARY_BYTES
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[demo]"], check=True, timeout=900)
    missing = subprocess.run([python, "-c", "import numba"], capture_output=True)
    assert missing.returncode
    done = subprocess.run([python, "-c", DEMO], capture_output=True, text=True, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    print(done.stdout)

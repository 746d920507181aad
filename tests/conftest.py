"""Fixtures that several test files use."""

import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ARM_SANDBOX = Path(__file__).parents[1] / "deploy" / "sandbox.sh"
ARM_TOOLS = {
    "qemu-aarch64-static": "qemu-user-static", "qemu-arm-static": "qemu-user-static", "proot": "proot",
    "apt-get": "apt", "dpkg-deb": "dpkg",
}  # fmt: skip


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real data: $EDGEREV_DATA, or ../shared/data beside the repository."""
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    folder = Path(os.environ.get("EDGEREV_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set EDGEREV_DATA to the folder that has mnist/")
    return folder


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def _cache_folder(tmp_path_factory) -> Path:
    """Give a cache for converted data that has the user's compiled kernels."""
    kernels = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgerev" / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("cache")
    (folder / "edgerev").mkdir()
    (folder / "edgerev" / "kernels").symlink_to(kernels)
    return folder


@pytest.fixture
def cache(_cache_folder, monkeypatch) -> Path:
    """Keep converted data sets of this process and its children out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache_folder))
    return _cache_folder


@pytest.fixture
def cli(cache, capsys):
    """Give a function that runs the command line in this process."""
    from edgerev.cli import main

    def run(*arguments) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def training_python() -> str:
    """Give the Python of an environment with onnxruntime-training, which installs the same module as onnxruntime."""
    python = os.environ.get("EDGEREV_ORT_TRAINING_PYTHON")
    if not python:
        pytest.skip("set EDGEREV_ORT_TRAINING_PYTHON to a Python with onnxruntime-training 1.19.2, onnx and NumPy")
    return python


@pytest.fixture(scope="session")
def arm_root() -> Path:
    """Give the root folder of an ARM device, which qemu and proot run."""
    return make_board("arm64") / "root"


@pytest.fixture(scope="session")
def arm_ssh() -> Path:
    """Give the command that reaches an ARM device; copied, it needs `root` and `home` beside it."""
    return make_board("arm64") / "ssh"


@pytest.fixture(scope="session")
def arm32_root() -> Path:
    """Give the root folder of a 32-bit ARM device, which qemu and proot run."""
    return make_board("armhf") / "root"


def make_board(architecture: str) -> Path:
    """Return the folder of an ARM device, made once and kept in the cache."""
    from edgerev.machine import cache_folder

    missing = [package for tool, package in ARM_TOOLS.items() if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no ARM sandbox without {', '.join(missing)}; on Debian: apt install {' '.join(missing)}")
    digest = hashlib.sha256(ARM_SANDBOX.read_bytes()).hexdigest()[:16]
    folder = Path(cache_folder()) / "arm-sandbox" / f"{architecture}-{digest}"
    if not folder.is_dir():
        subprocess.run(["sh", ARM_SANDBOX, folder, architecture], check=True)
    return folder


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, _cache_folder):
    """Give a daemon on a free TCP port, with small limits."""
    from daemon_harness import Daemon, save_model

    pytest.importorskip("waitress", reason="the package waitress is not installed")
    folder = tmp_path_factory.mktemp("door")
    save_model(folder / "model.edgerev")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(_cache_folder))
        made = Daemon(folder, listen="127.0.0.1:0", request_bytes=200_000, request_seconds=0.3)
    yield made
    assert made.end() == 0


@pytest.fixture(scope="session")
def disk_library(tmp_path_factory):
    """Give the library that records what a process does to a folder, or lets it fail."""
    from disk import build_library

    return build_library(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def disk(disk_library, tmp_path):
    """Give a folder whose power can be cut."""
    from disk import Disk

    return Disk(disk_library, tmp_path)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Give a folder with a small, untrained model for a daemon."""
    from daemon_harness import save_model

    save_model(tmp_path / "model.edgerev")
    return tmp_path


@pytest.fixture
def listening_to_the_keyboard():
    """A job in the background starts with the keyboard's signals ignored; here the caller does not ignore them."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGQUIT: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)

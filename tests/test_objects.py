"""Where compiled kernels are kept, and what happens when they cannot be; nothing is compiled here for real."""

import os
import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

from edgerev.errors import KernelError
from edgerev.kernels import objects
from edgerev.kernels.targets import AARCH64


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "_unkept", {})
    return tmp_path / "cache" / "edgerev" / "kernels"


@pytest.fixture
def compiled(monkeypatch):
    """Give a list of what was compiled, while compiling is replaced."""
    names = []

    def compile_nothing(target):
        names.append(target.name)
        return b"object"

    monkeypatch.setattr(objects, "_compile", compile_nothing)
    return names


def test_objects_are_compiled_once_and_kept(folder, compiled):
    path = objects.build(AARCH64)
    assert path == objects.object_path(AARCH64)
    assert path.parent == folder
    assert path.read_bytes() == b"object"
    assert objects.build(AARCH64) == path
    assert compiled == ["aarch64"]
    assert {file.name for file in folder.iterdir()} == {path.name, f"{path.stem}.sha256", "aarch64.lock"}


def test_a_damaged_object_is_compiled_again(folder, compiled):
    path = objects.build(AARCH64)
    for damage in (
        lambda: path.write_bytes(b"objekt"), lambda: path.write_bytes(b""), path.unlink,
        lambda: path.with_suffix(".sha256").write_bytes(b"0" * 64), path.with_suffix(".sha256").unlink,
    ):  # fmt: skip
        compiled.clear()
        damage()
        assert objects.build(AARCH64).read_bytes() == b"object"
        assert compiled == ["aarch64"]
        assert objects.build(AARCH64) == path
        assert compiled == ["aarch64"]


def test_the_name_depends_on_the_target(folder):
    other = AARCH64.replace(tile_rows=4)
    assert objects.object_path(other) != objects.object_path(AARCH64)


def test_a_cache_that_cannot_be_made(folder, compiled, capsys):
    folder.parents[1].write_text("a file where the folder should be")
    path = objects.build(AARCH64)
    assert path.read_bytes() == b"object"
    assert objects.build(AARCH64) == path
    assert compiled == ["aarch64"]
    message = capsys.readouterr().err
    assert "cannot be written" in message
    assert "XDG_CACHE_HOME" in message


def full(monkeypatch, only=""):
    """Let writing fail as on a full disk, below the folder `only`."""
    fsync = os.fsync

    def fail(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(only):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)


def test_a_full_cache(folder, compiled, monkeypatch, capsys):
    full(monkeypatch, only=str(folder))
    path = objects.build(AARCH64)
    assert path.read_bytes() == b"object"
    assert not path.is_relative_to(folder)
    assert "No space left on device" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["aarch64.lock"]


def test_no_room_anywhere(folder, compiled, monkeypatch):
    full(monkeypatch)
    with pytest.raises(KernelError, match=r"neither to .*No space left.* XDG_CACHE_HOME"):
        objects.build(AARCH64)


def test_no_compiler(folder, compiled, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(KernelError, match=r"needs numba, which is not installed; .* -m pip install 'edgerev\[jit\]'"):
        objects.build(AARCH64)


def test_no_home(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(objects.Path, "home", no_home)
    with pytest.raises(KernelError, match="set XDG_CACHE_HOME"):
        objects.build(AARCH64)


def test_a_compiler_that_fails_leaves_nothing(folder, capsys):
    with pytest.raises(KernelError, match=r"for zx81 failed(?s:.)*UsageError: target 'zx81'"):
        objects.build(AARCH64.replace(name="zx81"))
    assert capsys.readouterr().err == "edgerev: compiling kernels for zx81, once; about 20 s\n"
    assert [file.name for file in folder.iterdir()] == ["zx81.lock"]


def test_of_two_processes_one_compiles(folder, tmp_path):
    script = textwrap.dedent("""
        import os, sys
        from edgerev.kernels import objects
        from edgerev.kernels.targets import AARCH64

        def compile_after_the_other_came(target):
            print("compiling", flush=True)
            sys.stdin.readline()
            return b"object"

        objects._compile = compile_after_the_other_came
        print("asking", flush=True)
        print(objects.build(AARCH64).read_bytes().decode(), flush=True)
    """)
    command = [sys.executable, "-c", script]
    start = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **start) as first:
        assert [first.stdout.readline() for _ in range(2)] == ["asking\n", "compiling\n"]
        with subprocess.Popen(command, **start) as second:
            assert second.stdout.readline() == "asking\n"
            first.stdin.write("go\n")
            first.stdin.flush()
            assert second.communicate(timeout=60)[0] == "object\n"
        assert first.communicate(timeout=60)[0] == "object\n"

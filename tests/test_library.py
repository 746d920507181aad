"""Which kernels a process gets: the wheel's library that fits best, else those compiled here, else a clear error."""

import importlib.util
import os

import pytest

from edgerev.deploy.cross import link_library, link_program
from edgerev.errors import KernelError
from edgerev.kernels import layout, library
from edgerev.kernels.targets import host_target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with the host's library, as in a wheel."""
    folder = tmp_path_factory.mktemp("libraries")
    link_library(host_target().name, folder / f"{host_target().name}.so")
    return folder


@pytest.fixture
def load(monkeypatch):
    """Give `library.load` as a fresh process has it, for an installation with libraries in a folder."""
    monkeypatch.delenv(library.JIT_VARIABLE, raising=False)

    def fresh(folder):
        monkeypatch.setattr(library, "FOLDER", str(folder))
        return library.load.__wrapped__()

    return fresh


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_the_wheels_library_comes_first(load, folder, no_compiler):
    kernels = load(folder)
    assert (kernels.target, kernels.path) == (host_target().name, str(folder / f"{host_target().name}.so"))
    assert callable(kernels.run)


def test_the_variable_asks_for_the_compiler(load, folder, monkeypatch):
    monkeypatch.setenv(library.JIT_VARIABLE, "1")
    assert load(folder)[1:] == (host_target().name, "")


def test_the_variable_but_no_compiler(load, folder, monkeypatch, no_compiler):
    monkeypatch.setenv(library.JIT_VARIABLE, "1")
    with pytest.raises(KernelError, match=r"EDGEREV_JIT=1 asks for kernels compiled here, which needs Numba; .* unset"):
        load(folder)


def test_no_library_but_a_compiler(load, tmp_path):
    assert load(tmp_path / "none").path == ""


def test_neither_library_nor_compiler(load, tmp_path, no_compiler):
    (tmp_path / "rpi4.so").write_bytes(b"for another processor")
    with pytest.raises(KernelError, match=r"libraries installed are for: rpi4\. .* 'edgerev\[jit\]'"):
        load(tmp_path)


def test_a_file_that_is_no_library(load, tmp_path):
    (tmp_path / f"{host_target().name}.so").write_bytes(b"of another kind")
    with pytest.raises(KernelError, match=r"cannot be loaded .* install edgerev again"):
        load(tmp_path)


@pytest.mark.parametrize(("source", "version"), [
    ("int edgerev_interface(void) { return 99; } int edgerev_run(void) { return 0; }", 99),
    ("int edgerev_run(void) { return 0; }", 0),
])  # fmt: skip
def test_another_interface(load, tmp_path, source, version):
    (tmp_path / "library.c").write_text(source)
    path = tmp_path / f"{host_target().name}.so"
    link_program(host_target().name, ["-shared", tmp_path / "library.c"], path)
    with pytest.raises(KernelError, match=f"have interface version {version}; expected {layout.INTERFACE}"):
        load(tmp_path)


def test_other_files_are_no_libraries(monkeypatch, tmp_path):
    for name in ("x86-64-v3.so", "README", "rpi4.so"):
        (tmp_path / name).touch()
    monkeypatch.setattr(library, "FOLDER", os.fspath(tmp_path))
    assert library.shipped_targets() == ["rpi4", "x86-64-v3"]

"""Bundles: every damage is found, the same input gives the same bytes, dependencies are the target's."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from array import array
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgerev import Block, Dense, Head, Learner, Net, ReLU
from edgerev.cli import main
from edgerev.deploy import dependencies
from edgerev.deploy.bundle import (
    DEVICE,
    PACKAGE,
    SUMS,
    UNIT,
    Manifest,
    _put_in_place,
    check_output,
    copy_installer,
    seal,
    verify,
)  # fmt: skip
from edgerev.deploy.systemd import service
from edgerev.deploy.trial import try_model
from edgerev.errors import BundleError, UsageError
from edgerev.kernels.layout import INTERFACE
from edgerev.kernels.targets import TARGETS, host_target, named

WHEEL = "wheels/a-1-py3-none-any.whl"
PROGRAM = ("model/model.parameters", "model/model.program")
FILES = ("c/libedgerev.so", *PACKAGE, "install.sh", "manifest.json", "model/model.edgerev", *PROGRAM, WHEEL)


def small_bundle(folder, **changes):
    """Write a bundle whose big files are small; `changes` are to its manifest."""
    for name in ("c", "model", "wheels"):
        (folder / name).mkdir(parents=True)
    copy_installer(folder)
    (folder / "c/libedgerev.so").write_bytes(b"\x7fELF")
    (folder / "model/model.edgerev").write_bytes(bytes(range(256)) * 64)
    for name in PROGRAM:
        (folder / name).write_bytes(struct.pack("<8si", b"edgerev", INTERFACE))
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(zipfile.ZipInfo("a.py"), b"#" * 1000)
    fields = {"edgerev": "0.1.0", "interface": INTERFACE, "target": "aarch64", "architecture": "aarch64"}
    seal(folder, Manifest(**{**fields, "pythons": ["3.11"], "libc": "2.17", **changes}))
    return folder


@pytest.fixture
def bundle(tmp_path):
    return small_bundle(tmp_path / "bundle")


def test_a_whole_bundle(bundle):
    found = verify(bundle)
    assert found.paths == sorted([*FILES, SUMS])
    assert found.manifest.pythons == ["3.11"]
    assert found.manifest.files["model/model.edgerev"]["bytes"] == 256 * 64
    assert re.fullmatch("[0-9a-f]{64}", found.name)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=bundle, check=True)


def test_the_same_input_gives_the_same_bytes(bundle, tmp_path):
    assert verify(small_bundle(tmp_path / "again")).name == verify(bundle).name


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_byte(bundle, path, place):
    data = bytearray((bundle / path).read_bytes())
    data[place] ^= 1
    (bundle / path).write_bytes(data)
    with pytest.raises(BundleError, match=rf"is damaged: {path}: the bytes are not those .* run `edgerev build` again"):
        verify(bundle)


@pytest.mark.parametrize("path", FILES)
def test_a_missing_file(bundle, path):
    (bundle / path).unlink()
    with pytest.raises(BundleError, match=f"{path} is missing"):
        verify(bundle)


@pytest.mark.parametrize("path", ["more", "wheels/b-1-py3-none-any.whl", "c/.hidden"])
def test_a_file_too_many(bundle, path):
    (bundle / path).write_bytes(b"")
    with pytest.raises(BundleError, match=f"{path} does not belong to it"):
        verify(bundle)


def test_links_are_not_files(bundle, tmp_path):
    os.rename(bundle / "model/model.edgerev", tmp_path / "model.edgerev")
    (bundle / "model/model.edgerev").symlink_to(tmp_path / "model.edgerev")
    with pytest.raises(BundleError, match=r"model/model\.edgerev: the bytes are not those"):
        verify(bundle)
    (bundle / "wheels/more").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="wheels/more does not belong to it"):
        verify(bundle)


@pytest.mark.parametrize("text", ["", "\n", f"{'x' * 64}  a\n", f"{'0' * 64}  ../up\n", f"{'0' * 64}  /root\n", "\0"])
def test_sums_that_are_none(bundle, text):
    (bundle / SUMS).write_text(text)
    with pytest.raises(BundleError, match="SHA256SUMS is not a list of sums"):
        verify(bundle)


def test_not_a_bundle(tmp_path):
    with pytest.raises(BundleError, match="is not a bundle: it has no SHA256SUMS; expected a folder made by"):
        verify(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        verify(tmp_path / "nowhere")


def test_another_format(tmp_path):
    with pytest.raises(BundleError, match="has format 2; expected 1; make it with the edgerev that pushes it"):
        verify(small_bundle(tmp_path / "bundle", format=2))


def resum(bundle):
    """Write the sums anew, and not the manifest."""
    paths = sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file() and path.name != SUMS)
    sums = subprocess.run(["sha256sum", *paths], cwd=bundle, capture_output=True, text=True, check=True).stdout
    (bundle / SUMS).write_text(sums)


def test_a_manifest_of_other_files(bundle):
    (bundle / "model/model.edgerev").write_bytes(b"another")
    resum(bundle)
    with pytest.raises(BundleError, match=r"manifest\.json and SHA256SUMS tell different files"):
        verify(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "colour": "red"}'])
def test_a_manifest_that_is_none(bundle, text):
    (bundle / "manifest.json").write_text(text)
    resum(bundle)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        verify(bundle)


def test_a_bundle_without_an_installer(bundle):
    (bundle / "install.sh").unlink()
    seal(bundle, verify_fields(bundle))
    with pytest.raises(BundleError, match=r"install\.sh is not part of it"):
        verify(bundle)


def verify_fields(bundle):
    data = json.loads((bundle / "manifest.json").read_text())
    return Manifest(**{**data, "files": {}})


def test_outputs_that_cannot_be(bundle, tmp_path):
    check_output(tmp_path / "new", replace=False)
    check_output(bundle, replace=True)
    with pytest.raises(UsageError, match="is there already; expected a new name; add --force"):
        check_output(bundle, replace=False)
    for replace in (False, True):
        with pytest.raises(UsageError, match="is not a bundle; expected a new name"):
            check_output(tmp_path, replace=replace)
        with pytest.raises(UsageError, match=r"does not exist; expected .* make it first"):
            check_output(tmp_path / "no" / "where", replace=replace)


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_bundle_that_cannot_be_replaced_stays(bundle, tmp_path, monkeypatch, failing, error):
    name, rename, calls = verify(bundle).name, os.rename, []

    def fail(old, new):
        calls.append(new)
        if len(calls) == failing:
            raise error
        rename(old, new)

    new = small_bundle(tmp_path / "scratch" / "bundle", libc="2.18")
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(error):
        _put_in_place(new, bundle)
    assert verify(bundle).name == name
    monkeypatch.undo()
    _put_in_place(new, bundle)
    assert verify(bundle).manifest.libc == "2.18"


# -- the trial ----------------------------------------------------------------------------------------------------


def saved(path, head=None, mean=(0.0,), scale=1.0):
    net = Net((6,), Dense(16), (Block((Dense(8), ReLU(), Dense(8))),), head or Head(3))
    learner = Learner(net, batch=8, seed=1)
    learner.set_standardisation(mean * 6, [scale] * 6)
    learner.save(str(path))
    return str(path)


def test_a_model_is_tried_on_its_mean(tmp_path):
    assert "one prediction made" in try_model(saved(tmp_path / "m", mean=(101325.0,), scale=1 / 20))


def test_a_ridge_head_without_samples_is_no_failure(tmp_path):
    assert "its head, which has learned nothing yet" in try_model(saved(tmp_path / "m", Head(3, kind="ridge")))


def test_released_answers_are_tried(tmp_path):
    path = saved(tmp_path / "m", Head(3, kind="ridge", tasks=2))
    learner = Learner.load(path)
    learner.task = 0
    learner.remember_many(array("f", range(18)), [0, 1, 2])
    learner.release()
    learner.save(path)
    assert "one prediction made" in try_model(path)


def test_a_model_that_cannot_run_is_refused_on_the_laptop(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved("m.edgerev", mean=(0.0,))
    learner = Learner.load("m.edgerev")
    learner.runtime.view("stem.0.bias")[0] = 1e6  # the state ends at 2048
    learner.save("m.edgerev")
    assert main(["build", "m.edgerev", "--target", host_target().name, "-o", "new"]) == 1
    assert "state" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["m.edgerev", "m.edgerev.previous"]


# -- what the device is given to run ------------------------------------------------------------------------------


def test_what_shells_read():
    subprocess.run([shutil.which("dash") or "sh", "-n", DEVICE / "install.sh"], check=True)
    for name in ("root.py", "probe.py"):  # as arguments, through any login shell
        assert "\\" not in (DEVICE / name).read_text()


def test_words_reach_a_service_as_they_are():
    text = service("""train 'my job.toml' --data '%h/$HOME' -o "a\\"b" --resume @ROOT@""")
    line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
    assert line == (
        'ExecStart=@ROOT@/current/venv/bin/edgerev "train" "my job.toml" "--data" "%%h/$$HOME" "-o" "a\\"b" '
        '"--resume" "\\x40ROOT\\x40"'
    )


@pytest.mark.parametrize("arguments", ["", "   ", "'train", "fly away", "train a\nUser=root", "-h"])
def test_arguments_that_are_none(arguments):
    with pytest.raises(UsageError, match="--run"):
        service(arguments)


@pytest.mark.parametrize("wanted", ["multi-user.target", "default.target"])
def test_systemd_accepts_the_unit(tmp_path, wanted):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here; on Debian: apt install systemd")
    program = tmp_path / "current/venv/bin/edgerev"
    program.parent.mkdir(parents=True)
    program.symlink_to("/bin/true")
    text = service("train 'my job.toml' --data %h --resume")
    (tmp_path / UNIT).write_text(text.replace("@ROOT@", str(tmp_path)).replace("@WANTED_BY@", wanted))
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# -- dependencies -------------------------------------------------------------------------------------------------


def test_platforms_begin_with_the_least():
    tags = dependencies.platforms(named("aarch64"))
    assert tags[:3] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64", "manylinux_2_18_aarch64"]
    assert tags[-1] == "manylinux_2_35_aarch64"
    assert dependencies.platforms(named("x86-64-v3"))[:2] == ["manylinux_2_5_x86_64", "manylinux1_x86_64"]


@pytest.mark.parametrize(
    ("names", "libc"),
    [
        ([], ""),
        (["a-1-py3-none-any.whl"], ""),
        (["a-1-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", "b-1-py3-none-any.whl"], "2.27"),
        (["a-1-cp311-cp311-manylinux2014_aarch64.whl"], "2.17"),
        (["a-1-cp311-cp311-manylinux_2_5_x86_64.manylinux1_x86_64.whl", "b-1-cp3-abi3-manylinux_2_9_i686.whl"], "2.9"),
    ],
)  # fmt: skip
def test_the_oldest_libc(names, libc):
    assert dependencies.oldest_libc(names) == libc


def test_markers_are_read_for_the_device():
    asked = ["a>=1", "b; python_version < '3.11'", "c; platform_machine == 'aarch64'", "d; extra == 'test'"]
    target = named("aarch64")
    assert dependencies._applying(asked, dependencies.environment(target, "3.10")) == ["a>=1", "b", "c"]
    assert dependencies._applying(asked, dependencies.environment(target, "3.13")) == ["a>=1", "c"]
    tested = {**dependencies.environment(target, "3.13"), "extra": "test"}
    assert dependencies._applying(asked, tested) == ["a>=1", "c", "d"]
    assert dependencies._applying(asked, dependencies.environment(named("x86-64-v3"), "3.11")) == ["a>=1"]


def test_what_wheels_ask_for_is_missed(tmp_path):
    wheel = tmp_path / "A_b-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        lines = ("Name: a-b", "Requires-Dist: c>2; python_version < '3.11'", "Requires-Dist: a.b")
        archive.writestr("A_b-1.dist-info/METADATA", "\n".join(lines))
    around = dependencies.environment(named("aarch64"), "3.10")
    assert dependencies._missing([wheel], around, []) == ["c>2"]
    assert dependencies._missing([wheel], around, ["C"]) == []
    assert dependencies._missing([wheel], dependencies.environment(named("aarch64"), "3.11"), []) == []


@pytest.mark.parametrize("python", ["3", "3.11.2", "2.7", "3.9", "python3.11"])
def test_pythons_that_cannot_be(python, tmp_path):
    with pytest.raises(UsageError, match=f"--python {python}: "):
        dependencies.fetch(named("aarch64"), python, tmp_path)


def test_a_package_without_wheels(tmp_path, monkeypatch):
    said = "ERROR: No matching distribution found for"
    monkeypatch.setattr(dependencies, "_pip_download", lambda wanted, *rest: f"{said} {wanted[0]}")
    message = rf"aarch64 with Python 3\.11 cannot be downloaded; (?s:.*)pip says:\n{said} pydantic"
    with pytest.raises(BundleError, match=message):
        dependencies.fetch(named("aarch64"), "3.11", tmp_path)


# -- the command line ---------------------------------------------------------------------------------------------


def test_the_list_of_targets(capsys):
    assert main(["build", "--list", "--json"]) == 0
    targets = json.loads(capsys.readouterr().out)["targets"]
    assert [target["name"] for target in targets] == list(TARGETS)
    assert {"machine", "processor", "lanes", "libc", "pythons"} < set(targets[0])
    assert main(["build", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["target", *TARGETS, "libc:"]
    assert "libc of kernels" in lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --target NAME and -o DIR, or --list"),
        (["m.edgerev", "--target", "aarch64"], "expected --target NAME and -o DIR"),
        (["--target", "aarch64", "-o", "DIR"], "no model given; expected a checkpoint"),
        (["m.edgerev", "--target", "zx81", "-o", "new"], "target 'zx81': expected one of aarch64"),
        (["m.edgerev", "--target", "aarch64", "-o", "new", "--run", "fly"], "--run 'fly': expected a verb"),
        (["m.edgerev", "--target", "aarch64", "-o", "new", "--wheel"], "a wheel holds no model"),
        (["--target", "aarch64", "-o", "new", "--wheel", "--python", "3.11"], "a wheel holds no model and serves"),
    ],
)  # fmt: skip
def test_usage_of_build(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["build", *words]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_build_says(tmp_path, monkeypatch, capsys):
    manifest = SimpleNamespace(target="rpi4", architecture="aarch64", pythons=["3.11", "3.13"], libc="2.27")
    done = SimpleNamespace(folder=tmp_path / "a b", name="1d", manifest=manifest, paths=["x", "y"], nbytes=1234567)
    monkeypatch.setattr("edgerev.deploy.bundle.make", lambda *_, **__: done)
    assert main(["build", "m.edgerev", "--target", "rpi4", "-o", "new"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["bundle", str(done.folder)], ["id", "1d"], ["target", "rpi4 (aarch64)"],
        ["libc", "2.27 or newer, for all packages in it"], ["Python", "3.11 or 3.13"],
        ["size", "1,234,567 B in 2 files"], ["next", f"edgerev push '{done.folder}' USER@HOST"],
    ]  # fmt: skip


def test_a_model_that_is_none_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("m.edgerev").write_bytes(b"nothing")
    assert main(["build", "m.edgerev", "--target", "aarch64", "-o", "new"]) == 1
    assert "m.edgerev" in capsys.readouterr().err
    assert os.listdir() == ["m.edgerev"]


def test_deploying_is_imported_by_its_verbs_only():
    code = "import sys; from edgerev.cli import main; main(['inspect', 'none']); main(['rss', '--', 'true']);" \
        "print(*[name for name in sys.modules if name.startswith('edgerev.deploy')])"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "edgerev.deploy" not in done.stdout

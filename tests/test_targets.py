"""Which processors there are kernels for, and which of those a machine can run."""

import enum
import hashlib
import os
import struct
import subprocess
import sys

import pytest

from edgerev.errors import UsageError
from edgerev.kernels import layout, targets
from edgerev.kernels.targets import TARGETS, host_target, named, processor_features, usable

V2, V3, V4 = set(targets.V2), set(targets.V3), set(targets.V4)
BOARDS = ["rpi-zero2w", "rpi4", "rpi5", "jetson-nano", "jetson-orin"]
# AT_HWCAP as the boards' kernels report it
PI3_32, PI4, PI5 = 0x3FB0D6, 0x887, 0x119FFF


@pytest.fixture
def machine(monkeypatch):
    """Give a function that makes this machine another: its kernel, its processor's features, bits of a pointer."""

    def become(name, features, bits=64):
        uname = os.uname_result(("Linux", "board", "6.1", "1", name))
        monkeypatch.setattr(targets.os, "uname", lambda: uname)
        monkeypatch.setattr(targets.sys, "maxsize", (1 << (bits - 1)) - 1)
        if features is not None:
            monkeypatch.setattr(targets, "processor_features", lambda: frozenset(features))

    return become


def bits_of(hwcap, architecture):
    return {name for name, bit in targets._HWCAP[architecture].items() if hwcap >> bit & 1}


@pytest.mark.parametrize(("hwcap", "best", "boards"), [
    (PI4, "rpi-zero2w", ["rpi-zero2w", "rpi4", "jetson-nano"]), (PI5, "rpi5", BOARDS), (0x3, "aarch64", []),
])  # fmt: skip
def test_a_board_runs_what_it_has_the_features_for(hwcap, best, boards, machine):
    machine("aarch64", bits_of(hwcap, "aarch64"))
    found = usable(TARGETS)
    assert found[0] == best
    assert set(found) == {*boards, "aarch64"}
    assert host_target().name == "aarch64"  # a board's own kernels are for those who ask for them


def test_a_library_for_a_newer_board_is_not_picked(machine):
    machine("aarch64", bits_of(PI4, "aarch64"))
    assert usable(["rpi5"]) == []
    assert usable(["rpi5", "aarch64", "rpi4"]) == ["rpi4", "aarch64"]


@pytest.mark.parametrize("kernel", ["armv7l", "armv8l", "aarch64"])
def test_a_32_bit_process_gets_32_bit_kernels(kernel, machine):
    machine(kernel, bits_of(PI3_32, "arm"), bits=32)
    assert usable(TARGETS) == ["armv7", "armv7-vfp"]
    assert host_target().name == "armv7"
    machine(kernel, bits_of(PI3_32, "arm") - {"neon"}, bits=32)
    assert host_target().name == "armv7-vfp"


@pytest.mark.parametrize(("features", "name"), [
    (V4, "x86-64-v4"), (V4 - {"avx512bw"}, "x86-64-v3"), (V3, "x86-64-v3"),
    (V3 - {"fma"}, "x86-64-v2"), (V2, "x86-64-v2"),
])  # fmt: skip
def test_the_best_level_of_x86(features, name, machine):
    machine("x86_64", features)
    assert host_target().name == usable(TARGETS)[0] == name


def test_processors_without_kernels(machine):
    machine("x86_64", V2 - {"ssse3"})
    with pytest.raises(LookupError, match="lacks ssse3, which the kernels for x86-64-v2 need"):
        host_target()
    machine("riscv64", ())
    with pytest.raises(LookupError, match="no kernels for processor 'riscv64'; expected x86_64, aarch64 or ARMv7"):
        host_target()
    machine("armv6l", (), bits=32)
    with pytest.raises(LookupError, match="no kernels for processor 'armv6l'"):
        host_target()


@pytest.mark.parametrize("name", ["rpi-zero", "rpi-zero-w", "rpi1", "armv6", "armv6l"])
def test_armv6_is_refused_by_name(name):
    with pytest.raises(UsageError, match=f"target '{name}' is an ARMv6 processor.* expected one of .*rpi4.*Pi 2 or"):
        named(name)


def test_names():
    assert named("rpi4") is TARGETS["rpi4"]
    assert (named("x86-64-v3:16").width, named("x86-64-v3:16").name) == (16, "x86-64-v3:16")
    assert usable(["x86-64-v3:4"]) in ([], ["x86-64-v3:4"])
    for name in ("zx81", "rpi4:0", "rpi4:7", "rpi4:x", ""):
        with pytest.raises(UsageError, match=r"expected one of .*rpi4.*`edgerev build --list`"):
            named(name)


def test_only_what_has_no_instruction_for_it_is_not_fused():
    assert [target.name for target in TARGETS.values() if not target.fused] == ["x86-64-v2"]


def test_this_machine_has_what_its_target_requires():
    assert processor_features().issuperset(host_target().requires)


def test_a_device_imports_little():
    heavy = "{'ctypes', 'numpy', 'platform', 'subprocess'}"
    program = f"import edgerev.kernels.targets, sys; print(*{heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def contract():
    """Return what rows and tables mean, as text."""
    lines = []
    for name, value in sorted(vars(layout).items()):
        if isinstance(value, type) and issubclass(value, enum.IntEnum) and value is not enum.IntEnum:
            lines.append(f"{name}: {', '.join(f'{member.name} = {member.value}' for member in value)}")
        elif name.isupper() and name != "INTERFACE" and isinstance(value, int):
            lines.append(f"{name} = {value}")
    for operation, signature in layout.SIGNATURES.items():
        defaults = sorted((key, struct.pack("<f", value).hex()) for key, value in signature.defaults.items())
        lines.append(f"{operation.name}: {signature[:4]} {defaults}")
    lines.append(f"{sorted((key.name, value) for key, value in layout.ITEMSIZE.items())}")
    lines.append(f"{sorted((key.name, value) for key, value in layout.FRACTION_BITS.items())}")
    return "\n".join(lines)


def test_the_interface_has_a_version():
    found = hashlib.sha256(contract().encode()).hexdigest()[:16]
    assert (layout.INTERFACE, found) == (3, "4309f64682e5d7fa"), (
        "kernels/layout.py changed what rows or tables mean: raise INTERFACE there, so that kernels compiled for "
        "another version are refused, and put the new pair here"
    )

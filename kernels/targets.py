"""Processors that kernels are compiled for: what LLVM must know, what a machine must have, and the tile that fits.

A device imports this to choose among the libraries it was given, so it needs nothing but small parts of the standard
library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from edgerev.errors import UsageError
from edgerev.value import Value


class Target(Value):
    """A processor as the compiler sees it.

    Attributes
    ----------
    name : how users call it
    triple, cpu, features : LLVM's words
    width : float32 lanes of a vector register
    tile_rows, tile_vectors : largest register tile of the micro-kernel that does not spill
    requires : features that the code may use; see `processor_features`
    generic : whether it is for all processors of a level, not those of one board
    libc : oldest GNU C library that programs and libraries run with
    """

    name: str
    triple: str
    cpu: str
    features: str
    width: int
    tile_rows: int
    tile_vectors: int
    requires: tuple[str, ...]
    generic: bool = True
    libc: str = "2.17"

    @property
    def architecture(self) -> str:
        found = self.triple.split("-", 1)[0]
        return "arm" if found.startswith("arm") else found

    @property
    def machine(self) -> str:
        """The architecture as `os.uname` and the names of wheels have it."""
        return "armv7l" if self.architecture == "arm" else self.architecture

    @property
    def fused(self) -> bool:
        """Whether the processor multiplies and adds with one rounding; else `multiply_add` does it in float64."""
        return self.architecture != "x86_64" or "fma" in self.requires

    @property
    def bits(self) -> int:
        """Bits of a pointer."""
        return 32 if self.architecture == "arm" else 64

    @property
    def registers(self) -> int:
        """How many vectors of `width` lanes fit the registers: a half where `multiply_add` needs lanes of float64."""
        if self.architecture == "arm":
            return 16 if "neon" in self.requires else 32 // self.width
        if not self.fused:
            return 8
        return 32 if self.architecture == "aarch64" or "avx512vl" in self.requires else 16


VARIABLE = "EDGEREV_KERNEL_TARGET"  # names the target of a process that compiles

X86, ARM64, ARM32 = "x86_64-linux-gnu", "aarch64-linux-gnu", "armv7-unknown-linux-gnueabihf"
V2 = ("cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3")
V3 = (*V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
V4 = (*V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
ARMV8 = ("fp", "asimd")
ARMV8_1 = (*ARMV8, "crc32")  # what every Cortex-A53, A57 and A72 has
ARMV8_2 = (*ARMV8_1, "atomics", "fphp", "asimdhp", "asimdrdm", "lrcpc", "asimddp")
ARMV7 = ("vfpv3", "vfpv4", "idiva", "idivt")

AARCH64 = Target("aarch64", ARM64, "generic", "+neon", 4, 8, 2, ARMV8)
X86_64_V2 = Target("x86-64-v2", X86, "x86-64-v2", "", 4, 4, 1, V2)
X86_64_V3 = Target("x86-64-v3", X86, "x86-64-v3", "", 8, 6, 2, V3)
X86_64_V4 = Target("x86-64-v4", X86, "x86-64-v4", "", 16, 8, 2, V4)
# Every 32-bit Raspberry Pi since the second: Cortex-A7 has all that these have in common.
ARMV7_NEON = Target("armv7", ARM32, "cortex-a7", "+neon,+vfp4", 4, 4, 2, (*ARMV7, "neon"))
# NEON sets denormal numbers to zero, so only this one gives the bits of the others for every input.
ARMV7_VFP = Target("armv7-vfp", ARM32, "cortex-a7", "-neon,+vfp4", 4, 6, 1, ARMV7)

TARGETS = {
    target.name: target
    for target in (
        AARCH64,
        Target("rpi-zero2w", ARM64, "cortex-a53", "", 4, 8, 2, ARMV8_1, generic=False),
        Target("rpi4", ARM64, "cortex-a72", "", 4, 8, 2, ARMV8_1, generic=False),
        Target("rpi5", ARM64, "cortex-a76", "", 4, 8, 2, ARMV8_2, generic=False),
        Target("jetson-nano", ARM64, "cortex-a57", "", 4, 8, 2, ARMV8_1, generic=False),
        Target("jetson-orin", ARM64, "cortex-a78ae", "", 4, 8, 2, ARMV8_2, generic=False),
        ARMV7_NEON, ARMV7_VFP, X86_64_V2, X86_64_V3, X86_64_V4,
    )
}  # fmt: skip

# Bits of AT_HWCAP. /proc/cpuinfo has these names too, but under an emulator it is the host's.
_HWCAP = {
    "aarch64": {
        "fp": 0, "asimd": 1, "crc32": 7, "atomics": 8, "fphp": 9, "asimdhp": 10, "asimdrdm": 12, "lrcpc": 15,
        "asimddp": 20,
    },
    "arm": {"neon": 12, "vfpv3": 13, "vfpv4": 16, "idiva": 17, "idivt": 18},
}  # fmt: skip
_AT_HWCAP = 16
ARM_ARCHITECTURES = tuple(_HWCAP)  # whose features are told by these bits
_ARMV6 = ("rpi-zero", "rpi-zero-w", "rpi1", "armv6", "armv6l")


def named(name: str) -> Target:
    """Return the target called `name`; ``NAME:WIDTH`` has kernels of another vector width, to compare their bits.

    Raises
    ------
    UsageError
        There is no such target, or it is a processor that kernels cannot be compiled for.
    """
    base, _, width = name.partition(":")
    if base in _ARMV6:
        raise UsageError(
            f"target {base!r} is an ARMv6 processor, without vectors or fused multiply-add, and has no kernels; "
            f"expected one of {', '.join(TARGETS)}: take a Raspberry Pi Zero 2 W, or a Pi 2 or later"
        )
    if base not in TARGETS or width not in ("", "4", "8", "16"):
        raise UsageError(f"target {name!r}: expected one of {', '.join(TARGETS)}; `edgerev build --list` tells of them")
    return TARGETS[base].replace(name=name, width=int(width)) if width else TARGETS[base]


def architecture() -> str:
    """Return the architecture of this process, in the words of `Target.architecture`.

    That of its pointers, not the kernel's: a 64-bit kernel runs 32-bit programs too.
    """
    machine, wide = os.uname().machine, sys.maxsize > 1 << 32
    if machine.startswith(("aarch64", "armv8", "armv7")):
        return "aarch64" if wide else "arm"
    return machine if wide or machine != "x86_64" else "i686"


def processor_features() -> frozenset[str]:
    """Return the features of this machine's processor that a Target may require.

    On x86 by their names in /proc/cpuinfo, on ARM by those of the bits that the system tells each process.
    """
    own = architecture()
    if own not in ARM_ARCHITECTURES:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            return frozenset(next((line.split() for line in lines if line.startswith("flags")), ()))
    return decode_features(own, hwcap())


def hwcap() -> int:
    """Return the bits of AT_HWCAP, by which the system tells this process what its processor has."""
    import ctypes

    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return getauxval(_AT_HWCAP)


def decode_features(architecture: str, bits: int) -> frozenset[str]:
    """Return the features that the bits of AT_HWCAP stand for on an ARM processor."""
    return frozenset(name for name, bit in _HWCAP[architecture].items() if bits >> bit & 1)


def usable(names: Iterable[str]) -> list[str]:
    """Return those of the targets called `names` that this machine can run, best first.

    The more of the processor a target uses, the better; of equals, one made for a board comes before the generic one.

    Raises
    ------
    UsageError
        As `named` does.
    """
    own, features = architecture(), processor_features()
    known = [target for target in map(named, names) if target.architecture == own]
    found = [target for target in known if features.issuperset(target.requires)]
    return [target.name for target in sorted(found, key=lambda target: (-len(target.requires), target.generic))]


def host_target() -> Target:
    """Return the generic target that suits this machine best.

    On 32-bit ARM that is the one with NEON where there is NEON: it is several times as fast, and differs from the exact
    one only where numbers are denormal. Ask for ``armv7-vfp`` where those bits matter.

    Raises
    ------
    LookupError
        There are no kernels for this processor.
    """
    generic = [AARCH64, X86_64_V4, X86_64_V3, X86_64_V2, ARMV7_NEON, ARMV7_VFP]
    own = [target for target in generic if target.architecture == architecture()]
    if not own:
        raise LookupError(f"no kernels for processor {os.uname().machine!r}; expected x86_64, aarch64 or ARMv7")
    found = usable(target.name for target in own)
    if not found:
        lacks = ", ".join(sorted({*own[-1].requires} - processor_features()))
        raise LookupError(f"this processor lacks {lacks}, which the kernels for {own[-1].name} need")
    return TARGETS[found[0]]

"""What install.sh asks about its bundle: does it fit this device, what to install, does it run.

It comes with the bundle and runs before edgerev is there, so it imports the standard library only.
"""

import ctypes
import importlib
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MANIFEST = json.loads((HERE / "manifest.json").read_text())
FORMAT = 1


def refuse(message):
    """End with an error."""
    sys.exit(f"edgerev: error: {message}")


def architecture():
    """Return that of this Python, in the words of wheels: a 64-bit kernel may run 32-bit programs."""
    machine, wide = os.uname().machine, sys.maxsize > 1 << 32
    if machine.startswith(("aarch64", "armv8", "armv7")):
        return "aarch64" if wide else "armv7l"
    return machine if wide or machine != "x86_64" else "i686"


def numbers(version):
    """Return "2.36" as (2, 36)."""
    return tuple(int(part) for part in version.split("."))


def check_device():
    """Refuse what does not fit, before anything is installed."""
    if MANIFEST["format"] != FORMAT:
        refuse(f"the bundle has format {MANIFEST['format']}; expected {FORMAT}; make it again")
    if MANIFEST["architecture"] != architecture():
        refuse(
            f"the bundle is for {MANIFEST['target']} ({MANIFEST['architecture']}), this device is {architecture()}; "
            "make one for it: `edgerev build --list` shows the targets"
        )
    python = ".".join(map(str, sys.version_info[:2]))
    if python not in MANIFEST["pythons"]:
        refuse(
            f"the bundle has wheels for Python {', '.join(MANIFEST['pythons'])}, this device has {python}; "
            f"make it with `edgerev build --python {python}`"
        )
    libc = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[-1]
    if numbers(libc) < numbers(MANIFEST["libc"] or "0"):
        refuse(f"the bundle needs GNU libc {MANIFEST['libc']} or newer, this device has {libc}; update its system")
    for module in ("venv", "ensurepip"):
        if not has(module):
            refuse(f"Python's module {module} is missing; on Debian: apt install python{python}-venv")
    for module, debian in MANIFEST["system"]:
        if not has(module):
            refuse(f"{module} is missing and has no wheel for this device; on Debian: apt install {debian}")
    check_interface()


def has(module):
    """Return whether a module can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def check_interface():
    """Compare the interface versions of the bundle's library and program with the manifest's."""
    told = MANIFEST["interface"]
    library = HERE / "c" / "libedgerev.so"
    try:
        found = ctypes.CDLL(str(library)).edgerev_interface()
    except (OSError, AttributeError) as error:
        refuse(f"the bundle's kernels cannot be loaded ({error}); make the bundle again, for this device")
    heads = {name: (HERE / "model" / name).read_bytes()[8:12] for name in ("model.program", "model.parameters")}
    versions = {"library": found, **{name: int.from_bytes(head, "little") for name, head in heads.items()}}
    for name, version in versions.items():
        if version != told:
            refuse(
                f"the bundle's {name} has interface version {version}, its manifest {told}; expected the same; "
                "make the bundle again, from one edgerev"
            )


def try_it():
    """Load the model with the installed edgerev and its kernels, and predict once."""
    from edgerev.errors import EdgerevError
    from edgerev.kernels import library
    from edgerev.kernels.layout import INTERFACE

    try:
        if MANIFEST["interface"] != INTERFACE:
            refuse(f"the wheel has interface version {INTERFACE}, the manifest {MANIFEST['interface']}; make it again")
        kernels = library.load()
        from edgerev.learner import Learner

        learner = Learner.load(str(HERE / "model" / "model.edgerev"))
        samples = 1
        for size in learner.sample_shape:
            samples *= size
        learner.predict_proba_one([0.0] * samples)
    except EdgerevError as error:
        refuse(f"the bundle does not run on this device: {error}")
    print(f"edgerev: kernels for {kernels.target}, model loaded, one prediction made")


if __name__ == "__main__":
    words = {
        "device": check_device, "run": try_it,
        "venv-options": lambda: print("--system-site-packages" if MANIFEST["system"] else ""),
        "requirement": lambda: print(f"edgerev=={MANIFEST['edgerev']}"),
    }  # fmt: skip
    words[sys.argv[1]]()

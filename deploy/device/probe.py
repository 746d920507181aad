"""What `edgerev push` asks a device before it sends anything; run there as `python3 -c`, with the root as argument.

Also by a Python too old for edgerev, so that the answer can be that it is too old.
"""

import ctypes
import importlib
import json
import os
import shutil
import sys


def has(module):
    """Return whether a module can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def pointed(root, name):
    """Return the bundle that a link in the root points to, or ""."""
    try:
        return os.path.basename(os.readlink(os.path.join(root, name)))
    except OSError:
        return ""


def processor(machine):
    """Return what the system tells about the processor: AT_HWCAP on ARM, the names of its flags on x86."""
    if machine in ("aarch64", "armv7l"):
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        return getauxval(16)
    with open("/proc/cpuinfo", errors="replace") as lines:
        return next((line.split() for line in lines if line.startswith("flags")), [])


def foreign(root):
    """Return whether the root is there, holds something, and is not edgerev's."""
    try:
        there = os.listdir(root)
    except OSError:
        return os.path.exists(root)
    return bool(there) and ".edgerev-root" not in there


def main(root, *modules):
    """Print all answers as JSON."""
    root = os.path.realpath(os.path.expanduser(root))
    there = root
    while not os.path.exists(there):
        there = os.path.dirname(there)
    machine, wide = os.uname().machine, sys.maxsize > 1 << 32
    if machine.startswith(("aarch64", "armv8", "armv7")):
        machine = "aarch64" if wide else "armv7l"
    if machine == "x86_64" and not wide:
        machine = "i686"
    current, waiting = pointed(root, "current"), pointed(root, ".previous-next")
    answers = {
        "root": root, "machine": machine, "python": ".".join(map(str, sys.version_info[:2])),
        "libc": (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[-1], "free": shutil.disk_usage(there).free,
        "writable": os.access(there, os.W_OK), "foreign": foreign(root), "processor": processor(machine),
        "current": current, "previous": waiting if waiting not in ("", current) else pointed(root, "previous"),
        "missing": [name for name in modules if not has(name)],
    }  # fmt: skip
    print("edgerev-probe " + json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])

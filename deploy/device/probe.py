"""What `edgerev push` asks a device before it sends anything; run there as `python3 -c`, with the root as argument."""

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
    answers = {
        "root": root, "machine": machine, "python": ".".join(map(str, sys.version_info[:2])),
        "libc": (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[-1], "free": shutil.disk_usage(there).free,
        "writable": os.access(there, os.W_OK), "current": pointed(root, "current"),
        "previous": pointed(root, "previous"), "missing": [name for name in modules if not has(name)],
    }  # fmt: skip
    print("edgerev-probe " + json.dumps(answers))


main(*sys.argv[1:])

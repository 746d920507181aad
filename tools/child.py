"""Measure in a process of its own: ``python -m edgerev.tools.child MODULE:FUNCTION OPTIONS`` prints figures as JSON.

OpenBLAS reads how many threads it may use when NumPy is first imported, and a process that has NumPy already may not
ask again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from typing import Any

from edgerev.errors import EdgerevError

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


# as -m, but that what lies in the present folder is no part of the path: that may be a checkout, whose `edgerev` is no
# whole package (Python 3.11 has -P for it)
_RUN = """\
import runpy, sys
if not sys.path[0]:
    del sys.path[0]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def module_command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module in a fresh Python like this one, whatever folder it is started in."""
    return [sys.executable, "-c", _RUN, module, *words]


def link_package(folder: str) -> None:
    """Make a package `edgerev` in a folder, of links to this one, for a Python in which it is not installed.

    Parameters
    ----------
    folder : what that Python is to start in
    """
    import edgerev

    package = os.path.join(folder, "edgerev")
    os.mkdir(package)
    places = [os.path.join(edgerev.__path__[0], name) for name in os.listdir(edgerev.__path__[0])]
    places += [import_module(f"edgerev.{name}").__path__[0] for name in ("kernels", "deploy", "tools")]
    for place in dict.fromkeys(places):
        os.symlink(place, os.path.join(package, os.path.basename(place)))


def measured_alone(function: str, *, python: str = "", packages: str = "", **options: Any) -> Any:
    """Return what a function returns in a process of its own, in which NumPy computes with one thread.

    Parameters
    ----------
    function : ``module:function``
    python : the Python of another environment, instead of this one
    packages : folder to start in, where `link_package` has been
    **options : its arguments, which must survive JSON, like what it returns

    Raises
    ------
    EdgerevError
        The process failed; the message ends with what it said.
    """
    name, words = "edgerev.tools.child", (function, json.dumps(options))
    command = [python, "-m", name, *words] if python else module_command(name, *words)
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, cwd=packages or None, capture_output=True)
    said = done.stderr.decode(errors="replace")
    if done.returncode:
        raise EdgerevError(f"measuring failed (`{function}`):\n{said[-2000:]}")
    sys.stderr.write(said)
    return json.loads(done.stdout)


def main(arguments: list[str]) -> int:
    """Call the function that is named, and print what it returns.

    Parameters
    ----------
    arguments : ``module:function`` and its options as JSON
    """
    module, _, name = arguments[0].partition(":")
    try:
        figures = getattr(import_module(module), name)(**json.loads(arguments[1]))
    except EdgerevError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(figures, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Map the folders of the repository to packages, and put this machine's compiled kernels into wheels.

kernels/, deploy/ and tools/ are installed under ``edgerev.``. An editable installation gets no libraries: there the
kernels are compiled from the sources when they are first needed, and again when they change.
"""

import os
import subprocess
import sys

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOTS = {
    "edgerev.kernels": "kernels", "edgerev.deploy": "deploy", "edgerev.deploy.device": "deploy/device",
    "edgerev.deploy.onnx": "deploy/onnx", "edgerev.tools": "tools", "edgerev.tools.watch": "tools/watch",
}  # fmt: skip


def ask(built: str, expression: str) -> str:
    """Return what an expression over the freshly built deploy/wheel.py gives: packages here have other names there."""
    program = f"from pathlib import Path; from edgerev.deploy.wheel import *; print({expression})"
    # pip puts into PYTHONPATH what it has installed for this build alone
    found = [os.path.abspath(built), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=built, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


class BuildWithKernels(build_py):
    """Compile the kernels after the Python files are in place."""

    def run(self):
        super().run()
        if not self.editable_mode:
            folder = "Path('edgerev/kernels/libraries')"
            ask(self.build_lib, f"link_libraries(generic_targets(), {folder})")


class PlatformWheel(bdist_wheel):
    """One wheel for every Python 3 of a platform: the libraries are loaded by ctypes."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        if "editable_wheel" in self.distribution.commands:
            return super().get_tag()  # it links to the sources, and no other machine sees it
        build_lib = self.get_finalized_command("build").build_lib
        return "py3", "none", ask(build_lib, "platform_tag(named(generic_targets()[0]))")


setup(
    packages=[*find_packages(include=["edgerev", "edgerev.*"]), *ROOTS],
    package_dir=ROOTS,
    package_data={
        "edgerev.cli": ["*.toml"], "edgerev.tools": ["*.toml", "templates/*"], "edgerev.deploy": ["c/*"],
        "edgerev.deploy.device": ["*.sh"], "edgerev.daemon": ["page/*"],
    },
    cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel},
)

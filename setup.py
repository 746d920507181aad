"""Map the folders of the repository to packages: kernels/, deploy/ and tools/ are installed under ``edgerev.``."""

from setuptools import find_packages, setup

ROOTS = {"edgerev.kernels": "kernels", "edgerev.deploy": "deploy", "edgerev.tools": "tools"}

setup(
    packages=[*find_packages(include=["edgerev", "edgerev.*"]), *ROOTS],
    package_dir=ROOTS,
    package_data={"edgerev.cli": ["*.toml"]},
)

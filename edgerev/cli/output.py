"""The file that a verb will write: checked before the work that goes into it."""

from __future__ import annotations

import os

from edgerev.checkpoint import previous_path
from edgerev.errors import UsageError


def check_output(path: str, *, replace: bool, advice: str) -> None:
    """Raise UsageError unless `path` can become a file; `replace` allows one that is there."""
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; expected the name of a file; add one to it")
    if os.path.exists(path) and not os.path.isfile(path):  # writing would put a file in its place
        raise UsageError(f"{path} is a device or a pipe; expected the name of a file; choose one")
    previous = previous_path(path)
    if os.path.exists(previous) and not os.path.exists(path) and not replace:
        raise UsageError(f"{path} is gone but {previous} is there; expected a new name; {advice}")
    if os.path.exists(path) and not replace:
        raise UsageError(f"{path} is there already; expected a new name; {advice}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"the folder of {path} does not exist; expected {folder}; make it first")
